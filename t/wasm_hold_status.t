#!/usr/bin/perl

# A guest that waits with a response of a status without a body, and makes it one of a status that has one: the end that
# came meanwhile is not waited for.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Messages;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @guests = qw/ now late whole /;
my @hows = qw/ buffered direct /;
my @statuses = (204, 304, 200);

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(@guests * @hows * @statuses + 1);

my $locations = join '', map { <<"EOF" } @guests;

        location /$_/ {
            http_wasm $_.wat;
            location /$_/buffered/ { proxy_pass http://127.0.0.1:8081/; }
            location /$_/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_http_version 1.1;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS
        location /next { empty_gif; }
    }
}

EOF

my $sets = '(func (export "handle_response") (param i32 i32) (call $wait) (call $set_status_code (i32.const 418)))';
guest($t, 'now.wat', '(func $wait)' . $sets);
guest($t, 'late.wat', waits('sleeps') . $sets);
guest($t, 'whole.wat', waits('sleeps') . '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))' . $sets);
backend($t);
$t->run();

###############################################################################

for my $guest (@guests) {
	for my $how (@hows) {
		for my $status (@statuses) {
			my ($reply, $next) = conversation([ "GET /$guest/$how/status/$status" ], [ 'GET /next' ]);
			is($reply->{status} . ', ' . ($reply->{whole} ? 'whole' : 'cut') . ', ' . ($next->{status} // 'nothing'),
				'418, whole, 200', "$guest, $how, $status");
		}
	}
}

is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]|exited on signal/), 0, 'no alert, no crash');

###############################################################################
