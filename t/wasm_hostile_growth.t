#!/usr/bin/perl

# Thousands of requests whose guest traps, in either phase: the worker stays the same, and its size, descriptors and
# threads do not grow with them.

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

my @phases = qw/ request response held /;

my $t = Test::Nginx->new()->has(qw/http empty_gif/)->plan(5 * @phases + 5);

my $locations = join '', map { "        location /$_ { http_wasm $_.wat; empty_gif; }\n" } @phases, 'fine';

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;

    error_log %%TESTDIR%%/info.log info;
    keepalive_requests 10000;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

LOCATIONS    }
}

EOF

# Touches two megabytes of memory before it traps.
my $boom = <<'EOF';
  (func $boom
    (drop (memory.grow (i32.const 32)))
    (memory.fill (i32.const 65536) (i32.const 1) (i32.const 2000000))
    (call $set_resp &"x-leaked" &"leaked")
    unreachable)
EOF
my $response = "  (func (export \"handle_response\") (param i32 i32) (call \$boom))\n";
guest($t, 'request.wat', $boom . "  (func (export \"handle_request\") (result i64) (call \$boom) (i64.const 1))\n");
guest($t, 'response.wat', $boom . $response);
guest($t, 'held.wat', $boom . $response . <<'EOF');
  (start $start)
  (func $start (drop (call $enable_features (i32.const 2))))
EOF
guest($t, 'fine.wat', '');

$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });

###############################################################################

for my $phase (@phases) {
	is(trapped($phase, 100), 100, "$phase: the first hundred");
	my ($rss, $fds, $threads) = size();

	is(trapped($phase, 2000), 2000, "$phase: 2,000 more");
	my ($rss_after, $fds_after, $threads_after) = size();

	cmp_ok($rss_after - $rss, '<', 16_000 + kept_memory(), "$phase: the worker does not grow");
	cmp_ok($fds_after, '<=', $fds + 2, "$phase: nor the number of its descriptors");
	is($threads_after, $threads, "$phase: nor of its threads");
}

my @logged = grep { /guest "\w+": handle_\w+: wasm trap/ } split /\n/, $t->read_file('info.log');
cmp_ok(scalar @logged, '>=', @phases, 'logged');
cmp_ok(scalar @logged, '<', 100 * @phases, 'but not one by one');
is(status(http_get('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(scalar(grep { /^.{20}\[(?:alert|crit|emerg)\]/ } split /\n/, $t->read_file('info.log')), 0,
	'nothing worse than an error');

###############################################################################

# How many of that many requests are answered 500. Connections end with an error, so each has its own.
sub trapped {
	my ($phase, $times) = @_;
	my $failed = 0;
	for (1 .. $times) {
		my $s = connection();
		syswrite $s, "GET /$phase HTTP/1.0\r\n\r\n";
		my $reply = '';
		1 while sysread $s, $reply, 65536, length $reply;
		$failed++ if $reply =~ m{^HTTP/1.1 500 } && $reply !~ /leaked/;
	}
	return $failed;
}

sub size {
	my $dir = "/proc/$workers[0]";
	open my $fh, '<', "$dir/status" or return (0, 0, 0);
	my $status = do { local $/; <$fh> };
	return ($status =~ /^VmRSS:\s+(\d+)/m, scalar(() = glob "$dir/fd/*"), $status =~ /^Threads:\s+(\d+)/m);
}

###############################################################################
