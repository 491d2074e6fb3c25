#!/usr/bin/perl

# Where addresses are scarce (ulimit -v) guests run all the same, and one line says what that costs and what to do; how
# much stack and how many instances there are is the operator's to say.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';

# An nginx that may have four gigabytes of addresses, which is less than one instance reserves.
my ($limited, $nginx);
BEGIN {
	use File::Temp qw/ tempdir /;
	$nginx = $ENV{TEST_NGINX_BINARY} // 'nginx';
	$limited = tempdir(CLEANUP => 1) . '/nginx';
	open my $fh, '>', $limited or die "$limited: $!\n";
	print $fh "#!/bin/sh\nulimit -v 4194304\nexec '$nginx' \"\$@\"\n";
	close $fh;
	chmod 0755, $limited;
	$ENV{TEST_NGINX_BINARY} = $limited;
}

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
    worker_connections 1024;
}

http {
    %%TEST_GLOBALS_HTTP%%
    http_wasm_stack_limit 128k;
    http_wasm_instances 2;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /grow { http_wasm grow.wat; http_wasm_memory_limit 64m; empty_gif; }
        location /fresh { http_wasm grow.wat name=fresh; http_wasm_isolation request; empty_gif; }
        location /beyond { http_wasm beyond.wat; empty_gif; }
        location /deep { http_wasm deep.wat; empty_gif; }
    }
}

EOF

# Grows to 60 MB and writes at its end.
guest($t, 'grow.wat', <<'EOF');
  (data (i32.const 65536) "first")
  (func (export "handle_request") (result i64)
    (if (i32.lt_u (memory.size) (i32.const 960)) (then
      (drop (memory.grow (i32.sub (i32.const 960) (memory.size))))))
    (i32.store8 (i32.const 62914559) (i32.const 65))
    (call $set_resp &"x-last" (i32.const 62914559) (i32.const 1))
    (call $set_resp &"x-first" (i32.const 65536) (i32.const 5))
    (i64.const 1))
EOF

guest($t, 'beyond.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (i32.store8 (i32.const 400000000) (i32.const 65)) (i64.const 1))
EOF

# Says how many calls deep it got when it is told how deep, and overflows otherwise.
guest($t, 'deep.wat', <<'EOF');
  (func $down (param $n i64) (result i64)
    (if (result i64) (i64.eqz (local.get $n)) (then (i64.const 1))
      (else (i64.or (call $down (i64.sub (local.get $n) (i64.const 1))) (i64.const 1)))))
  (func (export "handle_request") (result i64) (call $down (i64.const 1000000)))
EOF

$t->run();

###############################################################################

is(error_log_count($t, qr/\[warn\].*no addresses for 2 instances.*"ulimit -v" or lower "http_wasm_instances"/), 1,
	'said once');
for my $uri ('/grow', '/grow', '/fresh', '/fresh') {
	my $r = http_get($uri);
	is_deeply([ header($r, 'x-last'), header($r, 'x-first') ], [ 'A', 'first' ], "$uri: memory and its image");
}
like(http_get('/beyond'), qr/500 Internal/, 'out of bounds');
error_log_like($t, qr/guest "beyond".*out of bounds memory access/, 'out of bounds logged');
like(http_get('/deep'), qr/500 Internal/, 'too deep');
error_log_like($t, qr/guest "deep".*stack/, 'too deep logged');
like(http_get('/grow'), qr/200 OK/, 'the worker goes on');

# With all addresses there is nothing to say.
{
	local $Test::Nginx::NGINX = $nginx;
	my ($output, $exit) = nginx_test($t, $t->read_file('nginx.conf'));
	is($exit, 0, 'without a limit');
	unlike($output, qr/addresses/, 'without a limit nothing is said');
}

###############################################################################
