#!/usr/bin/perl

# Conditions of a request are of what the next handler would send: a guest that answers by itself, or makes a 200 of
# something else, is not overruled, but for a GET whose If-None-Match has the ETag that the guest has set.

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

my @guests = qw/ plain tagged dated late chain made made-whole /;
my $past = 'Sun, 06 Nov 1994 08:49:37 GMT';
my $future = 'Fri, 01 Jan 2055 00:00:00 GMT';
my @conditions = (
	[ 'no condition' ], [ 'If-Match: "other"' ], [ 'If-Match: "guest"' ], [ 'If-Match: *' ],
	[ "If-Unmodified-Since: $past" ], [ "If-Unmodified-Since: $future" ], [ "If-Modified-Since: $past" ],
	[ "If-Modified-Since: $future" ], [ 'If-None-Match: "other"' ], [ 'If-None-Match: "guest"' ],
	[ 'If-None-Match: W/"guest"' ], [ 'If-None-Match: "a", "guest"' ], [ 'Range: bytes=0-0' ],
	[ 'Range: bytes=0-0', 'If-Range: "guest"' ], [ 'If-Match: "other"', 'If-None-Match: "other"' ],
);
my @methods = qw/ GET HEAD POST /;

my $t = Test::Nginx->new()->has(qw/http/)->plan(@guests * @conditions * @methods + 8 + 3);

my $locations = '';
for my $guest (@guests) {
	my $guests = $guest eq 'chain' ? 'http_wasm seen.wat; http_wasm tagged.wat;' : "http_wasm $guest.wat;";
	$locations .= <<"EOF";

        location /$guest { $guests alias %%TESTDIR%%/missing; }
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

    log_not_found off;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /file { http_wasm seen.wat; alias %%TESTDIR%%/file; }
        location /next { alias %%TESTDIR%%/next; }
    }
}

EOF

my $seen = '(func (export "handle_response") (param i32 i32) (call $set_resp &"x-seen" (call $dec (call $get_status_code))))';
my $tag = '(call $set_resp &"etag" &"\"guest\"")';
my $answer = '(call $set_status_code (i32.const 200)) (call $body_resp &"an answer") (i64.const 0))';
guest($t, 'seen.wat', $seen);
guest($t, 'plain.wat', "(func (export \"handle_request\") (result i64) $answer");
guest($t, 'tagged.wat', "(func (export \"handle_request\") (result i64) $tag $answer");
guest($t, 'late.wat', waits('sleeps') . "(func (export \"handle_request\") (result i64) (call \$wait) $tag $answer");
guest($t, 'dated.wat', <<"EOF");
  (func (export "handle_request") (result i64) $tag (call \$set_resp &"last-modified" &"$past") $answer
EOF
# Of nginx's 404.
my $make = "(call \$set_status_code (i32.const 200)) $tag";
guest($t, 'made.wat', "(func (export \"handle_response\") (param i32 i32) $make)");
guest($t, 'made-whole.wat', <<"EOF");
  (func (export "_initialize") (drop (call \$enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) $make (call \$body_resp &"an answer"))
EOF

$t->write_file('file', 'of the file');
$t->write_file('next', 'next');
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my @cases;
for my $guest (@guests) {
	for my $method (@methods) {
		push @cases, map { [ $guest, $method, @$_ ] } @conditions;
	}
}
my @replies = at_once(map { my ($guest, $method, @headers) = @$_;
	[ [ "$method /$guest", grep({ /:/ } @headers), $method eq 'POST' ? \'some' : () ], [ 'GET /next' ] ] } @cases);
for my $n (0 .. $#cases) {
	my ($guest, $method, @headers) = @{ $cases[$n] };
	my $told = told($replies[$n][0]) . ', ' . after(@{ $replies[$n] });
	my $body = $method eq 'HEAD' ? 'empty' : $guest eq 'made' ? '<html>.*404 Not Found.*</html>\r\n' : 'an answer';
	my $right = qr/^200 $body, next$/s;
	# (What is made of another response has no condition in nginx.)
	my $not_modified = "@headers" =~ /^If-None-Match.*"guest"/ && $guest !~ /plain|made/;
	$right = $method eq 'GET' ? qr/^304 empty, next$/ : $method eq 'HEAD' ? qr/^(?:304|200) empty, next$/ : $right
		if $not_modified;
	if ($guest eq 'made' && $method ne 'HEAD') {
		my ($reply, @rest) = @{ $replies[$n] };
		ok($reply->{whole} && $reply->{status} =~ /^(?:200|405)$/ && after($reply, @rest) eq 'next', "$guest, $method, @headers")
			or diag($told);
		next;
	}
	like($told, $right, "$guest, $method, @headers");
}

# nginx's own conditions are as they were.

my ($reply) = conversation([ 'GET /file' ]);
my ($etag, $time) = map { header($reply, $_) } 'ETag', 'Last-Modified';
for ([ 412, 'If-Match: "other"' ], [ 200, "If-Match: $etag" ], [ 412, "If-Unmodified-Since: $past" ],
	[ 200, "If-Unmodified-Since: $time" ], [ 304, "If-None-Match: $etag" ], [ 200, 'If-None-Match: "other"' ],
	[ 304, "If-Modified-Since: $time" ], [ 200, "If-Modified-Since: $past" ])
{
	my ($status, $header) = @$_;
	my $body = { 200 => 'of the file', 304 => 'empty', 412 => 'page' }->{$status};
	my @got = conversation([ 'GET /file', $header ], [ 'GET /next' ]);
	is(told($got[0]) . ', ' . after(@got), "$status $body, next",
		"a file, $header" =~ s/$etag/its own/r =~ s/$time/its own/r);
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################
