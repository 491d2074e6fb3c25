#!/usr/bin/perl

# The documentation says what is so: its configurations load, its code is that of files which are built and run, its
# directives and variables are those of the module, its links lead somewhere.

###############################################################################

use warnings;
use strict;

use CPAN::Meta::YAML;
use Digest::SHA qw/ sha256_hex /;
use File::Find qw/ find /;
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
		my $by = { 'README.md' => 't/bin/demo', 'docs/waf.md' => 't/bin/demo', 'docs/cli.md' => 'tests/cli/docs.rs' }->{ $b->{page} };
		ok($by && -f repo() . "/$by", "$b->{place}: what it prints is compared by " . ($by // 'nobody'));
	},
	sh => \&check_commands,
	http => sub {
		my ($b) = @_;
		like($b->{page} . ' ' . $b->{note}, qr{^docs/cli\.md file }, "$b->{place}: a file of docs/cli.md");
	},
	map { $_ => \&check_file } qw/ c dockerfile go ini json rust typescript wat yaml /,
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

# What the module's source has: directives with the contexts they stand in and the words they take, and variables.
my $source = sources('src/nginx');
my %context = (NGX_HTTP_MAIN_CONF => 'http', NGX_HTTP_SRV_CONF => 'server', NGX_HTTP_LOC_CONF => 'location',
	NGX_HTTP_LMT_CONF => 'limit_except');
my %directive;
while ($source =~ /\b(main_)?command\(\s*c"(http_wasm\w*)",\s*NGX_CONF_(\w+),/g) {
	my ($main, $name, $words) = ($1, $2, $3);
	# One that stands elsewhere says so before it.
	my ($types) = substr($source, 0, $-[0]) =~ /ngx_command_t \{\s*type_: \(([^)]*)\) as ngx_uint_t,\s*\.\.$/;
	my @contexts = map { $context{$_} // () } split /\s*\|\s*/, $types // '';
	@contexts = $main ? 'http' : qw/ http server location / unless defined $types;
	$directive{$name} = { contexts => join(', ', @contexts), words => $words };
}
my %variable = map { $_ => 1 } $source =~ /c"(wasm_\w+)"/g;
cmp_ok(scalar keys %directive, '>=', 17, 'directives found in the source');
cmp_ok(scalar keys %variable, '>=', 7, 'variables found in the source');

my $page = 'docs/directives.md';
my %part = slurp(repo() . "/$page") =~ /^## (\w[\w ]*)\n(.*?)(?=^## |\z)/gms;
my %described = $part{Directives} =~ /^### (http_wasm\w*)\n(.*?)(?=^### |\z)/gms;
my @headings = $part{Directives} =~ /^### (.*)$/gm;

is("@headings", join(' ', sort keys %directive), "$page has every directive, in order, and nothing else");

my $with_parameters;
my %form = (NOARGS => qr/^\w+;$/, TAKE1 => qr/^\w+ \S+( \\\| \S+)*;$/);

for my $name (sort keys %described) {
	my $is = $directive{$name} or next;
	my %row = $described{$name} =~ /^\| (\w[\w ]*) \| (.*) \|$/gm;
	my @rows = grep { exists $row{$_} } 'Syntax', 'Default', 'Context', 'Appeared in';
	is("@rows", 'Syntax Default Context Appeared in', "$name: rows") or next;
	like($row{'Appeared in'}, qr/^\d+\.\d+\.\d+$/, "$name: a version");
	is($row{Context}, $is->{contexts}, "$name: contexts");

	# Forms of the directive, a line each.
	for my $form (split /<br>/, $row{Syntax}) {
		my ($text) = $form =~ /^`($name\b[^`]*;)`$/;
		like($text // '', $form{ $is->{words} } // qr/ /, "$name: its syntax, $form");
	}

	# Parameters: nginx lists those it knows when it gets another.
	loads("$name " . ($name eq 'http_wasm' ? 'guests/any.wat ' : '') . 'nonsense=1;', \my $said);
	if ($said =~ /"$name" takes (.*)/) {
		my ($here, $there) = map { join ' ', sort /\b(\w+)=/g } $row{Syntax}, $1;
		is($here, $there, "$name: its parameters");
		$with_parameters++;
	}

	# The default, where it is a directive, in each context.
	my ($default) = $row{Default} =~ /^`($name [^`]*;)`$/ or next;
	my %in = map { $_ => $default } split /, /, $row{Context};
	my $open = join "\n", 'http {', delete $in{http} // '', 'server {', 'listen 80;', delete $in{server} // '',
		'location / {', delete $in{location} // '', '}', '}', '}';
	check_loads($open, "$name: its default in $row{Context}");
	is_deeply(\%in, {}, "$name: contexts are nginx's");
}

cmp_ok($with_parameters // 0, '>=', 3, 'parameters compared');

my @entries = map { s/`//gr =~ s/^\$//r =~ s/\*field\*$//r } $part{Variables} =~ /^### (`\$wasm_.*)$/gm;
is("@entries", join(' ', sort keys %variable), "$page has every variable, in order, and no other");

# The index: every directive below its contexts, every variable, in order, each leading to its entry.
my %listed;
for my $list ($part{'Index by context'} =~ /^(### .*?)(?=^### |\z)/gms) {
	my ($title) = $list =~ /^### (.*)$/m;
	my @items = $list =~ /^- \[(.*?)\]\(#/gm;
	is(scalar @items, scalar(() = $list =~ /^- /gm), "$page: index of $title: entries with links");
	my @names = map { s/[`\$]|\*field\*//gr } @items;
	is("@names", join(' ', sort @names), "$page: index of $title: in order");
	for my $item ($list =~ /^- (\[.*?\]\(#.*?\)): \S/gm) {
		my ($name, $to) = $item =~ /^\[(.*)\]\(#(.*)\)$/;
		is($to, anchor($name), "$page: index of $title: $name leads to its entry");
		my $plain = $name =~ s/[`\$]|\*field\*//gr;
		$listed{$plain} = join ', ', grep { defined } $listed{$plain}, $title =~ s/`//gr;
	}
}
is_deeply(\%listed, { (map { $_ => $directive{$_}{contexts} } keys %directive), map { $_ => 'Variables' } keys %variable },
	"$page: the index has everything at its place");

###############################################################################
# Links

my %linked;

for my $page (@pages, 't/conformance/RESULTS.md') {
	my $text = prose($page);
	# Code has names of its own, and nginx has looked at configurations.
	my @unknown = grep { !$directive{$_} } $text =~ /(?<![\w\/.])(http_wasm_[a-z_]+)\b(?!\.h)/g;
	is("@unknown", '', "$page: directives that exist");

	my @dead;
	for my $link ($text =~ /\]\(([^)]+)\)/g) {
		next if $link =~ m{^https?://};
		my ($path, $anchor) = split /#/, $link, 2;
		my $to = length $path ? ($page =~ s{[^/]*$}{}r) . $path : $page;
		1 while $to =~ s{[^/]+/\.\./}{};
		$linked{$page}{$to} = 1;
		push @dead, $link if !-e repo() . "/$to"
			or defined $anchor && !grep { $_ eq $anchor } map { anchor($_) } prose($to) =~ /^#+ (.*)$/mg;
	}
	is("@dead", '', "$page: links that lead somewhere");
}

for my $page (grep { $_ ne 'README.md' } @pages) {
	ok($linked{'README.md'}{$page}, "$page: the README links to it");
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

# The Makefile with what it includes.
sub makefile {
	return join '', map { slurp($_) } repo() . '/Makefile', glob(repo() . '/build/*.mk');
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
		ok(-x repo() . "/$by" && makefile() =~ /^\t.*\Q$by\E /m, "$b->{place}: $by runs it");
		return;
	}
	if (my ($in) = $b->{note} =~ /^run in (\S+)$/) {
		ok(-d repo() . "/$in", "$b->{place}: has a place to run in");
		return;
	}

	my ($enum) = slurp(repo() . '/src/cli/args.rs') =~ /^pub\S* enum Command \{$(.*?)^\}$/ms;
	my %runs = map { $_ => 1 } slurp(repo() . '/tests/cli/docs.rs') =~ /"([\w\/]+\.md)"/g;
	my %verbs = map { lc $_ => 1 } $enum =~ /^    ([A-Z]\w*)/mg;
	for my $command (grep { /\S/ } split /\n/, $b->{text}) {
		my ($target) = $command =~ /(?:^|; )(?:\w+=\S+ )*make ([\w.-]+)(?: \w+=\S+)*$/;
		my ($verb) = $command =~ /^http-wasm ([\w-]+) /;
		ok($target ? makefile() =~ /^\Q$target\E:.* ## /m : $verb && $verbs{$verb} && $runs{ $b->{page} },
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

# A page without its blocks of code.
sub prose {
	my ($page) = @_;
	return slurp(repo() . "/$page") =~ s/^```.*?^```$//gmsr;
}

# The Rust sources below a directory, as one text.
sub sources {
	my ($in) = @_;

	my @files;
	find({ no_chdir => 1, wanted => sub { push @files, $_ if /\.rs$/ } }, repo() . "/$in");
	return join "\n", map { slurp($_) } sort @files;
}

# How GitHub names a heading.
sub anchor {
	my ($heading) = @_;
	return lc($heading =~ s/[^\w\- ]//gr) =~ tr/ /-/r;
}

###############################################################################
