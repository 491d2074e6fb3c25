#!/usr/bin/perl

# A worker that shuts down waits for guests that sleep, and for as long as their clients stay; worker_shutdown_timeout is
# what bounds it. Guests that passed are told of the end.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# What is waited for; in each a guest has passed.
my @waits = qw/ request response whole body line /;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(2 * @waits + 12);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;
TIMEOUT

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    error_log %%TESTDIR%%/info.log info;
    # What waits in line waits for the instance of request: the same guest, set up alike, is one.
    http_wasm_pool max=1 wait=1h;
    http_wasm plain.wat;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /fine { http_wasm plain.wat name=fine; return 204; }
        location /request { http_wasm plain.wat name=q; http_wasm request.wat; proxy_pass http://127.0.0.1:8081; }
        location /line { http_wasm plain.wat name=l; http_wasm request.wat; proxy_pass http://127.0.0.1:8081; }
        location /response { http_wasm plain.wat name=r; http_wasm response.wat; proxy_pass http://127.0.0.1:8081; }
        location /whole { http_wasm plain.wat name=w; http_wasm whole.wat; proxy_pass http://127.0.0.1:8081; }
        location /body { http_wasm plain.wat name=b; http_wasm body.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

my $sleep = <<'EOF';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\a0\b8\30\46\03\00\00")
  (func $sleep (call $log (i32.const 0) &"waits")
    (drop (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128))))
EOF
guest($t, 'plain.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $log (i32.const 0) &"passes") (i64.const 1))
  (func (export "handle_response") (param $ctx i32) (param $error i32)
    (if (local.get $error) (then (call $log (i32.const 0) &"told of an error"))))
EOF
guest($t, 'request.wat', "$sleep(func (export \"handle_request\") (result i64) (call \$sleep) (i64.const 1))");
guest($t, 'response.wat', "$sleep(func (export \"handle_response\") (param i32 i32) (call \$sleep))");
guest($t, 'whole.wat', <<"EOF");
$sleep
  (func (export "_initialize") (drop (call \$enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (call \$sleep))
EOF
guest($t, 'body.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"waits") (drop (call $read_all (i32.const 0) (i32.const 99))) (i64.const 1))
EOF

backend($t);

###############################################################################

# Without it: as long as the clients stay.
configure('');
$t->run();
my $old;
$old = worker();
my $begun = said('told of an error');
my %clients = waiting();
$t->reload();
my $new;
ok(wait_until(sub { ($new) = worker_pids($t); $new && $new != $old }, 60), 'reload');
is(scalar(grep { status(http_get('/fine')) == 204 } 1 .. 20), 20, 'the new worker serves');
ok(kill(0, $old), 'the old one waits');
is(said('told of an error') - $begun, 0, 'guests go on');
reset_socket($_) for values %clients;
ok(wait_until(sub { !kill 0, $old }), 'until the clients go away');
is(said('told of an error') - $begun, 5, 'guests are told');

# With it.
configure('worker_shutdown_timeout 100ms;');
$t->reload();
wait_until(sub { ($old) = worker_pids($t); $old && $old != $new && !kill(0, $new) }, 60);
for my $signal ('HUP', 'QUIT') {
	my $told = said('told of an error');
	%clients = waiting();
	kill $signal, $t->{pid};
	ok(wait_until(sub { !kill(0, $old) }, 60), "$signal: the worker ends");
	for my $wait (@waits) {
		is(http_end($clients{$wait}), '', "$signal: $wait: closed");
	}
	is(said('told of an error') - $told, 5, "$signal: guests are told");
	$old = worker() if $signal eq 'HUP';
}
ok(wait_until(sub { waitpid $t->{pid}, 1 }), 'nginx ends');
delete $t->{pid};

is(lines(qr/\[(?:alert|crit|emerg)\]/) + error_log_count($t, qr/\[(?:crit|emerg)\]|exited on signal/), 0, 'no crash');

###############################################################################

sub configure {
	my ($timeout) = @_;
	return $t->write_file_expand('nginx.conf', $conf =~ s/TIMEOUT/$timeout/r);
}

sub worker {
	my $pid;
	wait_until(sub { my @pids = worker_pids($t); ($pid) = @pids; @pids == 1 && $pid != ($old // 0) }, 60);
	return $pid;
}

# A client for everything that can be waited for, by name.
sub waiting {
	my %s;
	for my $name (@waits) {
		my ($waits, $passes) = map { said($_) } 'waits', 'passes';
		my $body = $name eq 'body' ? "Content-Length: 10\r\n\r\n12345" : "\r\n";
		$s{$name} = http("GET /$name HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n$body", start => 1);
		wait_until(sub { said('passes') > $passes && ($name eq 'line' || said('waits') > $waits) });
	}
	return %s;
}

# How often a guest has.
sub said {
	my ($text) = @_;
	return lines(qr/guest "\w+": $text(?: while |, client: )/);
}

sub lines {
	my ($pattern) = @_;
	return scalar grep { $_ =~ $pattern } split /\n/, $t->read_file('info.log');
}

###############################################################################
