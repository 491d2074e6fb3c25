#!/usr/bin/perl

# Trailers: a guest that has enabled them adds them to a chunked response.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(13);

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

        location / { http_wasm trailers.wat; proxy_pass http://127.0.0.1:8081; }
        location /early { http_wasm early.wat; proxy_pass http://127.0.0.1:8081/size/3; }
        location /answer { http_wasm answer.wat; proxy_pass http://127.0.0.1:8082; }
        location /without { http_wasm without.wat; proxy_pass http://127.0.0.1:8081; }
        location /request { http_wasm request.wat; proxy_pass http://127.0.0.1:8081; }
        location /quiet { http_wasm quiet.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

my $set = '(call $set_header_value (i32.const 3) &"x-sum" &"one") (call $add_header_value (i32.const 3) &"x-sum" &"two")
    (call $set_header_value (i32.const 3) &"x-gone" &"1") (call $remove_header (i32.const 3) &"X-Gone")';

guest($t, 'trailers.wat', <<EOF);
  (func (export "_initialize") (if (i32.ne (call \$enable_features (i32.const 6)) (i32.const 6)) (then unreachable)))
  (func (export "handle_response") (param i32 i32)
    $set
    (call \$set_resp &"x-count" (call \$dec (i32.wrap_i64 (i64.shr_u
      (call \$get_header_values (i32.const 3) &"x-sum" (i32.const 0) (i32.const 0)) (i64.const 32))))))
EOF
guest($t, 'early.wat', <<EOF);
  (func (export "_initialize") (drop (call \$enable_features (i32.const 4))))
  (func (export "handle_request") (result i64) $set (i64.const 1))
EOF
guest($t, 'answer.wat', <<EOF);
  (func (export "_initialize") (drop (call \$enable_features (i32.const 4))))
  (func (export "handle_request") (result i64) $set (call \$body_resp &"answer") (i64.const 0))
EOF
guest($t, 'without.wat', <<EOF);
  (func (export "handle_request") (result i64) $set (i64.const 1))
EOF
guest($t, 'request.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_header_value (i32.const 2) &"x-sum" &"one")
    (i64.const 1))
EOF
# Asks without having enabled them, as guests do that print whatever there is.
guest($t, 'quiet.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_req &"x-trailers" (call $dec
      (i32.wrap_i64 (call $get_header_names (i32.const 2) (i32.const 0) (i32.const 0)))))
    (i64.const 1))
EOF

backend($t);
$t->run();

###############################################################################

my $trailers = qr/\r\n0\r\nx-sum: one\r\nx-sum: two\r\n\r\n$/;

my $r = get('/size/3');
like($r, $trailers, 'trailers');
is(header($r, 'content-length'), undef, 'chunked');
is(content($r), '012', 'body');
is(header($r, 'x-count'), 2, 'read again');

like(get('/early'), $trailers, 'set with the request');
$r = get('/answer');
like($r, $trailers, 'in an answer');
is(content($r), 'answer', 'behind its body');

$r = http_get('/size/3');
is(content($r), '012', 'HTTP/1.0 has no trailers');
is(curl('-I', '/size/3')->{exit}, 0, 'HEAD has none');
my @r = replies("GET /status/304 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /early HTTP/1.1\r\nHost: localhost\r\n\r\n", 2);
is(content($r[1]), '012', '304 has none');

is(status(curl('/without')), 500, 'not enabled');
is(status(curl('/request')), 500, 'of the request');
like(curl('/quiet')->{body}, qr/^x-trailers: 0$/m, 'none to read');

###############################################################################

sub get {
	my ($uri) = @_;
	return http("GET $uri HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
}

###############################################################################
