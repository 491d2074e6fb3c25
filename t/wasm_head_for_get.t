#!/usr/bin/perl

# A guest that turns the method of a request into HEAD, and one that turns HEAD into GET: the client gets the reply to
# what it asked for, with a body or without, and the next response where it belongs.

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

my @guests = qw/ head head-sleeps head-whole head-writes head-prefix get get-sleeps get-whole /;
my @uris = qw{ file missing sub up/size/50 up/chunked up/status/404 direct/size/50 direct/chunked accel page ssi cached/size/50 };

my $t = Test::Nginx->new()->has(qw/http proxy cache ssi/);
$t->plan(@guests * @uris * 3 * 2 + 3 * 2 + 3);

my $locations = '';
for my $guest (@guests) {
	$locations .= <<"EOF";

        location /$guest/ {
            http_wasm $guest.wat;
            location /$guest/file { alias %%TESTDIR%%/html/file; }
            location /$guest/sub { alias %%TESTDIR%%/html; }
            location /$guest/missing { alias %%TESTDIR%%/html/missing; }
            location /$guest/page { error_page 404 /inner/file; alias %%TESTDIR%%/html/missing; }
            location /$guest/ssi { ssi on; ssi_types *; alias %%TESTDIR%%/html/ssi; }
            location /$guest/up/ { proxy_pass http://127.0.0.1:8081/; }
            location /$guest/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
            location /$guest/accel { proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=/inner/file; }
            location /$guest/cached/ {
                proxy_cache one;
                proxy_cache_key \$uri;
                proxy_cache_valid 1h;
                proxy_pass http://127.0.0.1:8081/;
            }
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
    log_not_found off;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /answer/head { http_wasm answer-head.wat; }
        location /answer/get { http_wasm answer-get.wat; }
        location /answer/early { http_wasm head.wat; http_wasm answer-get.wat; }
        location /inner/file { alias %%TESTDIR%%/html/file; }
        location /next { alias %%TESTDIR%%/html/next; }
    }
}

EOF

my $feature = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
my $response = '(func (export "handle_response") (param i32 i32)';
my $seen = '(call $set_resp &"x-seen" (call $dec (call $get_status_code)))';
for my $method (qw/ head get /) {
	my $request = '(func (export "handle_request") (result i64) (call $set_method &"' . uc($method) . '") (i64.const 1))';
	guest($t, "$method.wat", "$request $response $seen)");
	guest($t, "$method-sleeps.wat", waits('sleeps') . "$request $response (call \$wait) $seen)");
	guest($t, "$method-whole.wat", waits('yields') . "$request $feature $response (call \$wait) $seen)");
	guest($t, "$method-writes.wat", "$request $feature $response $seen (call \$body_resp &\"written\"))");
	guest($t, "$method-prefix.wat", <<"EOF");
  (func (export "handle_request") (result i64)
    (call \$set_method &"@{[ uc $method ]}") (call \$body_resp &"prefix") (i64.const 1))
  $response $seen)
EOF
	guest($t, "answer-$method.wat", <<"EOF");
  (func (export "handle_request") (result i64)
    (call \$set_method &"@{[ uc $method ]}") (call \$body_resp &"HTTP/1.1 200 OK\\0d\\0a\\0d\\0a") (i64.const 0))
EOF
}

$t->write_file('html/file', 'of the file');
$t->write_file('html/ssi', 'a <!--# include virtual="/inner/file" --> b');
$t->write_file('html/next', 'next');
backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my @cases;
for my $guest (@guests) {
	for my $uri (@uris) {
		push @cases, map { [ $guest, $uri, $_ ] } qw/ GET HEAD POST /;
	}
}
my @replies = at_once(map { my ($guest, $uri, $method) = @$_;
	[ [ "$method /$guest/$uri", $method eq 'POST' ? \'some' : () ], [ 'GET /next' ] ] } @cases);
for my $n (0 .. $#cases) {
	my ($guest, $uri, $method) = @{ $cases[$n] };
	my ($reply, @rest) = @{ $replies[$n] };
	my $name = "$guest, $method $uri";
	# A handler that has been asked for a header alone may have no body: then there is none, and its length is 0.
	my $in_step = $reply->{whole} && $reply->{status} && @rest == 1;
	is(($in_step ? 'in step' : told($reply)) . ', ' . after($reply, @rest), 'in step, next', $name);

	my ($body, $length) = ($reply->{body}, header($reply, 'Content-Length'));
	my $right = $method eq 'HEAD' ? $body eq '' : defined $length ? $length == length $body : 1;
	# With HEAD turned into GET the length is that of the body; without the guest it is the same.
	ok($right && $reply->{status} =~ /^(?:200|301|404|405)$/, "$name: length and status") or diag(told($reply));
}

# The guest's own answer.

for my $uri (qw/ head get early /) {
	my ($reply, $next) = conversation([ "GET /answer/$uri" ], [ 'GET /next' ]);
	like(told($reply) . ', ' . after($reply, $next), qr{^200 (?:empty|HTTP/1.1 200 OK\r\n\r\n), next$}, "answer, $uri");
	($reply, $next) = conversation([ "HEAD /answer/$uri" ], [ 'GET /next' ]);
	is(told($reply) . ', ' . after($reply, $next), '200 empty, next', "answer to HEAD, $uri");
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################
