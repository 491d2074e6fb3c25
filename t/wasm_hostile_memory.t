#!/usr/bin/perl

# Guests that want all memory, all of a table, all of the stack, or to copy for ever: each is stopped or refused, the
# worker keeps its size.

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

my @endless = qw/ fill copy table_fill /;
my @deep = qw/ plain wide mutual indirect /;

my $t = Test::Nginx->new()->has(qw/http empty_gif/)->plan(2 * 4 * @endless + 2 * @deep + 13);

# Milliseconds: time for a request to arrive and be answered.
my $limit = patience(300);

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LIMIT/${limit}ms/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;

    log_format uri $request_uri;
    access_log %%TESTDIR%%/order.log uri;

    http_wasm_timeout LIMIT;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /request/ { http_wasm request.wat; empty_gif; }
        location /response/ { http_wasm response.wat; empty_gif; }
        location /bomb { http_wasm bomb.wat; http_wasm_memory_limit 32m; http_wasm_timeout 5s; empty_gif; }
        location /table { http_wasm table.wat; http_wasm_timeout 5s; empty_gif; }
        location /fine { http_wasm fine.wat; empty_gif; }
    }
}

EOF

# Does what the last part of the URI begins with, by its first two letters.
my $wat = <<'EOF';
  (type $deep (func (param i32) (result i32)))
  (table $t 100000 100000 funcref)
  (elem (i32.const 0) $indirect)
  (func $plain (param i32) (result i32) (i32.add (call $plain (local.get 0)) (i32.const 1)))
  (func $wide (param i32) (result i32) (local i64 i64 i64 i64 i64 i64 i64 i64)
    (local.set 1 (i64.extend_i32_u (local.get 0)))
    (local.set 2 (i64.add (local.get 1) (i64.const 2)))
    (local.set 3 (i64.mul (local.get 2) (i64.const 3)))
    (local.set 0 (call $wide (i32.wrap_i64 (local.get 3))))
    (i32.wrap_i64 (i64.add (i64.add (local.get 1) (local.get 2)) (i64.add (local.get 3) (i64.extend_i32_u (local.get 0))))))
  (func $mutual (param i32) (result i32) (i32.add (call $lautum (local.get 0)) (i32.const 1)))
  (func $lautum (param i32) (result i32)
    (i32.add (call $mutual (call $log_enabled (local.get 0))) (i32.const 1)))
  (func $indirect (param i32) (result i32)
    (i32.add (call_indirect (type $deep) (local.get 0) (i32.const 0)) (i32.const 1)))
  (func $harm (local $what i32)
    (drop (call $get_uri (i32.const 0) (i32.const 100)))
    (local.set $what (i32.load16_u (i32.const ACT)))
    (drop (memory.grow (i32.const 1000)))
    (if (i32.eq (local.get $what) (i32.const 0x6966)) (then
      (loop $again (memory.fill (i32.const 4096) (i32.const 1) (i32.const 60000000)) (br $again))))
    (if (i32.eq (local.get $what) (i32.const 0x6f63)) (then
      (loop $again (memory.copy (i32.const 4096) (i32.const 8192) (i32.const 60000000)) (br $again))))
    (if (i32.eq (local.get $what) (i32.const 0x6174)) (then
      (loop $again (table.fill $t (i32.const 0) (ref.func $plain) (i32.const 100000)) (br $again))))
    (if (i32.eq (local.get $what) (i32.const 0x6c70)) (then (drop (call $plain (i32.const 0)))))
    (if (i32.eq (local.get $what) (i32.const 0x6977)) (then (drop (call $wide (i32.const 0)))))
    (if (i32.eq (local.get $what) (i32.const 0x756d)) (then (drop (call $mutual (i32.const 0)))))
    (if (i32.eq (local.get $what) (i32.const 0x6e69)) (then (drop (call $indirect (i32.const 0))))))
  (elem declare func $plain)
EOF

guest($t, 'request.wat', $wat =~ s/ACT/9/r . <<'EOF');
  (func (export "handle_request") (result i64) (call $harm) (i64.const 1))
EOF
guest($t, 'response.wat', $wat =~ s/ACT/10/r . <<'EOF');
  (func (export "handle_response") (param i32 i32) (call $harm))
EOF

# Grows until it is refused, touches every page, and says how many there are.
guest($t, 'bomb.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $at i32)
    (local.set $at (i32.const 4000))
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (loop $touch
      (i32.store8 (local.get $at) (i32.const 1))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $touch (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
    (call $set_resp &"x-pages" (call $dec (memory.size)))
    (i64.const 1))
EOF

# The same with a table, which the limit bounds at 2^20 elements.
guest($t, 'table.wat', <<'EOF');
  (table $t 1 funcref)
  (elem declare func $f)
  (func $f)
  (func (export "handle_request") (result i64)
    (loop $more (br_if $more (i32.ne (table.grow $t (ref.func $f) (i32.const 10000)) (i32.const -1))))
    (call $set_resp &"x-elements" (call $dec (table.size $t)))
    (call $set_resp &"x-again" (call $dec (i32.add (table.grow $t (ref.null func) (i32.const -1)) (i32.const 1))))
    (i64.const 1))
EOF
guest($t, 'fine.wat', '');

$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });
http_get('/fine');

###############################################################################

for my $phase (qw/ request response /) {
	for my $act (@endless) {
		my $uri = "/$phase/$act";
		my $s = http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
		is(status(http_get('/fine')), 200, "$uri: others are served");
		is(status(http_end($s)), 500, "$uri: stopped");
		my @order = grep { m{^/fine|^$uri} } split /\n/, $t->read_file('order.log');
		is_deeply([ @order[-2, -1] ], [ '/fine', $uri ], "$uri: and do not wait for its end");
		is(error_log_count($t, qr{"$phase": handle_$phase: ran for longer than $limit ms and was stopped.*"GET $uri }), 1,
			"$uri: logged");
	}
	for my $act (@deep) {
		my $r = http_get("/$phase/$act");
		is(status($r) . ' ' . error_log_count($t,
			qr{"$phase": handle_$phase: wasm trap: call stack exhausted.*"GET /$phase/$act }), '500 1', "$phase: $act");
	}
}

my $before = rss_kb();
is(header(http_get('/bomb'), 'x-pages'), 512, 'memory ends at its limit') for 1 .. 3;
my $r = http_get('/table');
cmp_ok(header($r, 'x-elements') // 0, '>', 1_000_000, 'table grows');
cmp_ok(header($r, 'x-elements') // 9_999_999, '<=', 1 << 20, 'table ends at its limit');
is(header($r, 'x-again'), 0, 'and is not grown by all there is');
cmp_ok(rss_kb() - $before, '<', 60_000 + kept_memory(), 'the worker grew by no more than that instance');

is(status(http_get('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
cmp_ok(error_log_count($t, qr/http_wasm/), '<', 1000, 'backtraces are cut');
cmp_ok(-s $t->testdir() . '/error.log', '<', 50_000_000, 'log stays short');

###############################################################################

sub rss_kb {
	open my $fh, '<', "/proc/$workers[0]/status" or return 0;
	local $/;
	return (<$fh> =~ /^VmRSS:\s+(\d+)/m)[0];
}

###############################################################################
