#!/usr/bin/perl

# The circuit breaker: a guest that fails at every request is not started at every request, and comes back by itself
# when it works again.

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

my $t = Test::Nginx->new()->has(qw/http proxy rewrite/)->plan(30);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker max_fails=3 backoff=1h;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /stuck { http_wasm asked.wat name=stuck; proxy_pass http://127.0.0.1:8081; }
        location /response { http_wasm response.wat name=late; proxy_pass http://127.0.0.1:8081; }
        location /some { http_wasm asked.wat name=some; proxy_pass http://127.0.0.1:8081; }

        location /back {
            http_wasm asked.wat name=back;
            http_wasm_breaker max_fails=2 backoff=20ms max_backoff=40ms;
            proxy_pass http://127.0.0.1:8081;
        }

        location /open {
            http_wasm asked.wat name=open;
            http_wasm_on_error open;
            proxy_pass http://127.0.0.1:8081;
        }

        location /off {
            http_wasm asked.wat name=off;
            http_wasm_breaker off;
            proxy_pass http://127.0.0.1:8081;
        }

        location /line/ {
            http_wasm asked.wat name=line;
            http_wasm_pool max=1 wait=1m;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /body {
            http_wasm body.wat name=body;
            proxy_pass http://127.0.0.1:8081;
        }

        location /direct { rewrite ^/direct(/.*) $1 break; proxy_pass http://127.0.0.1:8081; }

        location /slow {
            http_wasm endless.wat name=slow;
            http_wasm_timeout 20ms;
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

# Says when it starts, and traps when it is asked to.
guest($t, 'asked.wat', <<'EOF');
  (start $start)
  (func $start (call $log (i32.const 0) &"starting"))
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-guest" &"1")
    (if (i32.wrap_i64 (call $get_header_values (i32.const 0) &"x-trap" (i32.const 0) (i32.const 0)))
      (then unreachable))
    (i64.const 1))
EOF

guest($t, 'response.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32) unreachable)
EOF

guest($t, 'body.wat', <<'EOF');
  (func (export "handle_request") (result i64) (drop (call $read_all (i32.const 0) (i32.const 1000))) (i64.const 1))
EOF

guest($t, 'endless.wat', <<'EOF');
  (func (export "handle_request") (result i64) (loop $again (br $again)) (i64.const 1))
EOF

backend($t);
$t->run();

my $at_start = error_log_count($t, qr/guest "stuck": starting/);

###############################################################################

is(statuses('/stuck', map { 'trap' } 1 .. 8), '500 500 500 503 503 503 503 503', 'three failures and no more');
is(error_log_count($t, qr/guest "stuck": starting/) - $at_start, 3, 'three instances started');
is(error_log_count($t, qr/\[error\].*guest "stuck": failed \d+ times in a row/), 1, 'opening is logged once');
error_log_like($t, qr/guest "stuck": failed 3 times in a row and is not called for 3600000 ms; the last time: handle_request: wasm trap/,
	'with count, time and cause');
error_log_like($t, qr/guest "stuck": failed too often and is not called for another \d+ ms/, 'a refused request too');
is(statuses('/stuck', 'good'), '503', 'whoever asks');
unlike(content(curl('/stuck')), qr/wasm|fail|guest/i, 'no word to the client');

is(statuses('/response', map { 'good' } 1 .. 5), '500 500 500 503 503', 'handle_response');
is(statuses('/slow', map { 'good' } 1 .. 4), '500 500 500 503', 'time limit');

is(statuses('/some', map { qw/trap trap good/ } 1 .. 4), join(' ', map { '500 500 200' } 1 .. 4),
	'a success in between');

is(statuses('/off', map { 'trap' } 1 .. 12), join(' ', map { 500 } 1 .. 12), 'off');
is(status(curl('/off')), 200, 'and going on');

###############################################################################

# Passes by a guest that is out of service, which has left nothing in the response.

is(statuses('/open', map { 'trap' } 1 .. 3), '200 200 200', 'open: failures');
my $starts = error_log_count($t, qr/guest "open": starting/);
my $r = curl('/open');
is(status($r), 200, 'open: goes on');
is(header($r, 'X-Guest'), undef, 'without the guest');
is(error_log_count($t, qr/guest "open": starting/), $starts, 'which is not started');

###############################################################################

# By itself: a probe that fails keeps it open for longer, one that succeeds closes it.

is(statuses('/back', qw/trap trap/), '500 500', 'back: opens');
ok(wait_until(sub { statuses('/back', 'trap') eq '500' }), 'a probe fails');
ok(wait_until(sub { statuses('/back', 'good') eq '200' }), 'a probe succeeds');
is(statuses('/back', map { qw/trap good/ } 1 .. 4), join(' ', map { '500 200' } 1 .. 4), 'as before');
is(error_log_count($t, qr/\[notice\].*guest "back": works again after 3 failures in a row/), 1, 'closing is logged');
error_log_like($t, qr/guest "back": failed 2 times in a row and is not called for 20 ms/, 'first back-off');
error_log_like($t, qr/guest "back": failed 3 times in a row and is not called for 40 ms/, 'twice as long');

###############################################################################

# Those who wait in line when it opens are not let through one after the other to find out.

$starts = error_log_count($t, qr/guest "line": starting/);
my ($holder, @line) = map { connection() } 0 .. 12;
print $holder "GET /line/barrier/2 HTTP/1.0\r\n\r\n";
curl('/direct');
print $_ "GET /line/ HTTP/1.0\r\nX-Trap: 1\r\n\r\n" for @line;
curl('/direct');
is(status(curl('/direct/barrier/2')), 200, 'the only instance comes free');
is(status(read_reply($holder)), 200, 'served');
is(join(' ', sort map { status(read_reply($_)) } @line), join(' ', (500) x 3, (503) x 9), 'line');
is(error_log_count($t, qr/guest "line": starting/) - $starts, 3, 'three started');

###############################################################################

# A client that goes away in the middle of its body is not the guest's failure.

for (1 .. 6) {
	my $s = connection();
	print $s "POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nsome";
	close $s;
}
is(status(curl('-d', 'all', '/body')), 200, 'bodies cut short');
is(error_log_count($t, qr/guest "body": failed/), 0, 'are no failures');
is(status(curl('/off')), 200, 'the worker goes on');

###############################################################################

sub statuses {
	my ($uri, @kinds) = @_;
	return join ' ', map { status(curl(($_ eq 'trap' ? ('-H', 'X-Trap: 1') : ()), $uri)) } @kinds;
}

###############################################################################
