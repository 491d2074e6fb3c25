#!/usr/bin/perl

# Without buffer_response a guest changes status and headers while the body streams.

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

my $t = Test::Nginx->new()->has(qw/http proxy gzip/)->plan(38);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format status "$status";

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        http_wasm edit.wat;

        location / {
            proxy_pass http://127.0.0.1:8081;
        }

        location /ranges/ {
            proxy_pass http://127.0.0.1:8081/size/;
            proxy_force_ranges on;
        }

        location /static/ {
            alias %%TESTDIR%%/;
        }

        location /gzip/ {
            gzip on;
            gzip_min_length 0;
            gzip_types *;
            alias %%TESTDIR%%/;
        }

        location /teapot {
            http_wasm status.wat config=teapot;
            access_log %%TESTDIR%%/status.log status;
            proxy_pass http://127.0.0.1:8081/status/200;
        }

        location /body {
            http_wasm body.wat;
            proxy_pass http://127.0.0.1:8081;
        }

        location /down {
            proxy_pass http://127.0.0.1:8082;
        }
    }
}

EOF

# Reports what it sees in headers of its own, and edits what the backend's /headers sends.
guest($t, 'edit.wat', <<'EOF');
  (func $copy (param $from i32) (param $from_length i32) (param $to i32) (param $to_length i32) (local $r i64)
    (local.set $r (call $get_header_values (i32.const 1) (local.get $from) (local.get $from_length)
      (i32.const 65536) (i32.const 4096)))
    (if (i64.ne (local.get $r) (i64.const 0))
      (then (call $set_resp (local.get $to) (local.get $to_length)
        (i32.const 65536) (i32.sub (i32.wrap_i64 (local.get $r)) (i32.const 1))))))
  (func (export "handle_request") (result i64) (i64.const 0x8000000100000001))
  (func (export "handle_response") (param $ctx i32) (param $error i32)
    (if (i32.ne (local.get $ctx) (i32.const 0x80000001)) (then unreachable))
    (call $set_resp &"x-saw-status" (call $dec (call $get_status_code)))
    (call $set_resp &"x-saw-error" (call $dec (local.get $error)))
    (call $copy &"Content-Type" &"x-saw-type")
    (call $copy &"content-length" &"x-saw-length")
    (call $copy &"etag" &"x-saw-etag")
    (call $copy &"x-a" &"x-saw-a")
    (call $set_resp &"X-B" &"from the guest")
    (call $add_resp &"x-c" &"second")
    (call $del_resp &"X-Gone"))
EOF
guest($t, 'status.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32)
    (call $set_status_code (i32.const 418))
    (call $set_resp &"content-type" &"text/teapot")
    (call $del_resp &"content-encoding"))
EOF
guest($t, 'body.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32)
    (drop (call $read_body (i32.const 1) (i32.const 65536) (i32.const 10))))
EOF

$t->write_file('page.html', 'a static page');
backend($t);
$t->run();

###############################################################################

my $r = curl('/headers?x-a=1&x-b=1&x-c=1&x-gone=1&x-kept=1&content-type=text/x%3B+charset=a');
is(status($r), 200, 'status');
is(header($r, 'x-saw-status'), 200, 'status seen');
is(header($r, 'x-saw-error'), 0, 'no error');
is(header($r, 'x-saw-type'), 'text/x;+charset=a', 'content type seen');
is(header($r, 'x-saw-length'), 8, 'length seen');
is(header($r, 'x-saw-a'), 1, 'other header seen');
is(header($r, 'x-b'), 'from the guest', 'set');
is(header($r, 'x-c'), '1|second', 'add');
is(header($r, 'x-gone'), undef, 'remove');
is(header($r, 'x-kept'), 1, 'others untouched');
is(header($r, 'content-length'), 8, 'length untouched');
is(content($r), "headers\n", 'body untouched');

for my $status (204, 304, 404, 503) {
	$r = curl("/status/$status");
	is(header($r, 'x-saw-status'), $status, "$status seen");
	is($r->{exit}, 0, "$status complete");
}

$r = curl('-I', '/size/1000');
is(header($r, 'x-b'), 'from the guest', 'HEAD');
is(header($r, 'content-length'), 1000, 'HEAD length');

$r = http("GET /chunked HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
is(content($r), 'onetwothree', 'chunked upstream');
is(header($r, 'x-saw-length'), undef, 'of unknown length');

is(length(content(curl('/size/1000000'))), 1_000_000, 'a megabyte streams');

$r = curl('-r', '10-14', '/ranges/1000');
# Behind a guest that waits the client gets all of it.
is(status($r), restless() ? 200 : 206, 'range');
is(content($r), restless() ? '0123456789' x 100 : '01234', 'range content');

$r = curl('/static/page.html');
is(header($r, 'x-saw-type'), 'text/html', 'static: type seen');
is(header($r, 'x-saw-etag'), header($r, 'etag'), 'static: etag seen');
is(content($r), 'a static page', 'static: body');
is(status(curl('-H', 'If-None-Match: ' . header($r, 'etag'), '/static/page.html')), 304, 'static: not modified');
is(header(curl('/static/nowhere'), 'x-saw-status'), 404, 'error page of nginx');

$r = curl('--compressed', '/gzip/page.html');
is(header($r, 'content-encoding') . content($r), 'gzipa static page', 'gzip after us');

$r = curl('/teapot');
like(http_get('/teapot'), qr{^HTTP/1.1 418(?! Backend)}, 'status changed, with no reason of another');
is(header($r, 'content-type'), 'text/teapot', 'type changed');

is(status(curl('/body')), 500, 'no body without buffer_response');
is(header(curl('/down'), 'x-saw-status'), 502, 'upstream down');

$t->stop();
is($t->read_file('status.log'), "418\n418\n", 'logged status');

###############################################################################
