#!/usr/bin/perl

# Failures of one guest that repeat themselves do not fill the disk: the first of a kind is logged in full, later ones
# once per second, with how many were not.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(12);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;

    # At debug nothing is held back.
    error_log %%TESTDIR%%/error.log info;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /a/ { http_wasm fails.wat name=a; }
        location /b/ { http_wasm fails.wat name=b; }
        location /c/ { http_wasm fails.wat name=c; error_log %%TESTDIR%%/error.log debug; }
    }
}

EOF

# By the last letter of the path: a trap, another trap, or a rule of the ABI broken, with a text of its own each time.
guest($t, 'fails.wat', <<'EOF');
  (func $boom unreachable)
  (func (export "handle_request") (result i64) (local $n i32) (local $way i32)
    (local.set $n (call $get_uri (i32.const 0) (i32.const 1000)))
    (local.set $way (i32.load8_u (i32.const 3)))
    (if (i32.eq (local.get $way) (i32.const 0x74)) (then (call $boom)))
    (if (i32.eq (local.get $way) (i32.const 0x64)) (then (drop (i32.div_u (i32.const 1) (i32.const 0)))))
    (call $set_resp (i32.const 3) (local.get $n) (i32.const 0) (i32.const 1))
    (i64.const 1))
EOF

$t->run();

###############################################################################

my $begin = time;
my $sent = 200;
my @clients = map { connection() } 1 .. $sent;
print $_ "GET /a/t HTTP/1.0\r\n\r\n" for @clients;
is(join(' ', grep { $_ != 500 } map { status(read_reply($_)) } @clients), '', 'all failed');

my $trap = qr/guest "a": handle_request: wasm trap: .*unreachable.*?executed/;
my $said = error_log_count($t, $trap);
cmp_ok($said, '>=', 1, 'the first is logged');
cmp_ok($said, '<=', 1 + time + 1 - $begin, 'the others at most once per second');
is(error_log_count($t, qr/guest "a":   0: .*boom/), $said, 'with its backtrace');
is(error_log_count($t, qr/\[error\].*guest "a"/), $said + error_log_count($t, qr/guest "a":   \d+: /), 'and nothing else');

# Until one is logged again: then nothing is pending.
ok(wait_until(sub {
	$sent++;
	status(curl('/a/t'));
	return error_log_count($t, $trap) > $said;
}), 'goes on after a while');
my $suppressed = 0;
my $log = join "\n", grep { !/\[debug\]/ } split /\n/, $t->read_file('error.log');
$suppressed += $1 while $log =~ /$trap \((\d+) more suppressed\)/g;
is(error_log_count($t, $trap) + $suppressed, $sent, 'the count is exact');

# Other kinds and other guests are heard at once.
curl($_) for qw{ /a/d /b/t };
is(error_log_count($t, qr/guest "a": handle_request: wasm trap: integer divide by zero/), 1, 'another trap');

$begin = time;
@clients = map { connection() } 1 .. 100;
print { $clients[$_] } "GET /a/x$_ HTTP/1.0\r\n\r\n" for 0 .. $#clients;
read_reply($_) for @clients;
$said = error_log_count($t, qr/guest "a": handle_request: set_header_value got header name/);
cmp_ok($said, '>=', 1, 'a broken rule');
cmp_ok($said, '<=', 1 + time + 1 - $begin, 'not once for every text that a client thinks of');
is(error_log_count($t, qr/guest "b": handle_request: wasm trap/), 1, 'another guest');

curl('/c/t') for 1 .. 5;
is(error_log_count($t, qr/guest "c": handle_request: wasm trap/), 5, 'at debug, all of them');

###############################################################################
