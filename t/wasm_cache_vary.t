#!/usr/bin/perl

# Guests and cached responses that vary with Accept-Encoding. What a guest has the body of is asked for without, and found
# again whatever the client accepts; nobody gets what he does not accept; nginx still compresses, and the log has all of it.

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

my $t = Test::Nginx->new()->has(qw/http proxy cache gzip gzip_static slice/)->plan(6 * @guests + 24);

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
        location /plain { http_wasm plain.wat; proxy_pass http://127.0.0.1:8082; }
        location /fails {
            http_wasm sees.wat;
            http_wasm holds.wat name=between;
            http_wasm fails.wat;
            proxy_pass http://127.0.0.1:8081;
        }

        location /old {
            http_wasm holds.wat;
            proxy_cache_revalidate on;
            proxy_cache_valid 200 1s;
            proxy_ignore_headers Cache-Control;
            proxy_pass http://127.0.0.1:8083;
        }

        location /failed {
            http_wasm holds.wat;
            http_wasm fails.wat;
            proxy_pass http://127.0.0.1:8081;
            error_page 500 =200 /$arg_to;
        }
        location /strips { http_wasm strips.wat; proxy_pass http://127.0.0.1:8081; }
        location /says { http_wasm says.wat; proxy_pass http://127.0.0.1:8081; }
        location /static { gzip_static on; root %%TESTDIR%%; }
        location /before { http_wasm writes.wat; http_wasm fails.wat; proxy_pass http://127.0.0.1:8081; error_page 500 =200 /static; }
        location /tries { http_wasm holds.wat; try_files /none /says; }
        location /fails_open { http_wasm holds.wat; try_files /none /traps; }
        location /traps { http_wasm traps.wat; http_wasm_on_error open; proxy_pass http://127.0.0.1:8081; }

        location /slices {
            http_wasm holds.wat;
            slice 10;
            proxy_cache_key $uri$slice_range;
            proxy_set_header Range $slice_range;
            proxy_cache_valid 206 1h;
            proxy_pass http://127.0.0.1:8083;
        }
    }

    server {
        listen       127.0.0.1:8082;
        server_name  localhost;
        access_log   off;
        gzip_vary    on;
        gzip_proxied any;
        gzip_http_version 1.0;

        location / { add_header Cache-Control max-age=100; return 200 "a response of some length, so that it can be compressed"; }
    }

    server {
        listen       127.0.0.1:8083;
        server_name  localhost;
        access_log   %%TESTDIR%%/next.log encoding;
        gzip         off;

        location / { add_header Vary Accept-Encoding; root %%TESTDIR%%; }
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

guest($t, 'plain.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32) nop)
EOF

# Tells what it finds when there is a response.
guest($t, 'sees.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-seen" (i32.const 1024) (i32.sub (i32.wrap_i64
      (call $get_header_values (i32.const 0) &"accept-encoding" (i32.const 1024) (i32.const 100))) (i32.const 1))))
EOF

guest($t, 'strips.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $del_req &"accept-encoding")
    (call $set_resp &"x-finds" (call $dec (i32.wrap_i64
      (call $get_header_values (i32.const 0) &"accept-encoding" (i32.const 1024) (i32.const 100)))))
    (i64.const 1))
EOF

guest($t, 'says.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $set_req &"accept-encoding" &"identity") (i64.const 1))
EOF

guest($t, 'traps.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $del_req &"accept-encoding") unreachable)
EOF

guest($t, 'fails.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32) unreachable)
EOF

$t->write_file('old', 'something that gets old');
$t->write_file('static', 'not compressed');
$t->write_file('static.gz', 'compressed');
$t->write_file('slices', '0123456789' x 3);
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
	is(logged("/$guest", 5), 'gzip, gzip, gzip, br, -', "$guest: the log has what the client accepts");
}

# Where the next handler was asked for an encoding, those who do not accept it do not get it.
for my $way ([ GET => '/plain/get' ], [ HEAD => '/plain/head' ]) {
	my ($method, $uri) = @$way;
	curl('-H', 'Accept-Encoding: gzip', ($method eq 'HEAD' ? '-I' : ()), $uri);
	my $r = curl($uri);
	is(header($r, 'X-Cache') // '', 'MISS', "$method: another one is asked for");
	is(header($r, 'Content-Encoding') // 'none', 'none', "$method: and not compressed");
	is(header(curl('-H', 'Accept-Encoding: gzip', $uri), 'Content-Encoding') // 'none', 'gzip', "$method: the first is still there");
	is(logged($uri, 3), 'gzip, -, gzip', "$method: logged");
}

is(header(curl('-H', 'Accept-Encoding: gzip', '/fails'), 'x-seen') // '', 'gzip', 'beside a guest that fails');
is(logged('/fails', 1), 'gzip', 'also in the log');

# What is still right is not asked for twice.
my $old = sub { header(curl('-H', 'Accept-Encoding: gzip', '/old'), 'X-Cache') // '' };
$old->();
wait_until(sub { $old->() eq 'REVALIDATED' });
is($old->(), 'HIT', 'found again after it was revalidated');

curl('-H', 'Accept-Encoding: gzip', '/slices');
is(join(', ', $t->read_file('next.log') =~ m{^/slices (.*)}mg), '-, -, -', 'no part is asked for with an encoding');

# A guest of the location that nginx goes on with has the last word on what is accepted.
for my $case ([ '/failed?to=strips', '-' ], [ '/failed?to=says', 'identity' ], [ '/tries', 'identity' ]) {
	my ($uri, $logged) = @$case;
	my $r = curl('-H', 'Accept-Encoding: gzip', $uri);
	is(header($r, 'Content-Encoding') // 'none', 'none', "$uri: not compressed");
	is(header($r, 'x-finds') // 0, 0, "$uri: what was removed is gone");
}
is(logged('/strips', 1) . ', ' . logged('/says', 2), '-, identity, identity', 'logged');

# Of a guest that fails, and without which the request goes on, nothing is left.
my $open = curl('-H', 'Accept-Encoding: gzip', '/fails_open');
is(header($open, 'X-Asked') // '', 'for', 'on_error open: the next handler is not asked for an encoding');
is(header($open, 'Content-Encoding') // 'none', 'gzip', 'on_error open: nginx compresses');
is(logged('/traps', 1), 'gzip', 'on_error open: logged');

# Somebody still has the body: what comes instead of a response that failed is not compressed either.
is(content(curl('--compressed', '/failed?to=static')), 'not compressed', 'gzip_static behind a response that failed');
is(content(curl('--compressed', '/before')), 'before not compressed', 'and with something before it');

###############################################################################

# What the log has of so many requests.
sub logged {
	my ($uri, $count) = @_;
	my @lines;
	wait_until(sub { @lines = $t->read_file('encoding.log') =~ m{^\Q$uri\E (.*)}mg; @lines >= $count });
	return join ', ', @lines;
}

###############################################################################
