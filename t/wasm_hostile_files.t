#!/usr/bin/perl

# Files that are no guest, or were one before they were cut or changed: nginx -t takes them or refuses them with line,
# path and reason, and neither crashes nor hangs.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(6);

# A small module by hand: types, a memory, the three exports, and bodies that return 0 and nothing.
my $module = "\0asm\1\0\0\0"
	. "\x01\x0a\x02\x60\x00\x01\x7e\x60\x02\x7f\x7f\x00"
	. "\x03\x03\x02\x00\x01"
	. "\x05\x03\x01\x00\x01"
	. "\x07\x2d\x03\x06memory\x02\x00\x0ehandle_request\x00\x00\x0fhandle_response\x00\x01"
	. "\x0a\x09\x02\x04\x00\x42\x00\x0b\x02\x00\x0b";

is(loads($module), 'taken', 'the module itself');

# Always the same, so that a failure can be repeated.
my $seed = 20_061;
sub any { my ($below) = @_; $seed = ($seed * 1_103_515_245 + 12_345) % 2**31; return int($seed / 65_536) % $below }

my %outcomes = (cut => {}, flipped => {}, random => {}, wild => {});
for my $length (map { $_ * 3 } 0 .. length($module) / 3 - 1) {
	$outcomes{cut}{ loads(substr $module, 0, $length) }++;
}
for (1 .. 60) {
	my $changed = $module;
	vec($changed, 8 * 8 + any(8 * (length($module) - 8)), 1) ^= 1;
	$outcomes{flipped}{ loads($changed) }++;
}
for my $start ('', "\0asm", "\0asm\1\0\0\0", '(module', "\x7fELF") {
	$outcomes{random}{ loads($start . join '', map { chr any(256) } 1 .. 2000) }++ for 1 .. 3;
}
for my $file ('', "\0", "\0asm\x0d\0\1\0", "\0asm\1\0\0\0\x01\xff\xff\xff\xff\x0f", '(' x 100_000, '(module' . ' (func' x 20_000,
	"\0asm\1\0\0\0\x05\x04\x01\x00\x80\x80\x04", "(module \xff\xfe)", '(module)' . "\0" x 100_000)
{
	$outcomes{wild}{ loads($file) }++;
}

is_deeply([ keys %{ $outcomes{cut} } ], [ 'refused' ], 'cut short');
is_deeply([ grep { !/^(?:taken|refused)$/ } keys %{ $outcomes{flipped} } ], [], 'a bit changed');
is_deeply([ keys %{ $outcomes{random} } ], [ 'refused' ], 'random bytes');
is_deeply([ keys %{ $outcomes{wild} } ], [ 'refused' ], 'worse');
cmp_ok($outcomes{flipped}{refused} // 0, '>', 10, 'some of the changes matter');

###############################################################################

# What nginx -t makes of these bytes, or what is wrong with that.
sub loads {
	my ($bytes) = @_;

	open my $fh, '>:raw', $t->testdir() . '/guest.wasm' or die "guest.wasm: $!";
	print $fh $bytes;
	close $fh;

	my ($output, $exit) = nginx_test($t, <<'EOF');
%%TEST_GLOBALS%%
events {
}
http {
    %%TEST_GLOBALS_HTTP%%
    server {
        listen 127.0.0.1:8080;
        http_wasm guest.wasm;
    }
}
EOF
	my $name = unpack 'H40', $bytes;
	return "does not end: $name" if $exit == 124;
	return "signal or panic: $name $output" if $? & 127 || $output =~ /panic|signal|\[alert\]|\[crit\]/;
	return 'taken' if $exit == 0;
	return "no reason: $name $output" unless $output =~ m{\[emerg\] .*guest\.wasm.*: \S.* in \S+/test\.conf:\d+};
	return "several lines: $name $output" if $output =~ /[^\x09\x0a\x20-\x7e]/ || ($output =~ tr/\n//) > 2;
	return $exit == 1 ? 'refused' : "exit $exit: $name";
}

###############################################################################
