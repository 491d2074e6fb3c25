#!/usr/bin/perl

# Variables: what access logs, maps and headers get to know of guests.

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

my $t = Test::Nginx->new()->has(qw/http proxy map/)->plan(38);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format wasm '$uri|$wasm_guest|$wasm_outcome|$wasm_request_time|$wasm_response_time|$wasm_log_user_id|$wasm_log_plan|$wasm_log';
    access_log %%TESTDIR%%/wasm.log wasm;
    # Fields do not depend on what the error log takes.
    error_log %%TESTDIR%%/quiet.log error;

    map $wasm_outcome $verdict {
        answered  no;
        ~timeout  late;
        default   yes;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        add_header X-Guest $wasm_guest always;
        add_header X-Verdict $verdict always;
        add_header X-User $wasm_log_user_id always;

        location /none { empty_gif; }
        location /pass { http_wasm pass.wat; empty_gif; }
        location /answer { http_wasm pass.wat name=first; http_wasm answer.wat; http_wasm pass.wat name=never; empty_gif; }
        location /trap { http_wasm trap.wat; empty_gif; }
        location /open { http_wasm trap.wat; http_wasm pass.wat; http_wasm_on_error open; empty_gif; }
        location /late { http_wasm late.wat; empty_gif; }
        location /timeout { http_wasm slow.wat; http_wasm_timeout 20ms; empty_gif; }
        location /sleep { http_wasm sleep.wat; empty_gif; }
        location /resting { http_wasm trap.wat name=rests; http_wasm_breaker max_fails=1 backoff=1h; empty_gif; }
        location /busy/ { http_wasm pass.wat name=one; http_wasm_pool max=1 queue=0; proxy_pass http://127.0.0.1:8081/; }
        location /gone { http_wasm body.wat; empty_gif; }
        location /json { http_wasm json.wat; empty_gif; }
        location /id-trap {
            http_wasm trap.wat name=id-trap; http_wasm_breaker max_fails=1; add_header X-Id $request_id always;
            error_log %%TESTDIR%%/id.log info; empty_gif;
        }
        location /id { http_wasm pass.wat name=id; add_header X-Id $request_id; error_log %%TESTDIR%%/id.log info; empty_gif; }
    }
}

EOF

guest($t, 'pass.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (if (call $log_enabled (i32.const 0))
      (then (call $log (i32.const 0) &"seen user.id=17 plan=\"two words\"")))
    (i64.const 1))
EOF

guest($t, 'json.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"{\"user_id\":\"a|b\",\"plan\":null}")
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $log (i32.const 1) &"{\"Plan\":{\"name\":1}}"))
EOF

guest($t, 'answer.wat', '(func (export "handle_request") (result i64) (i64.const 0))');
guest($t, 'trap.wat', '(func (export "handle_request") (result i64) unreachable)');
guest($t, 'late.wat', '(func (export "handle_response") (param i32 i32) unreachable)');
guest($t, 'slow.wat', '(func (export "handle_request") (result i64) (loop $again (br $again)) (i64.const 1))');

guest($t, 'sleep.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (func (export "handle_request") (result i64)
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 30000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
    (i64.const 1))
EOF

guest($t, 'body.wat', <<'EOF');
  (func (export "handle_request") (result i64) (drop (call $read_all (i32.const 0) (i32.const 1000))) (i64.const 1))
EOF

backend($t);
$t->run();

###############################################################################

my %seen;
my $time = qr/\d+\.\d{6}/;

my $r = curl('/none');
is(header($r, 'X-Guest'), undef, 'no guest');
is(header($r, 'X-Verdict'), 'yes', 'no outcome');
is(logged('/none'), '-|-|-|-|-|-|-', 'nothing in the log');

