#!/usr/bin/perl

# Requests that wait for the start of one guest do not keep another one from the room that there is.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(3);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_instances 4;
    http_wasm_slice 1ms;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /slow { http_wasm slow.wat; empty_gif; }
        location /fast { http_wasm fast.wat; http_wasm_pool wait=PATIENCE; empty_gif; }
        location /none { empty_gif; }
    }
}

EOF

# Starts for many times as long as the other one waits.
guest($t, 'slow.wat', <<'EOF');
  (func (export "_initialize") (local $n i32)
    (loop $again
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 500000000)))))
EOF
guest($t, 'fast.wat', '');

my $patience = patience(50);
$t->write_file('nginx.conf', $t->read_file('nginx.conf') =~ s/PATIENCE/${patience}ms/r);
$t->run();

###############################################################################

my @slow = map { http_get('/slow', start => 1) } 1 .. 6;
like(http_get('/none'), qr/ 200 /, 'they have arrived');
is(status(http_get('/fast')), 200, 'there is room for another guest');
is(scalar(grep { status(http_end($_)) == 200 } @slow), 6, 'those who waited are served');

###############################################################################
