#!/usr/bin/perl

# Pointers and lengths outside the guest's memory in every argument of every host function that takes one.

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

# Where PTR and LEN stand, the other arguments are right.
my @calls = (
	'(drop (call $get_config PTR LEN))',
	'(call $log (i32.const 2) PTR LEN)',
	'(drop (call $get_method PTR LEN))',
	'(call $set_method PTR LEN)',
	'(drop (call $get_uri PTR LEN))',
	'(call $set_uri PTR LEN)',
	'(drop (call $get_protocol_version PTR LEN))',
	'(drop (call $get_source_addr PTR LEN))',
	'(drop (call $get_header_names (i32.const 0) PTR LEN))',
	'(drop (call $get_header_values (i32.const 0) PTR LEN (i32.const 0) (i32.const 100)))',
	'(drop (call $get_header_values (i32.const 0) &"host" PTR LEN))',
	'(call $set_header_value (i32.const 1) PTR LEN &"value")',
	'(call $set_header_value (i32.const 1) &"x-name" PTR LEN)',
	'(call $set_header_value (i32.const 0) PTR LEN &"value")',
	'(call $set_header_value (i32.const 0) &"x-name" PTR LEN)',
	'(call $add_header_value (i32.const 1) PTR LEN &"value")',
	'(call $add_header_value (i32.const 1) &"x-name" PTR LEN)',
	'(call $remove_header (i32.const 1) PTR LEN)',
	'(drop (call $read_body (i32.const 0) PTR LEN))',
	'(drop (call $read_body (i32.const 1) PTR LEN))',
	'(call $write_body (i32.const 0) PTR LEN)',
	'(call $write_body (i32.const 1) PTR LEN)',
	'(call $set_template PTR LEN)',
	'(drop (call $get_template PTR LEN))',
);

# The memory has 262,144 bytes. The last range is a lie about a buffer that is large enough: no harm in a getter.
my @ranges = ([ -1, -1 ], [ -1, 2000 ], [ 262_144, 2000 ], [ 262_143, 2000 ], [ -2147483648, -2147483648 ], [ 0, -1 ]);

