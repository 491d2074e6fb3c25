#!/usr/bin/perl

# A guest that has a free instance is called, whoever else stands in the line: queue= limits those who have to wait.

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

my $t = Test::Nginx->new()->has(qw/http empty_gif/)->plan(6);

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

        location /slow { http_wasm slow.wat; http_wasm_pool max=1 wait=20s; empty_gif; }
        location /free { http_wasm free.wat; http_wasm_pool max=8 queue=0; empty_gif; }
        location /status { http_wasm_status; }
    }
}

EOF

guest($t, 'slow.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\65\cd\1d")
  (func (export "handle_request") (result i64)
    (if (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable)) (i64.const 1))
EOF
guest($t, 'free.wat', '');
$t->run();

###############################################################################

like(http_get('/free'), qr/ 200 /, 'nobody waits');
my @slow = map { http_get('/slow', start => 1) } 1 .. 2;
my $waiting = qr/^http_wasm_requests_waiting\{[^}]*slow[^}]*\} 1$/m;
ok(wait_until(sub { (http_get('/status?format=prometheus') // '') =~ $waiting }), 'another guest has one in the line');
like(http_get('/free'), qr/ 200 /, 'a free instance is used all the same');
like(http_end($_), qr/ 200 /, 'those who waited are served') for @slow;
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]|exited on signal/), 0, 'no alert, no crash');

###############################################################################
