#!/usr/bin/perl

# Requests that wait for an instance while those of other guests are in use: every place that comes free, in whatever
# way, is for the one that has waited longest, and who comes later waits behind.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use IO::Select;
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# Ways in which an instance comes free: it stays idle, is not kept, is not used again, fails, goes with its client.
my @ways = qw/ idle trimmed replaced failed timed gone expired /;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(7 * @ways + 15);

my %conf = (
	trimmed => 'http_wasm_pool wait=1m idle=0;',
	replaced => 'http_wasm_pool wait=1m requests=1;',
	expired => 'http_wasm_pool wait=1m idle_timeout=1ms;',
	timed => 'http_wasm_timeout 20ms;',
);
sub guest_of { my ($way) = @_; return $way =~ /failed|timed/ ? $way : 'pass' }
my $locations = join '', map { <<'EOF' =~ s/NAME/$_/gr =~ s/CONF/$conf{$_} || ''/er =~ s/GUEST/guest_of($_)/er } @ways;

        location /NAME/ { http_wasm GUEST.wat name=NAME; CONF proxy_pass http://127.0.0.1:8081; }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_instances 4;
    http_wasm_pool wait=1m;
    http_wasm_breaker off;
    proxy_read_timeout 60s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
LOCATIONS
        location /a/ { http_wasm pass.wat name=a; proxy_pass http://127.0.0.1:8081; }
        location /b/ { http_wasm pass.wat name=b; proxy_pass http://127.0.0.1:8081; }
        location /c/ { http_wasm pass.wat name=c; proxy_pass http://127.0.0.1:8081; }
        location /single/ { http_wasm pass.wat name=single; http_wasm_pool wait=1m max=1; proxy_pass http://127.0.0.1:8081; }
        location /short/ { http_wasm pass.wat name=short; http_wasm_pool wait=50ms; proxy_pass http://127.0.0.1:8081; }
        location /none { empty_gif; }
    }
}

EOF

my $response = '(func (export "handle_response") (param i32 i32)';
guest($t, 'pass.wat', "$response (call \$set_resp &\"x-seen\" &\"1\"))");
guest($t, 'failed.wat', "$response unreachable)");
guest($t, 'timed.wat', "$response (loop \$again (br \$again)))");

# The next handler, by hand: an instance is in use until this test answers.
my $upstream = upstream(8081);

$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $way (@ways) {
	# All instances are of one guest and in use.
	my %clients = map { ($_ => request($_)) } map { "/$way/$_" } 1 .. 4;
	my @taken = arrived(4);
	is(as_seen(uris(@taken)), as_seen("/$way/1 /$way/2 /$way/3 /$way/4"), "$way: all in use");

	for my $uri ('/b/1', '/b/2', "/c/$way", '/b/3', '/b/4') {
		$clients{$uri} = request($uri);
		http_get('/none');
	}
	$clients{"/$way/late"} = request("/$way/late");
	ok(nobody(), "$way: others wait");

	# They come free together.
	if ($way eq 'gone') {
		reset_socket($clients{ $_->[0] }) for @taken;
	} else {
		answer($_->[1]) for @taken;
		my @status = map { status(http_end($clients{ $_->[0] })) } @taken;
		is("@status", join(' ', ($way =~ /failed|timed/ ? 500 : 200) x 4), "$way: they end");
	}
	$clients{'/c/late'} = request('/c/late');

	SKIP: {
		@taken = arrived(4);
		is(as_seen(uris(@taken)), as_seen("/b/1 /b/2 /c/$way /b/3"), "$way: as many others are served, in the order in which they came")
			or skip 'not served in order', 3;
		ok(nobody(), "$way: and no more");

		# One after the other.
		my @served;
		for (1 .. 3) {
			my $next = shift @taken or last;
			answer($next->[1]);
			push @taken, arrived(1);
			push @served, $taken[-1][0];
		}
		is("@served", "/b/4 /$way/late /c/late", "$way: then the next ones, and who came last at last");
		answer($_->[1]) for @taken;
		my $done = grep { status(http_end($clients{$_})) =~ /200|500/ } grep { !m{^/$way/\d} } keys %clients;
		is($done, 7, "$way: all are answered");
	}

	# Nothing is left for the next turn.
	close $_ for values %clients;
	%clients = @taken = ();
	http_get('/none');
	while (IO::Select->new($upstream)->can_read(0)) {
		close $upstream->accept();
		http_get('/none');
	}
}

###############################################################################

# Who waits for an instance of one guest does not keep others from those of another.
my @s = map { request($_) } '/single/1', '/a/1', '/a/2', '/a/3';
my @taken = arrived(4);
is(scalar @taken, 4, 'all in use');
push @s, request('/single/2');
http_get('/none');
push @s, request('/b/1');
ok(nobody(), 'two wait');
answer($_->[1]) for grep { $_->[0] eq '/a/1' } @taken;
push @taken, arrived(1);
is($taken[-1][0], '/b/1', 'room is for the one that can use it');
answer($_->[1]) for grep { $_->[0] eq '/single/1' } @taken;
push @taken, arrived(1);
is($taken[-1][0], '/single/2', 'an instance is for the one that waits for it');
answer($_->[1]) for grep { $_->[0] =~ m{^/a/[23]|/b/1|/single/2} } @taken;
is(join(' ', map { status(http_end($_)) } @s), '200 200 200 200 200 200', 'all are answered');

# Nor do those that have gone, or have waited for long enough.
@s = map { request("/a/$_") } 1 .. 4;
@taken = arrived(4);
my $gone = request('/b/gone');
http_get('/none');
my $short = request('/short/1');
http_get('/none');
push @s, request('/b/2');
http_get('/none');
reset_socket($gone);
is(status(http_end($short)), 503, 'waited for long enough');
answer($taken[0][1]);
push @taken, arrived(1);
is($taken[-1][0], '/b/2', 'the one that is left is served');
answer($_->[1]) for @taken[1 .. $#taken];
is(join(' ', map { status(http_end($_)) } @s), '200 200 200 200 200', 'all are answered');

# A request that follows on the same connection is not ahead of who waits.
@s = map { request("/a/$_") } 1 .. 3;
my $both = http("GET /a/4 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /a/5 HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
@taken = arrived(4);
push @s, request('/b/1');
ok(nobody(), 'waits');
answer($_->[1]) for grep { $_->[0] eq '/a/4' } @taken;
push @taken, arrived(1);
is($taken[-1][0], '/b/1', 'who has waited comes first');
answer($_->[1]) for grep { $_->[0] eq '/a/1' } @taken;
push @taken, arrived(1);
is($taken[-1][0], '/a/5', 'then who follows');
answer($_->[1]) for grep { $_->[0] !~ m{/a/[14]} } @taken;
is(join(' ', map { status(http_end($_)) } @s), '200 200 200 200', 'all are answered');
is(() = (http_end($both) // '') =~ /HTTP\/1\.1 200 /g, 2, 'both of one connection');

is(error_log_count($t, qr/all instances are in use/), 1, 'nobody else waited in vain');
is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

sub request {
	my ($uri) = @_;
	return http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
}

# The next requests that reach the next handler, with their connections: as many as there are to be, or as come in time.
sub arrived {
	my ($count) = @_;
	my @arrived;
	while (@arrived < $count) {
		IO::Select->new($upstream)->can_read(patience(4)) or last;
		my $c = arrives($upstream, 1) or last;
		my ($uri) = (received($c, qr/\r\n\r\n/) // '') =~ /^GET (\S+) /;
		push @arrived, [ $uri // '', $c ];
	}
	return @arrived;
}

sub uris {
	return join ' ', map { $_->[0] } @_;
}

# Whether no other request reaches the next handler. The module decides in the same turn of its event loop in which it
# reads a request: a complete exchange on another location afterwards shows that it has.
sub nobody {
	http_get('/none') =~ /200 OK/ or die;
	return !IO::Select->new($upstream)->can_read(0);
}

# Guests that wait wherever they can get to what is seen of them in any order.
sub as_seen {
	my ($uris) = @_;
	return restless() ? join ' ', sort split / /, $uris : $uris;
}

###############################################################################