my $t = Test::Nginx->new()->has(qw/http proxy empty_gif/)->plan(@calls + 19);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /wild { http_wasm wild.wat config=something; proxy_pass http://127.0.0.1:8081; }
        location /wasi { http_wasm wasi.wat; proxy_pass http://127.0.0.1:8081; }
        location /clock_time_get { http_wasm clock_time_get.wat; empty_gif; }
        location /environ_get { http_wasm environ_get.wat; http_wasm_env A=b; empty_gif; }
        location /environ_sizes_get { http_wasm environ_sizes_get.wat; empty_gif; }
        location /fd_read { http_wasm fd_read.wat; empty_gif; }
        location /path_open { http_wasm path_open.wat; http_wasm_dir %%TESTDIR%% /; empty_gif; }
        location /random_get { http_wasm random_get.wat; empty_gif; }
        location /fine { http_wasm fine.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

# The number of the call and the range come in headers; a number out of bounds would trap, too, but name no function.
my $names = join ' ', map { "\$call_$_" } 0 .. $#calls;
my $functions = join '', map {
	my $call = $calls[$_] =~ s/PTR LEN/(local.get 0) (local.get 1)/r;
	"  (func \$call_$_ (param i32 i32) $call)\n";
} 0 .. $#calls;
my $tests = join '', map {
	"    (if (call \$is &\"$_\") (then (call_indirect (type \$call) (i32.const $ranges[$_ % @ranges][0])"
		. " (i32.const $ranges[$_ % @ranges][1]) (i32.const " . int($_ / @ranges) . "))))\n"
} 0 .. @calls * @ranges - 1;

guest($t, 'wild.wat', <<"EOF" . $functions);
  (type \$call (func (param i32 i32)))
  (table funcref (elem $names))
  (func \$is (param \$p i32) (param \$n i32) (result i32) (local \$i i32)
    (drop (call \$get_header_values (i32.const 0) &"x-case" (i32.const 0) (i32.const 16)))
    (loop \$next
      (if (i32.ne (i32.load8_u (local.get \$i)) (i32.load8_u (i32.add (local.get \$p) (local.get \$i))))
        (then (return (i32.const 0))))
      (br_if \$next (i32.lt_u (local.tee \$i (i32.add (local.get \$i) (i32.const 1))) (local.get \$n))))
    (i32.eqz (i32.load8_u (local.get \$n))))
  (func (export "handle_request") (result i64)
    (call \$set_template &"template")
$tests    (i64.const 1))
EOF

# Functions of ours answer with an error number, 21 is EFAULT, 28 EINVAL; those of the library trap.
guest($t, 'wasi.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (func (export "handle_request") (result i64)
    (i64.store (i32.const 0) (i64.const -1))
    (call $set_resp &"x-iov" (call $dec (call $fd_write (i32.const 1) (i32.const -1) (i32.const -1) (i32.const 100))))
    (call $set_resp &"x-buf" (call $dec (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100))))
    (call $set_resp &"x-len" (call $dec (call $fd_write (i32.const 1) (i32.const 0) (i32.const 0) (i32.const -1))))
    (call $set_resp &"x-sub" (call $dec (call $poll (i32.const -1) (i32.const 0) (i32.const 1) (i32.const 200))))
    (call $set_resp &"x-out" (call $dec (call $poll (i32.const 0) (i32.const 262143) (i32.const 1) (i32.const 200))))
    (i64.const 1))
EOF
my %library = (
	clock_time_get => '(i32.const 0) (i64.const 0) (i32.const 262144)',
	environ_get => '(i32.const -1) (i32.const -1)',
	environ_sizes_get => '(i32.const 262143) (i32.const 0)',
	fd_read => '(i32.const 0) (i32.const -1) (i32.const 1) (i32.const 0)',
	path_open => '(i32.const 3) (i32.const 0) (i32.const -1) (i32.const 9) (i32.const 0) (i64.const 0) (i64.const 0)'
		. ' (i32.const 0) (i32.const 0)',
	random_get => '(i32.const 262143) (i32.const 2)',
);
for my $name (sort keys %library) {
	my $types = join ' ', $library{$name} =~ /(i\d\d)\.const/g;
	guest($t, "$name.wat", <<"EOF");
  (import "wasi_snapshot_preview1" "$name" (func \$library (param $types) (result i32)))
  (func (export "handle_request") (result i64) (drop (call \$library $library{$name})) (i64.const 1))
EOF
}
guest($t, 'fine.wat', '');

backend($t);
$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });

###############################################################################

my $case = 0;
for my $call (@calls) {
	my ($name) = $call =~ /call \$(\w+)/;
	my $wrong = '';

	for my $range (@ranges) {
		my $expected = $name =~ /^get_/ && $call =~ /PTR LEN\)\)$/ && $range == $ranges[-1] ? '200 0' : '500 1';
		my $r = curl('-d', 'a body', '-H', "X-Case: $case", "/wild/$case");
		my $logged = error_log_count($t,
			qr{\[error\].*guest "wild": handle_request: $name got \d+ bytes at \d+, outside.*/wild/$case });
		my $got = status($r) . " $logged";
		$wrong .= "@$range: $got, expected $expected; " if $got ne $expected;
		$case++;
	}
	is($wrong, '', $call);
}

my $r = curl('/wasi');
is(status($r), 200, 'WASI') or diag(grep { /guest "wasi"/ } split /^/, $t->read_file('error.log'));
my @errors = map { header($r, "x-$_") // '' } qw/ iov buf len sub out /;
is("@errors", '28 21 21 21 21', 'error numbers');
for my $name (sort keys %library) {
	is(status(curl("/$name")), 500, $name);
	is(error_log_count($t, qr/\[error\].*guest "$name": handle_request: .*out of bounds/), 1, "$name: logged");
}

is(status(curl('/wild')), 200, 'serves on');
is(status(curl('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################
