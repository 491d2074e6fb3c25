#!/usr/bin/perl

# What a guest wrote before the next handler comes before that handler's answer.

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

my $t = Test::Nginx->new()->has(qw/http proxy gzip/)->plan(24);

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

        http_wasm before.wat;

        location / {
            proxy_pass http://127.0.0.1:8081;
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

        location /held/ {
            http_wasm held.wat;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /replaced/ {
            http_wasm replaced.wat;
            proxy_pass http://127.0.0.1:8081/;
        }
    }
}

EOF

my $before = <<'EOF';
  (func (export "handle_request") (result i64)
    (call $body_resp &"before ")
    (call $set_status_code (i32.const 418))
    (call $set_resp &"content-type" &"text/guest")
    (call $set_resp &"x-both" &"guest")
    (call $set_resp &"x-guest" &"1")
    (i64.const 1))
EOF
guest($t, 'before.wat', $before);
guest($t, 'held.wat', $before . <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-read" (call $dec (call $read_all (i32.const 1) (i32.const 4096)))))
EOF
guest($t, 'replaced.wat', $before . <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (call $body_resp &"instead")
    (call $body_resp &" of it"))
EOF

$t->write_file('page.html', 'a static page');
backend($t);
$t->run();

###############################################################################

my $r = curl('/headers?x-both=upstream');
is(content($r), "before headers\n", 'guest, then upstream');
is(header($r, 'content-length'), 15, 'length of both');
is(status($r), 200, 'status of the upstream');
is(header($r, 'content-type'), 'text/plain', 'type of the upstream');
is(header($r, 'x-both'), 'guest|upstream', 'other headers of both');
is(header($r, 'x-guest'), 1, 'guest\'s header');

$r = http("GET /size/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
is(content($r), 'before ', 'nothing from the upstream');
is(header($r, 'content-length'), 7, 'guest\'s length');

is(content(curl('/chunked')), 'before onetwothree', 'chunked upstream');
is(content(curl('/size/100000')), 'before ' . '0123456789' x 10_000, 'large');

$r = http_get('/size/10');
is(content($r), 'before 0123456789', 'HTTP/1.0');

$r = curl('-I', '/size/10');
is(header($r, 'content-length'), 17, 'HEAD length');
is($r->{exit}, 0, 'HEAD complete');

for my $status (204, 304) {
	my @r = replies("GET /status/$status HTTP/1.1\r\nHost: localhost\r\n\r\n"
		. "GET /size/1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 2);
	is(status($r[0]), $status, "$status passed on");
	is(content($r[1]), 'before 0', "connection in step after $status");
}
is(content(curl('/status/404')), "before status 404\n", 'an error of the upstream');

is(content(curl('/static/page.html')), 'before a static page', 'static');
$r = curl('-r', '2-5', '/static/page.html');
is(content($r), 'before a static page', 'no range of it');
is(content(curl('--compressed', '/gzip/page.html')), 'before a static page', 'gzip');

$r = curl('/held/size/10');
is(content($r), 'before 0123456789', 'held, not replaced');
is(header($r, 'x-read'), 17, 'both were there to read');
is(content(curl('/replaced/size/10')), 'instead of it', 'replaced as a whole');

###############################################################################
