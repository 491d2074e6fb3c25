#!/usr/bin/perl

# A request that has waited for an instance reads its body, whatever else nginx hears of its connection in the turn of
# the event loop in which the instance comes free.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use IO::Select;
use Socket qw/ IPPROTO_TCP TCP_NODELAY /;
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @guests = qw/ reads buffers /;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(9 * @guests + 2);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_pool max=1 wait=1m;
    proxy_read_timeout 60s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /large { alias %%TESTDIR%%/large; sendfile off; output_buffers 2 32k; }
        location /none { return 204; }
        location /reads { http_wasm reads.wat; proxy_pass http://127.0.0.1:8081; }
        location /buffers { http_wasm buffers.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

guest($t, 'reads.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $n i32)
    (local.set $n (call $read_all (i32.const 0) (i32.const 4096)))
    (call $set_req &"x-read" (i32.const 65536) (local.get $n))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-seen" &"1"))
EOF
guest($t, 'buffers.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 1))))
  (func (export "handle_request") (result i64) (call $set_req &"x-read" &"buffered") (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-seen" &"1"))
EOF

my $size = 8_000_000;
$t->write_file('large', 'x' x $size);
my $upstream = upstream(8081);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $guest (@guests) {
	for my $writable (0, 1) {
		my $name = $guest . ($writable ? ', of a connection that was full' : '');

		# The only instance is in use.
		my $first = http("GET /$guest/first HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
		my $up = arrives($upstream);

		# nginx goes on looking whether it may write to a connection on which it once could not.
		my $s = connection();
		# What is sent is to be there at once.
		setsockopt $s, IPPROTO_TCP, TCP_NODELAY, 1;
		if ($writable) {
			print $s "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n";
			wait_until(sub { IO::Select->new($s)->can_read(0) });
			# Another is served when there is nothing to be done for this one.
			http_get('/none') for 1 .. 3;
			is(length(content(read_reply($s))), $size, "$name: read at last");
		}
		print $s "POST /$guest HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 20\r\n\r\n";
		http_get('/none');
		ok(!IO::Select->new($upstream)->can_read(0), "$name: waits");

		# In one turn: the instance comes free, then a part of the body arrives.
		stopped($worker, 1);
		answer($up);
		print $s '0123456789';
		stopped($worker, 0);
		is(status(http_end($first)), 200, "$name: the first ends");
		http_get('/none');
		print $s 'abcdefghij';

		$up = arrives($upstream, 1);
		my $r = $up ? received($up, qr/\r\n\r\n.*j/s) // '' : '';
		like($r, qr/\r\n\r\n0123456789abcdefghij\z/, "$name: the body arrives");
		answer($up) if $up;
		is($up ? status(http_end($s)) : 0, 200, "$name: answered");
	}
}

is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

# Stops the worker, or lets it go on.
sub stopped {
	my ($pid, $stop) = @_;
	kill $stop ? 'STOP' : 'CONT', $pid;
	return wait_until(sub {
		open my $fh, '<', "/proc/$pid/stat" or return;
		return (<$fh> // '') =~ /^\d+ \(.*\) T/ ? $stop : !$stop;
	});
}

###############################################################################
