#!/usr/bin/perl

# http_wasm_isolation request: whatever a guest leaves behind, the next request finds an instance as new. One that can be put
# back is not made again.

###############################################################################

use warnings;
use strict;

use JSON::PP;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http empty_gif/)->plan(29);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_isolation request;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /remembers { http_wasm remembers.wat; empty_gif; }
        location /starts { http_wasm starts.wat; empty_gif; }
        location /grows { http_wasm grows.wat; empty_gif; }
        location /fills { http_wasm fills.wat; empty_gif; }
        location /sets { http_wasm sets.wat; empty_gif; }
        location /traps { http_wasm traps.wat; empty_gif; }
        location /answers { http_wasm answers.wat; }
        location /opens { http_wasm opens.wat; http_wasm_dir %%TESTDIR%% /; empty_gif; }
        location /random { http_wasm random.wat; empty_gif; }
        location /waits { http_wasm waits.wat; empty_gif; }
        location /status { http_wasm_status; }
    }
}

EOF

# Everything of which there is one: far apart in the memory, and a global. What it finds is to be zero and the text.
my $remembers = Test::Nginx::Wasm::wat(<<'EOF');
  (global $n (mut i32) (i32.const 0))
  (data (i32.const 70000) "text")
  (func $touch (param $at i32)
    (global.set $n (i32.add (global.get $n) (i32.load8_u (local.get $at))))
    (i32.store8 (local.get $at) (i32.const 1))
    (memory.fill (i32.add (local.get $at) (i32.const 4000)) (i32.const 7) (i32.const 5000)))
  (func (export "handle_request") (result i64)
    (call $touch (i32.const 100000)) (call $touch (i32.const 300000)) (call $touch (i32.const 1000000))
    (global.set $n (i32.add (global.get $n) (i32.sub (i32.load (i32.const 70000)) (i32.const 0x74786574))))
    (i32.store (i32.const 70000) (i32.const 0))
    (i64.or (i64.const 1) (i64.shl (i64.extend_i32_u (i32.add (global.get $n) (i32.const 5))) (i64.const 32))))
  (func (export "handle_response") (param $ctx i32) (param i32)
    (call $set_resp &"x-found" (call $dec (local.get $ctx))) (global.set $n (i32.const 1000)))
