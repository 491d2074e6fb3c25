#!/usr/bin/perl

# What a guest gets of the system: the variables and directories that the configuration gives it, nothing else.

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

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

env INHERITED=from-nginx;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm wasi.wat;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /nothing { }

        location /env {
            http_wasm_env A=1;
            http_wasm_env B=two=2;
            http_wasm_env HTTP_WASM_TEST;
            http_wasm_env HTTP_WASM_UNSET;

            location /env/own { http_wasm_env C=3; }
        }

        location /read { http_wasm_dir lent /data; }
        location /write { http_wasm_dir lent /data rw; }
    }
}

EOF

# Answers with its environment, a line each. "r" or "w" at the third place of the URI's path opens f.txt in the first
# directory for reading or writing and answers with its text or the error's number.
$t->write_file('wasi.wat', <<'EOF');
(module
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "write_body" (func $write_body (param i32 i32 i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "f.txt") (data (i32.const 16) "written")
  ;; one iovec at 100: 256 bytes at 1000, or "written"
  (func $say_number (param i32)
    (i32.store8 (i32.const 2000) (i32.add (i32.const 48) (i32.div_u (local.get 0) (i32.const 10))))
    (i32.store8 (i32.const 2001) (i32.add (i32.const 48) (i32.rem_u (local.get 0) (i32.const 10))))
    (call $write_body (i32.const 1) (i32.const 2000) (i32.const 2)))
  (func $file (param $write i32)
    (local $errno i32)
    (local.set $errno (call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 0)
      (select (i64.const 64) (i64.const 2) (local.get $write)) (i64.const 0) (i32.const 0) (i32.const 200)))
    (if (local.get $errno) (then (call $say_number (local.get $errno)) (return)))
    (if (local.get $write)
      (then
        (i32.store (i32.const 100) (i32.const 16)) (i32.store (i32.const 104) (i32.const 7))
        (call $say_number (call $fd_write (i32.load (i32.const 200)) (i32.const 100) (i32.const 1) (i32.const 204))))
      (else
        (i32.store (i32.const 100) (i32.const 1000)) (i32.store (i32.const 104) (i32.const 256))
        (drop (call $fd_read (i32.load (i32.const 200)) (i32.const 100) (i32.const 1) (i32.const 204)))
        (call $write_body (i32.const 1) (i32.const 1000) (i32.load (i32.const 204)))))
    (drop (call $fd_close (i32.load (i32.const 200)))))
  (func (export "handle_request") (result i64)
    (drop (call $get_uri (i32.const 3000) (i32.const 1000)))
    (if (i32.eq (i32.load8_u (i32.const 3001)) (i32.const 114)) (then (call $file (i32.const 0)) (return (i64.const 0))))
    (if (i32.eq (i32.load8_u (i32.const 3001)) (i32.const 119)) (then (call $file (i32.const 1)) (return (i64.const 0))))
    (drop (call $environ_sizes_get (i32.const 300) (i32.const 304)))
    (drop (call $environ_get (i32.const 4000) (i32.const 5000)))
    (call $write_body (i32.const 1) (i32.const 5000) (i32.load (i32.const 304)))
    (i64.const 0))
  (func (export "handle_response") (param i32 i32)))
EOF

mkdir $t->testdir() . '/lent';
$t->write_file('lent/f.txt', 'lent text');
chmod 0777, $t->testdir() . '/lent';
chmod 0666, $t->testdir() . '/lent/f.txt';

$ENV{HTTP_WASM_TEST} = 'from the outside';
delete $ENV{HTTP_WASM_UNSET};

$t->plan(9);
$t->run();

###############################################################################

is(content(curl('/nothing')), '', 'no environment');
is(content(curl('/env')), "A=1\0B=two=2\0HTTP_WASM_TEST=from the outside\0", 'the variables given');
is(content(curl('/env/own')), "C=3\0", 'a level with its own has no others');

is(content(curl('/read/x')), 'lent text', 'a file of a directory');
is(content(curl('/write/x')), '00', 'written where that is allowed');
is($t->read_file('lent/f.txt'), 'writtenxt', 'in place');

$t->stop();

my $conf = $t->read_file('nginx.conf');
(my $bad = $conf) =~ s/lent .data;/nowhere \/data;/;
like((nginx_test($t, $bad))[0], qr/"\S*nowhere" of "http_wasm_dir" is not a directory in \S+:\d+$/m, 'no directory');
($bad = $conf) =~ s/data rw/data wo/;
like((nginx_test($t, $bad))[0], qr/invalid parameter "wo": expected "rw"/, 'no mode');
($bad = $conf) =~ s/B=two=2/A=2/;
like((nginx_test($t, $bad))[0], qr/duplicate variable "A"/, 'a variable twice');

###############################################################################
