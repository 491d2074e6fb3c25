#!/usr/bin/perl

# Instances that take long to start: a burst on a cold worker starts one at a time, whoever waits is served with what comes
# free first, a client that goes away ends no start, and one that fails fails all who wait for it. With min= instances are
# started with the worker, stay when they are idle, and are made again when one is lost, or could not be started.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Messages qw/ h2_client h2_request h2_replies /;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http http_v2/)->plan(55);
my $dir = $t->testdir();

for my $lent ('lent', 'kept', 'mark') {
	mkdir "$dir/$lent" or die "cannot mkdir: $!\n";
	$t->write_file("$lent/file", '');
}

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');

my $conf = <<'EOF' =~ s/LISTEN/$listen/r =~ s/ON/$on/r;

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_slice 1ms;
    http_wasm_instances 256;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8081LISTEN;
        server_name  localhost;
        ON

        location /streams { http_wasm slow.wat name=streams; empty_gif; }
        location /reload { http_wasm slow.wat name=reload; empty_gif; }
        location /burst { http_wasm slow.wat name=burst; empty_gif; }
        location /queue { http_wasm slow.wat name=queue; http_wasm_pool queue=0 wait=1ms; empty_gif; }
        location /none { http_wasm slow.wat name=none; http_wasm_pool idle=0; empty_gif; }
        location /fresh { http_wasm slow.wat name=fresh; http_wasm_isolation request; http_wasm_snapshot off; empty_gif; }
        location /three { http_wasm slow.wat name=three; http_wasm_pool start=3; empty_gif; }
        location /left { http_wasm slow.wat name=left; empty_gif; }
        location /naps { http_wasm naps.wat; http_wasm_pool wait=1ms; empty_gif; }
        location /open { http_wasm opens.wat name=open; http_wasm_dir %%TESTDIR%%/lent /lent; http_wasm_on_error open;
            http_wasm_pool wait=1m; empty_gif; }
        location /fails { http_wasm opens.wat name=fails; http_wasm_dir %%TESTDIR%%/lent /lent;
            http_wasm_pool wait=1m; empty_gif; }
        location /holds { http_wasm holds.wat name=holds; http_wasm_pool wait=1ms; empty_gif; }
        location /laggard { http_wasm laggard.wat; http_wasm_dir %%TESTDIR%%/mark /lent rw; http_wasm_pool wait=1ms;
            http_wasm_start_timeout 250ms; empty_gif; }
        location /ready { http_wasm slow.wat name=ready; http_wasm_pool min=2 idle_timeout=100ms; empty_gif; }
        location /spare { http_wasm slow.wat name=spare; http_wasm_pool idle_timeout=100ms; empty_gif; }
        location /first { http_wasm opens.wat name=first; http_wasm_dir %%TESTDIR%%/kept /lent; http_wasm_pool min=1; empty_gif; }
        location /status { http_wasm_status; }
    }
}

EOF

# A request for something that ends with a "!" costs the instance.
my $traps = <<'EOF';
  (func (export "handle_request") (result i64)
    (if (i32.eq (i32.const 33) (i32.load8_u (i32.add (i32.const 65535) (call $get_uri (i32.const 65536) (i32.const 64)))))
      (then unreachable))
    (i64.const 1))
EOF

# Starts for many slices, by how much it computes.
my $slow = <<'EOF';
  (func $work (local $n i32)
    (loop $again
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 50000000)))))
EOF
guest($t, 'slow.wat', <<'EOF' . $slow . $traps);
  (func (export "_initialize") (call $work))
EOF

