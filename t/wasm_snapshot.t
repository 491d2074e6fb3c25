#!/usr/bin/perl

# Snapshots: start functions run once, when the configuration is loaded, and each fresh instance has what they left;
# where that would not be right the log says why, and every instance is started.

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

my $t = Test::Nginx->new()->has(qw/http/);

my $go = built('go-prefix.wasm');

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    # One that was kept would say nothing at its start.
    http_wasm_cache_path off;
    http_wasm_isolation request;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /auto { http_wasm count.wat name=auto config=1; empty_gif; }
        location /other { http_wasm count.wat name=other config=2; empty_gif; }
        location /off { http_wasm count.wat name=off config=0; http_wasm_snapshot off; empty_gif; }
        location /reuse { http_wasm count.wat name=reuse config=0; http_wasm_isolation worker; empty_gif; }
        location /on { http_wasm count.wat name=on config=0; http_wasm_isolation worker; http_wasm_snapshot on; empty_gif; }
        location /random { http_wasm random.wat name=random; empty_gif; }
        location /shared { http_wasm random.wat name=shared; http_wasm_snapshot on; empty_gif; }
        location /resumed { http_wasm resumed.wat name=resumed; http_wasm_snapshot on; empty_gif; }
        location /table { http_wasm table.wat; http_wasm_snapshot on; empty_gif; }
        location /trap { http_wasm trap.wat; empty_gif; }
        location /go/on { http_wasm $go name=go-on config=/b; http_wasm_snapshot on; empty_gif; }
    }
}

EOF

# Says how often its start function ran, and how many requests it has seen.
guest($t, 'count.wat', <<'EOF');
  (global $starts (mut i32) (i32.const 0))
  (func (export "_initialize")
    (call $log (i32.const 1) &"started")
    (drop (call $get_config (i32.const 65536) (i32.const 1)))
    (global.set $starts (i32.add (global.get $starts) (i32.const 1))))
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-starts" (call $dec (global.get $starts)))
    (call $set_resp &"x-config" (i32.const 65536) (i32.const 1))
    (i32.store (i32.const 65540) (i32.add (i32.load (i32.const 65540)) (i32.const 1)))
    (call $set_resp &"x-count" (call $dec (i32.load (i32.const 65540))))
    (i64.const 1))
EOF

my $random = <<'EOF';
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (func $draw (export "_initialize") (drop (call $random_get (i32.const 65536) (i32.const 4))))
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-random" (call $dec (i32.load (i32.const 65536))))
    (i64.const 1))
EOF

guest($t, 'random.wat', $random);
guest($t, 'resumed.wat', $random . '(export "wizer.resume" (func $draw))');

guest($t, 'table.wat', <<'EOF');
  (table 1 funcref)
  (func (export "_initialize") (table.set (i32.const 0) (ref.null func)))
EOF

guest($t, 'trap.wat', <<'EOF');
  (func (export "_initialize") (i32.store (i32.const 65536) (i32.const 7)))
  (func (export "handle_request") (result i64)
    (if (i32.ne (i32.load (i32.const 65536)) (i32.const 7)) (then (return (i64.const 1))))
    (i32.store (i32.const 65536) (i32.const 8))
    unreachable)
EOF

$t->run()->plan(25);

###############################################################################

for (1 .. 3) {
	my $r = http_get('/auto');
	is_deeply([ map { header($r, "x-$_") } qw/ starts config count / ], [ 1, 1, 1 ], 'started, configured, fresh');
}
is(header(http_get('/other'), 'x-config'), '2', 'a snapshot for each configuration');
is(header(http_get('/off'), 'x-starts'), '1', 'without a snapshot');
is(header(http_get('/off'), 'x-count'), '1', 'without a snapshot, fresh');
is(header(http_get('/reuse'), 'x-count'), $_, 'reused') for 1 .. 2;
is(header(http_get('/on'), 'x-count'), $_, 'reused, from a snapshot') for 1 .. 2;

# Once when the configuration was loaded, and for each instance without a snapshot once more.
my %starts = (auto => 1, other => 1, on => 1, off => 3, reuse => 2);
is(error_log_count($t, qr/guest "$_".*started/), $starts{$_}, "$_: starts") for sort keys %starts;

isnt(random('/random'), random('/random'), 'random numbers are not frozen');
is(random('/shared'), random('/shared'), 'unless the operator says so');
isnt(random('/resumed'), random('/resumed'), 'and where the guest draws new ones in each instance');
is(error_log_count($t, qr/\[notice\].*random\.wat": has no snapshot.*draw random numbers.*nginx\.conf:\d+$/), 1,
	'why there is none');
is(error_log_count($t, qr/\[warn\].*table\.wat": has no snapshot.*unsupported `table\.set`.*nginx\.conf:\d+$/), 1,
	'why there cannot be one');
like(http_get('/table'), qr/200 OK/, 'served without');

# A page that was written to is not the next instance's.
like(http_get('/trap'), qr/500 Internal/, 'trap') for 1 .. 2;

# A runtime of its own, threads of control and a heap.
like(http_get('/go/on'), qr/200 OK|404/, 'Go, from a snapshot') for 1 .. 2;

###############################################################################

sub random {
	my ($uri) = @_;
	return header(http_get($uri), 'x-random');
}

###############################################################################
