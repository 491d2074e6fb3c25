#!/usr/bin/perl

# A guest that sleeps, in handle_request and in handle_response with and without the body: others are served
# meanwhile, bodies that arrive meanwhile are whole, a client may go away, and a worker shuts down when it is done.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Bulk;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @ways = qw/ request header whole /;

my $t = Test::Nginx->new()->has(qw/http proxy http_v2/)->has_daemon('nghttp')->plan(73);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $locations = join '', map { my $guest = $_; <<'EOF' =~ s/GUEST/$guest/gr } @ways;

        location /GUEST/ {
            # Milliseconds.
            http_wasm GUEST.wat config=60000;
            location /GUEST/long/ { proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/long/file { alias %%TESTDIR%%/html/file; }

            location /GUEST/short/ {
                http_wasm GUEST.wat config=150;
                proxy_pass http://127.0.0.1:8081/;
                location /GUEST/short/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
                location /GUEST/short/file { sendfile on; alias %%TESTDIR%%/html/file; }
            }

            location /GUEST/none/ { http_wasm GUEST.wat config=0; proxy_pass http://127.0.0.1:8081/; }
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format end "$request_uri $status";
    access_log %%TESTDIR%%/end.log end;
    client_max_body_size 8m;
    client_body_buffer_size 1k;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON
        LOCATIONS
    }
}

EOF

# $sleep waits as long as the configuration says, by a subscription to the monotonic clock.
my $sleep = <<'EOF';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00")
  (func $sleep (local $p i32) (local $end i32) (local $ms i64)
    (call $config) (local.set $end (i32.add (i32.const 2048))) (local.set $p)
    (loop $digit
      (local.set $ms (i64.add (i64.mul (local.get $ms) (i64.const 10))
        (i64.extend_i32_u (i32.sub (i32.load8_u (local.get $p)) (i32.const 48)))))
      (br_if $digit (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 1))) (local.get $end))))
    (i64.store (i32.const 32) (i64.mul (local.get $ms) (i64.const 1000000)))
    (call $log (i32.const 0) &"falls asleep")
    (if (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable))
    (call $log (i32.const 0) &"wakes up"))
EOF
guest($t, 'request.wat', $sleep . <<'EOF');
  (func (export "handle_request") (result i64)
    (call $sleep) (drop (call $read_body (i32.const 0) (i32.const 65536) (i32.const 1))) (i64.const 1))
EOF
guest($t, 'header.wat', $sleep . '(func (export "handle_response") (param i32 i32) (call $sleep))');
guest($t, 'whole.wat', $sleep . <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (call $sleep) (drop (call $read_body (i32.const 1) (i32.const 65536) (i32.const 1))))
EOF

my $size = 2_000_000;
$t->write_file('html/file', bulk_body($size));
bulk_backend($t, 8081);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $way (@ways) {
	# The one that sleeps for a minute gets nothing, while others get everything.
	for my $uri ('source/10', 'chunked/10', $way eq 'request' ? () : 'file') {
		my $sleeping = asleep("/$way/long/$uri");
		for my $other ('none/source/10', 'short/source/10', "short/direct/source/$size") {
			my $r = bulk("/$way/$other");
			is($r->{digest}, bulk_digest($other =~ /(\d+)$/), "$way, $uri sleeps, $other is served meanwhile");
		}
		ok(!IO::Select->new($sleeping)->can_read(0), "$way, $uri still sleeps");

		close $sleeping;
		is(logged("/$way/long/$uri"), 499, "$way, $uri, client gone while the guest sleeps");
	}
	is(bulk("/$way/none/source/10")->{digest}, bulk_digest(10), "$way, next request");

	# What comes meanwhile waits for the guest.
	for my $uri ("source/$size", "chunked/$size", "direct/source/$size", "direct/chunked/$size", 'file') {
		is(bulk("/$way/short/$uri")->{digest}, bulk_digest($size), "$way, $uri is whole after a sleep");
	}
	my $r = bulk("/$way/short/x", length => $size);
	is($r->{digest}, line_digest($size), "$way, request body is whole after a sleep");
	is(bulk("/$way/short/source/77", method => 'HEAD')->{status}, 200, "$way, HEAD after a sleep");
	my @r = replies("GET /$way/short/source/5 HTTP/1.1\r\nHost: localhost\r\n\r\n" x 2, 2);
	is(join(' ', map { length content($_) } @r), '5 5', "$way, pipelined sleepers");

	# On one connection of HTTP/2, the one that does not sleep overtakes.
	my $url = 'http://127.0.0.1:' . port(8083);
	my $frames = qx{nghttp -v -t 8 --no-dep $url/$way/short/source/10 $url/$way/none/source/20};
	my @order = map { $_->[1] } sort { $a->[0] <=> $b->[0] } map { [ index($frames, "DATA frame <length=$_"), $_ ] } 10, 20;
	is("@order", '20 10', "$way, HTTP/2, overtaken by another stream");
}

is(join(' ', worker_pids($t)), $worker, 'by one worker');

# A reload, and a stop, wait for who sleeps.

my @sleeping = map { asleep("/$_/short/source/10") } @ways;
$t->reload();
is(join(' ', map { length content(http_end($_)) } @sleeping), '10 10 10', 'reload while guests sleep');
wait_until(sub { my @now = worker_pids($t); @now == 1 && $now[0] != $worker });

@sleeping = map { asleep("/$_/short/source/10") } @ways;
$t->stop();
is(join(' ', map { length content(http_end($_)) } @sleeping), '10 10 10', 'graceful shutdown while guests sleep');

###############################################################################

# A request whose guest sleeps.
sub asleep {
	my ($uri) = @_;
	my $before = error_log_count($t, qr/falls asleep/);
	my $s = http("GET $uri HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", start => 1);
	wait_until(sub { error_log_count($t, qr/falls asleep/) > $before });
	return $s;
}

# The status of the only request for it.
sub logged {
	my ($uri) = @_;
	my $status;
	wait_until(sub { ($status) = $t->read_file('end.log') =~ m{^\Q$uri\E (\d+)$}m });
	return $status;
}

sub line_digest {
	my ($size) = @_;
	my $line = bulk_digest($size) . "\n";
	return length($line) . ' ' . Digest::SHA::sha256_hex($line);
}

###############################################################################
