#!/usr/bin/perl

# Instances that nobody has needed for a while are dropped; waiting for that keeps no worker from ending.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(14);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /short/ {
            http_wasm count.wat name=short;
            http_wasm_pool idle_timeout=50ms;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /long/ {
            http_wasm count.wat name=long;
            http_wasm_pool idle_timeout=1h;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /off/ {
            http_wasm count.wat name=off;
            http_wasm_pool idle_timeout=off;
            proxy_pass http://127.0.0.1:8081/;
        }
    }
}

EOF

# Says how many requests the instance has seen.
guest($t, 'count.wat', <<'EOF');
  (global $n (mut i32) (i32.const 0))
  (func (export "handle_request") (result i64)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (call $set_resp &"x-count" (call $dec (global.get $n)))
    (i64.const 1))
EOF

backend($t);
$t->run();

my ($worker, $master);
wait_until(sub { ($worker) = worker_pids($t) });
$t->read_file('nginx.pid') =~ /(\d+)/ and $master = $1;

###############################################################################

is(count('/long/'), 1, 'long: first');
is(count('/off/'), 1, 'off: first');
is(count('/short/'), 1, 'short: first');
ok(dropped(1), 'short: dropped');
is(count('/short/'), 1, 'short: a new one');
ok(dropped(2), 'short: again');

# Three at once, for which the backend waits.
my @clients = map { connection() } 1 .. 3;
print $_ "GET /short/barrier/3 HTTP/1.0\r\n\r\n" for @clients;
is(join(' ', map { header(read_reply($_), 'x-count') } @clients), '1 1 1', 'short: three instances');
ok(dropped(5), 'short: all of them dropped');

is(count('/long/'), 2, 'long: kept');
is(count('/off/'), 2, 'off: kept');
is(error_log_count($t, qr/guest "(?:long|off)": dropped/), 0, 'none dropped');

# The timer of the one that is kept for an hour is running.
is(kill('HUP', $master), 1, 'reload');
ok(wait_until(sub { !kill(0, $worker) }), 'the old worker ends');
is(count('/long/'), 1, 'a new one serves');

###############################################################################

sub count {
	return header(curl($_[0]), 'X-Count');
}

# Whether so many instances of "short" were dropped, in all.
sub dropped {
	my ($count) = @_;
	return wait_until(sub {
		my ($log, $sum) = ($t->read_file('error.log'), 0);
		$sum += $1 while $log =~ /guest "short": dropped (\d+) idle instance/g;
		return $sum == $count;
	});
}

###############################################################################
