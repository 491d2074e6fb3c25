#!/usr/bin/perl

# Guests with "http_wasm_slice off" have no checks: they run to their end, whatever the time limits say. The same file with
# and without is compiled twice. All other limits hold, and both kinds live in one worker.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(21);

# Where guests wait, their time is looked at.
my $timeout = restless() ? '1m' : '1ms';

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/TIMEOUT/$timeout/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_cache_path off;
    http_wasm_timeout TIMEOUT;
    http_wasm_breaker off;
    http_wasm_instances 8;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        http_wasm_slice off;

        location /checked { http_wasm long.wat; http_wasm_slice 1ms; http_wasm_timeout 1ms; empty_gif; }
        location /off { http_wasm long.wat; empty_gif; }
        location /again { http_wasm long.wat name=other; empty_gif; }
        location /both { http_wasm count.wat; http_wasm long.wat; empty_gif; }
        location /own { http_wasm count.wat; http_wasm_isolation request; empty_gif; }
        location /grow { http_wasm grow.wat; http_wasm_memory_limit 1m; empty_gif; }
        location /trap { http_wasm trap.wat; empty_gif; }
        location /deep { http_wasm deep.wat; empty_gif; }
        location /copy { http_wasm copy.wat; empty_gif; }
    }
}

EOF

# Takes many times its limit.
guest($t, 'long.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (local $n i32)
    (loop $again (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 500000000))))
    (call $set_resp &"x-counted" &"all")
    (i64.const 1))
EOF

# How many requests an instance has seen.
guest($t, 'count.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (i32.store8 (i32.const 65536) (i32.add (i32.load8_u (i32.const 65536)) (i32.const 1)))
    (i32.store8 (i32.const 65540) (i32.add (i32.load8_u (i32.const 65536)) (i32.const 48)))
    (call $set_resp &"x-seen" (i32.const 65540) (i32.const 1))
    (i64.const 1))
EOF

guest($t, 'grow.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1))
      (then (call $set_resp &"x-grown" &"no"))
      (else (call $set_resp &"x-grown" &"yes")))
    (i64.const 1))
EOF

guest($t, 'trap.wat', <<'EOF');
  (func (export "handle_request") (result i64) (unreachable))
EOF

guest($t, 'deep.wat', <<'EOF');
  (func $deeper (param i64) (result i64) (i64.add (call $deeper (i64.add (local.get 0) (i64.const 1))) (i64.const 1)))
  (func (export "handle_request") (result i64) (call $deeper (i64.const 0)))
EOF

# In one instruction, and out of bounds in another.
guest($t, 'copy.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (drop (memory.grow (i32.const 64)))
    (memory.fill (i32.const 65536) (i32.const 65) (i32.const 4000000))
    (memory.copy (i32.const 65537) (i32.const 65536) (i32.const 4000000))
    (call $set_resp &"x-copied" (i32.const 4000000) (i32.const 3))
    (memory.fill (i32.const 65536) (i32.const 65) (i32.const -1))
    (i64.const 1))
EOF

$t->run();

###############################################################################

is(status(http_get('/checked')), 500, 'a guest with checks is stopped');
for my $uri ('/off', '/again') {
	my $r = http_get($uri);
	is(status($r), 200, "$uri: one without is not");
	is(header($r, 'x-counted'), 'all', "$uri: it has come to its end");
}
is(compiled('long.wat'), 2, 'compiled once for each');

my $r = http_get('/both');
is(header($r, 'x-seen'), 1, 'two guests in a chain, one');
is(header($r, 'x-counted'), 'all', 'and the other');
is(header(http_get('/both'), 'x-seen'), 2, 'the instance stays');
is(header(http_get('/own'), 'x-seen'), 1, 'an instance of its own');
is(header(http_get('/own'), 'x-seen'), 1, 'for each request');

is(header(http_get('/grow'), 'x-grown'), 'no', 'the limit of memory holds');
is(status(http_get('/trap')), 500, 'a trap is one');
is(status(http_get('/deep')), 500, 'so is the end of the stack');
is(status(http_get('/copy')), 500, 'so is what is out of bounds');

my ($worker) = worker_pids($t);
is(status(http_get('/checked')), 500, 'the other is stopped again');
is(header(http_get('/off'), 'x-counted'), 'all', 'and this one is not');

$t->reload();
wait_until(sub { my ($new) = worker_pids($t); return $new && $new != $worker; }) or die "no reload\n";

is(compiled('long.wat'), 2, 'nothing is compiled for a reload');
is(header(http_get('/off'), 'x-counted'), 'all', 'without checks after it');
is(status(http_get('/checked')), 500, 'and with');

$t->stop();
is(error_log_count($t, qr/guest "long"[^\n]*ran for longer than 1 ms and was stopped/) > 0, 1, 'the log says who was stopped');

###############################################################################

sub compiled {
	my ($name) = @_;
	return error_log_count($t, qr/\/$name": compiled in \d+ ms/);
}

###############################################################################
