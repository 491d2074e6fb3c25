#!/usr/bin/perl

# A snapshot is taken once, and kept in the cache: for all lines, for "nginx -t" and for each start. Another one is taken
# where start functions could see something else.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(25);
my $dir = $t->testdir();

mkdir "$dir/lent" or die "cannot mkdir: $!\n";

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_cache_path %%TESTDIR%%/cache;
    http_wasm_snapshot on;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /one { http_wasm a.wat config=1; empty_gif; }
        location /same { http_wasm a.wat config=1 name=other; http_wasm_pool max=2; empty_gif; }
        MORE
    }
}

EOF

# Counts its starts in its memory, and says what it is told.
my $guest = <<'EOF';
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
  (func (export "_initialize")
    (call $log (i32.const 1) &"started")
    (drop (call $enable_features (i32.const 2)))
    (drop (call $environ (i32.const 65552) (i32.const 65556)))
    (drop (call $get_config (i32.const 65536) (i32.const 10)))
    (i32.store8 (i32.const 65537) (i32.add (i32.load8_u (i32.const 65537)) (i32.const 65))))
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-config" (i32.const 65536) (i32.const 2))
    (call $set_resp &"x-env" (call $dec (i32.load (i32.const 65552))))
    (call $set_resp &"x-features" (call $dec (call $enable_features (i32.const 0))))
    (i64.const 1))
EOF
guest($t, 'a.wat', $guest);

###############################################################################

my $printed = test('');
is(started($printed), 1, 'nginx -t: one start for two lines');
is(files(), 2, 'the guest that exports its state, and the snapshot');
is(started(test('')), 0, 'none with the next nginx -t');

$t->write_file_expand('nginx.conf', $conf =~ s/MORE//r);
$t->run();
is(started($t->read_file('error.log')), 0, 'nor when nginx starts');
unlike($t->read_file('error.log'), qr/compiled in/, 'and nothing is compiled');
for my $uri ('/one', '/same') {
	my $r = http_get($uri);
	is(header($r, 'x-config'), '1A', "$uri: begins where the start functions ended");
	is(header($r, 'x-features'), 2, "$uri: with the features that they enabled");
}
$t->stop();

###############################################################################
# What start functions can see.

my $more = 'location /more { http_wasm a.wat config=%s; %s empty_gif; }';
is(started(test(sprintf $more, 2, '')), 1, 'another configuration');
is(started(test(sprintf $more, 1, 'http_wasm_env A=b;')), 1, 'an environment');
is(started(test(sprintf $more, 1, 'http_wasm_env A=b;')), 0, 'the same one');
is(started(test(sprintf $more, 1, 'http_wasm_env A=c;')), 1, 'another one');
is(started(test(sprintf $more, 1, 'http_wasm_memory_limit 1m;')), 1, 'another limit of memory');
is(started(test(sprintf $more, 1, 'http_wasm_timeout 5s;')), 0, 'not what they cannot see');
is(started(test(sprintf $more, 1, 'http_wasm_isolation request; http_wasm_snapshot auto;')), 1,
	'a snapshot that may have random numbers in it is none for auto');
for (1 .. 2) {
	is(started(test(sprintf $more, 1, "http_wasm_dir $dir/lent /lent;")), 1, 'a directory, each time');
}
# A guest with checks and one without are two.
is(started(test(sprintf $more, 1, 'http_wasm_slice off;')), 1, 'another engine');

###############################################################################
# What is not as it was written.

my @snapshots = grep { slurp($_) =~ /^\x89csnap/ } glob "$dir/cache/*";
cmp_ok(scalar @snapshots, '>=', 7, 'snapshots are kept');
for my $file (@snapshots) {
	my $bytes = slurp($file);
	substr($bytes, -1) = chr(ord(substr $bytes, -1) ^ 1);
	spew($file, $bytes);
}
$printed = test('');
is(started($printed), 1, 'a damaged one is taken again');
like($printed, qr/\[warn\].*of the cache of compiled guests is not used: is damaged: its digest is/, 'with the reason');
is(started(test('')), 0, 'and is there then');

# One in the place of another guest's code.
my ($code) = grep { slurp($_) =~ /^\x89cwasm/ } glob "$dir/cache/*";
my ($snapshot) = grep { slurp($_) =~ /^\x89csnap/ } glob "$dir/cache/*";
spew($code, slurp($snapshot));
like(test('location /fresh { http_wasm a.wat config=9; empty_gif; }'), qr/is not used: is no compiled guest/,
	'a snapshot is not taken for a guest');

chmod 0755, "$dir/cache" or die "cannot chmod: $!\n";
is(started(test('')), 2, 'without a cache that can be trusted it is taken each time');
chmod 0700, "$dir/cache" or die "cannot chmod: $!\n";

###############################################################################

sub test {
	my ($more) = @_;
	my ($output, $exit) = nginx_test($t, $conf =~ s/MORE/$more/r);
	die $output if $exit;
	return $output;
}

sub started {
	my ($printed) = @_;
	return scalar(() = $printed =~ /guest "[^"]*": started/g);
}

sub files { return scalar(() = glob "$dir/cache/*") }

sub slurp {
	my ($file) = @_;
	open my $fh, '<:raw', $file or die "$file: $!\n";
	local $/;
	return <$fh>;
}

sub spew {
	my ($file, $bytes) = @_;
	open my $fh, '>:raw', $file or die "$file: $!\n";
	print $fh $bytes;
	close $fh;
}

###############################################################################
