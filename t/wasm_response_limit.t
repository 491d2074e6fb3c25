#!/usr/bin/perl

# A response that is larger than http_wasm_response_buffer allows: 502, a log line that names the directive, and not
# a byte of the response, whatever its framing; what a guest writes counts in the same way.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Bulk;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(47);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_response_buffer 4k max=100000;
    proxy_http_version 1.1;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / { http_wasm seen.wat; proxy_pass http://127.0.0.1:8081; }
        location /direct/ { http_wasm seen.wat; proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
        location /static/ { http_wasm seen.wat; alias %%TESTDIR%%/; }
        location /writes/ { http_wasm writes.wat; proxy_pass http://127.0.0.1:8081/; }
        location /answers { http_wasm answers.wat; }
        location /answers/more { http_wasm answers.wat config=more; }
    }
}

EOF

guest($t, 'seen.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (call $add_resp &"x-status" (call $dec (call $get_status_code))))
EOF
# Twice the body.
guest($t, 'writes.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 5000)))
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp (i32.const 65536) (local.get $n)))
EOF
guest($t, 'answers.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $body_resp (i32.const 65536) (i32.const 100000))
    (if (call $get_config (i32.const 0) (i32.const 0)) (then (call $body_resp (i32.const 65536) (i32.const 1))))
    (i64.const 0))
EOF

$t->write_file('fits', 'x' x 100_000);
$t->write_file('large', 'x' x 100_001);
bulk_backend($t, 8081);
$t->run();

###############################################################################

my $refused = 0;
my $line = qr/\[error\].*http_wasm: the response cannot be buffered: .* 100000 bytes \(http_wasm_response_buffer\)/;

for my $uri (qw{ /source /chunked /direct/source /direct/chunked }) {
	is(bulk("$uri/100000")->{digest}, bulk_digest(100_000), "$uri: as much as may be");
	for my $size (100_001, 3_000_000) {
		my $r = curl("$uri/$size");
		is(status($r), 502, "$uri: $size bytes are too much");
		like(content($r), qr/^<html>.*<\/html>\s*$/s, "$uri: $size bytes, nothing of them");
		is(header($r, 'x-status'), 502, "$uri: $size bytes, the guest sees why");
		error_log_like($t, $line, "$uri: $size bytes, logged");
		is(error_log_count($t, $line), ++$refused, "$uri: $size bytes, once") if $size == 100_001;
		$refused = error_log_count($t, $line);
	}
}

is(length content(curl('/static/fits')), 100_000, 'file: as much as may be');
is(status(curl('/static/large')), 502, 'file: too much');
is(length content(curl('/writes/source/50000')), 100_000, 'guest writes as much as may be');
my $r = curl('/writes/source/50001');
unlike(status($r) . content($r), qr/^200|\x00/, 'guest writes too much: nothing of it');
error_log_like($t, qr/\[error\].*writes.*write_body.*http_wasm_response_buffer/, 'guest writes too much: logged');
is(length content(curl('/answers')), 100_000, 'guest answers with as much as may be');
is(status(curl('/answers/more')), 500, 'guest answers with too much');

###############################################################################
