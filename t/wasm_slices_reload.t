#!/usr/bin/perl

# A worker that shuts down, for a reload, a stop or the upgrade of nginx, finishes every request whose guest works in
# slices, sleeps, or waits for another that does: in handle_request and in handle_response.

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

# What is under way, and what comes of it.
my %answers = (
	request => qr/^x-done: 1$/m,
	answer => qr/^x-done: 1\r\n(?:.*\r\n)?\r\nanswered\z/ms,
	chain => qr/^x-done: 1$/m,
	response => qr/^x-done: 1\r\n(?:.*\r\n)?\r\n0123456789\z/ms,
	file => qr/^x-done: 1\r\n(?:.*\r\n)?\r\nfile\z/ms,
	whole => qr/^x-done: 1\r\n(?:.*\r\n)?\r\nonetwothree\z/ms,
	sleep => qr/^x-done: 1$/m,
	sleeps => qr/^x-done: 1\r\n(?:.*\r\n)?\r\nfile\z/ms,
	line => qr/^x-done: 1$/m,
);
my @kinds = sort keys %answers;

# One at a time: what waits alone is not kept by others.
my @turns = ((map { [ 'HUP', $_ ] } @kinds), (map { [ 'QUIT', $_ ] } @kinds), [ 'HUP', @kinds ], [ 'USR2', @kinds ]);

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(3 * @turns + 2 * (@kinds - 1) + 5);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    error_log %%TESTDIR%%/info.log info;
    http_wasm_slice 1ms;
    http_wasm_timeout 1m;
    http_wasm_dir gate /gate;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /none { return 204; }
        location /request { http_wasm spin.wat config=q; proxy_pass http://127.0.0.1:8081; }
        location /answer { http_wasm spin.wat config=a; empty_gif; }
        location /chain { http_wasm sleep.wat name=first config=n; http_wasm spin.wat name=second config=q; proxy_pass http://127.0.0.1:8081; }
        location /response { http_wasm spin.wat config=p; proxy_pass http://127.0.0.1:8081/size/10; }
        location /file { http_wasm spin.wat config=p; alias %%TESTDIR%%/file; }
        location /whole { http_wasm spin.wat config=w; proxy_pass http://127.0.0.1:8081/chunked; }
        location /sleep { http_wasm sleep.wat config=q; proxy_pass http://127.0.0.1:8081; }
        location /sleeps { http_wasm sleep.wat config=p; alias %%TESTDIR%%/file; }
        location /line {
            http_wasm spin.wat name=line config=q;
            http_wasm_pool max=1 wait=1m;
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

# Goes on until there is the file "open" in the directory, in one call: q in handle_request, a there for an answer of
# its own, p in handle_response, w there with the whole response, n in none.
my $guest = <<'EOF';
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (global $kind (mut i32) (i32.const 0))
  (func (export "_initialize")
    (call $config) (drop) (global.set $kind (i32.load8_u))
    (if (i32.eq (global.get $kind) (i32.const 119)) (then (drop (call $enable_features (i32.const 2))))))
  (func $works
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 5000000))
    (call $log (i32.const 0) &"works")
    (loop $again
      STEP
      (br_if $again (call $stat (i32.const 3) (i32.const 0) &"open" (i32.const 256)))))
  (func (export "handle_request") (result i64)
    (if (i32.or (i32.eq (global.get $kind) (i32.const 113)) (i32.eq (global.get $kind) (i32.const 97))) (then (call $works)))
    (call $set_req &"x-done" &"1")
    (call $set_resp &"x-done" &"1")
    (if (i32.eq (global.get $kind) (i32.const 97)) (then (call $body_resp &"answered") (return (i64.const 0))))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (if (i32.ge_u (global.get $kind) (i32.const 112))
      (then (if (i32.ne (global.get $kind) (i32.const 113)) (then (call $works))))))
EOF
guest($t, 'spin.wat', $guest =~ s/STEP//r);
guest($t, 'sleep.wat', $guest =~ s/STEP/(drop (call \$poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)))/r);

my $dir = $t->testdir();
mkdir "$dir/gate";
$t->write_file('file', 'file');
backend($t);

###############################################################################

$t->run();
wait_until(sub { worker_pids($t) == 1 });

for my $turn (@turns) {
	my ($signal, @under) = @$turn;
	my $name = @under > 1 ? "$signal, all together" : "$signal, $under[0]";

	start_without_parent() if $signal eq 'USR2';
	my ($master, $worker) = (master(), worker_pids($t));
	my %clients = map { $_ => [ under_way($_) ] } @under;
	kill $signal, $master;
	if ($signal eq 'USR2') {
		ok(wait_until(sub { -s "$dir/nginx.pid.oldbin" && -s "$dir/nginx.pid" && master() != $master && worker_pids($t) }, 60),
			"$name: a new master");
		kill 'QUIT', $master;
	}
	ok(wait_until(sub { !alive($worker) || leaves($worker) }, 60), "$name: the worker is to leave");
	ok(alive($worker), "$name: and waits");
	$t->write_file('gate/open', '');

	for my $kind (@under) {
		my @r = map { http_end($_) // '' } @{ $clients{$kind} };
		my $done = grep { status($_) == 200 && $_ =~ $answers{$kind} } @r;
		is($done, scalar @r, @under > 1 ? "$name: $kind" : "$name: is answered") or diag(@r);
	}
	wait_until(sub { !alive($worker) }, 60);
	unlink "$dir/gate/open";

	if ($signal eq 'HUP') {
		wait_until(sub { my ($now) = worker_pids($t); return $now && $now != $worker }, 60);
	} elsif ($signal eq 'QUIT') {
		stopped();
		$t->run();
		wait_until(sub { worker_pids($t) == 1 });
	}
}

is(status(http_get('/none')), 204, 'serves on');
kill 'QUIT', master();
ok(wait_until(sub { !-e "$dir/nginx.pid" }, 60), 'nginx ends');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(scalar(grep { /\[(?:alert|crit|emerg)\]/ } split /\n/, $t->read_file('info.log')), 0, 'no complaint');

###############################################################################

# Requests whose guest works: of those that wait in line the first only.
sub under_way {
	my ($kind) = @_;
	my $begun = works();
	my @s = http("GET /$kind HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	wait_until(sub { works() > $begun });
	if ($kind eq 'line') {
		push @s, http("GET /$kind HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
		# The worker reads requests in the order in which they come.
		http_get('/none');
	}
	return @s;
}

sub works {
	return scalar grep { /guest "\w+": works/ } split /\n/, $t->read_file('info.log');
}

sub stopped {
	wait_until(sub { waitpid $t->{pid}, 1 }, 60);
	delete $t->{pid};
	return;
}

# nginx takes USR2 for a start of its own unless its parent has gone: a shell starts it and leaves.
sub start_without_parent {
	kill 'QUIT', $t->{pid};
	stopped();
	unlink "$dir/nginx.pid";
	$t->run_daemon('/bin/sh', '-c', "'$Test::Nginx::NGINX' -p '$dir/' -c nginx.conf -e error.log 2>>'$dir/start.log' &
		while [ ! -s '$dir/nginx.pid' ]; do sleep 0.05; done");
	wait_until(sub { -s "$dir/nginx.pid" && worker_pids($t) }, 60) or die "Can't start nginx\n";
	wait_until(sub { waitpid $t->{daemons}[-1], 1 }, 60);
	return;
}

sub master {
	return -e "$dir/nginx.pid" && $t->read_file('nginx.pid') =~ /(\d+)/ ? $1 : 0;
}

sub leaves {
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/cmdline" or return 1;
	return (<$fh> // '') =~ /is shutting down/;
}

# Neither gone nor a zombie.
sub alive {
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/stat" or return 0;
	return (<$fh> // '') !~ /^\d+ \(.*\) Z/;
}

###############################################################################
