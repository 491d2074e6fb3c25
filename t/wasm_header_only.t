#!/usr/bin/perl

# Handlers that say before any filter that their response is a header and no more, as those of WebDAV do: through guests
# of every kind it arrives as such, or as the page of a guest that failed, and the next response behind it.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Messages;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my %acts = (
	seen => '(call $set_resp &"x-seen" (call $dec (call $get_status_code)))',
	writes => '(call $body_resp &"written")',
	fills => '(call $set_status_code (i32.const 200)) (call $body_resp &"filled")',
	empties => '(call $set_status_code (i32.const 204))',
	traps => 'unreachable',
);
my @acts = sort keys %acts;
my @ways = qw/ now now-whole late late-whole /;
my @requests = ('PUT new', 'PUT old', 'DELETE old', 'MKCOL dir', 'COPY old', 'MOVE old');

my $t = Test::Nginx->new()->has(qw/http dav/)->plan((@acts * 2 + 1) * @ways * @requests + @requests + 4);

my $locations = '';
for my $way (@ways) {
	$locations .= join '', map { <<"EOF" } @acts;

        location /$way/$_/ { http_wasm $way-$_.wat; alias %%TESTDIR%%/files/$way-$_/; }
EOF
	$locations .= <<"EOF";

        location /$way/paged/ {
            http_wasm $way-traps.wat;
            error_page 500 =200 /page;
            alias %%TESTDIR%%/files/$way-paged/;
        }
EOF
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        dav_methods  PUT DELETE MKCOL COPY MOVE;
        create_full_put_path on;
        LOCATIONS
        location /plain/ { alias %%TESTDIR%%/files/plain/; }
        location /page { alias %%TESTDIR%%/page; }
        location /next { alias %%TESTDIR%%/next; }
    }
}

EOF

for my $way (@ways) {
	for my $act (@acts) {
		guest($t, "$way-$act.wat", ($way =~ /late/ ? waits('sleeps') : '(func $wait)') . <<"EOF");
  (func (export "_initialize") (drop (call \$enable_features (i32.const @{[ $way =~ /whole/ ? 2 : 0 ]}))))
  (func (export "handle_response") (param i32 i32) (call \$wait) $acts{$act})
EOF
	}
}

$t->write_file('next', 'next');
$t->write_file('page', 'of the operator');
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my %plain;
for my $request (@requests) {
	my ($reply, $next) = asked('plain', $request);
	$plain{$request} = $reply->{status};
	is(told($reply) . ', ' . after($reply, $next), "$reply->{status} empty, next", "$request, no guest");
}

for my $way (@ways) {
	for my $act (@acts) {
		for my $request (@requests) {
			my ($reply, $next, @more) = asked("$way/$act", $request);
			# Who has not asked for the body may not write one.
			my $fails = $act eq 'traps' || $act =~ /writes|fills/ && $way !~ /whole/;
			my $status = $fails ? 500 : $act eq 'fills' ? '200' : $act eq 'empties' ? '204' : $plain{$request};
			# A body may be refused to who cannot have one.
			my $body = $fails ? '(?:page|empty)' : $act eq 'fills' ? '(?:filled|empty)'
				: $act eq 'writes' && $status != 204 ? '(?:written|empty)' : 'empty';
			like(told($reply) . ', ' . after($reply, $next, @more), qr/^$status $body, next$/, "$way, $act, $request");
			is(header($reply, 'x-seen'), $act eq 'seen' ? $plain{$request} : undef, "$way, $act, $request, seen");
		}
	}
}

for my $way (@ways) {
	for my $request (@requests) {
		my ($reply, $next, @more) = asked("$way/paged", $request);
		# nginx looks for an error page once; where DAV returns 204, it has looked for one of that.
		my $page = $request =~ /^PUT/ ? '200 of the operator' : '500 page';
		is(told($reply) . ', ' . after($reply, $next, @more), "$page, next", "$way, $request, error_page");
	}
}

is(told(conversation([ 'GET /next' ])), '200 next', 'worker serves on');
is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# Makes the request in a directory of its own, that has an old file.
sub asked {
	my ($place, $request) = @_;
	my ($method, $name) = split / /, $request;
	my $dir = ($place =~ s!/!-!r) . "/" . lc($request =~ s/ /-/r);

	$t->write_file("files/$dir/old", 'old');
	my $uri = "/$place/" . lc($request =~ s/ /-/r) . "/$name";
	my @headers = $method eq 'PUT' ? \'new' : $method =~ /COPY|MOVE/ ? "Destination: $uri-copy" : ();
	return conversation([ "$method $uri" . ($method eq 'MKCOL' ? '/' : ''), @headers ], [ 'GET /next' ]);
}

###############################################################################
