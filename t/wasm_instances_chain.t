#!/usr/bin/perl

# Chains of guests in a worker with few instances: requests that have an instance of one guest, and wait for one of the
# next, do not wait for each other. All are served, without any of them waiting until its time is over.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use IO::Socket::INET;
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @chains = qw/ two three same ready /;

my $t = Test::Nginx->new()->has(qw/http proxy rewrite/)->plan(5 * @chains + 4);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_instances 4;
    http_wasm_pool wait=1m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /two { http_wasm body.wat name=a; http_wasm seen.wat name=b; proxy_pass http://127.0.0.1:8081; }
        location /three { http_wasm body.wat name=c; http_wasm body.wat name=d; http_wasm seen.wat name=e; proxy_pass http://127.0.0.1:8081; }
        location /same { http_wasm body.wat name=f; http_wasm body.wat name=f; proxy_pass http://127.0.0.1:8081; }
        location /ready { http_wasm body.wat name=g; http_wasm seen.wat name=h; proxy_pass http://127.0.0.1:8081; }
        location /alone { http_wasm seen.wat name=alone; http_wasm_pool wait=1m min=1; empty_gif; }
        location /status { http_wasm_status; }
    }

    server {
        listen       127.0.0.1:8081;
        location / { return 200 backend; }
    }
}

EOF

# Waits for the body, and keeps its instance until the response.
guest($t, 'body.wat', <<'EOF');
  (func (export "handle_request") (result i64) (drop (call $read_all (i32.const 0) (i32.const 100))) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $add_resp &"x-seen" &"body"))
EOF
guest($t, 'seen.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32) (call $add_resp &"x-seen" &"seen"))
EOF

$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $chain (@chains) {
	ok(wait_until(sub { figure('instances', 'guest="alone"') == 1 }), "$chain: one is ready that nobody may drop");

	# As many as may have an instance of the first guest; the others have to wait for that.
	my @clients = map { begin("/$chain") } 1 .. 12;
	ok(wait_until(sub { figure('requests_waiting') >= 8 && figure('requests_in_flight') > 0 }), "$chain: some wait for a body, others for them");
	print $_ 'body' for @clients;
	my @replies = map { http_end($_) // '' } @clients;
	is(scalar(grep { status($_) == 200 } @replies), 12, "$chain: all are served");
	is(scalar(grep { /x-seen: .*x-seen: /s } @replies), 12, "$chain: by all of their guests");

	# Who needs one only goes on meanwhile.
	is(status(http_get('/alone')), 200, "$chain: and others");
}

is(figure('requests_waiting'), 0, 'nobody waits any more');
is((worker_pids($t))[0], $worker, 'the same worker');
is(error_log_count($t, qr/instances are in use/), 0, 'nobody waited in vain');

$t->stop();
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]|exited on signal/), 0, 'nothing worse');

###############################################################################

# A request without its body.
sub begin {
	my ($uri) = @_;
	my $s = IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port(8080)) // die "can't connect: $!\n";
	$s->autoflush(1);
	print $s "POST $uri HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\n\r\n";
	return $s;
}

# A figure of the status page, of all guests that match together.
sub figure {
	my ($name, $labels) = @_;

	my $page = http_get('/status?format=prometheus') // '';
	$labels = $labels ? qr/[^}\n]*\Q$labels\E[^}\n]*/ : qr/[^}\n]*/;
	my $sum = 0;
	$sum += $_ for $page =~ /^http_wasm_\Q$name\E\{$labels\} (\d+)$/mg;
	return $sum;
}

###############################################################################
