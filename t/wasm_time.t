#!/usr/bin/perl

# A guest that does not end: others are served meanwhile, and it is stopped. Limits belong to the level.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(25);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format uri $request_uri;
    access_log %%TESTDIR%%/order.log uri;

    http_wasm_timeout 400ms;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /request { http_wasm request.wat name=asks; proxy_pass http://127.0.0.1:8081; }
        location /response { http_wasm response.wat name=streams; proxy_pass http://127.0.0.1:8081; }
        location /buffered { http_wasm buffered.wat name=holds; proxy_pass http://127.0.0.1:8081; }
        location /host { http_wasm host.wat name=calls; proxy_pass http://127.0.0.1:8081; }

        location /chain {
            http_wasm pass.wat name=outer;
            http_wasm request.wat name=inner;
            proxy_pass http://127.0.0.1:8081;
        }

        location /long {
            http_wasm long.wat;
            http_wasm_timeout 30s;
            http_wasm_slice 1ms;
            proxy_pass http://127.0.0.1:8081;
        }

        location /small { http_wasm grow.wat; http_wasm_memory_limit 1m; proxy_pass http://127.0.0.1:8081; }
        location /large { http_wasm grow.wat; http_wasm_memory_limit 8m; proxy_pass http://127.0.0.1:8081; }

        location /quick { http_wasm pass.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

guest($t, 'request.wat', <<'EOF');
  (func (export "handle_request") (result i64) (loop $again (br $again)) (i64.const 1))
EOF

guest($t, 'response.wat', <<'EOF');
  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (loop $again (br $again)))
EOF

guest($t, 'buffered.wat', <<'EOF');
  (start $start)
  (func $start (drop (call $enable_features (i32.const 2))))
  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (loop $again (br $again)))
EOF

guest($t, 'host.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (loop $again (drop (call $get_uri (i32.const 0) (i32.const 100))) (br $again)) (i64.const 1))
EOF

# Long enough to give way a few times, and ends.
guest($t, 'long.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (local $n i32)
    (loop $again (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 50000000))))
    (call $set_resp &"x-counted" &"all")
    (i64.const 1))
EOF

guest($t, 'grow.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1))
      (then (call $set_resp &"x-grown" &"no"))
      (else (call $set_resp &"x-grown" &"yes")))
    (i64.const 1))
EOF

guest($t, 'pass.wat', <<'EOF');
  (func (export "handle_request") (result i64) (i64.const 1))
EOF

backend($t);
$t->run();

my $worker;
wait_until(sub { ($worker) = worker_pids($t) });

###############################################################################

for my $case (
	['/request', 'asks'], ['/response', 'streams'], ['/buffered', 'holds'], ['/host', 'calls'], ['/chain', 'inner'])
{
	my ($uri, $name) = @$case;

	my $s = http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	is(status(http_get('/quick')), 200, "$uri: others are served");
	my $r = http_end($s);
	is(status($r), 500, "$uri: stopped");
	unlike($r, qr/ran for|$name/, "$uri: the client is told nothing");

	my @order = grep { m{^/quick|^$uri} } split /\n/, $t->read_file('order.log');
	# Where guests wait wherever they can, one that is called often may be later all the same.
	my @last = @order[-2, -1];
	is_deeply([ restless() ? reverse sort @last : @last ], [ restless() ? reverse sort '/quick', $uri : ('/quick', $uri) ],
		"$uri: and do not wait for its end");
}

is(error_log_count($t, qr/guest "(asks|inner|calls)": handle_request: ran for longer than 400 ms and was stopped/), 3,
	'log: guest, function, limit');

is(header(curl('/long'), 'X-Counted'), 'all', 'a guest that gives way goes on');

is(header(curl('/small'), 'X-Grown'), 'no', 'memory limit');
is(header(curl('/large'), 'X-Grown'), 'yes', 'the same guest with a larger one');

is_deeply([worker_pids($t)], [$worker], 'the same worker');

###############################################################################
