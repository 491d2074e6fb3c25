#!/usr/bin/perl

# The documentation says what is so: its configurations load, its code is that of files which are built and run, its
# directives and variables are those of the module, its links lead somewhere.

###############################################################################

use warnings;
use strict;

use CPAN::Meta::YAML;
use Digest::SHA qw/ sha256_hex /;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Docs;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/);

# Only `nginx -t` runs.
$t->write_file('error.log', '');

my $dir = $t->testdir();
mkdir "$dir/$_" for qw/ guests logs lent /;
$t->write_file('guests/' . s{.*/}{}r, slurp($_)) for glob repo() . '/nginx-conf/guests/*';
guest($t, 'guests/any.wat', '');
my $digest = sha256_hex($t->read_file('guests/any.wat'));
$t->write_file('guests/any.txt', '{}');

my @pages = pages();
my @blocks = map { blocks($_) } @pages;

###############################################################################

subtest 'the test itself can fail' => sub {
	ok(loads('location / { http_wasm guests/any.wasm; }'), 'right');
	ok(!loads('location / { http_wasm_nonsense on; }'), 'an unknown directive');
	ok(!loads('location / { http_wasm guests/any.wasm nonsense=1; }'), 'an unknown parameter');
	ok(!loads('http_wasm_instances many;'), 'a wrong value');
	is(level("# http {}\nserver { listen 80; }"), 'http', 'a server stands in http');
	is(level('location / { root html; }'), 'server', 'a location in a server');
	is(level('http_wasm off;'), 'location', 'anything else in a location');
	is(level("worker_shutdown_timeout 1s;\nhttp { }"), 'main', 'and some nowhere');
};

###############################################################################
# Samples

