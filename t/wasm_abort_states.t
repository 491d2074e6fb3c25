#!/usr/bin/perl

# A client that goes away at every point of an exchange, with a FIN, with a RST, with an RST_STREAM and with the
# connection of HTTP/2, from one guest and from the inner one of two: each guest that passed is told once, the
# instance is free again, and nothing is left open.

###############################################################################

use warnings;
use strict;

use JSON::PP;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use IO::Select;
use IO::Socket::INET;
use Socket qw/ SOL_SOCKET SO_RCVBUF /;
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $LARGE = 4_000_000;

# By name: the inner guest; how far the client gets (head, body); how far the upstream gets (-: not asked, nothing, head,
# part, all); the line of the log, or of the response, that says it is there; guests that are told of an error, of one
# and of two: those that had passed and whose handle_response had not begun.
my @states = (
	[ 'body asked for',          'reads',   'body', '-',       'reads',    0, 1 ],
	[ 'body buffered',           'buffers', 'body', '-',       'passes',   1, 2 ],
	[ 'asleep in the request',   'sleeps',  'head', '-',       'sleeps',   0, 1 ],
	[ 'busy in the request',     'spins',   'head', '-',       'spins',    0, 1 ],
	[ 'asleep with a body',      'sleeps',  'body', '-',       'sleeps',   0, 1 ],
	[ 'upstream connects',       'plain',   'head', 'connect', 'passes',   1, 2 ],
	[ 'upstream silent',         'plain',   'head', 'nothing', 'passes',   1, 2 ],
	[ 'upstream in its head',    'plain',   'head', 'head',    'passes',   1, 2 ],
	[ 'response streams',        'plain',   'head', 'part',    'client',   0, 0 ],
	[ 'response streams direct', 'plain',   'head', 'part',    'client',   0, 0, 'direct' ],
	[ 'body collected',          'whole',   'head', 'part',    'passes',   1, 2 ],
	[ 'body collected direct',   'whole',   'head', 'part',    'passes',   1, 2, 'direct' ],
	[ 'asleep in the response',  'hsleeps', 'head', 'part',    'sleeps',   0, 1 ],
	[ 'asleep, direct',          'hsleeps', 'head', 'part',    'sleeps',   0, 1, 'direct' ],
	[ 'asleep, upstream done',   'hsleeps', 'head', 'all',     'sleeps',   0, 1 ],
	[ 'busy in the response',    'hspins',  'head', 'part',    'spins',    0, 1 ],
	[ 'asleep with the body',    'wsleeps', 'head', 'all',     'sleeps',   0, 1 ],
	[ 'busy with the body',      'wspins',  'head', 'all',     'spins',    0, 1 ],
	[ 'client slow, streaming',  'plain',   'head', 'large',   'client',   0, 0 ],
	[ 'client slow, direct',     'plain',   'head', 'large',   'client',   0, 0, 'direct' ],
	[ 'client slow, rewritten',  'wraps',   'head', 'large',   'client',   0, 0 ],
	[ 'client slow, answered',   'answers', 'head', '-',       'client',   0, 0 ],
);
my @ways = qw/ fin rst stream connection /;
my @guests = do { my %seen; grep { !$seen{$_}++ } map { $_->[1] } @states };

my $t = Test::Nginx->new()->has(qw/http proxy http_v2/);
$t->plan(@states * @ways * 2 * 3 + 3 * 3 + 6);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $locations = join '', map { my $guest = $_; map { <<"EOF" } 'one', 'two' } @guests;

        location /$_/$guest/ {
            @{[ $_ eq 'two' ? 'http_wasm plain.wat name=outer;' : '' ]}
            http_wasm $guest.wat;
            proxy_pass http://127.0.0.1:8081;
            location /$_/$guest/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081; }
            location /$_/$guest/connect/ { proxy_pass http://127.0.0.1:8082; }
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    error_log %%TESTDIR%%/info.log info;
    log_format end "$request_uri $status";
    access_log %%TESTDIR%%/end.log end;

    proxy_http_version 1.1;
    proxy_read_timeout 1h;
    client_body_buffer_size 1k;

    # Whoever is not told that the client is gone goes on, or waits, for ever.
    http_wasm_timeout 1h;
    http_wasm_slice 1ms;
    http_wasm_pool max=1 wait=1h;
    http_wasm_response_buffer 64k max=8m;

    server {
        listen       127.0.0.1:8080 sndbuf=16k;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON
        LOCATIONS
        location /fine { http_wasm plain.wat name=fine; return 204; }
        location = /counts { http_wasm_status; }
    }
}

EOF

