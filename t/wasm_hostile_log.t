#!/usr/bin/perl

# Guests that write to the log without end: it stays lines of a bounded length, the worker keeps its size and serves
# others meanwhile.

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

my @floods = qw/ many long huge print breaks /;

my $t = Test::Nginx->new()->has(qw/http empty_gif/)->plan(4 * @floods + 8);

my $locations = join '', map { "        location /$_ { http_wasm $_.wat; empty_gif; }\n" } @floods;

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    error_log %%TESTDIR%%/flood.log info;
    access_log off;
    http_wasm_timeout 30s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

LOCATIONS
        location /fine { http_wasm fine.wat; empty_gif; }
    }
}

EOF

# A hundred thousand lines.
guest($t, 'many.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $n i32)
    (loop $again
      (call $log (i32.const 2) &"one more line")
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100000))))
    (i64.const 1))
EOF

# Ten lines of a megabyte.
guest($t, 'long.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $n i32)
    (drop (memory.grow (i32.const 16)))
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 1048576))
    (loop $again
      (call $log (i32.const 1) (i32.const 65536) (i32.const 1048576))
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10))))
    (i64.const 1))
EOF

# One call with 40 megabytes, every byte of which takes five as text.
guest($t, 'huge.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (drop (memory.grow (i32.const 700)))
    (call $log (i32.const 2) (i32.const 65536) (i32.const 40000000))
    (i64.const 1))
EOF

# The same by standard error, 64 kB at a time.
my $print = <<'EOF';
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (func (export "handle_request") (result i64) (local $n i32)
    (memory.fill (i32.const 65536) (i32.const BYTE) (i32.const 65536))
    (i64.store (i32.const 0) (i64.const 0x0001000000010000))
    (loop $again
      (if (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)) (then unreachable))
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const TIMES))))
    (i64.const 1))
EOF
guest($t, 'print.wat', $print =~ s/BYTE/0/r =~ s/TIMES/500/r);
guest($t, 'breaks.wat', $print =~ s/BYTE/10/r =~ s/TIMES/4/r);
guest($t, 'fine.wat', '');

$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });
http_get('/fine');
my $peak = memory_kb('VmHWM');

###############################################################################

my $size = 0;
for my $flood (@floods) {
	my $s = http("GET /$flood HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	is(status(http_get('/fine')), 200, "$flood: others are served");
	my $status = status(http_end($s));
	ok($status == 200 || $status == 500, "$flood: answered");

	my $grown = -s $t->testdir() . '/flood.log';
	cmp_ok($grown - $size, '>', 0, "$flood: something is logged");
	cmp_ok($grown - $size, '<', 1_200_000, "$flood: but not all of it");
	$size = $grown;
}

cmp_ok(memory_kb('VmHWM') - $peak, '<', 60_000 + kept_memory(), 'the worker keeps its size');

my ($longest, $broken, $severe) = (0, 0, 0);
open my $log, '<', $t->testdir() . '/flood.log' or die "flood.log: $!";
while (my $line = <$log>) {
	chomp $line;
	$longest = length $line if length $line > $longest;
	$broken++ if $line !~ m{^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\w+\] \d+#\d+: } || $line =~ /[^\x20-\x7e]/;
	$severe++ if $line =~ /^.{20}\[(?:alert|crit|emerg)\]/;
}
is($broken, 0, 'the log is lines');
cmp_ok($longest, '<=', 2048, 'of nginx\'s own length at most');
is($severe, 0, 'nothing worse than an error');

like($t->read_file('flood.log'), qr/guest "\w+": has written too much for one request/, 'and says so');

is(status(http_get('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

sub memory_kb {
	my ($name) = @_;
	open my $fh, '<', "/proc/$workers[0]/status" or return 0;
	local $/;
	return (<$fh> =~ /^$name:\s+(\d+)/m)[0];
}

###############################################################################