# What each language has to be: the code of a file, or something that is run.
my %rule = (
	nginx => sub { my ($b) = @_; check_loads($b->{text}, $b->{place}) },
	console => sub {
		my ($b) = @_;
		my $by = { 'README.md' => 't/bin/demo', 'docs/cli.md' => 'tests/cli/docs.rs' }->{ $b->{page} };
		ok($by && -f repo() . "/$by", "$b->{place}: what it prints is compared by " . ($by // 'nobody'));
	},
	sh => \&check_commands,
	http => sub {
		my ($b) = @_;
		like($b->{page} . ' ' . $b->{note}, qr{^docs/cli\.md file }, "$b->{place}: a file of docs/cli.md");
	},
	map { $_ => \&check_file } qw/ c dockerfile go ini rust typescript wat yaml /,
);

my (%count, $left);

for my $block (@blocks) {
	my $language = $block->{language};
	$count{$language}++;
	my $check = $rule{$language};
	$check ? $check->($block) : fail("$block->{place}: nothing is known of language \"$language\"");
}

# Blocks that the parser does not see any more would pass.
cmp_ok($count{nginx} // 0, '>=', 8, 'configurations found');
cmp_ok($count{$_} // 0, '>=', 1, "$_ found") for sort keys %rule;
cmp_ok($left // 0, '<=', 1, 'samples that nothing runs');

###############################################################################
# Files of the packages

for my $path (map { s{.*/}{pkg/kubernetes/}r } glob repo() . '/pkg/kubernetes/*.yaml') {
	my $documents = eval { CPAN::Meta::YAML->read_string(slurp(repo() . "/$path")) } // [];
	ok(@$documents && !grep({ !$_->{apiVersion} || !$_->{kind} || !$_->{metadata}{name} } @$documents),
		"$path: objects of Kubernetes") or diag($@);

	my %conf = (main => '', http => '', server => '');
	for my $data (map { $_->{data} // () } @$documents) {
		for my $key (sort keys %$data) {
			my ($level) = $key =~ /\.conf$/ ? 'http' : $key =~ /^(main|http|server)-snippets?$/;
			$level ? $conf{$level} .= $data->{$key} : fail("$path: unknown key $key");
		}
	}
	check_loads("$conf{main}\nhttp {\n$conf{http}\nserver {\nlisten 80;\n$conf{server}\n}\n}\n", "$path: its configuration");
}

# Nothing here runs Docker: at least a shell understands its commands, and they build what the Makefile builds.
my $dockerfile = slurp(repo() . '/pkg/docker/Dockerfile');
my @commands = $dockerfile =~ /^RUN (.*?)(?<!\\)\n/gms;
cmp_ok(scalar @commands, '>=', 5, 'pkg/docker/Dockerfile: commands found');
for my $command (@commands) {
	is(system('sh', '-n', '-c', $command), 0, 'pkg/docker/Dockerfile: ' . substr($command, 0, 30) =~ s/\s+/ /gr);
}
my ($cli) = slurp(repo() . '/Makefile') =~ /^cli:.*\n\t\$\(CARGO\) (.*)$/m;
like($dockerfile, qr/cargo \Q$cli\E$/m, 'pkg/docker/Dockerfile: builds http-wasm as the Makefile does');

###############################################################################
# Directives and variables

my $source = slurp(repo() . '/src/nginx/directives.rs');
my %directive = map { $_ => 1 } $source =~ /command\(c"(http_wasm\w*)"/g;
my $readme = slurp(repo() . '/README.md');
my ($reference) = $readme =~ /^## Directives\n(.*?)^## /ms;
my %described = $reference =~ /^### (http_wasm\w*)\n(.*?)(?=^### |\z)/gms;

is(join(' ', sort keys %described), join(' ', sort keys %directive), 'README has every directive, and no other');

for my $name (sort keys %described) {
	my %row = $described{$name} =~ /^\| (\w[\w ]*) \| (.*) \|$/gm;
	is(join(' ', sort keys %row), 'Appeared in Context Default Syntax', "$name: rows") or next;
	like($row{'Appeared in'}, qr/^\d+\.\d+\.\d+$/, "$name: a version");
	like($row{Syntax}, qr/^`$name[ ;]/, "$name: syntax");

	# The default, where it is a directive, in each context.
	my ($default) = $row{Default} =~ /^`($name [^`]*;)`$/ or next;
	my %in = map { $_ => $default } split /, /, $row{Context};
	my $open = join "\n", 'http {', delete $in{http} // '', 'server {', 'listen 80;', delete $in{server} // '',
		'location / {', delete $in{location} // '', '}', '}', '}';
	check_loads($open, "$name: its default in $row{Context}");
	is_deeply(\%in, {}, "$name: contexts are nginx's");
}

for my $name (slurp(repo() . '/src/nginx/variables.rs') =~ /c"(wasm_\w+)"/g) {
	like($readme, qr/^## Variables\n.*\$$name\b/ms, "README has \$$name");
}

for my $page (@pages) {
	my $text = slurp(repo() . "/$page");
	# Code has names of its own, and nginx has looked at configurations.
	my @unknown = grep { !$directive{$_} } $text =~ s/^```.*?^```$//gmsr =~ /(?<![\w\/.])(http_wasm_[a-z_]+)\b(?!\.h)/g;
	is("@unknown", '', "$page: directives that exist");

	my @dead;
	for my $link ($text =~ /\]\(([^)]+)\)/g) {
		next if $link =~ m{^https?://};
		my ($path, $anchor) = split /#/, $link, 2;
		my $to = length $path ? ($page =~ s{[^/]*$}{}r) . $path : $page;
		1 while $to =~ s{[^/]+/\.\./}{};
		push @dead, $link if !-e repo() . "/$to"
			or $anchor && !grep { $_ eq $anchor } map { anchor($_) } slurp(repo() . "/$to") =~ /^#+ (.*)$/mg;
	}
	is("@dead", '', "$page: links that lead somewhere");
}

done_testing();

###############################################################################

# nginx takes this piece of configuration, on the level it belongs to.
sub check_loads {
	my ($text, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $output;
	ok(loads($text, \$output), "$name: nginx takes it") or diag($output);
}

sub loads {
	my ($text, $output) = @_;

	# What belongs to the test's nginx and not to the sample.
	$text =~ s/^\s*(?:load_module|user|pid)\s[^;]*;//mg;
	$text =~ s/^(\s*)listen\s+[^;]*;/$1listen 127.0.0.1:8080;/mg;
	# Guests that are not among the demo's, their configuration, and paths outside the test.
	$text =~ s{\b(http_wasm\s+)(?!off;)([^\s;]+)}{$1 . (-f "$dir/$2" ? $2 : 'guests/any.wat')}ge;
	$text =~ s{\bconfig_file=([^\s;]+)}{'config_file=' . (-f "$dir/$1" ? $1 : 'guests/any.txt')}ge;
	$text =~ s{\bsha256=\w+}{sha256=$digest}g;
	$text =~ s{\b(http_wasm_dir\s+)\S+}{$1$dir/lent}g;
	$text =~ s{\b(http_wasm_cache_path\s+)/[^\s;]+}{$1$dir/cache}g;

	my $level = level($text);
	my $http = '%%TEST_GLOBALS_HTTP%%';
	$text = "location / {\n$text\n}" if $level eq 'location';
	$text = "server {\nlisten 127.0.0.1:8080;\n$text\n}" if $level =~ /^(?:location|server)$/;
	$text = "http {\n$text\n}" if $level ne 'main';
	$text =~ s/^(\s*http \{)/$1\n$http/m or $text .= "\nhttp { $http }\n";
	$text .= "\nevents { }\n" unless $text =~ /^\s*events\b/m;

	my ($said, $exit) = nginx_test($t, "%%TEST_GLOBALS%%\n$text");
	$$output = $said if $output;
	return $exit == 0;
}

# Commands of the Makefile, of the command-line program, or of a guide, which wasm_docs_guests.t runs.
sub check_commands {
	my ($b) = @_;

	if (my ($reason) = $b->{note} =~ /^not run: (.+)/) {
		$left++;
		pass("$b->{place}: not run, it $reason");
		return;
	}
	if (my ($by) = $b->{note} =~ /^run by (\S+)$/) {
		ok(-x repo() . "/$by" && slurp(repo() . '/Makefile') =~ /^\t.*\Q$by\E /m, "$b->{place}: $by runs it");
		return;
	}
	if (my ($in) = $b->{note} =~ /^run in (\S+)$/) {
		ok(-d repo() . "/$in", "$b->{place}: has a place to run in");
		return;
	}

	my $makefile = slurp(repo() . '/Makefile');
	my ($enum) = slurp(repo() . '/src/cli/args.rs') =~ /^pub\S* enum Command \{$(.*?)^\}$/ms;
	my %runs = map { $_ => 1 } slurp(repo() . '/tests/cli/docs.rs') =~ /"([\w\/]+\.md)"/g;
	my %verbs = map { lc $_ => 1 } $enum =~ /^    ([A-Z]\w*)/mg;
	for my $command (grep { /\S/ } split /\n/, $b->{text}) {
		my ($target) = $command =~ /(?:^|; )(?:\w+=\S+ )*make ([\w-]+)$/;
		my ($verb) = $command =~ /^http-wasm ([\w-]+) /;
		ok($target ? $makefile =~ /^\Q$target\E:.* ## /m : $verb && $verbs{$verb} && $runs{ $b->{page} },
			"$b->{place}: \"$command\" is a target of the Makefile, or run by tests/cli/docs.rs");
	}
}

# The text is that of the file named in the note, line by line.
sub check_file {
	my ($b) = @_;

	my $path = repo() . "/$b->{note}";
	return fail("$b->{place}: no file named above it") unless length $b->{note} && -f $path;
	ok(index("\n" . slurp($path), "\n$b->{text}") >= 0, "$b->{place}: is in $b->{note}");
}

# How GitHub names a heading.
sub anchor {
	my ($heading) = @_;
	return lc($heading =~ s/[^\w\- ]//gr) =~ tr/ /-/r;
}

###############################################################################
