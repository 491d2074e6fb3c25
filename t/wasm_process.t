#!/usr/bin/perl

# A worker that is killed is replaced; a stop waits for requests that are pending, in one process too; a binary
# upgrade (USR2) hands over to a new master, or back.

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

# nginx calls a killed worker an alert.
my $t = Test::Nginx->new()->has(qw/http proxy/)->todo_alerts()->plan(27);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
MAIN

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        http_wasm count.wat;

        location / { proxy_pass http://127.0.0.1:8081; }
        location /sleeps/ { http_wasm sleep.wat; proxy_pass http://127.0.0.1:8081/; }
    }
}

EOF

# Counts the calls of its instance, and wraps the body.
guest($t, 'count.wat', <<'EOF');
  (global $calls (mut i32) (i32.const 0))
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_request") (result i64) (call $log (i32.const 0) &"request begins") (i64.const 1))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (call $set_resp &"x-calls" (call $dec (global.get $calls)))
    (local.set $n (call $read_all (i32.const 1) (i32.const 4096)))
    (call $body_resp &"<")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &">"))
EOF
# Half a second in each call.
guest($t, 'sleep.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\65\cd\1d")
  (func $sleep (drop (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128))))
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"request begins") (call $sleep) (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $sleep) (call $set_resp &"x-slept" &"1"))
EOF

backend($t);

for my $way ('worker_processes 1;', 'master_process off;') {
	configure($way);
	$t->run();
	is(content(curl('/size/3')), '<012>', "$way works");

	if ($way !~ /off/) {
		is(header(curl('/size/3'), 'x-calls'), 2, "$way an instance goes on");
		my ($old) = worker_pids($t);
		my $s = pending('/sleeps/size/3');
		kill 'KILL', $old;
		is(http_end($s), '', "$way killed with a request pending");
		ok(wait_until(sub { my ($new) = worker_pids($t); return $new && $new != $old }), "$way killed worker is replaced");
		is(header(curl('/size/3'), 'x-calls'), 1, "$way by one with instances of its own");
	}

	# Pending: a guest sleeps, an upstream has not answered yet, a body is being collected.
	my @pending = map { pending($_) } '/sleeps/size/3', '/barrier/2', '/hold';
	kill 'QUIT', $t->{pid};
	ok(wait_until(sub { !IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port(8080)) }), "$way stops");
	if ($way !~ /off/) {
		# One process alone ends at once; here, the second of the barrier lets the first go on.
		http("GET /barrier/2 HTTP/1.0\r\n\r\n", PeerAddr => '127.0.0.1:' . port(8081));
		my ($slept, $barrier) = map { http_end($_) } @pending[0, 1];
		is(header($slept, 'x-slept') . content($slept), '1012', "$way shutdown while a guest sleeps");
		like(content($barrier), qr/^<GET .*>$/s, "$way shutdown while an upstream works");
	}
	close $pending[2];
	ok(wait_until(sub { waitpid($t->{pid}, 1) }), "$way ends when nothing is pending");
	delete $t->{pid};
	unlink $t->testdir() . '/nginx.pid';
}

# nginx takes USR2 for a start of its own unless its parent has gone: a shell starts it and leaves.
configure('worker_processes 1;');
my $dir = $t->testdir();
$t->run_daemon('/bin/sh', '-c', "'$Test::Nginx::NGINX' -p '$dir/' -c nginx.conf -e error.log 2>>'$dir/start.log' &
	while [ ! -s '$dir/nginx.pid' ]; do sleep 0.05; done");
ok(wait_until(sub { -s "$dir/nginx.pid" && worker_pids($t) }), 'start without a parent');
my $old = master();
my ($worker) = worker_pids($t);
ok(wait_until(sub { parent($old) != $t->{daemons}[-1] }), 'the parent has gone');

for my $turn ('back', 'over') {
	my $s = pending('/sleeps/size/3');
	kill 'USR2', $old;
	ok(wait_until(sub { -s "$dir/nginx.pid.oldbin" && -s "$dir/nginx.pid" && master() != $old && worker_pids($t) }),
		"$turn: a new master beside the old one");
	my $new = master();
	is(content(http_end($s)), '012', "$turn: pending request");
	is(scalar(grep { content(curl('/size/3')) eq '<012>' } 1 .. 10), 10, "$turn: both serve");

	my ($leaves, $stays) = $turn eq 'back' ? ($new, $old) : ($old, $new);
	kill 'QUIT', $leaves;
	ok(wait_until(sub { !-e "$dir/nginx.pid.oldbin" && master() == $stays && !alive($leaves) }), "$turn: one leaves");
	is(content(curl('/size/3')), '<012>', "$turn: the other serves on");
}
kill 'HUP', master();
my ($upgraded) = worker_pids($t);
ok(wait_until(sub { my ($now) = worker_pids($t); return $now && $now != $upgraded }), 'reload of the new one');
is(content(curl('/size/3')), '<012>', 'serves on');
is(error_log_count($t, qr/exited on signal (?!9)/), 0, 'no crash');

###############################################################################

sub configure {
	my ($main) = @_;
	return $t->write_file_expand('nginx.conf', $conf =~ s/MAIN/$main/r);
}

# A request that a guest has seen and that waits.
sub pending {
	my ($uri) = @_;
	my $begun = error_log_count($t, qr/request begins/);
	my $s = http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	wait_until(sub { error_log_count($t, qr/request begins/) > $begun });
	return $s;
}

sub master {
	return $t->read_file('nginx.pid') =~ /(\d+)/ ? $1 : 0;
}

sub parent {
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/stat" or return 0;
	return (<$fh> // '') =~ /^\d+ \(.*\) \S (\d+)/ ? $1 : 0;
}

# Neither running nor a zombie that nobody waits for.
sub alive {
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/stat" or return 0;
	return (<$fh> // '') !~ /^\d+ \(.*\) Z/;
}

###############################################################################
