#!/usr/bin/perl

# Error pages that a filter of nginx puts in place of a response, before any guest has seen that one: guests see the page
# as they see any response, what they set before stays, and variables tell of them.

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

my @guests = qw/ none header sleeps whole late wraps two traps traps-late /;
my @sources = qw/ file cached guarded /;
my @pages = qw/ own file /;
my @requests = (
	[ 'If-Match', 'GET', 'If-Match: "other"' ],
	[ 'If-Unmodified-Since', 'GET', 'If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT' ],
	[ 'HEAD', 'HEAD', 'If-Match: "other"' ],
);

my $t = Test::Nginx->new()->has(qw/http proxy cache/);
$t->plan(@guests * @sources * @pages * @requests * 2 + 3);

my $locations = '';
for my $guest (@guests) {
	my $guests = join ' ', map { "http_wasm $_.wat;" } $guest eq 'two' ? qw/ header late / : $guest eq 'none' ? () : $guest;
	$locations .= join '', map { <<"EOF" } @pages;

        location /$guest/$_/ {
            $guests
            @{[ $_ eq 'own' ? '' : "error_page 412 /page/$_;" ]}
            location /$guest/$_/file { alias %%TESTDIR%%/file; }
            location /$guest/$_/cached {
                proxy_cache one;
                proxy_cache_key key;
                proxy_cache_valid 1h;
                proxy_pass http://127.0.0.1:8082/file;
            }
            # Another filter with requests of its own.
            location /$guest/$_/guarded { ssi on; ssi_types *; alias %%TESTDIR%%/ssi; }
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
    proxy_http_version 1.1;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;
    default_type text/plain;

    log_format wasm '$request_uri $wasm_guest $wasm_outcome $wasm_log';
    access_log %%TESTDIR%%/wasm.log wasm;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        add_header   X-Guest $wasm_guest always;
        LOCATIONS

        location /page/file { alias %%TESTDIR%%/page; }
        location /next { alias %%TESTDIR%%/next; }
    }

    server {
        listen       127.0.0.1:8082;
        location / { root %%TESTDIR%%; }
    }
}

EOF

my $feature = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
my $early = <<'EOF';
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-early" &"1") (call $log (i32.const 0) &"id=17") (i64.const 1))
EOF
my $seen = '(call $set_resp &"x-seen" (call $dec (call $get_status_code)))';
my $response = '(func (export "handle_response") (param i32 i32)';
guest($t, 'header.wat', "$early $response $seen)");
guest($t, 'sleeps.wat', waits('sleeps') . "$early $response (call \$wait) $seen)");
guest($t, 'whole.wat', "$early $feature $response $seen)");
guest($t, 'late.wat', waits('sleeps') . "$early $feature $response (call \$wait) $seen)");
guest($t, 'traps.wat', "$early $response unreachable)");
guest($t, 'traps-late.wat', waits('sleeps') . "$early $response (call \$wait) unreachable)");
guest($t, 'wraps.wat', <<"EOF");
$early $feature (func (export "handle_response") (param i32 i32) (local \$n i32)
    (local.set \$n (call \$read_all (i32.const 1) (i32.const 100)))
    (call \$body_resp &"<") (call \$body_resp (i32.const 65536) (local.get \$n)) (call \$body_resp &">") $seen)
EOF

my $page = '0123456789' x 300;
$t->write_file('page', $page);
$t->write_file('file', 'the file');
$t->write_file('ssi', 'a <!--# include virtual="/next" --> b');
$t->write_file('next', 'next');
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my @cases;
for my $guest (@guests) {
	for my $kind (@pages) {
		# In the cache.
		conversation([ "GET /$guest/$kind/cached" ]);
		for my $source (@sources) {
			push @cases, map { my ($name, $method, @headers) = @$_; {
				name => "$guest, page $kind, $source, $name", method => $method, guest => $guest, kind => $kind,
				request => [ "$method /$guest/$kind/$source?$name", @headers ], source => $source, id => $name,
			} } @requests;
		}
	}
}
my @replies = at_once(map { [ $_->{request}, [ 'GET /next' ] ] } @cases);
for my $n (0 .. $#cases) {
	my ($case, $reply, @rest) = ($cases[$n], @{ $replies[$n] });
	my ($guest, $kind, $name) = @$case{qw/ guest kind name /};
	my ($told, $after) = (told($reply), after($reply, @rest));
	my $fails = $guest =~ /traps/;
	my $waits = $guest =~ /sleeps|late|two/;

	# nginx gives no time to who waits with the page of a filter: what it is told then may be left out, and the page of
	# the operator's too, where that is another request to nginx. Nor has it another page for a guest that fails.
	my $status = $fails ? $waits ? '(?:412|500)' : '500' : '412';
	my $body = $case->{method} eq 'HEAD' ? 'empty' : $fails && !$waits || $kind eq 'own' ? 'page' : digest($page);
	if ($guest eq 'wraps' && $case->{method} ne 'HEAD') {
		$told = "$reply->{status} surrounded" if $reply->{whole} && $reply->{body} =~ m{\A<(<html>.*</html>\r\n|0123.*789)>\z}s;
		$body = 'surrounded';
	}
	my $right = qr/^(?:$status $body, next)$/;
	$right = qr/^(?:$status $body, next|500 page, next|closed)$/ if $fails || $waits && $kind eq 'file';
	like($told eq 'nothing' && $reply->{closed} ? 'closed' : "$told, $after", $right, $name);

	my $names = $guest eq 'two' ? 'header, late' : $guest eq 'none' ? '-' : $guest;
	my $seen = $guest eq 'none' ? '- -' : $fails && !$waits ? '- -' : $waits ? '[1|-]+ (?:412|-)' : "1 $status";
	my $outcome = $guest eq 'none' ? '- -' : ($waits ? '[a-z, ]+' : $fails ? 'failed' : 'passed') . ' id=17';
	like(join(' ', (map { header($reply, $_) // '-' } qw/ x-early x-seen x-guest /), logged($case->{request}[0])),
		qr/^$seen (?:$names|-) $names $outcome$/, "$name: seen");
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# What the access log says of guests, for the only request of this kind.
sub logged {
	my ($request) = @_;
	my ($uri) = $request =~ / (\S+)/;
	my $line;
	wait_until(sub { ($line) = $t->read_file('wasm.log') =~ m{^\Q$uri\E (.*)$}m });
	return $line // 'nothing';
}

###############################################################################
