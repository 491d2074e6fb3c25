#!/usr/bin/perl

# The instances of all guests of a worker are bounded together: an idle one makes room for another guest, and who finds
# all of them in use waits for its turn.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(27);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_instances 2;
    proxy_read_timeout 60s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /a { http_wasm count.wat name=a; http_wasm_pool wait=1m; proxy_pass http://127.0.0.1:8081; }
        location /b { http_wasm count.wat name=b; http_wasm_pool wait=1m; proxy_pass http://127.0.0.1:8081; }
        location /c { http_wasm count.wat name=c; http_wasm_pool wait=1m; proxy_pass http://127.0.0.1:8081; }
        location /late { http_wasm count.wat name=late; http_wasm_pool wait=50ms; proxy_pass http://127.0.0.1:8081; }
        location /chain {
            http_wasm count.wat name=one;
            http_wasm count.wat name=two;
            proxy_pass http://127.0.0.1:8081;
        }
        location /none { empty_gif; }
    }
}

EOF

# Says how many requests the instance has seen.
guest($t, 'count.wat', <<'EOF');
  (global $n (mut i32) (i32.const 0))
  (func (export "handle_request") (result i64)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (call $add_resp &"x-count" (call $dec (global.get $n)))
    (i64.const 1))
EOF

# The next handler, by hand: an instance is in use until this test answers.
my $upstream = upstream(8081);

$t->run();

###############################################################################

# Both instances are of a and in use.
my (@a, @up);
for my $uri ('/a/1', '/a/2') {
	push @a, request($uri);
	push @up, arrives_at($upstream, $uri);
}
my $b = request('/b/1');
my $c = request('/c/1');
my $third = request('/a/3');
ok(!anybody(), 'no room');
is(status(http_end(request('/late'))), 503, 'none in time');

# The first in line are those who came first, whatever their guest.
answer($up[0]);
is(counted($a[0]), 1, 'served');
$up[0] = arrives_at($upstream, '/b/1');
ok(!anybody(), 'one instance, one request');
answer($up[1]);
is(counted($a[1]), 1, 'served');
$up[1] = arrives_at($upstream, '/c/1');
answer($up[0]);
is(counted($b), 1, 'a new instance, in the place of an idle one');
$up[0] = arrives_at($upstream, '/a/3');
answer($up[1]);
is(counted($c), 1, 'and for another guest');
answer($up[0]);
is(counted($third), 1, 'the instance of before was given up');

###############################################################################

# Idle ones make room at once; a chain takes one for each of its guests.
for my $uri (qw{ /a/4 /b/4 /c/4 /a/5 /b/5 }) {
	my $r = request($uri);
	answer(arrives_at($upstream, $uri));
	like(counted($r), qr/^\d$/, "$uri served");
}
my $chain = request('/chain');
answer(arrives_at($upstream, '/chain'));
is(counted($chain), '1|1', 'two guests, two instances');

is(error_log_count($t, qr/guest "late": all instances are in use and none came free in time/), 1, 'logged');
is(error_log_count($t, qr/\[error\]/), 1, 'nothing else');

###############################################################################

sub request {
	my ($uri) = @_;
	return http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
}

# Whether a request reaches the next handler. The module decides in the same turn of its event loop in which it reads a
# request: a complete exchange on another location afterwards shows that it has.
sub anybody {
	http_get('/none') =~ /200 OK/ or die;
	return IO::Select->new($upstream)->can_read(0);
}

sub counted {
	my ($s) = @_;
	return header(http_end($s), 'X-Count');
}

###############################################################################
