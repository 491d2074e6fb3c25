#!/usr/bin/perl

# Under load with guests in use: reloads, a binary upgrade and a graceful stop lose no request (what counts as lost says
# Test::Nginx::Load); a worker that is killed takes down what it had and no more; the master stays as it was.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Load;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# How much of it: 25 times are more than 100,000 requests.
my $times = $ENV{TEST_NGINX_TIMES} || 1;

# nginx calls a killed worker an alert.
my $t = Test::Nginx->new()->has(qw/http proxy/)->todo_alerts()->plan(29 + 9 * ($times - 1));

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    error_log %%TESTDIR%%/info.log info;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            http_wasm outer.wat;
            http_wasm wrap.wat;
            proxy_pass http://127.0.0.1:8081/size/2000?;
        }
        location /sleeps {
            http_wasm outer.wat;
            http_wasm sleep.wat;
            http_wasm wrap.wat;
            proxy_pass http://127.0.0.1:8081/size/2000?;
        }
        location /line {
            http_wasm outer.wat;
            http_wasm wrap.wat name=line;
            http_wasm_pool max=1 wait=1m;
            proxy_pass http://127.0.0.1:8081/size/2000?;
        }
        location /fresh {
            http_wasm outer.wat;
            http_wasm wrap.wat name=fresh;
            http_wasm_isolation request;
            proxy_pass http://127.0.0.1:8081/size/2000?;
        }
    }
}

EOF

# Says which requests a worker has taken in.
guest($t, 'outer.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) (i32.const 65536) (call $get_uri (i32.const 65536) (i32.const 200)))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-outer" &"1"))
EOF
guest($t, 'wrap.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 4096)))
    (call $body_resp &"<")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &">"))
EOF
# Five milliseconds on either side.
guest($t, 'sleep.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\40\4b\4c\00")
  (func $sleep (drop (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128))))
  (func (export "handle_request") (result i64) (call $sleep) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $sleep))
EOF

my @uris = qw{ / /sleeps /line /fresh /sleeps / };
my $right = '<' . '0123456789' x 200 . '>';

backend($t);

