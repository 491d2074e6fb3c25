#!/usr/bin/perl

# http_wasm_buffer_types: a guest with buffer_response gets responses of these types whole; the others stream by, and for
# them it is as if it had not asked.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(39);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_buffer_types text/html APPLICATION/json;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /types/ { http_wasm wraps.wat; proxy_pass http://127.0.0.1:8081/; }
        location /reads/ { http_wasm reads.wat; proxy_pass http://127.0.0.1:8081/; }
        location /two/ { http_wasm wraps.wat; http_wasm types.wat; proxy_pass http://127.0.0.1:8081/; }
        location /late/ { http_wasm late.wat; proxy_pass http://127.0.0.1:8081/; }
        location /all/ { http_wasm_buffer_types *; http_wasm wraps.wat; proxy_pass http://127.0.0.1:8081/; }
        location /file { default_type image/png; http_wasm wraps.wat; alias %%TESTDIR%%/file; }
        location /hold { http_wasm marks.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF
$t->write_file_expand('nginx.conf', $conf);

my $whole = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
my $wrap = <<'EOF';
    (call $set_resp &"x-seen" &"1")
    (if (call $is_text) (then
      (local.set $n (call $read_all (i32.const 1) (i32.const 100)))
      (call $body_resp &"<") (call $body_resp (i32.const 65536) (local.get $n)) (call $body_resp &">"))))
  ;; By what the guest is told of the type: the third letter of "text/..." or "application/...".
  (func $is_text (result i32) (local $c i32)
    (drop (call $get_header_values (i32.const 1) &"content-type" (i32.const 0) (i32.const 100)))
    (local.set $c (i32.or (i32.load8_u (i32.const 2)) (i32.const 32)))
    (i32.or (i32.eq (local.get $c) (i32.const 120)) (i32.eq (local.get $c) (i32.const 112))))
EOF
guest($t, 'wraps.wat', "$whole (func (export \"handle_response\") (param i32 i32) (local \$n i32)\n$wrap");
guest($t, 'marks.wat', "$whole (func (export \"handle_response\") (param i32 i32) (call \$set_resp &\"x-seen\" &\"1\"))");
guest($t, 'reads.wat', "$whole (func (export \"handle_response\") (param i32 i32) (drop (call \$read_all (i32.const 1) (i32.const 100))))");
guest($t, 'types.wat', '(func (export "handle_response") (param i32 i32) (call $set_resp &"content-type" &"image/png"))');
# Asks for the body in handle_request.
guest($t, 'late.wat', <<"EOF");
  (func (export "handle_request") (result i64) (drop (call \$enable_features (i32.const 2))) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (local \$n i32)
$wrap
EOF
$t->write_file('file', 'of a file');
backend($t);
$t->run();

###############################################################################

for my $guest (qw/types late/) {
	for my $type ('text/html', 'text/html; charset=utf-8', 'TEXT/HTML', 'application/json', 'text/html; profile=x',
		'text/html;', 'text/html ; charset=utf-8', 'text/html; profile=x; charset=utf-8')
	{
		my $r = curl("/$guest/headers?Content-Type=" . $type =~ s/[; ]/sprintf '%%%02x', ord $&/ger);
		like(content($r), qr/^<.*>$/s, "$guest, $type: the guest has the body");
	}
	for my $type ('image/png', 'text', 'text/htmlx') {
		my $r = curl("/$guest/headers?Content-Type=$type");
		my $got = status($r) == 200 ? content($r) : status($r);
		# Those that the guest takes for text it reads, and traps.
		$type =~ /text/ ? is($got, 500, "$guest, $type: body functions trap") : unlike($got, qr/^</, "$guest, $type: streams by");
		is(header($r, 'x-seen'), $type =~ /text/ ? undef : 1, "$guest, $type: headers are open");
	}
}

is(content(curl('/all/headers?Content-Type=text/plain')) =~ /^<.*>$/s ? 'whole' : 'not', 'whole', 'all types');
is(content(curl('/file')), 'of a file', 'a file');
is(status(curl('/reads/headers?Content-Type=image/png')), 500, 'a guest that reads all the same traps');
is(error_log_count($t, qr/handle_response: read_body needs feature buffer_response/), 5, 'as one that has not asked');
unlike(content(curl('/two/headers?Content-Type=text/html')), qr/^</, 'the type that a guest before it has set counts');

# It does not wait for the end.
my $s = connection();
syswrite $s, "GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n";
my $text = '';
wait_until(sub { sysread $s, $text, 4096, length $text; $text =~ /first/ });
like($text, qr/x-seen: 1.*first/s, 'what streams by does so as it comes');

for my $wrong ('text', 'a/b/c', 'text/', '"text/html;x"', 'text/*') {
	my ($output) = nginx_test($t, $conf =~ s/text\/html APPLICATION\/json/$wrong/r);
	like($output, qr/\[emerg\].*expected a MIME type/, "$wrong is refused");
}

###############################################################################
