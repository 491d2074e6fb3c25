#!/usr/bin/perl

# Starting a guest has limits of its own: time, log, and the operator's patience. What nginx -t accepts starts in a
# worker, and a request that waits for a start is not charged for it.

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

# nginx calls a killed worker an alert.
my $t = Test::Nginx->new()->has(qw/http/)->todo_alerts()->plan(34);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_timeout 50ms;
    SETTINGS

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            http_wasm GUEST;
        }
        location /answer {
            http_wasm fine.wat;
        }
    }
}

EOF

my $answer = '  (func (export "handle_request") (result i64) (call $body_resp &"served") (i64.const 0))';

guest($t, 'fine.wat', $answer);

# Starts for much longer than a call may run, by how much it computes.
guest($t, 'slow.wat', <<'EOF' . $answer);
  (func (export "_initialize") (local $n i32)
    (loop $again
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 500000000)))))
EOF

guest($t, 'endless.wat', '  (func (export "_initialize") (loop $again (br $again)))');

guest($t, 'chatty.wat', <<'EOF');
  (func (export "_initialize")
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 65536))
    (loop $again (call $log (i32.const 2) (i32.const 65536) (i32.const 65536)) (br $again)))
EOF

guest($t, 'words.wat', <<'EOF');
  (func (export "_initialize")
    (call $log (i32.const 2) &"first words") (call $log (i32.const 2) &"no\00 such\0arule\ff")
    (call $log (i32.const 2) (i32.const 0) (i32.const 0)) unreachable)
EOF

guest($t, 'deep.wat', <<'EOF');
(module
  (memory (export "memory") 1)
  (func (param i32) (if (i32.eqz (local.get 0)) (then unreachable)) (call 0 (i32.sub (local.get 0) (i32.const 1))))
  (func (export "_initialize") (call 0 (i32.const 12)))
  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
EOF

guest($t, 'grows.wat', <<'EOF');
  (func (export "_initialize")
    (if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable)))
EOF

$t->write_file('error.log', '');

###############################################################################
# nginx -t

my ($output, $exit) = test_of('endless.wat', 'http_wasm_start_timeout 200ms;');
isnt($exit, 0, 'an endless start is refused');
like($output, qr/\[emerg\].*endless\.wat": does not start: _initialize: ran for longer than 200 ms and was stopped/,
	'with the reason');
like($output, qr/\[emerg\].*\(see http_wasm_start_timeout\) in \S+:\d+$/m, 'the directive and the place');

$t->write_file('error.log', '');
($output, $exit) = test_of('chatty.wat', 'http_wasm_start_timeout 300ms;');
isnt($exit, 0, 'a start that logs without end is refused');
cmp_ok(length $output, '<', 4_000_000, 'and bounded at the terminal');
cmp_ok(-s $t->testdir() . '/error.log', '<', 4_000_000, 'as in the log');
like($output, qr/guest "chatty": has written too much for one request or start/, 'which says so');

($output, $exit) = test_of('words.wat', '');
like($output, qr/\[emerg\].*words\.wat": does not start: _initialize: .*unreachable.*; it logged last: no\\u\{0\} such\\nrule\\xff in /,
	'the last line of the log has what the guest said last');
unlike($output, qr/\[emerg\].*first words/, 'and no more');

($output, $exit) = test_of('deep.wat', '');
like($output, qr/http_wasm:   0: 0x\w+ - <unknown>!<wasm function 0> and 13 more frames without names$/m,
	'frames without names are one line');

($output, $exit) = test_of('grows.wat', 'http_wasm_memory_limit 1m;');
like($output, qr/\[emerg\].*memory could not grow.*\(see http_wasm_memory_limit\) in /, 'memory: names its directive');

###############################################################################
# Workers

($output, $exit) = test_of('slow.wat', '');
is($exit, 0, 'nginx -t takes a start that is longer than a call may be');

write_conf('slow.wat', 'http_wasm_pool max=2 idle=0;');
$t->run();
is(content(curl('/answer')), 'served', 'a server with it serves');
is(content(curl('/')), 'served', 'so does the guest, to whom the start is not charged');
is(content(curl('/')), 'served', 'each time');
is(error_log_count($t, qr/\[error\]/), 0, 'nothing was stopped');

###############################################################################
# Reloads

my ($master) = $t->read_file('nginx.pid') =~ /(\d+)/;

# A worker that dies meanwhile is replaced, as soon as nginx looks at its children again.
my $worker = worker();
write_conf('endless.wat', 'http_wasm_start_timeout 2s;');
kill 'HUP', $master;
ok(child_of($master, $worker), 'a guest is being started');
kill 'KILL', $worker;
ok(wait_until(sub { error_log_count($t, qr/endless\.wat": does not start/) }), 'and refused in the end');
ok(wait_until(sub { my ($new) = worker_pids($t); $new && $new != $worker }), 'the worker is replaced');
is(content(curl('/answer')), 'served', 'and serves');

# INT, TERM and QUIT end a reload at once, and the server with it.
my $told = 0;
for my $signal (qw/TERM INT QUIT/) {
	if ($signal ne 'TERM') {
		write_conf('fine.wat', '');
		$t->run();
		($master) = $t->read_file('nginx.pid') =~ /(\d+)/;
	}
	write_conf('endless.wat', 'http_wasm_start_timeout 10m;');
	$worker = worker();
	kill 'HUP', $master;
	my $child = child_of($master, $worker);
	ok($child, "$signal: a guest is being started");
	kill $signal, $master;
	ok(wait_until(sub { !alive($master) }), "$signal: nginx ends");
	ok(!alive($child), "$signal: the start with it");
	is(error_log_count($t, qr/\[emerg\].*endless\.wat": was not loaded: nginx has been told to end in /), ++$told,
		"$signal: and says so");
	$t->stop();
}

# As from the terminal: nginx has no handlers of signals yet while it starts.
my $pid = fork() // die "fork: $!";
if ($pid == 0) {
	open STDERR, '>', '/dev/null';
	exec $ENV{TEST_NGINX_BINARY}, '-t', '-p', $t->testdir() . '/', '-c', 'nginx.conf', '-e', 'error.log';
}
my $child = child_of($pid, 0);
kill 'INT', $pid;
waitpid $pid, 0;
is($?, 2, 'INT ends nginx -t');
ok(wait_until(sub { !alive($child) }), 'and the start with it');

###############################################################################

sub settings {
	my ($guest, $settings) = @_;
	return $conf =~ s/GUEST/$guest/r =~ s/SETTINGS/$settings/r;
}

sub write_conf { $t->write_file_expand('nginx.conf', settings(@_)); return }

sub test_of { return nginx_test($t, settings(@_)) }

sub worker {
	return wait_until(sub { (worker_pids($t))[0] });
}

# A process that was forked by this one and is not its worker.
sub child_of {
	my ($parent, $worker) = @_;
	return wait_until(sub {
		my ($child) = grep { $_ != $worker } map { m{^/proc/(\d+)/} } grep { parent($_) == $parent } glob '/proc/[0-9]*/stat';
		return $child;
	});
}

sub parent {
	my ($stat) = @_;
	open my $fh, '<', $stat or return 0;
	return (readline($fh) // '') =~ /^\d+ \(.*\) \S (\d+)/ ? $1 : 0;
}

sub alive {
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/stat" or return 0;
	return (readline($fh) // '') =~ /^\d+ \(.*\) [^ZX]/;
}

###############################################################################
