#!/usr/bin/perl

# With buffer_response a guest reads and replaces the body; length, encoding and ranges stay true.

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

my $t = Test::Nginx->new()->has(qw/http proxy gzip/)->plan(45);

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

        http_wasm wrap.wat;

        location / {
            proxy_pass http://127.0.0.1:8081;
        }

        location /direct/ {
            proxy_pass http://127.0.0.1:8081/;
            proxy_buffering off;
        }

        location /read/ {
            http_wasm read.wat;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /static/ {
            alias %%TESTDIR%%/;
        }

        location /sendfile/ {
            sendfile on;
            alias %%TESTDIR%%/;
        }

        location /gzip/ {
            gzip on;
            gzip_min_length 0;
            gzip_types *;
            alias %%TESTDIR%%/;
        }

        location /nobody {
            http_wasm nobody.wat;
            proxy_pass http://127.0.0.1:8081/size/10;
        }

        location /zero {
            http_wasm zero.wat;
            proxy_pass http://127.0.0.1:8081/size/10;
        }

        location /later {
            http_wasm later.wat;
            proxy_pass http://127.0.0.1:8081/size/10;
        }
    }
}

EOF

# <body>, of any body up to 128 kB
guest($t, 'wrap.wat', <<'EOF');
  (func $start (drop (call $enable_features (i32.const 2))))
  (start $start)
  (func (export "handle_response") (param $ctx i32) (param $error i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 1000)))
    (call $body_resp &"<")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &">")
    (call $set_resp &"x-read" (call $dec (local.get $n)))
    (call $set_resp &"x-error" (call $dec (local.get $error))))
EOF
guest($t, 'read.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-read" (call $dec (call $read_all (i32.const 1) (i32.const 4096)))))
EOF
guest($t, 'nobody.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (call $set_status_code (i32.const 204))
    (call $body_resp &"must not be sent"))
EOF
# Blocks a body by length alone, as guests in the wild do.
guest($t, 'zero.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"content-length" &"0"))
EOF
# Asks for the feature with the request.
guest($t, 'later.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (if (i32.ne (call $enable_features (i32.const 2)) (i32.const 2)) (then unreachable))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $body_resp &"replaced")
    (call $set_status_code (i32.const 201))
    (call $set_resp &"x-late" &"1"))
EOF

$t->write_file('page.html', 'a static page');
$t->write_file('empty.html', '');
$t->write_file('large.html', 'large' x 20_000);
backend($t);
$t->run();

###############################################################################

my $r = curl('/size/10');
is(content($r), '<0123456789>', 'proxied');
is(header($r, 'content-length'), 12, 'new length');
is(header($r, 'x-read'), 10, 'all of it read');
is(header($r, 'x-error'), 0, 'no error');

for my $size (0, 1, 999, 1000, 5000, 100_000) {
	my $r = curl("/size/$size");
	is(content($r), '<' . substr('0123456789' x ($size / 10 + 1), 0, $size) . '>', "$size bytes");
}
is(content(curl('/chunked')), '<onetwothree>', 'chunked upstream');
is(content(curl('/direct/size/100000')), '<' . '0123456789' x 10_000 . '>', 'upstream not buffered');
is(content(curl('/direct/chunked')), '<onetwothree>', 'chunked, not buffered');

$r = http_get('/size/10');
is(header($r, 'content-length'), 12, 'HTTP/1.0 length');
is(content($r), '<0123456789>', 'HTTP/1.0 body');

$r = curl('/read/size/5000');
is(header($r, 'x-read'), 5000, 'only read');
is(length content($r), 5000, 'and passed on');
is(header($r, 'content-length'), 5000, 'with its length');

# Answers that have no body never wait for one.

$r = curl('-I', '/size/1000');
is($r->{exit}, 0, 'HEAD complete');
is(header($r, 'x-read'), 0, 'HEAD: nothing to read');
unlike(header($r, 'content-length') // '', qr/^[12]$/, 'HEAD: length not that of a page never sent');
for my $status (204, 304) {
	$r = curl("/status/$status");
	is(status($r), $status, "$status passed on");
	is($r->{exit}, 0, "$status complete");
	is(header($r, 'x-read'), 0, "$status: nothing to read");
}
my @r = replies("GET /status/304 HTTP/1.1\r\nHost: localhost\r\n\r\n" . "GET /size/1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 2);
is(content($r[1]), '<0>', 'connection in step after 304');

# Files

is(content(curl('/static/page.html')), '<a static page>', 'static');
is(content(curl('/sendfile/page.html')), '<a static page>', 'static with sendfile');
is(content(curl('/static/empty.html')), '<>', 'static and empty');
is(content(curl('/sendfile/large.html')), '<' . 'large' x 20_000 . '>', 'static and large');

$r = curl('-r', '2-5', '/static/page.html');
is(status($r), 200, 'no range of a rewritten body');
is(content($r), '<a static page>', 'all of it');
is(header($r, 'accept-ranges'), undef, 'none offered');
like(header($r, 'etag') // 'W/', qr!^W/!, 'etag weak or gone');

$r = curl('/static/nowhere');
is(status($r), 404, 'error page');
like(content($r), qr/^<<html>.*>$/s, 'rewritten too');

$r = curl('--compressed', '/gzip/page.html');
is(header($r, 'content-encoding'), 'gzip', 'gzip after us');
is(content($r), '<a static page>', 'of the new body');

is(content(curl('/gzip/large.html')), '<' . 'large' x 20_000 . '>', 'no gzip asked');

# The guest's own mind

$r = curl('/nobody');
is(status($r), 204, 'made 204');
is(content($r), '', 'has no body');
is(content(curl('/zero')), '', 'length 0 empties the body');

$r = curl('/later');
is(status($r) . header($r, 'x-late') . content($r), '2011replaced', 'feature enabled by the request');

###############################################################################
