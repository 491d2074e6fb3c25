#!/usr/bin/perl

# Guests that write bodies until they are refused, and that read with more room than there is: bodies end at the limit
# of the location, in memory and in temporary files.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# Location, phase, what is refused.
my @floods = (
	[ 'request', 'request', 'the request body \(client_max_body_size\) would exceed 4194304 bytes' ],
	[ 'answer', 'request', 'the response body \(http_wasm_response_buffer\) would exceed 8388608 bytes' ],
	[ 'rewrite', 'response', 'the response body \(http_wasm_response_buffer\) would exceed 8388608 bytes' ],
	[ 'bytes', 'request', 'the response body \(http_wasm_response_buffer\) would exceed 65536 bytes' ],
	[ 'bites', 'request', 'the response body \(http_wasm_response_buffer\) would exceed 8388608 bytes' ],
);

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(5 * @floods + 12);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_timeout 5s;
    http_wasm_response_buffer 64k max=8m;
    client_max_body_size 4m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /request { http_wasm request.wat; proxy_pass http://127.0.0.1:8081; }
        location /answer { http_wasm answer.wat; proxy_pass http://127.0.0.1:8081; }
        location /rewrite { http_wasm rewrite.wat; proxy_pass http://127.0.0.1:8081; }
        location /bytes { http_wasm bytes.wat; http_wasm_response_buffer 4k max=64k; proxy_pass http://127.0.0.1:8081; }
        location /bites { http_wasm bites.wat; proxy_pass http://127.0.0.1:8081; }
        location /size { http_wasm held.wat; proxy_pass http://127.0.0.1:8081; }
        location /read { http_wasm read.wat; proxy_pass http://127.0.0.1:8081; }
        location /fine { http_wasm fine.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

my $features = <<'EOF';
  (start $start)
  (func $start (drop (call $enable_features (i32.const 3))))
EOF
my $flood = '(loop $again (call $WRITE (i32.const 65536) (i32.const STEP)) (br $again))';
my $request = '  (func (export "handle_request") (result i64) FLOOD (i64.const 0))' . "\n";

sub flood { my ($write, $step) = @_; return $flood =~ s/WRITE/$write/r =~ s/STEP/$step/r }

guest($t, 'request.wat', $request =~ s/FLOOD/flood('body_req', 100_000)/er);
guest($t, 'answer.wat', $request =~ s/FLOOD/flood('body_resp', 100_000)/er);
guest($t, 'bytes.wat', $request =~ s/FLOOD/flood('body_resp', 1)/er);
guest($t, 'rewrite.wat', $features . '  (func (export "handle_response") (param i32 i32) '
	. flood('body_resp', 100_000) . ")\n");
guest($t, 'bites.wat', $request =~ s/FLOOD/(drop (memory.grow (i32.const 1000))) FLOOD/r
	=~ s/FLOOD/flood('body_resp', 60_000_000)/er);
guest($t, 'held.wat', $features);
guest($t, 'fine.wat', '');

# Reads again and again with a buffer that is the rest of its memory, and says how much came in all.
guest($t, 'read.wat', $features . <<'EOF');
  (func $read (param $kind i32) (result i32) (local $n i32) (local $times i32)
    (loop $again
      (local.set $n (i32.add (local.get $n) (i32.wrap_i64
        (call $read_body (local.get $kind) (i32.const 65536) (i32.const 65470464)))))
      (br_if $again (i32.lt_u (local.tee $times (i32.add (local.get $times) (i32.const 1))) (i32.const 1000))))
    (local.get $n))
  (func (export "handle_request") (result i64)
    (drop (memory.grow (i32.const 996)))
    (call $set_req &"x-read" (call $dec (call $read (i32.const 0))))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-read" (call $dec (call $read (i32.const 1)))))
EOF

backend($t);
$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });
http_get('/fine');
my $peak = memory_kb('VmHWM');

###############################################################################

for my $case (@floods) {
	my ($name, $phase, $reason) = @$case;

	my $s = http("GET /$name HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	is(status(http_get('/fine')), 200, "$name: others are served");
	my $r = http_end($s);
	is(status($r), 500, "$name: refused");
	unlike($r, qr/exceed|wasm|x{10}/, "$name: and the client gets nothing of it");
	is(error_log_count($t, qr{\[error\].*guest "$name": handle_$phase: write_body: $reason.*"GET /$name }), 1,
		"$name: logged");
	ok(no_file_stays(), "$name: no temporary file stays");
}

is(status(curl('/size/8388608')), 200, 'a response as large as may be');
my $r = curl('/size/8388609');
is(status($r), 502, 'a larger one');
is(length(content($r)) < 1000 ? 'page' : 'body', 'page', 'is not sent');
ok(no_file_stays(), 'no temporary file stays');

my $body = 'x' x 3_000_000;
$t->write_file('body', $body);
$r = curl('--data-binary', '@' . $t->testdir() . '/body', '/read');
like(content($r), qr/^x-read: 3000000\r?$/mi, 'a request body is read once, however often it is asked for');
is(header($r, 'x-read'), length content($r), 'so is a response');
cmp_ok(memory_kb('VmHWM') - $peak, '<', 150_000 + kept_memory(), 'the worker keeps its size');

is(status(http_get('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(status(curl('/read')), 200, 'reads on');

###############################################################################

# Whether the worker closes its temporary files. The client may have the whole response a moment before that.
sub no_file_stays {
	return wait_until(sub { !grep { (readlink // '') =~ /_temp/ } glob "/proc/$workers[0]/fd/*" });
}

sub memory_kb {
	my ($name) = @_;
	open my $fh, '<', "/proc/$workers[0]/status" or return 0;
	local $/;
	return (<$fh> =~ /^$name:\s+(\d+)/m)[0];
}

###############################################################################
