package Test::Nginx::Docs;

# The samples of the documentation, for the tests that try them.

use strict;
use warnings;

use Exporter qw/ import /;
use Test::Nginx::Wasm qw/ repo /;

our @EXPORT = qw/ blocks level pages slurp /;

# The pages that people read, by their paths in the repository.
sub pages {
	my $repo = repo();
	return map { substr $_, 1 + length $repo } glob("$repo/*.md"), glob("$repo/docs/*.md");
}

# The fenced blocks of a page: language, text, the comment right above ("" if none), and place for messages.
sub blocks {
	my ($page) = @_;

	my (@blocks, $block);
	my ($line, $note) = (0, '');
	for (split /^/, slurp(repo() . "/$page")) {
		$line++;
		if ($block) {
			if (/^```$/) {
				push @blocks, $block;
				($block, $note) = (undef, '');
			} else {
				$block->{text} .= $_;
			}
		} elsif (/^\s*```(.*)$/) {
			$block = { page => $page, place => "$page:$line", language => $1, note => $note, text => '' };
		} else {
			$note = /^<!-- (.*) -->$/ ? $1 : '';
		}
	}
	die "$block->{place}: a block without end\n" if $block;
	return @blocks;
}

my %LEVEL = (
	(map { $_ => 'main' } qw/ env events http load_module user worker_processes worker_shutdown_timeout /),
	(map { $_ => 'http' } qw/
		http_wasm_cache_path http_wasm_instances http_wasm_stack_limit limit_req_zone log_format map server upstream
	/),
	(map { $_ => 'server' } qw/ listen location server_name /),
);

# The level on which a piece of configuration can stand: main, http, server or location.
sub level {
	my ($text) = @_;

	my ($depth, $first, %found) = (0, 1);
	while ($text =~ /\G\s*(?:#[^\n]*|("(?:[^"\\]|\\.)*"|'[^']*'|[^\s{};"']+)|([{};]))/gc) {
		if (defined $1) {
			$found{ $LEVEL{$1} // 'location' } = 1 if $first && !$depth;
			$first = 0;
		} elsif (defined $2) {
			$depth += { '{' => 1, '}' => -1, ';' => 0 }->{$2};
			$first = 1;
		}
	}
	return (grep { $found{$_} } qw/ main http server /)[0] // 'location';
}

sub slurp {
	my ($path) = @_;
	open my $fh, '<:raw', $path or die "Can't open $path: $!\n";
	local $/;
	return scalar <$fh>;
}

1;
