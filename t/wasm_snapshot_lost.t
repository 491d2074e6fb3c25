#!/usr/bin/perl

# The process in which a snapshot is taken dies: the guest is tried without a snapshot, and the log says why it has none.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(6);
my $dir = $t->testdir();

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_cache_path off;
    http_wasm_snapshot SNAPSHOT;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / { http_wasm naps.wat; empty_gif; }
    }
}

EOF

# Sleeps for a second when it starts.
guest($t, 'naps.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\ca\9a\3b")
  (func (export "_initialize")
    (call $log (i32.const 1) &"sleeps")
    (if (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable)))
EOF

###############################################################################

my ($output, $exit) = killed('on', 1);
is($exit, 0, 'the guest is loaded');
like($output, qr/\[warn\].*naps\.wat": has no snapshot, every instance is started: .*ended with signal 9/, 'the log says why it has no snapshot');
is(scalar(() = $output =~ /guest "naps": sleeps/g), 2, 'it was started again');

($output, $exit) = killed('off', 1);
isnt($exit, 0, 'without a snapshot there is no other attempt');
like($output, qr/\[emerg\].*naps\.wat": compiling or starting it ended with signal 9/, 'and this is the reason');

($output, $exit) = killed('on', 2);
isnt($exit, 0, 'nor is there a third one');

###############################################################################

# Runs "nginx -t", and kills so many of its processes while the guest sleeps.
sub killed {
	my ($snapshot, $times) = @_;

	$t->write_file_expand('test.conf', $conf =~ s/SNAPSHOT/$snapshot/r);
	$t->write_file('output', '');
	my $pid = fork() // die "cannot fork: $!\n";
	if ($pid == 0) {
		open STDERR, '>>', "$dir/output" or die "output: $!\n";
		exec $Test::Nginx::NGINX, '-t', '-p', "$dir/", '-c', 'test.conf', '-e', 'stderr' or die "cannot exec: $!\n";
	}
	for my $time (1 .. $times) {
		my @children;
		wait_until(sub {
			@children = children($pid);
			my $slept = () = $t->read_file('output') =~ /: sleeps/g;
			return @children && $slept == $time;
		}) or last;
		kill 'KILL', @children;
	}
	waitpid $pid, 0;
	my $status = $? >> 8;

	return ($t->read_file('output'), $status);
}

sub children {
	my ($pid) = @_;

	open my $fh, '<', "/proc/$pid/task/$pid/children" or return;
	return split ' ', <$fh> // '';
}

###############################################################################
