#!/usr/bin/perl

# Guests that sleep for an hour, or for ever in small portions: others are served, and a client that goes away frees the
# instance at once. A start that sleeps is nobody's, and ends when it has slept for long enough.

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

my @phases = qw/ request response held /;
my @ways = qw/ relative absolute longest many /;
my @restless = qw/ yield nothing /;

my $t = Test::Nginx->new()->has(qw/http empty_gif/)->plan(5 * @phases * @ways + 3 * @restless + 7);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    # Every turn of the event loop would be in error.log otherwise.
    error_log %%TESTDIR%%/info.log info;
    http_wasm_timeout 300ms;
    http_wasm_start_timeout 1s;
    # Who waits in line shall not get to its end by waiting.
    http_wasm_pool max=1 queue=1 wait=1h;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /request { http_wasm request.wat; empty_gif; }
        location /response { http_wasm response.wat; empty_gif; }
        location /held { http_wasm held.wat; empty_gif; }
        location /start { http_wasm start.wat; http_wasm_dir %%TESTDIR%%/rw /rw rw; empty_gif; }
        location /restless { http_wasm restless.wat; empty_gif; }
        location /fine { http_wasm fine.wat; empty_gif; }
    }
}

EOF

my $sleep = <<'EOF';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (func $clock (param $at i32) (param $ns i64) (param $flags i32)
    (i32.store (i32.add (local.get $at) (i32.const 16)) (i32.const 1))
    (i64.store (i32.add (local.get $at) (i32.const 24)) (local.get $ns))
    (i32.store16 (i32.add (local.get $at) (i32.const 40)) (local.get $flags)))
  (func $sleep (param $count i32)
    (if (call $poll (i32.const 65536) (i32.const 131072) (local.get $count) (i32.const 0)) (then unreachable)))
  (func $way (result i32)
    (if (result i32) (i32.wrap_i64 (call $get_header_values (i32.const 0) &"x-sleep" (i32.const 0) (i32.const 9)))
      (then (i32.load8_u (i32.const 0)))
      (else (i32.const 0))))
  (func $act (local $way i32) (local $n i32)
    (local.set $way (call $way))
    (if (i32.eq (local.get $way) (i32.const 114)) (then
      (call $clock (i32.const 65536) (i64.const 3600000000000) (i32.const 0)) (call $sleep (i32.const 1))))
    (if (i32.eq (local.get $way) (i32.const 97)) (then
      (call $clock (i32.const 65536) (i64.const 9223372036854775807) (i32.const 1)) (call $sleep (i32.const 1))))
    (if (i32.eq (local.get $way) (i32.const 108)) (then
      (call $clock (i32.const 65536) (i64.const -1) (i32.const 0)) (call $sleep (i32.const 1))))
    (if (i32.eq (local.get $way) (i32.const 109)) (then
      (loop $more
        (call $clock (i32.add (i32.const 65536) (i32.mul (local.get $n) (i32.const 48))) (i64.const 3600000000000)
          (i32.const 0))
        (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1024))))
      (call $sleep (i32.const 1024))))
    (if (i32.eq (local.get $way) (i32.const 121)) (then (loop $again (drop (call $yield)) (br $again))))
    (if (i32.eq (local.get $way) (i32.const 110)) (then
      (call $clock (i32.const 65536) (i64.const 1) (i32.const 0))
      (loop $again (call $sleep (i32.const 1)) (br $again)))))
EOF
my $response = "  (func (export \"handle_response\") (param i32 i32) (call \$act))\n";
my $request = "  (func (export \"handle_request\") (result i64) (call \$act) (i64.const 1))\n";

guest($t, 'request.wat', $sleep . $request);
guest($t, 'restless.wat', $sleep . $request);
guest($t, 'response.wat', $sleep . $response);
guest($t, 'held.wat', $sleep . $response . <<'EOF');
  (start $start)
  (func $start (drop (call $enable_features (i32.const 2))))
EOF

# Starts once at the time of the configuration, and well; the next start finds what the first has left, and sleeps; those
# after it find that, too.
guest($t, 'start.wat', <<'EOF' . $sleep);
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (start $start)
  (func $start
    (if (i32.eqz (call $mkdir (i32.const 3) &"config")) (then (return)))
    (if (i32.eqz (call $mkdir (i32.const 3) &"worker")) (then
      (call $clock (i32.const 65536) (i64.const 3600000000000) (i32.const 0)) (call $sleep (i32.const 1)))))
EOF
guest($t, 'fine.wat', '');
mkdir $t->testdir() . '/rw' or die "mkdir: $!";

$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });

###############################################################################

for my $phase (@phases) {
	for my $way (@ways) {
		my $s = http("GET /$phase HTTP/1.0\r\nHost: localhost\r\nX-Sleep: $way\r\n\r\n", start => 1);
		is(status(http_get('/fine')), 200, "$phase, $way: others are served");
		my $next = http("GET /$phase HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
		is(status(http_get('/fine')), 200, "$phase, $way: while one waits for the instance");
		is(status(http_get("/$phase")), 503, "$phase, $way: which is not free");
		close $s;
		is(status(http_end($next)), 200, "$phase, $way: and is as soon as the client goes away");
		is(status(http_get("/$phase")), 200, "$phase, $way: serves on");
	}
}

# A start belongs to no client, and may sleep for as long as it may run.
is(status(http_get('/start')), 503, 'start: one that wants to sleep for longer has failed');
is(status(http_get('/start')), 200, 'start: serves on');
is(error_log_count($t, qr/guest "start": cannot start an instance: .*ran for longer than 1000 ms and was stopped.*start_timeout/), 1,
	'start: logged');

for my $way (@restless) {
	my $s = http("GET /restless/$way HTTP/1.0\r\nHost: localhost\r\nX-Sleep: $way\r\n\r\n", start => 1);
	is(status(http_get('/fine')), 200, "$way: others are served");
	if ($way eq 'yield') {
		is(status(http_end($s)), 500, "$way: stopped");
		is(lines(qr/guest "restless": .*ran for longer than 300 ms and was stopped/), 1, "$way: logged");
	} else {
		# Time spent waiting does not count, and here it is nearly all.
		close $s;
		is(status(http_get('/restless')), 200, "$way: over with its client");
		is(status(http_get('/restless')), 200, "$way: serves on");
	}
}

is(status(http_get('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(lines(qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

sub lines {
	my ($pattern) = @_;
	return scalar grep { $_ =~ $pattern } split /\n/, $t->read_file('info.log');
}

###############################################################################