# Sleeps for a fifth of a second.
guest($t, 'naps.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\c2\eb\0b")
  (func (export "_initialize")
    (if (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable)))
EOF

# Starts once, when the configuration is read. Later it sleeps for a fifth of a second, and does not come to its end.
guest($t, 'laggard.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\c2\eb\0b")
  (func (export "_initialize")
    (if (i32.eqz (call $mkdir (i32.const 3) &"read")) (then (return)))
    (if (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable))
    (loop $again (br $again)))
EOF

# Starts for many slices, and is in use for half a second then.
guest($t, 'holds.wat', <<'EOF' . $slow);
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\65\cd\1d")
  (func (export "_initialize") (call $work))
  (func (export "handle_request") (result i64)
    (if (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable))
    (i64.const 1))
EOF

# Fails without its file.
guest($t, 'opens.wat', <<'EOF' . $slow . $traps);
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (func (export "_initialize")
    (call $work)
    (if (call $open (i32.const 3) (i32.const 0) &"file" (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0)
      (i32.const 65536)) (then unreachable)))
EOF

$t->write_file_expand('nginx.conf', $conf);
$t->run();

my $worker;
wait_until(sub { ($worker) = worker_pids($t) });

###############################################################################
# Before any request.

ok(wait_until(sub { figure('ready', 'instances') == 2 }), 'two instances are ready');
ok(wait_until(sub { figure('first', 'instances') == 1 }), 'and one of another guest');
is(figure('burst', 'instances'), 0, 'none where nobody said so');

###############################################################################
# Bursts.

is(served('/burst', 20), 20, 'a burst on a cold worker: all are served');
cmp_ok(figure('burst', 'instances_started_total'), '<=', restless() ? 20 : 3, 'with a few instances');

my $h2 = h2_client(8081);
my @streams = map { h2_request($h2, 'GET', '/streams') } 1 .. 100;
is(scalar(grep { $_->{status} == 200 } h2_replies($h2, \@streams)), 100, 'a burst of streams on one connection, too');
cmp_ok(figure('streams', 'instances_started_total'), '<=', restless() ? 100 : 3, 'with a few instances');

is(served('/queue', 20), 20, 'a wait for a start is none in the queue, or for an instance');
is(served('/none', 5), 5, 'instances that are not kept are used by those who wait');
cmp_ok(figure('none', 'instances_started_total'), '<=', restless() ? 5 : 3, 'before they go');
is(figure('none', 'instances'), 0, 'and they go');
is(served('/fresh', 5), 5, 'an instance for each request');
is(figure('fresh', 'instances_started_total'), 5, 'was started for it');
is(figure('fresh', 'instances'), 0, 'and is gone');
is(served('/three', 20), 20, 'three starts at a time');
ok(wait_until(sub { figure('three', 'instances_started_total') >= 3 }), 'start three');

my @napping = map { http_get('/naps', start => 1) } 1 .. 5;
like(http_get('/status'), qr/ 200 /, 'a start that sleeps does not keep others');
is(scalar(grep { status(http_end($_)) == 200 } @napping), 5, 'who waited for it is served');

is(status(http_get('/holds')), 200, 'an instance');
is(served('/holds', 3), 3, 'while it is in use, others wait for as long as a start takes, and get another one');

is(status(http_get('/laggard')), 503, 'a start that sleeps and works for longer than anybody waits');
is(error_log_count($t, qr/guest "laggard": an instance is being started and was not ready in time \(see http_wasm_pool\)/), 1,
	'is what is logged, not that instances are in use');

###############################################################################
# The client goes away while its instance starts.

my $gone = http_get('/left', start => 1);
ok(wait_until(sub { figure('left', 'requests_waiting') == 1 || figure('left', 'instances') == 1 }), 'a request has a start begun');
close $gone;
ok(wait_until(sub { figure('left', 'instances') == 1 }), 'its client goes away, and the start comes to its end');
is(status(http_get('/left')), 200, 'the next request');
is(figure('left', 'instances_started_total'), 1, 'is served by that instance');

###############################################################################
# A start that fails.

unlink "$dir/lent/file" or die "cannot unlink: $!\n";
is(served('/fails', 5, 503), 5, 'a start that fails: all who waited for it are told');
error_log_like($t, qr/\[error\].*guest "fails": cannot start an instance: does not start: _initialize: .*unreachable/,
	'the log has the reason');
error_log_like($t, qr/\[error\].*guest "fails": cannot start an instance, as another request/, 'and who else it was');
cmp_ok(figure('fails', 'failures_total', 'cause="start"'), '>=', 5, 'all are counted');
is(figure('fails', 'requests_waiting'), 0, 'nobody waits any more');
is(status(http_get('/fails')), 503, 'and so does the next');
is(served('/open', 3), 3, 'with on_error open they go on without');

$t->write_file('lent/file', '');
ok(wait_until(sub { status(http_get('/fails')) == 200 }), 'it starts when the reason is gone');
is(figure('fails', 'instances'), 1, 'one instance');

###############################################################################
# Those that are ready stay, and come again.

is(status(http_get('/ready')), 200, 'an instance that was ready');
is(figure('ready', 'instances_started_total'), 2, 'and no other was started');
is(status(http_get('/spare')), 200, 'an instance of another guest');
ok(wait_until(sub { figure('spare', 'instances') == 0 }), 'is dropped when it has been idle');
is(figure('ready', 'instances'), 2, 'those that are to be ready are not');

# One that cannot be started is tried again.
unlink "$dir/kept/file" or die "cannot unlink: $!\n";
is(status(http_get('/first?!')), 500, 'a trap');
error_log_like($t, qr/guest "first": cannot start an instance/, 'another one does not start');
$t->write_file('kept/file', '');
ok(wait_until(sub { figure('first', 'instances') == 1 }), 'and does a second later');

is(status(http_get('/ready?!')), 500, 'a trap');
ok(wait_until(sub { figure('ready', 'instances') == 2 }), 'another one is made for the one that it cost');
is(figure('ready', 'instances_started_total'), 3, 'without a request');
is((worker_pids($t))[0], $worker, 'it is the same worker');

###############################################################################
# A reload while an instance starts.

rmdir "$dir/mark/read" or die "cannot rmdir: $!\n";
my @starting = map { http_get('/reload', start => 1) } 1 .. 3;
ok(wait_until(sub { figure('reload', 'requests_waiting') > 0 || figure('reload', 'instances') > 0 }), 'a start has begun');
$t->reload();
is(scalar(grep { status(http_end($_)) == 200 } @starting), 3, 'all who wait for it are served by the worker that leaves');
ok(wait_until(sub { my @pids = worker_pids($t); @pids == 1 && $pids[0] != $worker }), 'and it goes');

###############################################################################
# What does not fit.

for my $case (
	['min=3 max=2', qr/"min=" of "http_wasm_pool" is 3: expected no more than "max=" and "idle="/],
	['min=3 idle=2', qr/"min=" of "http_wasm_pool" is 3/],
	['start=0', qr/invalid value "start=0": expected a number, 1 or more/],
	['min=255', qr/"min=" of "http_wasm_pool", and one for guests without it, make 258 instances, and "http_wasm_instances" is 256/],
) {
	my ($pool, $expected) = @$case;
	# Of those that get as far as starting guests.
	rmdir "$dir/mark/read";
	like(scalar nginx_test($t, $conf =~ s/min=1;/$pool;/r), $expected, $pool);
}

$t->stop();
is(error_log_count($t, qr/\[(?:alert|crit)\]|exited on signal/), 0, 'no alert, no crash');

###############################################################################

# How many of so many requests at once get a status.
sub served {
	my ($uri, $count, $status) = @_;

	my @sockets = map { http_get($uri, start => 1) } 1 .. $count;
	return scalar grep { status(http_end($_)) == ($status // 200) } @sockets;
}

# A figure of the status page.
sub figure {
	my ($guest, $name, $more) = @_;

	my $page = http_get('/status?format=prometheus') // '';
	$more //= '';
	my $labels = qr/(?=[^}\n]*guest="$guest")(?=[^}\n]*\Q$more\E)/;
	my ($value) = $page =~ /^http_wasm_\Q$name\E\{$labels[^}\n]*\} (\d+)$/m;

	return $value // -1;
}

###############################################################################
