#!/usr/bin/perl

# The commands of docs/guests.md build guests that nginx takes.

###############################################################################

use warnings;
use strict;

use File::Path qw/ make_path /;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Docs;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http/);

# Only `nginx -t` runs.
$t->write_file('error.log', '');

# What `make guests` keeps between builds: crates, npm's packages.
my $kept = repo() . '/target/guests-build';

my @blocks = grep { $_->{language} eq 'sh' && $_->{note} =~ /^run in / } map { blocks($_) } pages();
cmp_ok(scalar @blocks, '>=', 4, 'a language each');

for my $block (@blocks) {
	my ($in) = $block->{note} =~ /^run in (\S+)$/;
	subtest "$block->{place}: in $in" => sub { builds($block, $in) };
}

done_testing();

###############################################################################

# Runs the commands in a copy of the directory.
sub builds {
	my ($block, $in) = @_;

	my $copy = $t->testdir() . "/$in";
	make_path($copy);
	system('cp', '-r', repo() . "/$in/.", $copy) == 0 or die "cp: $?\n";
	symlink "$kept/assemblyscript/node_modules", "$copy/node_modules" if -e "$copy/package.json";

	my ($output, $exit) = do {
		# cargo may share what it compiled: the copy is another package to it, with crates that are the same.
		local $ENV{CARGO_TARGET_DIR} = $kept;
		open my $pipe, '-|', 'timeout', '300', 'sh', '-euc', "cd '$copy'\nexec 2>&1\n$block->{text}"
			or die "sh: $!\n";
		local $/;
		my $text = <$pipe>;
		close $pipe;
		($text, $? >> 8);
	};
	is($exit, 0, 'the commands succeed') or diag($output);

	# cargo has a place and a name of its own.
	my ($package) = $block->{text} =~ /^cargo .*--package (\S+)/;
	my ($file) = $block->{text} =~ / -o (\S+)/;
	my $guest = $package ? "$kept/wasm32-wasip1/release/$package.wasm" : "$copy/$file";

	my ($said, $status) = nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    %%TEST_GLOBALS_HTTP%%
    http_wasm $guest config=some;
}
EOF
	is($status, 0, 'nginx takes the guest') or diag($said);
}

###############################################################################
