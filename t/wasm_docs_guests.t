#!/usr/bin/perl

# The commands of docs/guests.md build guests that serve requests.

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

# What `make guests` keeps between builds: crates, npm's packages.
my $kept = repo() . '/target/guests-build';

my @blocks = grep { $_->{language} eq 'sh' && $_->{note} =~ /^run in / } map { blocks($_) } pages();
cmp_ok(scalar @blocks, '>=', 4, 'a language each');

my %guest;     # by the place of its commands

for my $block (@blocks) {
	$guest{ $block->{place} } = build($block);
}

my @places = sort keys %guest;
my $locations = join '', map { "        location /$_ { http_wasm $guest{ $places[$_] } config=some; }\n" } 0 .. $#places;

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

$locations
    }
}

EOF

$t->run();

# There are no files: nginx's own answer is 404, a guest may have another.
for my $i (0 .. $#places) {
	like(status(curl("/$i")), qr/^[24]/, "$places[$i]: the guest serves");
}

$t->stop();
done_testing();

###############################################################################

# Runs the commands in a copy of their directory, and returns the path of the guest.
sub build {
	my ($block) = @_;

	my ($in) = $block->{note} =~ /^run in (\S+)$/;
	my $copy = $t->testdir() . "/$in";
	make_path($copy);
	system('cp', '-r', repo() . "/$in/.", $copy) == 0 or die "cp: $?\n";
	symlink "$kept/assemblyscript/node_modules", "$copy/node_modules" if -e "$copy/package.json";

	# The crates are the same as those of `make guests`, so cargo need not compile them again.
	local $ENV{CARGO_TARGET_DIR} = $kept;
	open my $pipe, '-|', 'timeout', '300', 'sh', '-euc', "cd '$copy'\nexec 2>&1\n$block->{text}" or die "sh: $!\n";
	my $output = do { local $/; <$pipe> };
	close $pipe;
	is($?, 0, "$block->{place}: the commands succeed") or diag($output);

	# cargo has a place and a name of its own.
	my ($package) = $block->{text} =~ /^cargo .*--package (\S+)/;
	my ($file) = reverse $block->{text} =~ / -o (\S+)/g;
	return $package ? "$kept/wasm32-wasip1/release/$package.wasm" : "$copy/$file";
}

###############################################################################
