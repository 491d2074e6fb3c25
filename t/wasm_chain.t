#!/usr/bin/perl

# Several guests: requests go through in order, responses in reverse.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(16);

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

        location / {
            http_wasm mark.wat config=a;
            http_wasm mark.wat config=b;
            http_wasm mark.wat config=c;
            proxy_pass http://127.0.0.1:8081;
        }

        location /wrap {
            http_wasm wrap.wat config=a;
            http_wasm wrap.wat config=b;
            proxy_pass http://127.0.0.1:8081/size/3;
        }

        location /mixed {
            http_wasm mark.wat config=a;
            http_wasm wrap.wat config=b;
            http_wasm mark.wat config=c;
            proxy_pass http://127.0.0.1:8081/size/3;
        }

        location /answer {
            http_wasm mark.wat config=a;
            http_wasm wrap.wat config=b;
            http_wasm answer.wat;
            http_wasm trap.wat;
            proxy_pass http://127.0.0.1:8082;
        }

        location /trap {
            http_wasm mark.wat config=a;
            http_wasm trap.wat;
            http_wasm answer.wat;
            proxy_pass http://127.0.0.1:8082;
        }

        location /edit {
            http_wasm uri.wat config=/first;
            http_wasm uri.wat config=/second;
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

guest($t, 'mark.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $add_req &"x-order" (call $config))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $add_resp &"x-order" (call $config))
    (call $add_resp &"x-status" (call $dec (call $get_status_code))))
EOF
guest($t, 'wrap.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 4096)))
    (call $body_resp (call $config))
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp (call $config))
    (call $add_resp &"x-order" (call $config)))
EOF
guest($t, 'answer.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_status_code (i32.const 403))
    (call $body_resp &"no")
    (i64.const 0))
  (func (export "handle_response") (param i32 i32) unreachable)
EOF
guest($t, 'trap.wat', <<'EOF');
  (func (export "handle_request") (result i64) unreachable)
EOF
# Reports the URI it was given, then sets its own.
guest($t, 'uri.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $add_req &"x-uri" (i32.const 65536) (call $get_uri (i32.const 65536) (i32.const 4096)))
    (call $set_uri (call $config))
    (i64.const 1))
EOF

backend($t);
$t->run();

###############################################################################

my $r = curl('/');
is(join('', $r->{body} =~ /^x-order: (.*)$/mg), 'abc', 'requests in order');
is(header($r, 'x-order'), 'c|b|a', 'responses in reverse');

$r = curl('/wrap');
is(content($r), 'ab012ba', 'each reads what the one behind it made');
is(header($r, 'content-length'), 7, 'length');
is(header($r, 'x-order'), 'b|a', 'both held');

$r = curl('/mixed');
is(content($r), 'b012b', 'one holds the body');
is(header($r, 'x-order'), 'c|b|a', 'the others keep their places');

$r = curl('/answer');
is(status($r), 403, 'a guest behind answers');
is(content($r), 'bnob', 'those before it see its answer');
is(header($r, 'x-order'), 'b|a', 'in reverse');
is(header($r, 'x-status'), 403, 'with its status');

$r = curl('/trap');
is(status($r), 500, 'a guest behind traps');
is(header($r, 'x-status') // 500, 500, 'those before it see an error');

$r = curl('/edit');
like($r->{body}, qr!^GET /second HTTP!, 'the last URI counts');
like($r->{body}, qr!^x-uri: /edit\nx-uri: /first$!m, 'each sees the one before');

is(error_log_count($t, qr/unreachable/), 1, 'one trap');

###############################################################################
