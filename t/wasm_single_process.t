#!/usr/bin/perl

# master_process off: one process is all there is. A reload, which nginx itself carries out by halves there (it has no
# structures for new connections then), loses nothing that is under way; one that is refused changes nothing.

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

my @kinds = qw/ request response whole sleep sleeps line /;

my $t = Test::Nginx->new()->has(qw/http/)->plan(3 * (@kinds + 9));

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
master_process off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    error_log %%TESTDIR%%/info.log info;
    http_wasm_slice SLICE;
    http_wasm_timeout 1m;
    http_wasm_dir gate /gate;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /none { return 204; }
        location /state { http_wasm state.wat config=TURN; empty_gif; }
        location /request { http_wasm spin.wat config=q; empty_gif; }
        location /response { http_wasm spin.wat config=p; empty_gif; }
        location /whole { http_wasm spin.wat config=w; alias %%TESTDIR%%/file; }
        location /sleep { http_wasm sleep.wat config=q; empty_gif; }
        location /sleeps { http_wasm sleep.wat config=p; alias %%TESTDIR%%/file; }
        location /line { http_wasm spin.wat name=line config=q; http_wasm_pool max=1 wait=1m; empty_gif; }
        location /status { http_wasm_status; }
        MORE
    }
}

EOF

# Goes on until there is the file "open": q in handle_request, p in handle_response, w there with the whole response.
my $guest = <<'EOF';
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (global $kind (mut i32) (i32.const 0))
  (func (export "_initialize")
    (call $config) (drop) (global.set $kind (i32.load8_u))
    (if (i32.eq (global.get $kind) (i32.const 119)) (then (drop (call $enable_features (i32.const 2))))))
  (func $works
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 2000000))
    (call $log (i32.const 0) &"works")
    (loop $again
      STEP
      (br_if $again (call $stat (i32.const 3) (i32.const 0) &"open" (i32.const 256)))))
  (func (export "handle_request") (result i64)
    (if (i32.eq (global.get $kind) (i32.const 113)) (then (call $works)))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (if (i32.ne (global.get $kind) (i32.const 113)) (then (call $works)))
    (call $set_resp &"x-done" &"1"))
EOF
guest($t, 'spin.wat', $guest =~ s/STEP//r);
guest($t, 'sleep.wat', $guest =~ s/STEP/(drop (call \$poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)))/r);
guest($t, 'state.wat', <<'EOF');
  (global $calls (mut i32) (i32.const 0))
  (func (export "handle_response") (param i32 i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (call $set_resp &"x-config" (call $config))
    (call $set_resp &"x-calls" (call $dec (global.get $calls))))
EOF

my $dir = $t->testdir();
mkdir "$dir/gate";
$t->write_file('file', 'file');

###############################################################################

# The reload brings another configuration, fails, or is a second one.
for my $turn ('another', 'broken', 'twice') {
	configure('1ms', 0);
	$t->run();

	# nginx serves connections that are open.
	my $kept = connection();
	is(counted($kept), '200 0 1', "$turn: works");

	my %clients;
	for my $kind (@kinds) {
		my $begun = works();
		$clients{$kind} = [ get($kind) ];
		wait_until(sub { works() > $begun });
	}
	push @{ $clients{line} }, get('line');
	is(counted($kept), '200 0 2', "$turn: serves while guests work, with one instance");

	my $reloads = reloads();
	$turn eq 'broken' ? $t->write_file('nginx.conf', 'nonsense') : configure('2ms', 1);
	for (1 .. ($turn eq 'twice' ? 2 : 1)) {
		$reloads = reloads();
		$t->reload();
		wait_until(sub { reloads() > $reloads }, 60);
	}
	cmp_ok(reloads(), '>', $reloads, "$turn: reload");
	is(counted($kept), '200 0 3', "$turn: a connection is kept, with its configuration");

	$t->write_file('gate/open', '');
	for my $kind (@kinds) {
		my @r = map { http_end($_) // '' } @{ $clients{$kind} };
		my $done = grep { status($_) == 200 && (header($_, 'x-done') // '') eq '1' } @r;
		is($done, scalar @r, "$turn: $kind") or diag(@r);
	}
	unlink "$dir/gate/open";
	is(counted($kept), '200 0 4', "$turn: goes on");

	SKIP: {
		# nginx accepts new connections after a reload, and has no structures for them.
		skip 'the reload was carried out', 1 unless error_log_count($t, qr/\[emerg\]/);
		is(status(http_get('/none')), 204, "$turn: a refused reload leaves all as it was");
	}
	kill 'QUIT', $t->{pid};
	ok(wait_until(sub { waitpid $t->{pid}, 1 }), "$turn: ends");
	is($?, 0, "$turn: in peace");
	delete $t->{pid};
	is(error_log_count($t, qr/\[alert\]|exited on signal/), 0, "$turn: no crash");
	unlink map { "$dir/$_" } qw/ nginx.pid error.log info.log /;
}

###############################################################################

sub configure {
	my ($slice, $config) = @_;
	# More guests than their figures have room for.
	my $more = join ' ', map { "location /n$_ { http_wasm state.wat name=n$_; empty_gif; }" } 1 .. 40 * $config;
	return $t->write_file_expand('nginx.conf', $conf =~ s/SLICE/$slice/r =~ s/TURN/$config/r =~ s/MORE/$more/r);
}

sub get {
	my ($kind) = @_;
	return http("GET /$kind HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
}

# Status, configuration and calls of the guest that counts, on a connection that is kept.
sub counted {
	my ($s) = @_;
	print $s "GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n";
	my $r = read_reply($s);
	return join ' ', status($r), map { header($r, $_) // '-' } qw/ x-config x-calls /;
}

sub works {
	return scalar grep { /guest "\w+": works/ } split /\n/, $t->read_file('info.log');
}

# How often nginx has read its configuration, or tried to.
sub reloads {
	return error_log_count($t, qr/using the "\w+" event method|\[emerg\]/);
}

###############################################################################