$r = curl('/pass');
is(header($r, 'X-Guest'), 'pass', 'guest in a header');
is(header($r, 'X-User'), '17', 'field in a header');
is(header($r, 'X-Verdict'), 'yes', 'map');
like(logged('/pass'), qr/^pass\|passed\|$time\|$time\|17\|two words\|seen user\.id=17 plan=\\x22two words\\x22$/, 'passed');

$r = curl('/answer');
is(header($r, 'X-Guest'), 'first, answer', 'guests in their order');
like(logged('/answer'), qr/^first, answer\|passed, answered\|$time, $time\|$time, -\|/, 'answered by the second');

is(status(curl('/trap')), 500, 'trap');
like(logged('/trap'), qr/^trap\|failed\|$time\|-\|/, 'failed');

is(status(curl('/open')), 200, 'fails open');
like(logged('/open'), qr/^trap, pass\|failed, passed\|$time, $time\|-, $time\|17\|/, 'failed all the same');

is(status(curl('/late')), 500, 'fails at the response');
like(logged('/late'), qr/^late\|failed\|$time\|$time\|/, 'failed late');

is(header(curl('/timeout'), 'X-Verdict'), 'late', 'stopped');
my ($ran) = logged('/timeout') =~ /^slow\|timeout\|($time)\|-\|/;
ok($ran, 'timeout');

is(status(curl('/sleep')), 200, 'sleeps');
my ($slept) = logged('/sleep') =~ /^sleep\|passed\|($time)\|$time\|/;
cmp_ok($slept, '>=', 0.03, 'waiting counts');

is(status(curl('/resting')), 500, 'fails once');
like(logged('/resting'), qr/^rests\|failed\|/, 'failed');
is(status(curl('/resting?again')), 503, 'and is out of service');
like(logged('/resting'), qr/^rests\|resting\|$time\|-\|/, 'resting');

my $s = connection();
print $s "GET /busy/barrier/2 HTTP/1.0\r\n\r\n";
curl('/none');
is(status(curl('/busy/')), 503, 'busy');
like(logged('/busy/'), qr/^one\|busy\|$time\|-\|/, 'no instance');
curl('http://127.0.0.1:' . port(8081) . '/barrier/2');
is(status(read_reply($s)), 200, 'while one is served');

$s = connection();
print $s "POST /gone HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nsome";
close $s;
like(logged('/gone'), qr/^body\|aborted\|-\|-\|/, 'the client went away');

is(status(curl('/json')), 200, 'JSON');
like(logged('/json'), qr/\|a\|b\|\{\\x22name\\x22:1\}\|\{\\x22Plan\\x22/, 'fields of JSON, the last one counts');

is(status(curl('/pass?' . 'x' x 100)), 200, 'the next request');
like(logged('/pass'), qr/\|17\|/, 'has its own');

###############################################################################

my $id = header(curl('/id'), 'X-Id');
like($id, qr/^[0-9a-f]{32}$/, 'request id');
ok(wait_until(sub { $t->read_file('id.log') =~ /guest "id", request_id $id: seen user/ }), 'with what the guest logged');

$id = header(curl('/id-trap'), 'X-Id');
like($id, qr/^[0-9a-f]{32}$/, 'request id of a failure');
for my $line ('handle_request: wasm trap', '  0: 0x', 'failed 1 times in a row') {
	ok(wait_until(sub { $t->read_file('id.log') =~ /guest "id-trap", request_id $id: \Q$line\E/ }), "with $line");
}

is($t->read_file('quiet.log') =~ /\[info\]/ ? 1 : 0, 0, 'the error log keeps its level');

###############################################################################

# The last line that the access log has for a path, without the path.
sub logged {
	my ($uri) = @_;
	return wait_until(sub {
		-e $t->testdir() . '/wasm.log' or return;
		my @lines = map { /^\Q$uri\E\|(.*)/ ? $1 : () } split /\n/, $t->read_file('wasm.log');
		return if @lines <= ($seen{$uri} // 0);
		$seen{$uri} = @lines;
		return $lines[-1];
	}) // '';
}

###############################################################################
