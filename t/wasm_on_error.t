#!/usr/bin/perl

# http_wasm_on_error open: a guest that fails leaves no trace, and the request goes on without it.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(29);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_on_error open;
    proxy_set_header Host $http_host;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /request { http_wasm request.wat name=asks; proxy_pass http://127.0.0.1:8081; }
        location /response/ { http_wasm response.wat name=streams; proxy_pass http://127.0.0.1:8081/; }
        location /buffered/ { http_wasm buffered.wat name=holds; proxy_pass http://127.0.0.1:8081/; }

        location /closed {
            http_wasm_on_error closed;
            http_wasm request.wat name=closed;
            proxy_pass http://127.0.0.1:8081;
        }

        location /chain/ {
            http_wasm pass.wat name=outer;
            http_wasm request.wat name=inner;
            http_wasm pass.wat name=last;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /slow { http_wasm endless.wat; http_wasm_timeout 50ms; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

# Changes whatever it can, then traps.
guest($t, 'request.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_method &"PUT")
    (call $set_uri &"/changed?x=1")
    (call $set_req &"x-kept" &"changed")
    (call $set_req &"host" &"changed.example")
    (call $add_req &"x-added" &"1")
    (call $del_req &"x-gone")
    (call $body_req &"changed")
    (call $set_resp &"x-early" &"1")
    (call $body_resp &"early")
    (unreachable))
EOF

guest($t, 'response.wat', <<'EOF');
  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $set_status_code (i32.const 418))
    (call $set_resp &"content-type" &"text/changed")
    (call $set_resp &"x-up" &"changed")
    (call $del_resp &"x-gone")
    (call $add_resp &"x-added" &"1") (call $add_resp &"x-added" &"2") (call $add_resp &"x-added" &"3")
    (unreachable))
EOF

guest($t, 'buffered.wat', <<'EOF');
  (start $start)
  (func $start (drop (call $enable_features (i32.const 2))))
  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (drop (call $read_all (i32.const 1) (i32.const 100)))
    (call $set_status_code (i32.const 418))
    (call $body_resp &"changed")
    (call $set_resp &"x-added" &"1")
    (unreachable))
EOF

guest($t, 'endless.wat', <<'EOF');
  (func (export "handle_request") (result i64) (loop $again (br $again)) (i64.const 1))
EOF

guest($t, 'pass.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $add_resp &"x-passed" &"1") (i64.const 1))
EOF

backend($t);
$t->run();

my $worker;
wait_until(sub { ($worker) = worker_pids($t) });

###############################################################################

my @request = ('-X', 'POST', '-H', 'X-Kept: kept', '-H', 'X-Gone: there', '-H', 'Host: own.example', '-d', 'body');

my $r = curl(@request, '/request?a=b');
is(status($r), 200, 'request: goes on');
my $seen = content($r);
like($seen, qr!^POST /request\?a=b HTTP!, 'method and URI');
like($seen, qr/^X-Kept: kept$/m, 'a header that was set');
like($seen, qr/^X-Gone: there$/m, 'a header that was removed');
like($seen, qr/^Host: own\.example$/m, 'Host');
unlike($seen, qr/x-added/i, 'a header that was added');
like($seen, qr/^Content-Length: 4$/m, 'length of the body');
like($seen, qr/^body 4 /m, 'body');
is(header($r, 'X-Early'), undef, 'nothing of its response');
unlike($seen, qr/early/, 'nor of its body');

$r = curl('/response/headers?X-Up=up&X-Gone=there');
is(status($r), 200, 'response: goes on');
is(header($r, 'Content-Type'), 'text/plain', 'content type');
is(header($r, 'X-Up'), 'up', 'a header that was set');
is(header($r, 'X-Gone'), 'there', 'a header that was removed');
is(header($r, 'X-Added'), undef, 'headers that were added');

$r = curl('/buffered/size/1000');
is(status($r), 200, 'buffered: goes on');
is(length content($r), 1000, 'with the whole body');
is(header($r, 'Content-Length'), 1000, 'and its length');
is(header($r, 'X-Added'), undef, 'nothing of the guest');

$r = curl('/chain/size/5');
is(content($r), '01234', 'chain: goes on');
is(join(' ', map { $_->[1] } grep { lc $_->[0] eq 'x-passed' } @{ $r->{headers} }), '1 1', 'with the others');

is(status(curl('/slow')), 200, 'a guest that was stopped');

is(status(curl(@request, '/closed')), 500, 'closed');

# Each failure is logged as ever, and the instance is gone.
is(error_log_count($t, qr/guest "(asks|streams|holds|inner|closed)": handle_\w+: wasm trap/), 5, 'logged');
is(status(curl(@request, '/request')), 200, 'again');
is_deeply([worker_pids($t)], [$worker], 'the same worker');

# A header that is set in place, one removed in the middle: nginx's own slots are right again.
$r = curl('-H', 'Cookie: a=1', '-H', 'X-Forwarded-For: 192.0.2.1', @request, '/request');
like(content($r), qr/^Cookie: a=1$/m, 'cookie');
like(content($r), qr/^X-Forwarded-For: 192\.0\.2\.1$/m, 'x-forwarded-for');
is(() = content($r) =~ /^Host:/mg, 1, 'one Host');

###############################################################################