# What a guest does to a request that says so in X-Act; without it, it passes.
my $sleep = '(call $log (i32.const 0) &"sleeps") (drop (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)))';
my $spin = '(call $log (i32.const 0) &"spins") (loop $again (br $again))';
my $read = '(call $log (i32.const 0) &"reads") (drop (call $read_all (i32.const 0) (i32.const 4096)))';
my $copy = '(loop $more
	(local.set $r (call $read_body (i32.const 1) (i32.const 65536) (i32.const 65536)))
	(call $body_resp (i32.const 65536) (i32.wrap_i64 (local.get $r)))
	(br_if $more (i64.eqz (i64.shr_u (local.get $r) (i64.const 32)))))';
my $answer = '(loop $more
	(call $body_resp (i32.const 65536) (i32.const 65536))
	(br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 61))))
	(return (i64.const 0))';
# Features, in handle_request, in handle_response.
my %acts = (
	plain => [ 0, '', '' ], reads => [ 0, $read, '' ], buffers => [ 1, '', '' ], sleeps => [ 0, $sleep, '' ],
	spins => [ 0, $spin, '' ], whole => [ 2, '', '' ], hsleeps => [ 0, '', $sleep ], hspins => [ 0, '', $spin ],
	wsleeps => [ 2, '', $sleep ], wspins => [ 2, '', $spin ], wraps => [ 2, '', $copy ], answers => [ 0, $answer, '' ],
);
for my $name (@guests) {
	my ($features, $request, $response) = @{ $acts{$name} };
	guest($t, "$name.wat", <<"EOF");
  (import "wasi_snapshot_preview1" "poll_oneoff" (func \$poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\\00\\00\\00\\00\\00\\00\\00\\00\\01\\00\\00\\00\\00\\00\\00\\00\\00\\a0\\b8\\30\\46\\03\\00\\00")
  (func (export "_initialize") (drop (call \$enable_features (i32.const $features))))
  (func \$acts (result i32)
    (i64.ne (i64.const 0) (call \$get_header_values (i32.const 0) &"x-act" (i32.const 0) (i32.const 9))))
  (func (export "handle_request") (result i64) (local \$n i32)
    (if (call \$acts) (then $request))
    (call \$log (i32.const 0) &"passes")
    (i64.const 1))
  (func (export "handle_response") (param \$ctx i32) (param \$error i32) (local \$r i64)
    (if (local.get \$error)
      (then (call \$log (i32.const 0) &"told of an error"))
      (else
        (call \$log (i32.const 0) &"called for a response")
        (if (call \$acts) (then $response)))))
EOF
}

my $upstream = upstream(8081);
# One that does not take connections: those that fit into its queue are ours.
my $deaf = upstream(8082, backlog => 0);
my @queued = map {
	IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port(8082), Blocking => 0)
} 1 .. 3;

$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);
settle();
my $open = open_files($worker);

###############################################################################

my $n = 0;

for my $state (@states) {
	for my $way (@ways) {
		goes_away($_, $way, @$state) for 'one', 'two';
	}
}

sub goes_away {
	my ($chain, $way, $name, $guest, $client, $up, $sign, @told) = @_;
	my ($direct, $told) = ($told[2], $told[$chain eq 'two']);
	my $case = "$name, $way, guests: $chain";
	my $more = $direct // ($up eq 'connect' ? $up : 'x');
	my $uri = "/$chain/$guest/$more/" . ++$n;

	my %before = map { $_ => said($_) } my @words = ('passes', 'told of an error', 'called for a response', $sign);
	my $passed = passed();
	my $s = start($way, $uri, $client);
	my $c;
	if ($up !~ /-|connect/) {
		$c = arrives($upstream);
		my $length = $up eq 'large' ? $LARGE : 100_000;
		print $c "HTTP/1.1 200 OK\r\nContent-Len" if $up ne 'nothing';
		print $c "gth: $length\r\n\r\n" . 'x' x 20_000 if $up =~ /part|all|large/;
		print $c 'x' x 80_000 if $up eq 'all';
		if ($up eq 'large') {
			# As much as is taken without a client that reads.
			$c->blocking(0);
			my $left = $length - 20_000;
			wait_until(sub {
				$left -= syswrite($c, 'x' x ($left < 65536 ? $left : 65536)) // 0;
				return $left == 0 || ($guest eq 'plain' && settle() && !IO::Select->new($c)->can_write(0));
			});
		}
	}
	# A chain passes from the outer to the inner.
	my $passes = $sign eq 'passes' && $chain eq 'two' ? 2 : 1;
	my $there = $sign eq 'client' ? received($s, $way =~ /fin|rst/ ? qr/\r\n\r\n./s : qr/.{200}/s)
		: wait_until(sub { said($sign) - $before{$sign} == $passes });
	# A guest has passed when it has returned, which may be later.
	wait_until(sub { passed() - $passed == $passes }) if $sign eq 'passes';
	settle();
	ok($there && !logged($uri), "$case: is there");

	leave($way, $s);
	my $over = wait_until(sub { defined logged($uri) });
	reset_socket($c) if $c;
	wait_until(sub { said('told of an error') - $before{'told of an error'} >= $told });
	my %count = map { $_ => said($_) - $before{$_} } @words;
	is(join(' ', $over ? 'over' : 'goes on', $count{'told of an error'},
		$count{passes} == $count{'told of an error'} + $count{'called for a response'} ? 'each once' : "of $count{passes}"),
		"over $told each once", "$case: told");

	# The only instance of each guest is free again.
	$s = http("GET /$chain/$guest/x HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	if ($c = arrives($upstream)) {
		print $c "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
		close $c;
	}
	my $r = http_end($s);
	is(status($r) . ' ' . content($r), '200 ok', "$case: next request");
	return;
}

