#!/usr/bin/perl

# One instance serves one request from handle_request to handle_response, whatever runs beside it.

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

use constant { TOGETHER => 50, ROUNDS => 20 };

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(6);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
    worker_connections 1024;
}

http {
    %%TEST_GLOBALS_HTTP%%

    keepalive_requests 10000;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            http_wasm state.wat;
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

# Keeps the request's id in a global and in memory between the two calls, hands its digits on as the context as well,
# and notices when a second request comes before the first has left.
guest($t, 'state.wat', <<'EOF');
  (global $busy (mut i32) (i32.const 0))
  (global $length (mut i32) (i32.const 0))
  (func (export "handle_request") (result i64)
    (if (global.get $busy) (then unreachable))
    (global.set $busy (i32.const 1))
    (global.set $length (i32.sub
      (i32.wrap_i64 (call $get_header_values (i32.const 0) &"x-id" (i32.const 100) (i32.const 64))) (i32.const 1)))
    (i64.or (i64.const 1) (i64.shl (i64.load32_u (i32.const 100)) (i64.const 32))))
  (func (export "handle_response") (param $ctx i32) (param $error i32)
    (if (i32.ne (local.get $ctx) (i32.load (i32.const 100))) (then unreachable))
    (if (local.get $error) (then unreachable))
    (call $set_resp &"x-back" (i32.const 100) (global.get $length))
    (i32.store (i32.const 100) (i32.const 0))
    (global.set $busy (i32.const 0)))
EOF

backend($t);
$t->run();

###############################################################################

# The backend answers none before all of a round have reached it: so many requests are between their two calls at once.

my @s = map { connection() } 1 .. TOGETHER;
my ($answers, $right, $own) = (0, 0, 0);

for my $round (1 .. ROUNDS) {
	for my $n (0 .. $#s) {
		my $id = sprintf '%02d%02d', $round, $n;
		http("GET /barrier/@{[ TOGETHER ]}/$id HTTP/1.1\r\nHost: localhost\r\nX-Id: $id\r\n\r\n", socket => $s[$n], start => 1);
	}
	for my $n (0 .. $#s) {
		my $id = sprintf '%02d%02d', $round, $n;
		my $r = read_reply($s[$n]) // '';

		$answers++ if status($r) == 200;
		$right++ if (header($r, 'x-back') // '') eq $id;
		$own++ if $r =~ m{^GET /barrier/\d+/$id HTTP}m;
	}
	last if $answers != $round * TOGETHER;
}

is($answers, TOGETHER * ROUNDS, 'every request answered');
is($right, TOGETHER * ROUNDS, 'every answer with its own state');
is($own, TOGETHER * ROUNDS, 'every answer the upstream\'s to that request');
is(error_log_count($t, qr/\[(?:error|crit|alert|emerg)\]/), 0, 'no error');

close $_ for @s;

# One after the other the same instance will do, and state of the previous request is gone or overwritten.

my $s = connection();
my $ok = 0;
for my $id (1001 .. 1100) {
	http("GET / HTTP/1.1\r\nHost: localhost\r\nX-Id: $id\r\n\r\n", socket => $s, start => 1);
	$ok++ if (header(read_reply($s), 'x-back') // '') eq $id;
}
is($ok, 100, 'a hundred in a row');
is(header(curl('-H', 'X-Id: 2000', '/'), 'x-back'), 2000, 'on another connection');

###############################################################################
