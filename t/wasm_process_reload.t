#!/usr/bin/perl

# Many reloads leave the master's memory, mappings, descriptors and children as they were.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(8);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            http_wasm large.wat;
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

# A megabyte of data: a copy left behind by each reload would be seen.
guest($t, 'large.wat', <<'EOF' =~ s/DATA/'0123456789abcdef' x 65536/er);
(module
  (import "http_handler" "set_header_value" (func $set_header_value (param i32 i32 i32 i32 i32)))
  (memory (export "memory") 32)
  (data (i32.const 65536) "DATA")
  (data (i32.const 0) "x-guest")
  (func (export "handle_request") (result i64)
    (call $set_header_value (i32.const 1) (i32.const 0) (i32.const 7) (i32.const 65536) (i32.const 3))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
EOF

backend($t);
$t->run();
my ($master) = $t->read_file('nginx.pid') =~ /(\d+)/;

###############################################################################

is(seen(), '012', 'at first');

reloaded() for 1 .. 5;
my %before = taken();
my $reloads = grep { reloaded() && seen() eq '012' } 1 .. 20;
my %after = taken();
is($reloads, 20, 'twenty reloads');
diag("master after 5 and after 25 reloads: $before{memory} and $after{memory} kB, $before{maps} and $after{maps} mappings, "
	. "$before{files} and $after{files} descriptors");
cmp_ok($after{memory} - $before{memory}, '<', 8192 + kept_memory(), 'memory of the master');
cmp_ok($after{maps} - $before{maps}, '<', 10, 'mappings of the master');
is($after{files}, $before{files}, 'descriptors of the master');
is(scalar(worker_pids($t)), 1, 'one worker');
is($after{children}, $before{children}, 'no child left behind');

is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

# The header that the guest sets.
sub seen {
	return header(curl('/'), 'x-guest');
}

# Reloads; true once another worker serves and the old ones are gone.
sub reloaded {
	my @old = worker_pids($t);
	$t->reload();
	return wait_until(sub {
		my @new = worker_pids($t);
		return @new == 1 && !grep { my $pid = $_; $pid == $new[0] || kill 0, $pid } @old;
	});
}

sub taken {
	my %of;
	($of{memory}) = slurp("/proc/$master/status") =~ /^VmRSS:\s*(\d+) kB/m;
	$of{maps} = () = slurp("/proc/$master/maps") =~ /\n/g;
	$of{files} = () = glob "/proc/$master/fd/*";
	$of{children} = grep { slurp($_) =~ /^\d+ \(.*\) \S $master / } glob '/proc/[0-9]*/stat';
	return %of;
}

sub slurp {
	my ($path) = @_;
	open my $fh, '<', $path or return '';
	local $/;
	return <$fh> // '';
}

###############################################################################
