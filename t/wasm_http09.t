#!/usr/bin/perl

# HTTP/0.9: a line without a version, no header in either direction. Guests read, answer, rewrite, wait and fail as
# with any other request.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(32);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format end '$uri|$status|$sent_http_x_guest$sent_http_x_late|$wasm_outcome';
    access_log %%TESTDIR%%/end.log end;
    http_wasm_breaker off;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /read { http_wasm read.wat; proxy_pass http://127.0.0.1:8081; }
        location /remove { http_wasm remove.wat; proxy_pass http://127.0.0.1:8081; }
        location /body { http_wasm body.wat; proxy_pass http://127.0.0.1:8081/raw; }
        location /nobody { http_wasm nobody.wat; proxy_pass http://127.0.0.1:8081; }
        location /two { http_wasm set.wat; http_wasm set.wat name=again; proxy_pass http://127.0.0.1:8081; }
        location /file { http_wasm set.wat; alias %%TESTDIR%%/file; }
        location /answer { http_wasm set.wat; http_wasm answer.wat; empty_gif; }
        location /header { http_wasm header.wat; proxy_pass http://127.0.0.1:8081/size/10; }
        location /large { http_wasm header.wat; proxy_pass http://127.0.0.1:8081/size/300000; }
        location /whole { http_wasm whole.wat; proxy_pass http://127.0.0.1:8081/chunked; }
        location /waits { http_wasm wait.wat; proxy_pass http://127.0.0.1:8081; }
        location /trap { http_wasm set.wat; http_wasm trap.wat; empty_gif; }
        location /late { http_wasm late.wat; proxy_pass http://127.0.0.1:8081; }
        location /open/ { http_wasm trap.wat; http_wasm_on_error open; proxy_pass http://127.0.0.1:8081; }
        location /moved { http_wasm trap.wat; error_page 500 /fallback; empty_gif; }
        location /fallback { http_wasm set.wat; proxy_pass http://127.0.0.1:8081; }
        location /missing { http_wasm set.wat; alias %%TESTDIR%%/missing; error_page 404 /fallback; }
        location /inside { rewrite ^ /fallback last; }
        location / { http_wasm set.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

my $sleep = <<'EOF';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (func $sleep
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 2000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))
EOF
my %guests = (
	read => <<'EOF',
  (func (export "handle_request") (result i64)
    (call $set_req &"x-protocol" (i32.const 65536) (call $get_protocol_version (i32.const 65536) (i32.const 64)))
    (call $set_req &"x-uri" (i32.const 65536) (call $get_uri (i32.const 65536) (i32.const 64)))
    (call $set_req &"x-hosts" (call $dec (i32.wrap_i64 (i64.shr_u
      (call $get_header_values (i32.const 0) &"host" (i32.const 65536) (i32.const 64)) (i64.const 32)))))
    (call $set_req &"x-body" (call $dec (call $read_all (i32.const 0) (i32.const 4096))))
    (i64.const 1))
EOF
	remove => <<'EOF',
  (func (export "handle_request") (result i64)
    (call $del_req &"cookie") (call $del_req &"x-none")
    (call $add_req &"cookie" &"a=1") (call $add_req &"cookie" &"b=2") (call $add_req &"x-kept" &"1") (call $del_req &"cookie")
    (i64.const 1))
EOF
	body => '(func (export "handle_request") (result i64) (call $body_req &"writ") (call $body_req &"ten") (i64.const 1))',
	nobody => '(func (export "handle_request") (result i64) (call $body_req &"") (i64.const 1))',
	set => <<'EOF',
  (func (export "handle_request") (result i64)
    (call $add_req &"x-guest" &"1") (call $set_resp &"x-guest" &"1") (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-late" &"2"))
EOF
	answer => <<'EOF',
  (func (export "handle_request") (result i64)
    (call $set_status_code (i32.const 403)) (call $set_resp &"content-type" &"text/plain") (call $body_resp &"answer")
    (i64.const 0))
EOF
	header => <<'EOF',
  (func (export "handle_request") (result i64) (call $set_req &"x" &"1") (call $body_resp &"before ") (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-guest" &"1") (call $del_resp &"content-type"))
EOF
	whole => <<'EOF',
  (func (export "_initialize") (drop (call $enable_features (i32.const 7))))
  (func (export "handle_request") (result i64) (call $set_req &"x" &"1") (i64.const 1))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 5)))
    (call $set_header_value (i32.const 3) &"x-trailer" &"1")
    (call $body_resp &"<") (call $body_resp (i32.const 65536) (local.get $n)) (call $body_resp &">"))
EOF
	wait => $sleep . <<'EOF',
  (func (export "handle_request") (result i64) (call $sleep) (call $set_req &"x-woke" &"1") (call $sleep) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $sleep) (call $set_resp &"x-guest" &"1"))
EOF
	trap => <<'EOF',
  (func (export "handle_request") (result i64)
    (call $set_req &"x-trap" &"1") (call $add_req &"cookie" &"trap=1") (call $body_req &"trap") unreachable)
EOF
	late => <<'EOF',
  (func (export "handle_request") (result i64) (call $set_req &"x-late" &"1") (i64.const 1))
  (func (export "handle_response") (param i32 i32) unreachable)
EOF
);
guest($t, "$_.wat", $guests{$_}) for keys %guests;
$t->write_file('file', 'file');
backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my %seen;

like(http09('/read'), qr/^x-protocol: HTTP\/0\.9\nx-uri: \/read\nx-hosts: 0\nx-body: 0$/m, 'a guest reads');
like(http09('/remove'), qr/\A(?!.*cookie).*^x-kept: 1$/ms, 'a guest removes');
is(http09('/body'), 'written', 'a guest writes the body');
like(http09('/nobody'), qr/^body 0 /m, 'a guest writes an empty body');
like(http09('/two'), qr/^x-guest: 1\nx-guest: 1$/m, 'two guests');
is(logged('/two'), '200|12|passed, passed', 'both see the response');

is(http09('/file'), 'file', 'a file');
is(logged('/file'), '200|12|passed', 'with headers that are not sent');
is(http09('/answer'), 'answer', 'an answer of a guest');
is(logged('/answer'), '403|12|passed, answered', 'seen by the guest before');
is(http09('/header'), 'before 0123456789', 'bytes before the response');
is(logged('/header'), '200|1-|passed', 'and a header');
is(http09('/large'), 'before ' . '0123456789' x 30_000, 'before a large one');
is(http09('/whole'), '<onetwothree>', 'a response rewritten');
like(http09('/waits'), qr/^x-woke: 1$/m, 'a guest waits');
is(logged('/waits'), '200|1-|passed', 'with the response, too');

like(http09('/trap'), qr/\A<html>.*500 Internal.*<\/html>\s*\z/s, 'a guest fails');
is(logged('/trap'), '500|12|passed, failed', 'seen by the guest before');
like(http09('/late'), qr/\A<html>.*500 Internal.*<\/html>\s*\z/s, 'a guest fails with the response');
is(logged('/late'), '500|--|failed', 'logged');
like(http09('/open/'), qr/\A(?!.*trap).*^GET \/open\/ HTTP.*^body 0 /ms, 'nothing is left of a guest that fails');
like(http09('/moved'), qr/^x-guest: 1$/m, 'a page with a guest for one that fails');
like(http09('/missing'), qr/^x-guest: 1$/m, 'a page with the guest of before');
like(http09('/inside'), qr/^x-guest: 1$/m, 'a location reached by a rewrite');
like(http09('http://localhost/absolute'), qr/^GET \S*\/absolute HTTP.*^x-guest: 1$/ms, 'a target with a host');
like(http09('/path?a=b'), qr/^GET \/path\?a=b HTTP.*^x-guest: 1$/ms, 'a target with arguments');
like(http("GET /early\n") // '', qr/^x-guest: 1$/m, 'a line that ends early');
is(() = (http("GET /a\r\nGET /b\r\n") // '') =~ /^x-guest: 1$/mg, 1, 'one request for a connection');
is(status(http("GET /file HTTP/1.0\r\n\r\n")), 200, 'the next request');

is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:crit|emerg)\]/), 0, 'no other complaint');

###############################################################################

sub http09 {
	my ($uri) = @_;
	return http("GET $uri\r\n") // '';
}

# The next line that the access log has for a path.
sub logged {
	my ($uri) = @_;
	return wait_until(sub {
		my @lines = map { /^\Q$uri\E\|(.*)/ ? $1 : () } split /\n/, $t->read_file('end.log');
		return if @lines <= ($seen{$uri} // 0);
		return $lines[$seen{$uri}++ // 0];
	}) // '';
}

###############################################################################
