#!/usr/bin/perl

# Guests at requests of which nginx has read little or nothing: HTTP/0.9, which has no header, and requests that it
# refuses with an error page that is a location with a guest. Whatever the guest does works as with any other request.

###############################################################################

use warnings;
use strict;

use IO::Select;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $line = "GET / HTTP/1.1\r\n";
my $host = "Host: localhost\r\n";
my @requests = (
	[ 'HTTP/0.9', 0, "GET /wasm\r\n" ],
	[ 'garbage', 400, "\x01\x02\x03\r\n\r\n" ],
	[ 'a TLS hello', 400, pack('H*', '16030100450100004103034d2a') . "\x01" x 60 ],
	[ 'a broken escape', 400, "GET /%zz HTTP/1.1\r\n$host\r\n" ],
	[ 'an escaped NUL', 400, "GET /%00 HTTP/1.1\r\n$host\r\n" ],
	[ 'a path out of the root', 400, "GET /../x HTTP/1.1\r\n$host\r\n" ],
	[ 'CONNECT to a host', 400, "CONNECT localhost:443 HTTP/1.1\r\n$host\r\n" ],
	[ 'CONNECT', 405, "CONNECT / HTTP/1.1\r\n$host\r\n" ],
	[ 'the preface of HTTP/2', 400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" ],
	[ 'an unknown version', 505, "GET / HTTP/3.0\r\n\r\n" ],
	[ 'a long request line', 414, 'GET /' . 'x' x 1500 . " HTTP/1.1\r\n$host\r\n" ],
	[ 'a long header', 400, "$line${host}X-Long: " . 'x' x 1500 . "\r\n\r\n" ],
	[ 'no host', 400, "$line\r\n" ],
	[ 'two lengths', 400, "$line${host}Content-Length: 1\r\nContent-Length: 2\r\n\r\n" ],
	[ 'an unknown coding', 501, "$line${host}Transfer-Encoding: none\r\n\r\n" ],
	[ 'a large body', 413, "POST / HTTP/1.1\r\n${host}Content-Length: 2000\r\n\r\n" . 'x' x 2000 ],
	[ 'POST to a file', 405, "POST /gif HTTP/1.1\r\n${host}Content-Length: 2\r\n\r\nok" ],
);

# What guests do, and what the next handler, or the client, sees of it.
my @guests = (
	[ 'sets a header', '(call $set_req &"x-set" &"1") (call $set_req &"x-set" &"2")', qr/^x-set: 2$/m ],
	[ 'sets the host', '(call $set_req &"host" &"guest.example")', qr/^Host: guest\.example$/m ],
	[ 'adds a header twice', '(call $add_req &"x-add" &"1") (call $add_req &"x-add" &"2")', qr/^x-add: 1\nx-add: 2$/m ],
	[ 'adds headers that nginx knows', <<'EOF', qr/^user-agent: guest\nx-forwarded-for: 1\nx-forwarded-for: 2\ncookie: a=1$/m ],
    (call $set_req &"user-agent" &"guest") (call $add_req &"x-forwarded-for" &"1")
    (call $add_req &"x-forwarded-for" &"2") (call $add_req &"cookie" &"a=1")
EOF
	[ 'adds more headers than a list begins with', <<'EOF', qr/^x-n: 1\n(?:x-n: \d+\n){48}x-n: 50$/m ],
    (loop $more
      (global.set $n (i32.add (global.get $n) (i32.const 1)))
      (call $add_req &"x-n" (call $dec (global.get $n)))
      (br_if $more (i32.lt_u (global.get $n) (i32.const 50))))
    (global.set $n (i32.const 0))
EOF
	[ 'removes headers', <<'EOF', qr/\A(?!.*^x-gone).*^x-kept: 1$/ms ],
    (call $del_req &"cookie") (call $add_req &"x-gone" &"1") (call $set_req &"x-kept" &"1") (call $del_req &"x-gone")
EOF
	[ 'reads', <<'EOF', qr/^x-method: GET\nx-uri: \/wasm\nx-body: [02]$/m ],
    (drop (call $get_header_names (i32.const 0) (i32.const 65536) (i32.const 4096)))
    (drop (call $get_header_values (i32.const 0) &"cookie" (i32.const 65536) (i32.const 4096)))
    (drop (call $get_source_addr (i32.const 65536) (i32.const 64)))
    (drop (call $get_protocol_version (i32.const 65536) (i32.const 64)))
    (call $set_req &"x-method" (i32.const 65536) (call $get_method (i32.const 65536) (i32.const 64)))
    (call $set_req &"x-uri" (i32.const 65536) (call $get_uri (i32.const 65536) (i32.const 64)))
    (call $set_req &"x-body" (call $dec (call $read_all (i32.const 0) (i32.const 4096))))
EOF
	[ 'writes the body', '(call $body_req &"written")', qr/^body 7 ccc0e8da6b[0-9a-f]+$/m ],
	[ 'sets the target', '(call $set_uri &"/other?x=1")', qr/^GET \/other\?x=1 HTTP/m ],
	[ 'sets the method', '(call $set_method &"PATCH")', qr/^PATCH \/wasm HTTP/m ],
	[ 'sets response headers and trailers', <<'EOF', qr/(?:^x-resp: 1\r\n.*)?^GET \/wasm HTTP/ms ],
    (drop (call $enable_features (i32.const 4)))
    (call $set_resp &"x-resp" &"1") (call $set_header_value (i32.const 3) &"x-trailer" &"1")
EOF
	[ 'does all of it and fails', <<'EOF', qr/\A(?!.*(?:x-set|x-add)).*^GET \/wasm HTTP.*^body [02] /ms, 'http_wasm_on_error open;' ],
    (call $set_req &"x-set" &"1") (call $add_req &"x-add" &"1") (call $set_req &"cookie" &"a=1")
    (call $set_method &"PATCH") (call $set_uri &"/other") (call $body_req &"written") (call $set_resp &"x-set" &"1")
    unreachable
EOF
);

my $t = Test::Nginx->new()->has(qw/http proxy http_v2/)->plan((@requests + 4) * @guests + 2);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $servers = join '', map { <<'EOF' =~ s/GUEST/$_/gr =~ s/CONF/$guests[$_][3] || ''/egr =~ s/ON/$on/r =~ s/LISTEN/$listen/r } 0 .. $#guests;

    server {
        listen       127.0.0.1:%%PORT_81GUEST%%;
        location / { return 204; }
        location /gif { empty_gif; }
        location /wasm { http_wasm GUEST.wat; CONF proxy_pass http://127.0.0.1:8081; proxy_set_header Host $host; }
    }

    server {
        listen       127.0.0.1:%%PORT_82GUEST%%LISTEN;
        ON
        location / { return 204; }
        location /wasm { http_wasm GUEST.wat; CONF proxy_pass http://127.0.0.1:8081; proxy_set_header Host $host; }
    }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/SERVERS/$servers/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    keepalive_timeout 0;
    large_client_header_buffers 2 1k;
    client_max_body_size 1k;
    http_wasm_breaker off;
    error_page 400 405 413 414 494 501 505 /wasm;
    SERVERS
}

EOF

guest($t, "$_.wat", <<"EOF") for 0 .. $#guests;
  (global \$n (mut i32) (i32.const 0))
  (func (export "handle_request") (result i64)
    $guests[$_][1] (i64.const 1))
EOF

backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $guest (0 .. $#guests) {
	my ($does, undef, $seen) = @{ $guests[$guest] };

	for my $request (@requests) {
		my ($name, $status, $text) = @$request;
		my $r = http($text, PeerAddr => '127.0.0.1:' . port("81$guest")) // '';
		my $as = status($r) == $status && $r =~ $seen;
		ok($as, "$name, a guest $does") or diag("status " . status($r) . ":\n$r");
	}

	# The fields of a request of HTTP/2, one missing, twice, unknown or malformed.
	my @fields = (':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'localhost');
	for my $case ([ 'no path', @fields[0 .. 3, 6, 7] ], [ 'two methods', @fields[0, 1, 0 .. 7] ],
		[ 'an unknown pseudo-header', @fields, ':other', 1 ], [ 'a malformed path', @fields[0 .. 4], '/%zz', @fields[6, 7] ])
	{
		my ($name, @sent) = @$case;
		my ($block, $r) = h2_answer("82$guest", @sent);
		# The status is indexed, behind the size of the table.
		my $as = $block =~ /^\x20?\x8c/ && $r =~ $seen;
		ok($as, "HTTP/2, $name, a guest $does") or diag(unpack('H*', $block) . "\n$r");
	}
}

is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

# The answer to a request of HTTP/2 with these fields: the block of its header and its body.
sub h2_answer {
	my ($port, @fields) = @_;

	my $s = h2_connect($port);
	my $fields = '';
	while (my ($name, $value) = splice @fields, 0, 2) {
		$fields .= pack 'C C/a C/a', 0, $name, $value;
	}
	syswrite $s, Test::Nginx::Peers::frame(1, 5, 1, $fields);

	my ($block, $body, $text) = ('', '', '');
	while (1) {
		while (length $text >= 9) {
			my ($high, $low, $type, $flags, $stream) = unpack 'C n C C N', $text;
			my $length = ($high << 16) + $low;
			last if length $text < 9 + $length;
			my $payload = substr substr($text, 0, 9 + $length, ''), 9;
			$block .= $payload if $type == 1;
			$body .= $payload if $type == 0;
			return ($block, $body) if $stream == 1 && $type < 2 && $flags & 1;
		}
		IO::Select->new($s)->can_read(patience(8)) && sysread $s, $text, 65536, length $text or return ($block, $body);
	}
}

###############################################################################
