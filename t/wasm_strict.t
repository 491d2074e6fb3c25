#!/usr/bin/perl

# http_wasm_strict: clocks and random numbers that tell nothing about the machine, the same for every instance.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(7);

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm look.wat;
    http_wasm_isolation request;
    http_wasm_strict on;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /strict { }
        location /off { http_wasm_strict off; }
        location /go { http_wasm @{[ built('go-answer.wasm') ]}; }
        location /kept { http_wasm_isolation worker; }
    }
}

EOF

# Answers with the wall clock, the monotonic clock and sixteen random bytes, all in hexadecimal; sleeps for an hour in
# between when the path is as long as "/strict".
$t->write_file('look.wat', <<'EOF');
(module
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "0123456789abcdef")
  (func $hex (param $at i32) (param $len i32)
    (loop $more
      (i32.store8 (i32.const 500) (i32.load8_u (i32.shr_u (i32.load8_u (local.get $at)) (i32.const 4))))
      (i32.store8 (i32.const 501) (i32.load8_u (i32.and (i32.load8_u (local.get $at)) (i32.const 15))))
      (call $write_body (i32.const 1) (i32.const 500) (i32.const 2))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $more (local.tee $len (i32.sub (local.get $len) (i32.const 1))))))
  (func (export "handle_request") (result i64)
    (drop (call $time (i32.const 0) (i64.const 0) (i32.const 104)))
    (if (i32.eq (call $get_uri (i32.const 600) (i32.const 100)) (i32.const 7))
      (then
        (i32.store (i32.const 216) (i32.const 1))
        (i64.store (i32.const 224) (i64.const 3600000000000))
        (drop (call $poll (i32.const 200) (i32.const 300) (i32.const 1) (i32.const 400)))))
    (drop (call $time (i32.const 1) (i64.const 0) (i32.const 112)))
    (drop (call $random (i32.const 120) (i32.const 16)))
    (call $hex (i32.const 104) (i32.const 32))
    (i64.const 0))
  (func (export "handle_response") (param i32 i32)))
EOF

$t->run();

###############################################################################

my $first = content(curl('/strict'));
my ($wall, $monotonic) = unpack 'Q<Q<', pack 'H*', $first;
is($wall, 1_640_995_200_000_000_000, 'the wall clock begins in 2022');
is($monotonic, 3_600_003_000_000, 'an hour is over at once');
is(content(curl('/strict')), $first, 'another instance sees the same');

my $kept = content(curl('/kept'));
isnt(content(curl('/kept')), $kept, 'one instance does not see the same twice');

my ($now) = unpack 'Q<', pack 'H*', my $off = content(curl('/off'));
cmp_ok(abs($now / 1e9 - time), '<', 3600, 'off: what time it is');
isnt(substr(content(curl('/off')), 32), substr($off, 32), 'off: random numbers');

is(status(curl('/go')), 201, 'the runtime of Go lives with it');

###############################################################################
