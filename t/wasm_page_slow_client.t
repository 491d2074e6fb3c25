#!/usr/bin/perl

# A guest that fails in handle_response, for clients to which the error page cannot go at once, while whoever made the
# response still sends it: they get the whole page, and the next response on the connection.

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

# The guest around the one that fails; the one that fails, at once or after a wait, with the body or without.
my @outer = qw/ none header whole /;
my @inner = qw/ now now-whole late late-whole /;
my @sources = qw/ file up direct fcgi fcgi-direct /;

my $t = Test::Nginx->new()->has(qw/http proxy fastcgi http_v2/)->plan(@outer * @inner * @sources * 3 + 3);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $locations = '';
for my $outer (@outer) {
	my $around = $outer eq 'none' ? '' : "http_wasm $outer.wat;";
	$locations .= join '', map { <<"EOF" } @inner;

        location /$outer/$_/ {
            $around
            http_wasm traps.wat config=$_;
            location /$outer/$_/file/ { alias %%TESTDIR%%/html/; }
            location /$outer/$_/up/ { proxy_pass http://127.0.0.1:8081; }
            location /$outer/$_/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081; }
            location /$outer/$_/fcgi/ { fastcgi_pass 127.0.0.1:8081; }
            location /$outer/$_/fcgi-direct/ { fastcgi_buffering off; fastcgi_pass 127.0.0.1:8081; }
        }
EOF
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/gr =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;
    proxy_http_version 1.1;
    fastcgi_param REQUEST_URI $request_uri;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        # Less than the page with its header.
        limit_rate   250;
        LOCATIONS
        location /next { limit_rate 0; alias %%TESTDIR%%/html/next; }
    }

    server {
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON
        LOCATIONS
    }
}

EOF

guest($t, 'traps.wat', waits('sleeps') . <<'EOF');
  (func (export "_initialize")
    (if (i32.gt_u (call $get_config (i32.const 0) (i32.const 0)) (i32.const 4))
      (then (drop (call $enable_features (i32.const 2))))))
  (func (export "handle_response") (param i32 i32)
    (drop (call $config))
    (if (i32.eq (i32.load8_u (i32.const 2048)) (i32.const 108)) (then (call $wait)))
    unreachable)
EOF
my $seen = '(func (export "handle_response") (param i32 i32) (call $set_resp &"x-seen" (call $dec (call $get_status_code))))';
guest($t, 'header.wat', $seen);
guest($t, 'whole.wat', '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))' . $seen);

$t->write_file('html/secret', 'secret' x 1000);
$t->write_file('html/next', 'next');
halves($t, 8081, 'secret' x 20, 'secret' x 20);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my @cases;
for my $outer (@outer) {
	for my $inner (@inner) {
		for my $source (@sources) {
			# A guest that is to see the whole body fails at its end.
			my $part = $source eq 'file' ? 'secret' : ($inner =~ /whole/ ? 'all' : 'half') . '-' . @cases;
			push @cases, { name => "$outer, $inner, $source", uri => "/$outer/$inner/$source/$part", outer => $outer };
		}
	}
}

# Slowed down: the rest of the response comes when the client has a part of the page.

my @replies = at_once(map {
	my ($id, $gone) = $_->{uri} =~ /half-(\d+)/;
	[ [ "GET $_->{uri}" ], [ 'GET /next' ], { more => sub { second_half(8081, $id) if defined $id && !$gone++ } } ];
} @cases);
for my $n (0 .. $#cases) {
	is(told($replies[$n][0]) . ', ' . after(@{ $replies[$n] }), '500 page, next', "$cases[$n]{name}: slowed down");
	is(header($replies[$n][0], 'x-seen'), $cases[$n]{outer} eq 'none' ? undef : 500, "$cases[$n]{name}: outer guest");
}

# HTTP/2: the header may go, the page may not.

my $h2 = h2_client(8083, 0);
my @streams = map { h2_request($h2, 'GET', $_->{uri}) } @cases;
h2_replies($h2, \@streams, sub { !grep { !$_->{status} } @_ });
for my $case (@cases) {
	second_half(8081, $1) if $case->{uri} =~ /half-(\d+)/;
}
# The rest has been read when the worker has answered once more.
http_get('/next') for 1 .. 2;
h2_window($h2, 100_000, @streams);
my @h2 = h2_replies($h2, \@streams);
is(told($h2[$_]), '500 page', "$cases[$_]{name}: HTTP/2 without a window") for 0 .. $#cases;

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################
