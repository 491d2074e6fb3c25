#!/usr/bin/perl

# A guest that has the body, and a cached response that varies with Accept-Encoding: it is found again, whatever the
# client accepts, and what nginx compresses is still compressed.

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

my @guests = qw/ holds sleeps writes /;

my $t = Test::Nginx->new()->has(qw/http proxy cache gzip/)->plan(6 * @guests);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format encoding '$uri $http_accept_encoding';
    access_log %%TESTDIR%%/encoding.log encoding;

    proxy_cache_path %%TESTDIR%%/cache keys_zone=cache:1m;
    proxy_cache cache;
    gzip on;
    gzip_types *;
    gzip_min_length 1;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        add_header   X-Cache $upstream_cache_status;

        location /holds { http_wasm holds.wat; proxy_pass http://127.0.0.1:8081; }
        location /sleeps { http_wasm sleeps.wat; proxy_pass http://127.0.0.1:8081; }
        location /writes { http_wasm writes.wat; proxy_pass http://127.0.0.1:8081; }
    }

    server {
        listen       127.0.0.1:8081;
        server_name  localhost;
        access_log   off;
        gzip         off;

        location / {
            add_header Cache-Control max-age=100;
            add_header Vary Accept-Encoding;
            add_header X-Asked "for $http_accept_encoding";
            return 200 "a response of some length, so that it can be compressed";
        }
    }
}

EOF

guest($t, 'holds.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
EOF

# Its header is sent after the filter has returned to whoever made the response.
guest($t, 'sleeps.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 1024) "\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\80\84\1e\00\00\00\00\00")
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (drop (call $poll (i32.const 1024) (i32.const 1200) (i32.const 1) (i32.const 1300))))
EOF

# It does not hold the header, and has something before the body.
guest($t, 'writes.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $body_resp &"before ") (i64.const 1))
EOF

$t->run();

###############################################################################

for my $guest (@guests) {
	my $r = curl('-H', 'Accept-Encoding: gzip', "/$guest");
	is(header($r, 'X-Cache') // '', 'MISS', "$guest: not in the cache");
	is(header($r, 'X-Asked') // '', 'for', "$guest: the next handler is not asked for an encoding");
	is(header($r, 'Content-Encoding') // '', 'gzip', "$guest: nginx compresses");

	is(join(' ', map { header(curl('-H', "Accept-Encoding: $_", "/$guest"), 'X-Cache') } 'gzip', 'gzip', 'br'), 'HIT HIT HIT',
		"$guest: found again");
	is(header(curl("/$guest"), 'X-Cache') // '', 'HIT', "$guest: by others, too");
	is(join(', ', $t->read_file('encoding.log') =~ m{^/$guest (.*)}mg), 'gzip, gzip, gzip, br, -',
		"$guest: the log has what the client accepts");
}

###############################################################################
