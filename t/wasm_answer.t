#!/usr/bin/perl

# A guest that answers by itself (next = 0): nothing behind it is asked.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(37);

# Nobody listens on 8082: a request that got through would be answered 502.
$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        client_max_body_size 1m;
        error_page 403 /nowhere;

        location /hello { http_wasm hello.wat;  proxy_pass http://127.0.0.1:8082; }
        location /empty { http_wasm empty.wat;  proxy_pass http://127.0.0.1:8082; }
        location /teapot { http_wasm teapot.wat; proxy_pass http://127.0.0.1:8082; }
        location /nobody { http_wasm nobody.wat; proxy_pass http://127.0.0.1:8082; }
        location /large { http_wasm large.wat; proxy_pass http://127.0.0.1:8082; }
        location /denied { http_wasm denied.wat; proxy_pass http://127.0.0.1:8082; }
        location /moved { http_wasm moved.wat; proxy_pass http://127.0.0.1:8082; }
    }
}

EOF

guest($t, 'hello.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_resp &"content-type" &"text/plain")
    (call $body_resp &"hel")
    (call $body_resp &"lo")
    (i64.const 0))
  (func (export "handle_response") (param i32 i32) unreachable)
EOF
guest($t, 'empty.wat', <<'EOF');
  (func (export "handle_request") (result i64) (i64.const 0))
EOF
guest($t, 'teapot.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $body_resp &"short and stout")
    (call $set_status_code (i32.const 418))
    (call $add_resp &"X-Many" &"one")
    (call $add_resp &"x-many" &"two, three")
    (call $set_resp &"x-gone" &"1")
    (call $del_resp &"X-Gone")
    (call $set_resp &"x-empty" &"")
    (call $set_resp &"content-length" &"3")
    (call $set_resp &"connection" &"upgrade")
    (i64.const 0x700000000))
EOF
guest($t, 'nobody.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_status_code (i32.const 204))
    (call $body_resp &"must not be sent")
    (i64.const 0))
EOF
guest($t, 'large.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $i i32)
    (loop $again
      (memory.fill (i32.const 65536) (i32.add (i32.const 97) (local.get $i)) (i32.const 65536))
      (call $body_resp (i32.const 65536) (i32.const 65536))
      (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 16))))
    (i64.const 0))
EOF
guest($t, 'denied.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_status_code (i32.const 403))
    (call $body_resp &"the guest says no")
    (i64.const 0))
EOF
guest($t, 'moved.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_status_code (i32.const 302))
    (call $set_resp &"location" &"/elsewhere")
    (i64.const 0))
EOF

$t->run();

###############################################################################

my $r = http_get('/hello');
is(status($r), 200, 'status');
is(header($r, 'content-type'), 'text/plain', 'content type');
is(header($r, 'content-length'), 5, 'length');
is(content($r), 'hello', 'body');
like(header($r, 'server'), qr/nginx/, 'server header');
ok(header($r, 'date'), 'date header');

$r = http_head('/hello');
is(status($r), 200, 'HEAD status');
is(header($r, 'content-length'), 5, 'HEAD length');
is(content($r), '', 'HEAD no body');

$r = http_get('/empty');
is(status($r), 200, 'empty status');
is(header($r, 'content-length'), 0, 'empty length');
is(header($r, 'content-type'), undef, 'empty no content type');
is(content($r), '', 'empty body');

$r = http_get('/teapot');
like($r, qr!^HTTP/1.1 418!, 'chosen status');
is(header($r, 'x-many'), 'one|two, three', 'two lines of one header');
is(header($r, 'x-gone'), undef, 'removed header');
is(header($r, 'x-empty'), '', 'empty header');
is(header($r, 'content-length'), 15, 'guest has no say in the length');
is(header($r, 'connection'), 'close', 'guest has no say in the connection');
is(content($r), 'short and stout', 'body written first');

$r = http_get('/nobody');
is(status($r), 204, 'status without a body');
unlike($r, qr/must not be sent/, '204 has no body');

$r = http_get('/large');
is(length content($r), 1 << 20, 'a megabyte');
is(content($r), join('', map { chr(97 + $_) x 65536 } 0 .. 15), 'its bytes');

$r = http_get('/denied');
is(status($r), 403, 'error status');
is(content($r), 'the guest says no', 'the guest\'s page, not error_page\'s');
like(header(http_get('/moved'), 'location'), qr!^/elsewhere$!, 'location');

# The connection goes on behind a body that nobody read.

my $get = "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n";
my @r = replies("POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n12345" . $get, 2);
is(content($r[0]), 'hello', 'answer to POST');
is(content($r[1]), 'hello', 'pipelined request behind its body');

@r = replies("POST /hello HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n" . $get, 2);
is(content($r[0]), 'hello', 'answer to chunked POST');
is(content($r[1]), 'hello', 'pipelined request behind chunks');

@r = replies("POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" . 'x' x 100000 . $get, 2);
is(content($r[1]), 'hello', 'pipelined request behind a large body');

@r = replies($get x 20, 20);
is(scalar(grep { content($_) eq 'hello' } @r), 20, 'twenty pipelined');

my $s = connection();
for my $n (1 .. 3) {
	http($get, socket => $s, start => 1);
	is(content(read_reply($s)), 'hello', "keep-alive request $n");
}

$r = http("GET /hello HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", start => 1);
is(header(read_reply($r), 'connection'), 'keep-alive', 'HTTP/1.0 keep-alive');

###############################################################################
