#!/usr/bin/perl

# A guest that fails in handle_response where error_page has another page: one that does not fit into the socket, from a
# file, from an upstream, from a named location. The client gets it whole, and the next response on the connection.

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

my @outer = qw/ none header whole /;
my @inner = qw/ now now-whole late late-whole /;
my @pages = qw/ file up named guarded /;
my @sources = qw/ file up direct chunked /;

my $t = Test::Nginx->new()->has(qw/http proxy rewrite http_v2/)->plan(@outer * @inner * @pages * @sources * 2 + 3);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $locations = '';
for my $outer (@outer) {
	my $around = $outer eq 'none' ? '' : "http_wasm $outer.wat;";
	for my $inner (@inner) {
		$locations .= join '', map { <<"EOF" } @pages;

        location /$outer/$inner/$_/ {
            $around
            http_wasm traps.wat config=$inner;
            error_page 500 @{[ $_ eq 'named' ? '@named' : "/page/$_" ]};
            location /$outer/$inner/$_/file { alias %%TESTDIR%%/secret; }
            location /$outer/$inner/$_/up { proxy_pass http://127.0.0.1:8081/size/5000; }
            location /$outer/$inner/$_/direct { proxy_buffering off; proxy_pass http://127.0.0.1:8081/size/5000; }
            location /$outer/$inner/$_/chunked { proxy_pass http://127.0.0.1:8081/chunked/100000; }
        }
EOF
	}
}

$locations .= <<'EOF';

        location /page/file { alias %%TESTDIR%%/page; }
        location /page/up { proxy_pass http://127.0.0.1:8081/size/30000; }
        location /page/guarded { http_wasm header.wat; proxy_pass http://127.0.0.1:8081/size/30000; }
        location @named { proxy_pass http://127.0.0.1:8081; rewrite ^ /size/30000 break; }
        location /next { limit_rate 0; alias %%TESTDIR%%/next; }
EOF

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
    log_not_found off;

    server {
        listen       127.0.0.1:8080 sndbuf=4k;
        server_name  localhost;
        limit_rate   20000;
        LOCATIONS
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

my $page = '0123456789' x 3000;
$t->write_file('page', $page);
$t->write_file('secret', 'secret' x 1000);
$t->write_file('next', 'next');
backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my @cases;
for my $outer (@outer) {
	for my $inner (@inner) {
		for my $kind (@pages) {
			push @cases, map { { name => "$outer, $inner, page $kind, $_", uri => "/$outer/$inner/$kind/$_" } } @sources;
		}
	}
}

my @replies = at_once(map { [ [ "GET $_->{uri}" ], [ 'GET /next' ], { room => 4096 } ] } @cases);
my $whole = '500 ' . digest($page);
for my $n (0 .. $#cases) {
	is(told($replies[$n][0]) . ', ' . after(@{ $replies[$n] }), "$whole, next", $cases[$n]{name});
}

# HTTP/2: what the window has no room for comes later.

my @h2;
for my $outer (@outer) {
	my $h2 = h2_client(8083, 1000);
	my @streams = map { h2_request($h2, 'GET', $_->{uri}) } grep { $_->{uri} =~ m{^/$outer/} } @cases;
	h2_replies($h2, \@streams, sub { !grep { length $_->{body} < 1000 } @_ });
	h2_window($h2, 100_000, @streams);
	push @h2, h2_replies($h2, \@streams);
}
is(told($h2[$_]), $whole, "$cases[$_]{name}, HTTP/2") for 0 .. $#cases;

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################
