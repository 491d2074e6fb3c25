#!/usr/bin/perl

# Guests on HTTP/2: what they read, answer, rewrite; a trap.

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

my $t = Test::Nginx->new()->has(qw/http proxy http_v2/)->plan(22);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080LISTEN;
        server_name  localhost;
        ON

        location / {
            http_wasm read.wat;
            client_body_buffer_size 1k;
            proxy_pass http://127.0.0.1:8081;
            proxy_set_header Host $http_host;
        }

        location /answer { http_wasm answer.wat; proxy_pass http://127.0.0.1:8082; }
        location /wrap { http_wasm wrap.wat; proxy_pass http://127.0.0.1:8081/size/100000; }
        location /trap { http_wasm trap.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

guest($t, 'read.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_req &"x-protocol" (i32.const 65536) (call $get_protocol_version (i32.const 65536) (i32.const 64)))
    (call $set_req &"x-source" (i32.const 65536) (call $get_source_addr (i32.const 65536) (i32.const 64)))
    (call $set_req &"x-host" (i32.const 65536)
      (i32.sub (i32.wrap_i64
        (call $get_header_values (i32.const 0) &"host" (i32.const 65536) (i32.const 64))) (i32.const 1)))
    (call $set_req &"x-read" (call $dec (call $read_all (i32.const 0) (i32.const 4096))))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-seen" &"1"))
EOF
guest($t, 'answer.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_status_code (i32.const 403))
    (call $set_resp &"X-Mixed-Case" &"1")
    (call $set_resp &"connection" &"close")
    (call $body_resp &"no")
    (i64.const 0))
EOF
guest($t, 'wrap.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 4096)))
    (call $body_resp &"<")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &">"))
EOF
guest($t, 'trap.wat', <<'EOF');
  (func (export "handle_request") (result i64) unreachable)
EOF

backend($t);
$t->run();

###############################################################################

my $r = h2('/path?x');
is($r->{proto}, 'HTTP/2', 'protocol');
is(status($r), 200, 'status');
is(header($r, 'x-seen'), 1, 'response header');
like($r->{body}, qr/^x-protocol: HTTP\/2\.0$/m, 'protocol read');
like($r->{body}, qr/^x-source: 127\.0\.0\.1:\d+$/m, 'source read');
like($r->{body}, qr/^x-host: 127\.0\.0\.1:\d+$/m, 'host read');
is(() = $r->{body} =~ /^Host:/mig, 1, 'one host to the upstream');
like($r->{body}, qr/^x-read: 0$/m, 'no body');

like(h2('-H', 'Cookie: a=1', '-H', 'Cookie: b=2', '/')->{body}, qr/^Cookie: a=1; b=2$/mi, 'cookies');

my $body = 'x' x 100_000;
$t->write_file('body', $body);
my @data = ('--data-binary', '@' . $t->testdir() . '/body');
$r = h2(@data, '/');
like($r->{body}, qr/^x-read: 100000$/m, 'body read');
like($r->{body}, qr/^body 100000 /m, 'and passed on');
$r = h2(@data, '-H', 'Content-Length:', '/');
like($r->{body}, qr/^x-read: 100000$/m, 'body of unknown length read');
like($r->{body}, qr/^body 100000 /m, 'and passed on');

$r = h2('/answer');
is(status($r), 403, 'answer');
is(content($r), 'no', 'its body');
is(header($r, 'x-mixed-case'), 1, 'its header');
is(header($r, 'connection'), undef, 'nothing of a connection');
is(header(h2('-I', '/answer'), 'content-length'), 2, 'HEAD');

is(content(h2('/wrap')), '<' . '0123456789' x 10_000 . '>', 'response rewritten');
is(h2('-I', '/wrap')->{exit}, 0, 'HEAD of it');
is(status(h2('/trap')), 500, 'trap');

is(status(h2('/answer')), 403, 'worker serves on');

###############################################################################

sub h2 {
	return curl('--http2-prior-knowledge', @_);
}

###############################################################################
