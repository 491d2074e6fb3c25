#!/usr/bin/perl

# Every configuration in nginx-conf/ loads.

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

my $t = Test::Nginx->new()->has(qw/http proxy/);
$t->write_file('error.log', '');
my $examples = repo() . '/nginx-conf';
my @confs = map { s{.*/}{}r } sort glob "$examples/*.conf";

plan(skip_all => 'no examples') unless @confs;
$t->plan(scalar @confs);

# The examples expect module and guests below the prefix.
mkdir $t->testdir() . "/$_" for qw/ modules guests logs /;
symlink module_path(), $t->testdir() . '/modules/ngx_http_wasm_handler_module.so' or die "symlink: $!\n";
for my $guest (glob "$examples/guests/*") {
	$t->write_file('guests/' . $guest =~ s{.*/}{}r, slurp($guest));
}
# The firewall takes half a minute to compile, and is served by t/bin/demo: another guest in its place.
guest($t, 'guests/waf.wasm', '');
$t->write_file('guests/waf.json', slurp(repo() . '/examples/waf/waf.json'));

###############################################################################

for my $conf (@confs) {
	my $text = slurp("$examples/$conf");

	# Where an nginx of a distribution would write, a test may not be allowed to.
	$text =~ s/^http \{/http {\n%%TEST_GLOBALS_HTTP%%/m unless $text =~ /temp_path/;
	$text = "pid test.pid;\n$text" unless $text =~ /^pid /m;

	my ($output, $exit) = nginx_test($t, $text);
	is($exit, 0, $conf) or diag($output);
}

###############################################################################

sub slurp {
	my ($path) = @_;
	open my $fh, '<:raw', $path or die "Can't open $path: $!\n";
	local $/;
	return scalar <$fh>;
}

###############################################################################
