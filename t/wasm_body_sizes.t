#!/usr/bin/perl

# Bodies from nothing to 200 MiB, through guests that read, rewrite and buffer, are exact; a worker holds none of
# them in memory.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Bulk;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @sizes = (0, 1, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 1 << 20, 200 << 20);

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(@sizes * 6 + 7);

$t->write_file_expand('nginx.conf', <<'EOC');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    client_max_body_size 256m;
    http_wasm_response_buffer 64k max=256m;
    http_wasm_timeout 60s;
    proxy_http_version 1.1;
    proxy_read_timeout 60s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /plain/ { proxy_pass http://127.0.0.1:8081/; }
        location /read/ { http_wasm read.wat; proxy_pass http://127.0.0.1:8081/; }
        location /rewrite/ { http_wasm rewrite.wat; proxy_pass http://127.0.0.1:8081/; }
        location /seen/ { http_wasm seen.wat; proxy_pass http://127.0.0.1:8081/; }
        location /made/ { http_wasm made.wat; proxy_pass http://127.0.0.1:8081/; }
    }
}

EOC

# $copy goes through a body in steps of 64 kB and writes it back as it goes, if asked to.
my $copy = <<'EOC';
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func $copy (param $kind i32) (param $write i32) (local $r i64)
    (loop $more
      (local.set $r (call $read_body (local.get $kind) (i32.const 65536) (i32.const 65536)))
      (if (local.get $write)
        (then (call $write_body (local.get $kind) (i32.const 65536) (i32.wrap_i64 (local.get $r)))))
      (br_if $more (i64.eqz (i64.shr_u (local.get $r) (i64.const 32))))))
EOC
guest($t, 'read.wat', $copy =~ s/\(func \(export.*\n//r . <<'EOC');
  (func (export "handle_request") (result i64) (call $copy (i32.const 0) (i32.const 0)) (i64.const 1))
EOC
guest($t, 'rewrite.wat', $copy =~ s/\(func \(export.*\n//r . <<'EOC');
  (func (export "handle_request") (result i64) (call $copy (i32.const 0) (i32.const 1)) (i64.const 1))
EOC
guest($t, 'seen.wat', $copy . <<'EOC');
  (func (export "handle_response") (param i32 i32) (call $copy (i32.const 1) (i32.const 0)))
EOC
guest($t, 'made.wat', $copy . <<'EOC');
  (func (export "handle_response") (param i32 i32) (call $copy (i32.const 1) (i32.const 1)))
EOC

bulk_backend($t, 8081);
$t->run();

###############################################################################

# The memory that a worker needs for bodies as such: nginx alone, with the same one.
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);
bulk('/plain/', length => 1 << 20);
bulk('/plain/source/' . (1 << 20));
my $base = peak_memory($worker);

is(sent('/plain/', $sizes[-1]), bulk_digest($sizes[-1]), 'without a guest');

for my $size (@sizes) {
	my $mib = $size >> 20;
	is(sent('/read/', $size), bulk_digest($size), "request of $size bytes, read and passed on");
	bounded("$mib MiB read by a guest") if $mib > 1;
	is(sent('/rewrite/', $size), bulk_digest($size), "request of $size bytes, rewritten");
	bounded("$mib MiB rewritten by a guest") if $mib > 1;
	is(sent('/rewrite/', $size, chunked => 1), bulk_digest($size), "request of $size bytes in chunks, rewritten");
	is(got('/seen/source', $size), bulk_digest($size), "response of $size bytes, buffered and read");
	bounded("$mib MiB of response read by a guest") if $mib > 1;
	is(got('/made/source', $size), bulk_digest($size), "response of $size bytes, rewritten");
	bounded("$mib MiB of response rewritten by a guest") if $mib > 1;
	is(got('/made/chunked', $size), bulk_digest($size), "response of $size bytes in chunks, rewritten");
}

is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/\[(?:error|crit|alert|emerg)\]/), 0, 'no errors');

###############################################################################

# What the upstream got, as it tells.
sub sent {
	my ($uri, $size, %extra) = @_;
	peak_memory($worker, reset => 1);
	my $s = bulk($uri, length => $size, %extra);
	return $s->{status} unless $s->{status} == 200;
	# The upstream's line is short; its digest is enough to tell which line it is.
	return $s->{digest} eq line_digest(bulk_digest($size)) ? bulk_digest($size) : 'another body: ' . $s->{digest};
}

sub line_digest {
	my ($line) = @_;
	return length("$line\n") . ' ' . Digest::SHA::sha256_hex("$line\n");
}

sub got {
	my ($uri, $size) = @_;
	peak_memory($worker, reset => 1);
	my $r = bulk("$uri/$size");
	return $r->{status} == 200 && $r->{whole} ? $r->{digest} : "status $r->{status}, $r->{digest}";
}

# A worker that held the body would need as much as the body is long.
sub bounded {
	my ($name) = @_;
	my $more = peak_memory($worker) - $base;
	diag(sprintf '%s: peak memory of the worker %.1f MiB above %.1f MiB', $name, $more, $base);
	cmp_ok($more, '<', 100 + kept_memory() / 1024, "$name, not held in memory");
}

###############################################################################
