#!/usr/bin/perl

# Trailers on HTTP/2, and those of an upstream: set before and after next, with a length from the upstream, with HEAD;
# read by a guest that has the whole response, and passed by one that has not.

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

my $t = Test::Nginx->new()->has(qw/http proxy grpc http_v2/)->has_daemon('nghttpd')->has_daemon('nghttp')->plan(39);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $passes = $t->has_version('1.27.2');
my $pass = $passes ? 'proxy_pass_trailers on;' : '';

my $locations = join '', map { my $guest = $_; <<'EOF' =~ s/GUEST/$guest/gr } qw/ before after whole read none /;

        location /GUEST/ {
            http_wasm GUEST.wat;
            location /GUEST/proxy/ { proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/static/ { alias %%TESTDIR%%/html/; }
            location /GUEST/grpc/ { grpc_pass grpc://127.0.0.1:8084; rewrite ^/GUEST/grpc(/.*) $1 break; }
            location /GUEST/trailers/ { PASS proxy_pass http://127.0.0.1:8082/; }
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r =~ s/PASS/$pass/gr =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_http_version 1.1;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON
        LOCATIONS
    }
}

EOF

my $set = '(call $set_header_value (i32.const 3) &"x-sum" &"one") (call $add_header_value (i32.const 3) &"x-sum" &"two")';
guest($t, 'before.wat', <<EOF);
  (func (export "_initialize") (drop (call \$enable_features (i32.const 4))))
  (func (export "handle_request") (result i64) $set (i64.const 1))
EOF
guest($t, 'after.wat', <<EOF);
  (func (export "_initialize") (drop (call \$enable_features (i32.const 4))))
  (func (export "handle_response") (param i32 i32) $set)
EOF
guest($t, 'whole.wat', <<EOF);
  (func (export "_initialize") (drop (call \$enable_features (i32.const 6))))
  (func (export "handle_response") (param i32 i32) $set)
EOF
# Tells the upstream's in a header, changes one and takes one away.
guest($t, 'read.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 6))))
  (func (export "handle_response") (param i32 i32) (local $r i64)
    (local.set $r (call $get_header_values (i32.const 3) &"X-Up" (i32.const 65536) (i32.const 100)))
    (if (i64.ne (local.get $r) (i64.const 0))
      (then
        (call $set_resp &"x-read" (i32.const 65536) (i32.sub (i32.wrap_i64 (local.get $r)) (i32.const 1)))
        (call $set_header_value (i32.const 3) &"x-up" &"changed")
        (call $remove_header (i32.const 3) &"x-gone"))))
EOF
guest($t, 'none.wat', '  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-seen" &"1"))');

$t->write_file('html/file', 'a file');
$t->run_daemon(\&with_trailers, port(8082));
$t->run_daemon('nghttpd', '--no-tls', '--address=127.0.0.1', '-d', $t->testdir() . '/html',
	'--trailer', 'grpc-status: 0', '--trailer', 'x-up: from upstream', '--trailer', 'x-gone: 1', port(8084));
$t->waitforsocket('127.0.0.1:' . port($_)) or die "backend does not listen\n" for 8082, 8084;
backend($t);
$t->run();

###############################################################################

for my $guest (qw/ before after whole /) {
	for my $uri ('proxy/size/3', 'proxy/chunked', 'static/file') {
		my ($r, $trailers) = h2("/$guest/$uri");
		is($trailers, 'x-sum: one|x-sum: two', "$guest next, HTTP/2, $uri");
		like(content($r), qr/^(?:012|onetwothree|a file)$/, "$guest next, HTTP/2, $uri, body");
	}
	my ($r, $trailers) = h2("/$guest/proxy/size/3", '-I');
	is($r->{exit} . $trailers, '0', "$guest next, HTTP/2, HEAD has none");

	$r = http("GET /$guest/static/file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
	like($r, qr/\r\n\r\n6\r\na file\r\n0\r\nx-sum: one\r\nx-sum: two\r\n\r\n$/, "$guest next, HTTP/1.1, a length before");
	is(content(http_get("/$guest/static/file")), 'a file', "$guest next, HTTP/1.0 has none");
}

# gRPC: trailers of the upstream in any nginx.

my ($r, $trailers) = h2('/read/grpc/file');
is(content($r), 'a file', 'gRPC, buffered');
is(header($r, 'x-read'), 'from upstream', 'gRPC, trailers read');
is($trailers, 'grpc-status: 0|x-up: changed', 'gRPC, trailers changed');
($r, $trailers) = h2('/whole/grpc/file');
is($trailers, 'grpc-status: 0|x-up: from upstream|x-gone: 1|x-sum: one|x-sum: two', 'gRPC, trailers added, buffered');
($r, $trailers) = h2('/none/grpc/file');
is(header($r, 'x-seen') . $trailers, '1grpc-status: 0|x-up: from upstream|x-gone: 1', 'gRPC, trailers passed, streamed');
($r, $trailers) = h2('/after/grpc/file');
like($trailers, qr/^(?=.*grpc-status: 0)(?=.*x-sum: one\|x-sum: two)/, 'gRPC, trailers added, streamed');

# HTTP: where nginx passes them.

SKIP: {
	skip 'nginx passes no trailers before 1.27.2', 4 unless $passes;

	my ($r, $trailers) = h2('/read/trailers/');
	is(header($r, 'x-read'), 'from upstream', 'proxy, trailers read');
	is($trailers, 'x-up: changed', 'proxy, trailers changed');
	like(http("GET /read/trailers/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
		qr/\r\n0\r\nx-up: changed\r\n\r\n$/, 'proxy, trailers changed, HTTP/1.1');
	is((h2('/none/trailers/'))[1], 'x-up: from upstream|x-gone: 1', 'proxy, trailers passed');
}
($r) = h2('/read/trailers/');
is(content($r), 'body', 'proxy, body before trailers');

is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

# The reply, as curl has it, and its trailers, which curl loses or puts behind the body.
sub h2 {
	my ($uri, @args) = @_;
	my $url = 'http://127.0.0.1:' . port(8083) . $uri;

	my $r = curl('--http2-prior-knowledge', @args, $url);
	$r->{body} =~ s/(?:(?:x-sum|x-up|x-gone|grpc-status): .*\r\n)+$//;
	open my $pipe, '-|', 'nghttp', '-v', '-t', 8, '--no-dep', @args ? ('-H', ':method: HEAD') : (), $url
		or die "nghttp: $!\n";
	my $frames = do { local $/; <$pipe> } // '';
	close $pipe;
	$frames =~ s/\e\[[\d;]*m//g;
	my ($head, $rest) = split /recv HEADERS frame/, $frames, 2;
	return ($r, join '|', ($rest // '') =~ /recv \(stream_id=\d+\) (\S+: .*)/g);
}

sub with_trailers {
	my ($port) = @_;
	my $server = IO::Socket::INET->new(Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 5, ReuseAddr => 1)
		or die "can't listen: $!\n";

	while (my $s = $server->accept()) {
		while (my $line = <$s>) {
			last if $line eq "\r\n";
		}
		print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Up\r\nConnection: close\r\n\r\n",
			"4\r\nbody\r\n0\r\nx-up: from upstream\r\nx-gone: 1\r\n\r\n";
		close $s;
	}
	return;
}

###############################################################################