EOF
guest($t, 'remembers.wat', $remembers =~ s/\(memory \(export "memory"\) \K\d+/16/r);

# The same, with what its start leaves.
guest($t, 'starts.wat', <<'EOF');
  (global $n (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $n (i32.const 40)) (i32.store8 (i32.const 50000) (i32.const 2)))
  (func (export "handle_request") (result i64)
    (global.set $n (i32.add (global.get $n) (i32.load8_u (i32.const 50000))))
    (i32.store8 (i32.const 50000) (i32.const 99))
    (call $set_resp &"x-found" (call $dec (global.get $n))) (i64.const 1))
EOF

guest($t, 'grows.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-found" (call $dec (memory.grow (i32.const 3)))) (i64.const 1))
EOF

guest($t, 'fills.wat', Test::Nginx::Wasm::wat(<<'EOF') =~ s/\(memory \(export "memory"\) \K\d+/2048/r);
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-found" (call $dec (i32.load8_u (i32.const 90000000))))
    (if (i32.wrap_i64 (call $get_header_values (i32.const 0) &"x-fill" (i32.const 1024) (i32.const 100))) (then
      (memory.fill (i32.const 1000000) (i32.const 7) (i32.const 120000000))))
    (i64.const 1))
EOF

guest($t, 'sets.wat', <<'EOF');
  (table 2 funcref) (elem declare func $some) (func $some)
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-found" (call $dec (ref.is_null (table.get (i32.const 1)))))
    (table.set (i32.const 1) (ref.func $some)) (i64.const 1))
EOF

guest($t, 'traps.wat', <<'EOF');
  (global $n (mut i32) (i32.const 0))
  (func (export "handle_request") (result i64)
    (if (i32.wrap_i64 (call $get_header_values (i32.const 0) &"x-trap" (i32.const 1024) (i32.const 100))) (then
      (global.set $n (i32.const 1)) (i32.store8 (i32.const 3000) (i32.const 1)) unreachable))
    (call $set_resp &"x-found" (call $dec (i32.add (global.get $n) (i32.load8_u (i32.const 3000))))) (i64.const 1))
EOF

guest($t, 'answers.wat', <<'EOF');
  (global $n (mut i32) (i32.const 0))
  (func (export "handle_request") (result i64)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (call $set_resp &"x-found" (call $dec (global.get $n))) (i64.const 0))
EOF

guest($t, 'opens.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (func (export "handle_request") (result i64)
    (drop (call $open (i32.const 3) (i32.const 0) &"file" (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 1024)))
    (call $set_resp &"x-found" (call $dec (i32.load (i32.const 1024)))) (i64.const 1))
EOF

guest($t, 'random.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (func (export "_initialize") (drop (call $random (i32.const 1024) (i32.const 4))))
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-found" (call $dec (i32.shr_u (i32.load (i32.const 1024)) (i32.const 1)))) (i64.const 1))
EOF

# Waits for the request body.
guest($t, 'waits.wat', <<'EOF');
  (global $n (mut i32) (i32.const 0))
  (func (export "handle_request") (result i64)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (drop (call $read_body (i32.const 0) (i32.const 1024) (i32.const 100)))
    (call $set_resp &"x-found" (call $dec (global.get $n))) (i64.const 1))
EOF

$t->write_file('file', 'a file');
$t->run();

###############################################################################

my $found = sub { my ($uri, @more) = @_; header(curl(@more, $uri), 'x-found') // 'none' };
my $all = sub { my ($uri, $times) = @_; join ' ', map { $found->($uri) } 1 .. $times };

is($all->('/remembers', 5), '5 5 5 5 5', 'memory and globals are as new, and kept for the response');
is(started('remembers'), 1, 'one instance');
is($all->('/starts', 5), '42 42 42 42 42', 'as its start has left them');
is(started('starts'), 1, 'one instance');
is($all->('/answers', 5), '1 1 1 1 1', 'a guest that answers');
is(started('answers'), 1, 'one instance');
is($all->('/opens', 5), '4 4 4 4 4', 'files that were left open are closed');
is(started('opens'), 1, 'one instance');

is($all->('/grows', 3), '4 4 4', 'a memory that has grown');
is(started('grows'), 3, 'needs a new instance');
is($all->('/fills', 3) . ' ' . $found->('/fills', '-H', 'x-fill: 1') . ' ' . $all->('/fills', 3), '0 0 0 0 0 0 0', 'a memory that was filled');
cmp_ok(started('fills'), '>=', 2, 'needs a new instance');
cmp_ok(anonymous_kb(), '<', 60_000 + Test::Nginx::Wasm::kept_memory(), 'and the memory goes back');
is($all->('/sets', 3), '1 1 1', 'a table that was changed');
is(started('sets'), 3, 'needs a new instance');

# What it draws at its start is its own: it has no snapshot, and is started each time.
my %drawn = map { $_ => 1 } split / /, $all->('/random', 4);
cmp_ok(keys %drawn, '>', 1, 'random numbers of a start are new each time');
is(started('random'), 4, 'as it is started each time');

is($found->('/traps'), 0, 'before a trap');
is(status(curl('-H', 'x-trap: 1', '/traps')), 500, 'a trap');
is($found->('/traps'), 0, 'nothing of it is left');
is(started('traps'), 2, 'in a new instance');

# Several at a time, one of which leaves in the middle.
my $waiting = "GET /waits HTTP/1.0\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n";
my @sockets = map { http($waiting, start => 1) } 1 .. 4;
ok(wait_until(sub { of('waits')->{in_flight} == 4 }), 'four requests');
close shift @sockets;
ok(wait_until(sub { of('waits')->{in_flight} == 3 }), 'one leaves');
print $_ 'x' for @sockets;
is(join(' ', map { header(http_end($_), 'x-found') } @sockets), '1 1 1', 'several at a time');
is($all->('/waits', 4), '1 1 1 1', 'and afterwards');
is(started('waits'), 4, 'in those that there are');

my ($old) = worker_pids($t);
$t->reload();
wait_until(sub { my @now = worker_pids($t); @now == 1 && $now[0] != $old }) or die "no reload
";
is($all->('/remembers', 3), '5 5 5', 'after a reload');
is(started('remembers'), 2, 'one instance in the new worker');

is(header(curl('/remembers'), 'Content-Type'), 'image/gif', 'and the next handler answers');

###############################################################################

sub of {
	my ($name) = @_;
	my ($guest) = grep { $_->{name} =~ /^\Q$name\E/ } @{ decode_json(content(curl('/status?format=json')))->{guests} };
	return $guest;
}

# What the worker has written to.
sub anonymous_kb {
	my ($pid) = worker_pids($t);
	open my $fh, '<', "/proc/$pid/status" or die "/proc/$pid/status: $!\n";
	local $/;
	return <$fh> =~ /^RssAnon:\s+(\d+)/m ? $1 : die "no RssAnon\n";
}

sub started { return of($_[0])->{instances_started} }

###############################################################################
