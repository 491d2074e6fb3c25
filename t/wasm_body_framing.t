#!/usr/bin/perl

# Request bodies in every framing reach the upstream whole, whether the guest reads them in small steps, only has
# buffer_request on, or never looks at them.

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

my $t = Test::Nginx->new()->has(qw/http proxy http_v2/)->plan(78);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    client_body_buffer_size 1k;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON

        # Nobody listens on 8082.
        location /steps { http_wasm steps.wat; proxy_pass http://127.0.0.1:8081; }
        location /buffered { http_wasm buffered.wat; proxy_pass http://127.0.0.1:8081; }
        location /unread { http_wasm unread.wat; proxy_pass http://127.0.0.1:8081; }
        location /refuse/steps { http_wasm steps.wat config=refuse; proxy_pass http://127.0.0.1:8082; }
        location /refuse/buffered { http_wasm buffered.wat config=refuse; proxy_pass http://127.0.0.1:8082; }
        location /refuse/unread { http_wasm unread.wat config=refuse; proxy_pass http://127.0.0.1:8082; }
        location /answer/steps { http_wasm steps.wat config=answer; proxy_pass http://127.0.0.1:8082; }
        location /answer/buffered { http_wasm buffered.wat config=answer; proxy_pass http://127.0.0.1:8082; }
        location /answer/unread { http_wasm unread.wat config=answer; proxy_pass http://127.0.0.1:8082; }
    }
}

EOF

# With a configuration the guest answers by itself, else it goes on.
my $end = <<'EOF';
    (if (i32.eq (call $get_config (i32.const 1024) (i32.const 100)) (i32.const 6))
      (then (if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 114)) (then (call $set_status_code (i32.const 403))))))
    (i64.extend_i32_u (i32.eqz (call $get_config (i32.const 0) (i32.const 0))))
EOF
guest($t, 'steps.wat', <<EOF);
  (func (export "handle_request") (result i64)
    (call \$set_req &"x-read" (call \$dec (call \$read_all (i32.const 0) (i32.const 7))))
    $end)
EOF
guest($t, 'buffered.wat', <<EOF);
  (func (export "_initialize") (drop (call \$enable_features (i32.const 1))))
  (func (export "handle_request") (result i64) $end)
EOF
guest($t, 'unread.wat', <<EOF);
  (func (export "handle_request") (result i64) $end)
EOF

backend($t);
$t->run();

###############################################################################

my $small = 'small body';
my $large = join '', map { chr(97 + $_ % 26) } 0 .. 49_999;
$t->write_file('large', $large);
my $file = '@' . $t->testdir() . '/large';
my $h2 = 'http://127.0.0.1:' . port(8083);

for my $guest (qw/ steps buffered unread /) {
	seen($guest, '', 'no body', post($guest));
	seen($guest, '', 'Content-Length: 0', post($guest, 'Content-Length: 0'));
	seen($guest, $small, 'in memory', post($guest, 'Content-Length: 10', $small));
	seen($guest, $large, 'in a file', post($guest, 'Content-Length: 50000', $large));
	seen($guest, $small, 'chunked', post($guest, 'Transfer-Encoding: chunked', chunks($small, 3)));
	seen($guest, $large, 'chunked, in a file', post($guest, 'Transfer-Encoding: chunked', chunks($large, 777)));

	seen($guest, '', 'HTTP/2, no body', h2("$h2/$guest"));
	seen($guest, $small, 'HTTP/2 with content-length', h2('-d', $small, "$h2/$guest"));
	seen($guest, $small, 'HTTP/2 without content-length', h2('-H', 'Content-Length:', '-d', $small, "$h2/$guest"));
	seen($guest, $large, 'HTTP/2 without content-length, in a file',
		h2('-H', 'Content-Length:', '--data-binary', $file, "$h2/$guest"));

	# The body is sent only once nginx has asked for it; read_reply() takes the 100 for the first reply.
	my $s = connection();
	syswrite $s, "POST /$guest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
	like(read_reply($s), qr/^HTTP\/1.1 100 /, "$guest, Expect: 100-continue is answered");
	syswrite $s, $small;
	seen($guest, $small, 'Expect: 100-continue', content(read_reply($s)));

	# Whoever refuses without the body does not ask for it; any other answer comes behind 100, as that of nginx's "return".
	for my $kind ('answer', 'refuse') {
		$s = connection();
		my $asks = $guest eq 'steps' || $kind eq 'answer' ? 100 : 403;
		syswrite $s, "POST /$kind/$guest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
		like(read_reply($s), qr/^HTTP\/1.1 $asks /, "$guest, Expect: 100-continue and to $kind");
		next unless $asks == 100;
		syswrite $s, $small;
		my $status = $kind eq 'answer' ? 200 : 403;
		like(read_reply($s), qr/^HTTP\/1.1 $status /, "$guest, then to $kind");
		syswrite $s, "GET /$guest HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
		like(read_reply($s), qr/^HTTP\/1.1 200 /, "$guest, and the connection is in step");
	}

	# A local reply leaves the connection in step, with bodies read and unread.
	my $next = "POST /$guest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n$small";
	for my $body ("Content-Length: 50000\r\n\r\n$large", "Transfer-Encoding: chunked\r\n\r\n" . chunks($large, 999)) {
		my @r = replies("POST /answer/$guest HTTP/1.1\r\nHost: localhost\r\n$body$next", 2);
		is(status($r[0]) . content($r[0]), 200, "$guest, local reply to a POST");
		seen($guest, $small, 'pipelined behind a local reply', content($r[1]));
	}
	my @r = replies($next . $next, 2);
	is(scalar(grep { content($_) =~ passed($small) } @r), 2, "$guest, two pipelined");
}

###############################################################################

sub post {
	my ($guest, @rest) = @_;
	my $body = @rest == 2 ? pop @rest : '';
	my @head = ((@rest ? 'POST' : 'GET') . " /$guest HTTP/1.1", 'Host: localhost', 'Connection: close', @rest);
	return content(http(join("\r\n", @head, '', $body)));
}

sub chunks {
	my ($body, $size) = @_;
	return join('', map { sprintf "%x\r\n%s\r\n", length, $_ } $body =~ /.{1,$size}/gs) . "0\r\n\r\n";
}

sub h2 {
	return content(curl('--http2-prior-knowledge', @_));
}

sub passed {
	my ($body) = @_;
	return qr/^body @{[ length $body ]} @{[ sha256_hex($body) ]}$/m;
}

# The upstream got the body, and the guest that reads it has read as much.
sub seen {
	my ($guest, $body, $name, $seen) = @_;

	like($seen, passed($body), "$guest, $name: passed on");
	like($seen, qr/^x-read: @{[ length $body ]}$/m, "$guest, $name: read") if $guest eq 'steps';
}

###############################################################################