# nginx takes USR2 for a start of its own unless its parent has gone: a shell starts it and leaves.
my $dir = $t->testdir();
$t->run_daemon('/bin/sh', '-c', "'$Test::Nginx::NGINX' -p '$dir/' -c nginx.conf -e error.log 2>>'$dir/start.log' &
	while [ ! -s '$dir/nginx.pid' ]; do sleep 0.05; done");
ok(patiently(sub { -s "$dir/nginx.pid" && worker_pids($t) == 2 }), 'start without a parent');
my $master = master();
ok(patiently(sub { waitpid $t->{daemons}[-1], 1 }), 'the parent has gone');

###############################################################################

# Reloads.

my $load = load();
reload() for 1 .. 2;
my %before = taken($master);
is(scalar(grep { reload() } 1 .. 10 * $times), 10 * $times, 'reloads, requests of every client between any two');
my %after = taken($master);
over('reloads');
diag("master before and after: $before{maps} and $after{maps} mappings, " . "$before{memory} and $after{memory} kB");
is($after{files}, $before{files}, 'descriptors of the master');
cmp_ok($after{maps} - $before{maps}, '<', 10, 'mappings of the master');
cmp_ok($after{memory} - $before{memory}, '<', 8192 + kept_memory(), 'memory of the master');

# A binary upgrade. A server that was not started as a daemon takes WINCH only when it is an upgraded one.

for my $turn (('first', 'second') x $times) {
	$load = load();
	served();
	kill 'USR2', $master;
	ok(patiently(sub {
		-s "$dir/nginx.pid.oldbin" && -s "$dir/nginx.pid" && master() != $master && worker_pids($t) == 2
	}), "$turn upgrade: a new master beside the old one");
	served();
	if ($turn eq 'second') {
		my @workers = grep { $_ != master() } children($master);
		kill 'WINCH', $master;
		ok(@workers == 2 && patiently(sub { !grep { alive($_) } @workers }), "$turn upgrade: the old workers leave");
		served();
	}
	kill 'QUIT', $master;
	ok(patiently(sub { !-e "$dir/nginx.pid.oldbin" && !alive($master) }), "$turn upgrade: the old master leaves");
	served();
	over("$turn upgrade");
	$master = master();
}

# A worker is killed, or told to end at once. A client has one request under way at a time.

for my $signal ('KILL', 'TERM') {
	$load = load();
	served();
	my ($worker) = worker_pids($t);
	my $before = error_log_count($t, qr/exited/);
	kill $signal, $worker;
	ok(patiently(sub { my @now = worker_pids($t); @now == 2 && !grep { $_ == $worker } @now }), "$signal: replaced");
	served();
	my %got = load_stop($load);
	cmp_ok(scalar @{ $got{lost} }, '<=', scalar @uris, "$signal: lost is at most what was under way")
		or diag(join "\n", @{ $got{lost} });
	# Those that were cut off, none that was begun afterwards.
	is(scalar(grep { !/: (?:nothing|a part)/ } @{ $got{lost} }), 0, "$signal: the others are served");
	note("$signal: served $got{served}, lost @{ $got{lost} }");
}

# A graceful stop: from then on nobody gets a connection, and who has one gets the answer.

$load = load();
served();
kill 'QUIT', $master;
ok(patiently(sub { !alive($master) }), 'stop');
my %got = load_stop($load);
my %taken = taken_in();
my @dropped = grep { /^([\d-]+): / && $taken{$1} } @{ $got{lost} };
is(join("\n", @dropped), '', 'stop: nothing lost that a worker had taken in');
is(scalar(grep { !/: no/ } @{ $got{lost} }), 0, 'stop: no answer ends in the middle');
cmp_ok($got{served}, '>', 0, 'stop: served before');

is(join("\n", grep { /\[(?:error|crit|emerg)\]/ } split /\n/, $t->read_file('info.log')), '', 'no guest fails');
is(error_log_count($t, qr/\[(?:crit|emerg)\]|exited on signal (?!9)/), 0, 'no crash');

###############################################################################

# A reload compiles, starts and waits for what is under way, beside the load: that takes longer than one thing does.
sub patiently {
	return wait_until($_[0], 60);
}

sub load {
	truncate "$dir/info.log", 0;
	return load_start($t, 'load', \@uris, sub { $_[0] eq $right });
}

# Until every client has been served several times from now on.
sub served {
	my $now = load_served($load);
	return patiently(sub { load_served($load) >= $now + 3 });
}

# Ends a load that was to lose nothing. What was sent again had been in nobody's hands: a guest has seen each once.
sub over {
	my ($name) = @_;
	my %got = load_stop($load);
	is(join("\n", @{ $got{lost} }), '', "$name: no request lost");
	my %taken = taken_in();
	my @twice = grep { $taken{$_} > 1 } sort keys %taken;
	is(join(' ', scalar(keys %taken), @twice), $got{served}, "$name: each was taken in once");
	diag("$name: served $got{served}, sent again $got{again}");
	return;
}

# How often a worker has taken in each request of the load.
sub taken_in {
	my %taken;
	$taken{$_}++ for $t->read_file('info.log') =~ m{guest "outer": /\w*\?([\d-]+)[ ,]}g;
	return %taken;
}

sub reload {
	my @workers = worker_pids($t);
	kill 'HUP', master();
	my $done = patiently(sub {
		my @now = worker_pids($t);
		return @now == 2 && !grep { my $pid = $_; alive($pid) } @workers;
	});
	return $done && served();
}

sub master {
	return $t->read_file('nginx.pid') =~ /(\d+)/ ? $1 : 0;
}

sub children {
	my ($parent) = @_;
	return map { slurp($_) =~ /^(\d+) \(.*\) \S $parent / ? $1 : () } glob '/proc/[0-9]*/stat';
}

# Neither gone nor a zombie that nobody waits for.
sub alive {
	my ($pid) = @_;
	return slurp("/proc/$pid/stat") =~ /^\d+ \(.*\) [^Z]/;
}

sub taken {
	my ($pid) = @_;
	my %of = (files => open_files($pid));
	$of{maps} = () = slurp("/proc/$pid/maps") =~ /\n/g;
	($of{memory}) = slurp("/proc/$pid/status") =~ /^VmRSS:\s*(\d+) kB/m;
	return %of;
}

sub slurp {
	my ($path) = @_;
	open my $fh, '<', $path or return '';
	local $/;
	return <$fh> // '';
}

###############################################################################
