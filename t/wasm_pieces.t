#!/usr/bin/perl

# One instruction, or one call of a host function, for many megabytes: others are served while it goes on.

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

my $SIZE = 60_000_000;
my $ALL = 2 * $SIZE;

# What a guest does with its 124 MB.
my %cases = (
	'memory.fill' => "(memory.fill (i32.const 1000000) (i32.const 120) (i32.const $ALL))",
	'memory.copy up' => "(memory.copy (i32.const 1000000) (i32.const 999999) (i32.const $ALL))",
	'memory.copy down' => "(memory.copy (i32.const 999999) (i32.const 1000000) (i32.const $ALL))",
	'write_body of a response' => "(call \$body_resp (i32.const 1000000) (i32.const $SIZE))",
	'write_body of the request' => "(call \$body_req (i32.const 1000000) (i32.const $SIZE))",
	'read_body' => "(drop (call \$read_body (i32.const 0) (i32.const 1000000) (i32.const $SIZE)))
	    (if (i32.ne (i32.load8_u (i32.const @{[ 1000000 + $SIZE - 1 ]})) (i32.const 120)) (then (unreachable)))",
);
my @names = sort keys %cases;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(2 * @names + 1);

my $locations = join '', map { "        location /$_ { http_wasm $_.wat; try_files /ok =404; }\n" } 0 .. $#names;

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_timeout 10s;
    http_wasm_slice 1ms;
    http_wasm_memory_limit 256m;
    http_wasm_response_buffer 100m;
    client_max_body_size 100m;
    client_body_buffer_size 64m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /other { http_wasm other.wat; }
$locations
    }
}

EOF

for my $at (0 .. $#names) {
	guest($t, "$at.wat", <<"EOF");
  (func (export "handle_request") (result i64)
    (drop (memory.grow (i32.const 1900)))
    (call \$log (i32.const 1) &"begins $at")
    $cases{$names[$at]}
    (call \$log (i32.const 1) &"ends $at")
    (i64.const 1))
EOF
}

# Goes on for as long as its client is there, a line for each millisecond.
guest($t, 'other.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 1024) "\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\40\42\0f\00\00\00\00\00")
  (func (export "handle_request") (result i64)
    (loop $again
      (drop (call $poll (i32.const 1024) (i32.const 1200) (i32.const 1) (i32.const 1300)))
      (call $log (i32.const 1) &"another one")
      (br $again))
    (i64.const 1))
EOF

$t->write_file('ok', 'OK');
$t->run();
my $worker;
wait_until(sub { ($worker) = worker_pids($t) });

###############################################################################

for my $at (0 .. $#names) {
	my $other = connection();
	my $before = error_log_count($t, qr/another one/);
	print $other "GET /other HTTP/1.0\r\n\r\n";
	wait_until(sub { error_log_count($t, qr/another one/) > $before });

	# On a busy machine it may be done before anybody has looked at the clock.
	my $length = $names[$at] eq 'read_body' ? $SIZE : 0;
	my ($reply, $meanwhile);
	for (1 .. 20) {
		my $s = connection();
		print $s "GET /$at HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: $length\r\n\r\n" . 'x' x $length;
		$reply = read_reply($s);
		($meanwhile) = $t->read_file('error.log') =~ /.*begins $at\b(.*)ends $at\b/s;
		last if $meanwhile =~ /another one/;
	}
	is(status($reply), 200, "$names[$at] is done");
	like($meanwhile, qr/another one/, "$names[$at]: another one is served meanwhile");
}

is_deeply([worker_pids($t)], [$worker], 'the same worker');

###############################################################################
