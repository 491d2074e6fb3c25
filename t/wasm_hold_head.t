#!/usr/bin/perl

# Responses that have no body (to HEAD, 204, 304) whose header cannot leave at once, through guests of every kind: they
# arrive, one after the other, and the next response behind them.

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

my @guests = qw/ none header sleeps yields whole two traps makes204 /;

my $t = Test::Nginx->new()->has(qw/http proxy rewrite/);
$t->plan(@guests * 12 + (@guests - 1) * 2 * 4 + 3);

my $locations = '';
for my $guest (@guests) {
	my $guests = $guest eq 'two' ? 'http_wasm whole.wat; http_wasm sleeps.wat;'
		: $guest eq 'none' ? '' : "http_wasm $guest.wat;";
	$locations .= join '', map { my $name = $_; <<"EOF" } qw/ slow fast /;

        location /$name/$guest/ {
            $guests
            limit_rate @{[ $name eq 'slow' ? 150 : 0 ]};
            location /$name/$guest/file { alias %%TESTDIR%%/file; }
            location /$name/$guest/up/ { proxy_pass http://127.0.0.1:8081/; }
            location /$name/$guest/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
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
    send_timeout 4s;
    keepalive_requests 10000;

    server {
        listen       127.0.0.1:8080 sndbuf=4k;
        server_name  localhost;
        LOCATIONS
        location /next { alias %%TESTDIR%%/next; }
    }
}

EOF

my $seen = '(call $set_resp &"x-seen" (call $dec (call $get_status_code))))';
guest($t, 'header.wat', "(func (export \"handle_response\") (param i32 i32) $seen");
guest($t, "$_.wat", waits($_) . "(func (export \"handle_response\") (param i32 i32) (call \$wait) $seen") for qw/ sleeps yields /;
guest($t, 'whole.wat', waits('yields') . <<"EOF");
  (func (export "_initialize") (drop (call \$enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (call \$wait) $seen
EOF
guest($t, 'traps.wat', waits('yields') . '(func (export "handle_response") (param i32 i32) (call $wait) unreachable)');
guest($t, 'makes204.wat', waits('yields') . <<'EOF');
  (func (export "handle_response") (param i32 i32) (call $wait) (call $set_status_code (i32.const 204)))
EOF

$t->write_file('file', 'a file' x 100);
$t->write_file('next', 'next');
backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

# Slower than a header.

my $unchanged = 'If-Modified-Since: ' . header((conversation([ 'HEAD /fast/none/file' ]))[0], 'Last-Modified');
my @cases;
for my $guest (@guests) {
	my $status = { traps => 500, makes204 => 204 }->{$guest};
	push @cases, map { my ($uri, $plain, @headers) = @$_; {
		name => "$guest, $uri" . (@headers ? ' with a condition' : ''),
		request => [ ($uri =~ /^(\S+) (\S+)$/ ? "$1 /slow/$guest/$2" : "GET /slow/$guest/$uri"), @headers ],
		status => $status // $plain,
		body => $status && $status == 500 && $uri !~ /^HEAD/ ? 'page' : 'empty',
	} } (
		[ 'HEAD file', 200 ], [ 'HEAD up/size/500', 200 ], [ 'HEAD direct/size/500', 200 ], [ 'HEAD up/chunked', 200 ],
		[ 'HEAD direct/chunked', 200 ], [ 'HEAD up/status/404', 404 ], [ 'up/status/204', 204 ], [ 'direct/status/204', 204 ],
		[ 'up/status/304', 304 ], [ 'direct/status/304', 304 ], [ 'file', 304, $unchanged ], [ 'HEAD file', 304, $unchanged ],
	);
}
my @replies = at_once(map { [ $_->{request}, [ 'GET /next' ] ] } @cases);
for my $n (0 .. $#cases) {
	my ($case, @got) = ($cases[$n], @{ $replies[$n] });
	is(told($got[0]) . ', ' . after(@got), "$case->{status} $case->{body}, next", $case->{name});
}

# Many, to a client that does not read until they are all on their way.

# (A 500 closes the connection.)

@cases = ();
for my $guest (grep { $_ ne 'traps' } @guests) {
	for ([ 'HEAD', 'file', 200 ], [ 'HEAD', 'up/size/500', 200 ], [ 'GET', 'up/status/204', 204 ], [ 'GET', 'direct/status/304', 304 ]) {
		my ($method, $uri, $plain) = @$_;
		push @cases, {
			name => "$guest, $method $uri, pipelined", request => "$method /fast/$guest/$uri",
			status => $guest eq 'makes204' ? 204 : $plain,
		};
	}
}
my $count = 40;
@replies = at_once(map { [ ([ $_->{request} ]) x $count, [ 'GET /next' ], { room => 2048, ready => reads_late() } ] } @cases);
for my $n (0 .. $#cases) {
	my ($case, @got) = ($cases[$n], @{ $replies[$n] });
	my $last = pop @got;
	my %count;
	$count{ told($_) }++ for @got;
	is(join(', ', map { "$count{$_} times $_" } sort keys %count), "$count times $case->{status} empty", $case->{name});
	is(told($last), '200 next', "$case->{name}: the next");
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# Nothing is read before the worker has had its time for others, or is stuck.
sub reads_late {
	my $n = 0;
	return sub { return ++$n > 20 };
}

###############################################################################
