#!/usr/bin/perl

# Messages of guests in error_log: one line if nginx can hold them in one, numbered lines otherwise; and what is written
# for one request is bounded as it is written, escapes and nginx's own part of each line included.

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

my @floods = qw/ escaped broken plain lines words printed /;
my @texts = qw/ short long wide named /;

my $t = Test::Nginx->new()->has(qw/http empty_gif/)->plan(16 + 4 * @floods);

my $locations = join '',
	map { "        location /$_ { error_log %%TESTDIR%%/$_.log info; http_wasm $_.wat; empty_gif; }\n" } @floods, @texts;

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

LOCATIONS
    }
}

EOF

# Messages of so many of one byte, again and again.
my $flood = <<'EOF';
  (func (export "handle_request") (result i64) (local $n i32)
    (memory.fill (i32.const 65536) (i32.const BYTE) (i32.const 65536))
    (loop $again
      (call $log (i32.const 2) (i32.const 65536) (i32.const LENGTH))
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 20000))))
    (i64.const 1))
EOF
my %messages = (escaped => [ 1, 65536 ], broken => [ 255, 65536 ], plain => [ 120, 65536 ], lines => [ 120, 1900 ],
	words => [ 120, 10 ]);
guest($t, "$_.wat", $flood =~ s/BYTE/$messages{$_}[0]/r =~ s/LENGTH/$messages{$_}[1]/r) for keys %messages;
guest($t, 'printed.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (func (export "handle_request") (result i64) (local $n i32)
    (memory.fill (i32.const 65536) (i32.const 1) (i32.const 65536))
    (i64.store (i32.const 0) (i64.const 0x0001000000010000))
    (loop $again
      (if (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)) (then unreachable))
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100))))
    (i64.const 1))
EOF

# So many times "é".
my $text = <<'EOF';
  (func (export "handle_request") (result i64) (local $n i32)
    (loop $again
      (i32.store16 (i32.add (i32.const 65536) (i32.mul (local.get $n) (i32.const 2))) (i32.const 0xa9c3))
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const LENGTH))))
    (call $log (i32.const 1) (i32.const 65536) (i32.mul (local.get $n) (i32.const 2)))
    (i64.const 1))
EOF
my %times = (short => 10, long => 850, wide => 20000);
guest($t, "$_.wat", $text =~ s/LENGTH/$times{$_}/r) for keys %times;

# What looks like the number of a line.
guest($t, 'named.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $log (i32.const 1) &" (2/2): forged")
    (i64.const 1))
EOF

$t->run();

###############################################################################

# The longer the request, the longer nginx's part of each line.
for my $flood (@floods) {
	my $uri = "/$flood?" . 'u' x 900;
	is(status(http_get($uri)), 200, "$flood: answered");
	my $log = wait_log($flood, qr/has written too much for one request or start: nothing more is logged for it/);
	cmp_ok(length $log, '<=', (1 << 20) + 2048, "$flood: no more than a megabyte");
	cmp_ok(length $log, '>', 700_000, "$flood: but much of it");
	my @strange = grep { length > 2047 || !/^\d{4}\/\d\d\/\d\d [\d:]{8} \[\w+\] \d+#\d+: \*\d+ http_wasm guest "$flood"/ }
		split /\n/, $log;
	is(@strange, 0, "$flood: in lines of nginx's");
}

for my $text (qw/ short long /) {
	is(status(http_get("/$text")), 200, "$text: answered");
	my $log = wait_log($text, qr/\xc3\xa9/);
	is($log =~ tr/\n//, 1, "$text: one line");
	my $all = "\xc3\xa9" x $times{$text};
	like($log, qr/ \[warn\] \d+#\d+: \*\d+ http_wasm guest "$text": \Q$all\E(?:\n|,)/, "$text: all of it");
}
like($t->read_file('short.log'), qr/, client: 127\.0\.0\.1, .*request: "GET \/short/, 'with the request');

is(status(http_get('/wide')), 200, 'wide: answered');
my $log = wait_log('wide', qr/\((\d+)\/\1\)/);
my @lines = split /\n/, $log;
my (@numbers, @parts);
for (@lines) {
	push @numbers, "$1/$2" and push @parts, $3
		if /^\S+ \S+ \[warn\] \d+#\d+: \*\d+ http_wasm guest "wide" \((\d+)\/(\d+)\): ((?:\xc3\xa9)+), client: /;
}
is_deeply(\@numbers, [ map { "$_/" . @lines } 1 .. @lines ], 'wide: numbered lines, each with the client');
is(join('', @parts), "\xc3\xa9" x $times{wide}, 'wide: which make the whole message');
cmp_ok(scalar @lines, '<', 30, 'wide: not more of them than needed');

is(status(http_get('/named')), 200, 'named: answered');
like(wait_log('named', qr/forged/), qr/guest "named":  \(2\/2\): forged/, 'a number of the guest\'s comes after the colon');

like(http_get('/short'), qr/200 OK/, 'goes on');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing severe');
is(error_log_count($t, qr/http_wasm guest "\w+"/), 0, 'nothing elsewhere');

###############################################################################

# What has been logged as soon as it has such a line.
sub wait_log {
	my ($name, $line) = @_;
	my $log = '';
	wait_until(sub { $log = $t->read_file("$name.log"); $log =~ $line && $log =~ /\n\z/ });
	return $log;
}

###############################################################################
