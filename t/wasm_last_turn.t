#!/usr/bin/perl

# A worker that is to leave stays until a response is sent that was held for a guest, also when nginx sends it piece by
# piece (sendfile_max_chunk): between two pieces there is nothing else that would keep it.

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

my @guests = qw/ streams whole /;

my $t = Test::Nginx->new()->has(qw/http/)->plan(2 * @guests + 1);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    error_log %%TESTDIR%%/info.log info;
    sendfile on;
    sendfile_max_chunk 50k;
    http_wasm_response_buffer 1m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /streams { http_wasm streams.wat; alias %%TESTDIR%%/file; }
        location /whole { http_wasm whole.wat; alias %%TESTDIR%%/file; }
    }
}

EOF

# A second is long enough for a signal to arrive.
my $sleep = <<'EOF';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\ca\9a\3b")
  (func (export "handle_response") (param i32 i32)
    (call $log (i32.const 0) &"waits")
    (if (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable)))
EOF
guest($t, 'streams.wat', $sleep);
guest($t, 'whole.wat', $sleep . '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))');
my $file = join '', map { sprintf "%09d\n", $_ } 1 .. 20_000;
$t->write_file('file', $file);

###############################################################################

for my $guest (@guests) {
	unlink $t->testdir() . '/info.log';
	$t->run();
	my $s = http("GET /$guest HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	wait_until(sub { $t->read_file('info.log') =~ /guest "$guest": waits/ });
	kill 'QUIT', $t->{pid};
	my $r = http_end($s);
	is(status($r), 200, "$guest: answered");
	ok(content($r) eq $file, "$guest: whole") or diag(length content($r));
	$t->stop();
}
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]|exited on signal/), 0, 'nothing is left');

###############################################################################
