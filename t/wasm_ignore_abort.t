#!/usr/bin/perl

# A client that has sent its request and closes its side of the connection while a guest waits: it gets its response
# where the location ignores that (proxy_ignore_client_abort and its like), and nothing elsewhere, as from nginx.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Messages;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @guests = qw/ none asks responds whole /;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(4 * @guests + 2);

my $locations = join '', map { my $guest = $_ eq 'none' ? '' : "http_wasm $_.wat;"; <<"EOF" } @guests;
        location /ignores/$_/ { $guest proxy_ignore_client_abort on; proxy_pass http://127.0.0.1:8081/; }
        location /minds/$_/ { $guest proxy_pass http://127.0.0.1:8081/; }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format uri '$uri';
    access_log %%TESTDIR%%/uri.log uri;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

LOCATIONS
        location /fine { return 204; }
    }
}

EOF

my $features = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
guest($t, 'asks.wat', waits('sleeps') . '(func (export "handle_request") (result i64) (call $wait) (i64.const 1))');
guest($t, 'responds.wat', waits('sleeps') . '(func (export "handle_response") (param i32 i32) (call $wait))');
guest($t, 'whole.wat', waits('sleeps') . "$features (func (export \"handle_response\") (param i32 i32) (call \$wait))");

backend($t);
$t->run();

###############################################################################

for my $guest (@guests) {
	# One upstream answers when two requests are there; the other does not come to an end.
	for my $kind (qw/ ignores minds /) {
		my $upstream = $kind eq 'ignores' ? 'barrier/2' : 'hold';
		my @clients = map { half_closed("/$kind/$guest/$upstream") } 1 .. 2;
		my @r = $kind eq 'ignores' ? map { http_end($_) // '' } @clients : ();
		my $served = grep { status($_) == 200 && content($_) =~ /^GET / } @r;
		if ($kind eq 'ignores') {
			is($served, 2, "$guest, $kind: both are answered") or diag(@r);
		} else {
			ok(wait_until(sub { (() = $t->read_file('uri.log') =~ m{^/$kind/$guest/}mg) == 2 }), "$guest, $kind: both are ended");
		}
		is(status(http_get('/fine')), 204, "$guest, $kind: others are served");
	}
}

is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]|exited on signal/), 0, 'no alert, no crash');
is(error_log_count($t, qr/http_wasm.*\[error\]/), 0, 'no guest fails');

###############################################################################

sub half_closed {
	my ($uri) = @_;
	my $s = http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	shutdown $s, 1;
	return $s;
}

###############################################################################
