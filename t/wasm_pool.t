#!/usr/bin/perl

# A bounded pool: who finds all instances in use waits in line, or is told 503.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use IO::Select;
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(22);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_read_timeout 60s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /line { http_wasm count.wat name=a; http_wasm_pool max=1 wait=1m; proxy_pass http://127.0.0.1:8081; }
        location /full { http_wasm count.wat name=b; http_wasm_pool max=1 queue=0; proxy_pass http://127.0.0.1:8081; }
        location /late { http_wasm count.wat name=c; http_wasm_pool max=1 wait=50ms; proxy_pass http://127.0.0.1:8081; }

        location /many { http_wasm count.wat name=d; empty_gif; }
        location /often { http_wasm count.wat name=e; empty_gif; }
        location /twice { http_wasm count.wat name=f; http_wasm_pool requests=2; empty_gif; }
        location /fresh { http_wasm count.wat name=g; http_wasm_isolation request; empty_gif; }
        location /none { http_wasm count.wat name=h; http_wasm_pool idle=0; empty_gif; }
    }
}

EOF

# Says how many requests the instance has seen.
guest($t, 'count.wat', <<'EOF');
  (global $n (mut i32) (i32.const 0))
  (func (export "handle_request") (result i64)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (call $set_resp &"x-count" (call $dec (global.get $n)))
    (i64.const 1))
EOF

# The next handler, by hand: an instance is in use until this test answers.
my $upstream = upstream(8081);

$t->run();

###############################################################################

my $first = request('/line/1');
my $one = arrives_at($upstream, '/line/1');

my @waiting = map { request("/line/$_") } 2 .. 4;
ok(!anybody(), 'nobody else gets through');

# One of those who wait goes away.
close $waiting[1];

answer($one);
is(counted($first), 1, 'first served');

my $two = arrives_at($upstream, '/line/2');
ok($two, 'the next in line gets the instance');
ok(!anybody(), 'and only that one');
answer($two);
is(counted($waiting[0]), 2, 'second served by the same instance');

my $four = arrives_at($upstream, '/line/4');
ok($four, 'who went away has no place any more');
answer($four);
is(counted($waiting[2]), 3, 'last served');

###############################################################################

my $busy = request('/full/1');
my $up = arrives_at($upstream, '/full/1');
my $r = http_end(request('/full/2'));
is(status($r), 503, 'no queue');
unlike($r, qr/instance|wasm/, 'no word to the client');
answer($up);
is(counted($busy), 1, 'the one in use is not disturbed');

$busy = request('/late/1');
$up = arrives_at($upstream, '/late/1');
is(status(http_end(request('/late/2'))), 503, 'none in time');
answer($up);
is(counted($busy), 1, 'served');

is(error_log_count($t, qr/guest "[bc]": all instances are in use and none came free in time/), 2, 'both logged');

###############################################################################

is(join(' ', map { count('/many') } 1 .. 4), '1 2 3 4', 'an instance serves many requests');
is(join(' ', map { count('/twice') } 1 .. 5), '1 2 1 2 1', 'or as many as configured');
is(join(' ', map { count('/fresh') } 1 .. 3), '1 1 1', 'isolation: each request has its own');
is(join(' ', map { count('/none') } 1 .. 3), '1 1 1', 'no idle instances are kept');

###############################################################################

sub request {
	my ($uri) = @_;
	return http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
}

# Whether a request reaches the next handler. The module decides in the same turn of its event loop in which it reads a
# request: a complete exchange on another location afterwards shows that it has.
sub anybody {
	count('/often') or die;
	return IO::Select->new($upstream)->can_read(0);
}

sub counted {
	my ($s) = @_;
	return header(http_end($s), 'X-Count');
}

sub count {
	return header(http_get($_[0]), 'X-Count');
}

###############################################################################
