#!/usr/bin/perl

# Request bodies: read in steps wherever they are, replaced, and never lost to the upstream.

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

use Digest::SHA qw/ sha256_hex /;

my $t = Test::Nginx->new()->has(qw/http proxy rewrite/)->plan(47);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    client_max_body_size 1m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /memory { http_wasm read.wat; client_body_buffer_size 128k; proxy_pass http://127.0.0.1:8081; }
        location /file { http_wasm read.wat; client_body_buffer_size 1k; proxy_pass http://127.0.0.1:8081; }
        location /part { http_wasm part.wat; client_body_buffer_size 1k; proxy_pass http://127.0.0.1:8081; }
        location /unread { http_wasm none.wat; client_body_buffer_size 1k; proxy_pass http://127.0.0.1:8081; }
        location /buffered { http_wasm buffered.wat; client_body_buffer_size 1k; proxy_pass http://127.0.0.1:8081; }

        location /write {
            set $early "$content_length$http_content_length";
            http_wasm write.wat;
            client_body_buffer_size 1k;
            proxy_pass http://127.0.0.1:8081;
            proxy_set_header X-Length "$content_length $http_content_length";
        }

        location /clear { http_wasm clear.wat; proxy_pass http://127.0.0.1:8081; }
        location /mixed { http_wasm mixed.wat; proxy_pass http://127.0.0.1:8081; }
        location /limit { http_wasm read.wat; client_max_body_size 10; proxy_pass http://127.0.0.1:8081; }
        location /zero { http_wasm zero.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

# Reads in steps of 700 bytes; every step but the last must be full, and reading past the end gives the end again.
guest($t, 'read.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $r i64) (local $n i32)
    (loop $more
      (local.set $r (call $read_body (i32.const 0) (i32.add (i32.const 65536) (local.get $n)) (i32.const 700)))
      (local.set $n (i32.add (local.get $n) (i32.wrap_i64 (local.get $r))))
      (if (i64.eqz (i64.shr_u (local.get $r) (i64.const 32)))
        (then
          (if (i32.ne (i32.wrap_i64 (local.get $r)) (i32.const 700)) (then unreachable))
          (br $more))))
    (call $set_req &"x-read" (call $dec (local.get $n)))
    (call $set_req &"x-last" (call $dec (i32.wrap_i64 (local.get $r))))
    (if (i64.ne (call $read_body (i32.const 0) (i32.const 0) (i32.const 1)) (i64.const 0x100000000)) (then unreachable))
    (if (local.get $n) (then
      (call $set_req &"x-ends" (i32.sub (i32.add (i32.const 65536) (local.get $n)) (i32.const 3)) (i32.const 3))))
    (i64.const 1))
EOF
guest($t, 'part.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (drop (call $read_body (i32.const 0) (i32.const 65536) (i32.const 5)))
    (call $set_req &"x-starts" (i32.const 65536) (i32.const 5))
    (i64.const 1))
EOF
guest($t, 'none.wat', '');
guest($t, 'buffered.wat', <<'EOF');
  (func $start (drop (call $enable_features (i32.const 1))))
  (start $start)
  (func (export "handle_request") (result i64)
    (drop (call $read_body (i32.const 0) (i32.const 65536) (i32.const 10)))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-again" (call $dec (call $read_all (i32.const 0) (i32.const 999)))))
EOF
guest($t, 'write.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $body_req &"rewritten ")
    (call $body_req &"by the guest")
    (i64.const 1))
EOF
guest($t, 'clear.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $body_req (i32.const 0) (i32.const 0)) (i64.const 1))
EOF
# Reads see the client's body, the upstream the written one, in whatever order.
guest($t, 'mixed.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (drop (call $read_body (i32.const 0) (i32.const 65536) (i32.const 3)))
    (call $body_req &"<")
    (drop (call $read_body (i32.const 0) (i32.const 65539) (i32.const 100)))
    (call $body_req (i32.const 65536) (i32.const 6))
    (call $body_req &">")
    (i64.const 1))
EOF
guest($t, 'zero.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (drop (call $read_body (i32.const 0) (i32.const 65536) (i32.const 0)))
    (i64.const 1))
EOF

backend($t);
$t->run();

###############################################################################

for my $where (qw/ memory file /) {
	for my $size (0, 5, 700, 1400, 50_000) {
		my $body = join '', map { chr(97 + $_ % 26) } 0 .. $size - 1;
		$t->write_file('body', $body);
		my $seen = curl('--data-binary', '@' . $t->testdir() . '/body', "/$where")->{body};

		like($seen, qr/^x-read: $size$/m, "$where, $size bytes read");
		like($seen, passed($body), "$where, $size bytes passed on");
	}
}
my $long = 'abcde' x 10_000;
$t->write_file('body', $long);
my @data = ('--data-binary', '@' . $t->testdir() . '/body');

my $seen = curl(@data, '/file')->{body};
like($seen, qr/^x-ends: cde$/m, 'last bytes');
like(curl('--data-binary', 'x' x 700, '/file')->{body}, qr/^x-last: 700$/m, 'the end comes with the last bytes');
like(curl('/memory')->{body}, qr/^x-read: 0$/m, 'no body');

for my $where (qw/ memory file /) {
	$seen = curl(@data, '-H', 'Transfer-Encoding: chunked', "/$where")->{body};
	like($seen, qr/^x-read: 50000$/m, "chunked, $where");
	like($seen, passed($long), "chunked, $where, passed on");
}

$seen = curl(@data, '/part')->{body};
like($seen, qr/^x-starts: abcde$/m, 'read in part');
like($seen, passed($long), 'passed on whole');

like(curl(@data, '/unread')->{body}, passed($long), 'not read, passed on');

my $r = curl(@data, '/buffered');
like($r->{body}, passed($long), 'buffer_request, passed on');
is(header($r, 'x-again'), 50000, 'read again in handle_response');

for my $name ('no', 'a short', 'a long') {
	$seen = curl($name eq 'no' ? () : $name eq 'a short' ? ('-d', 'x') : @data, '/write')->{body};
	like($seen, passed('rewritten by the guest'), "replaced, $name body");
	is(join('', $seen =~ /^Content-Length: (.*)$/mig), 22, "its length, $name body");
}
like($seen, qr/^X-Length: 22 22$/m, 'variables know the length');
like(curl(@data, '-H', 'Transfer-Encoding: chunked', '/write')->{body}, passed('rewritten by the guest'), 'replaced chunked body');

like(curl(@data, '/clear')->{body}, qr/^body 0 /m, 'replaced by nothing');
like(curl('-d', 'abcdef', '/mixed')->{body}, passed('<abcdef>'), 'reads and writes do not mix');

is(status(curl('-d', 'x' x 11, '/limit')), 413, 'too large');
is(status(curl(@data, '-H', 'Transfer-Encoding: chunked', '/limit')), 413, 'too large in chunks');
is(status(curl('-d', 'x', '/zero')), 500, 'a read of nothing');

my @r = replies("POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab"
	. "POST /write HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab", 2);
like(content($r[1]), passed('rewritten by the guest'), 'pipelined');

like(curl('-H', 'Expect: 100-continue', @data, '/file')->{body}, passed($long), 'Expect: 100-continue');

###############################################################################

sub passed {
	my ($body) = @_;
	my $length = length $body;
	return qr/^body $length @{[ sha256_hex($body) ]}$/m;
}

###############################################################################