# Before a request, between two, and in line for an instance.

for my $way (qw/ fin rst connection /) {
	my $s = start($way, '/fine', 'half');
	settle();
	leave($way, $s);
	ok(wait_until(sub { open_files($worker) eq $open }), "half a request, $way");

	$s = start($way, '/fine', 'none');
	received($s, $way eq 'connection' ? qr/.{60}/s : qr/\r\n\r\n/);
	leave($way, $s);
	ok(wait_until(sub { open_files($worker) eq $open }), "between two requests, $way");

	my $first = start('fin', '/two/plain/line/' . ++$n, 'head');
	my $c = arrives($upstream);
	my $uri = '/two/plain/line/' . ++$n;
	$s = start($way, $uri, 'head');
	settle();
	leave($way, $s);
	wait_until(sub { defined logged($uri) });
	my $next = start('fin', '/two/plain/line/' . ++$n, 'head');
	for my $client ($first, $next) {
		print $c "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
		close $c;
		received($client, qr/ok$/) or last;
		close $client;
		$c = arrives($upstream) if $client == $first;
	}
	wait_until(sub { defined logged("/two/plain/line/$n") });
	is(logged($uri) . ' ' . (logged("/two/plain/line/$n") // 'none'), '499 200', "in line, $way");
}

ok(wait_until(sub { open_files($worker) eq $open }), 'nothing is left open')
	or diag("before: $open\nafter: " . open_files($worker));
ok(wait_until(sub { !temporary_files($t) }), 'no temporary files');
is(join(' ', worker_pids($t)), $worker, 'same worker');
is(lines(qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(said('passes'), said('told of an error') + said('called for a response'), 'each guest was told once of each request');

###############################################################################

# A client that has sent a request up to: a half of its head, its head, a part of its body; or a whole plain one.
sub start {
	my ($way, $uri, $part) = @_;
	my $method = $part eq 'body' ? 'POST' : 'GET';

	if ($way =~ /stream|connection/) {
		return h2_connect(8083) if $part eq 'half';
		my $s = h2_start(8083, $method, $uri, $part eq 'none' ? () : ('x-act' => 1));
		h2_data($s, 'y' x 5000) if $part eq 'body';
		return $s;
	}
	my $s = IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port(8080),
		Sockopts => [ [ SO_RCVBUF, 16384 ] ]) // die "can't connect: $!\n";
	my $act = $part eq 'none' ? '' : "X-Act: 1\r\n";
	my $head = "$method $uri HTTP/1.1\r\nHost: localhost\r\n$act";
	$head .= $part eq 'body' ? "Content-Length: 10000\r\n\r\n" . 'y' x 5000 : $part eq 'half' ? '' : "\r\n";
	syswrite $s, $head;
	return $s;
}

sub leave {
	my ($way, $s) = @_;
	return shutdown $s, 1 if $way eq 'fin';
	return h2_reset($s) if $way eq 'stream';
	return reset_socket($s);
}

# The worker has seen all that was sent to it before.
sub settle {
	return status(http_get('/fine')) == 204;
}

# The status of the only request for it, once it is over.
sub logged {
	my ($uri) = @_;
	return $t->read_file('end.log') =~ m{^\Q$uri\E (\d+)$}m ? $1 : undef;
}

# How often the guests of these requests have said next.
sub passed {
	my $sum = 0;
	$sum += $_->{passed} for grep { $_->{name} ne 'fine' } @{ decode_json(content(http_get('/counts?format=json')))->{guests} };
	return $sum;
}

# How often a guest has.
sub said {
	my ($text) = @_;
	return lines(qr/guest "\w+": $text(?: while |, client: )/);
}

sub lines {
	my ($pattern) = @_;
	return scalar grep { $_ =~ $pattern } split /\n/, $t->read_file('info.log');
}

###############################################################################
