#!/usr/bin/perl

# An upstream that dies at every point of an exchange, with a FIN or a RST, under every kind of guest: the client is told
# by status or sees the response cut, guests see one response each, and the next request finds everything free.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# What the last guest of the chain does in handle_response, by the letters of a location: p nothing, s sleeps, y gives up
# its turn many times, b has buffer_response; the others go around it.
my @chains = qw/ p s y b bs ps sp bp pb sb bsb yb /;
# How far the upstream gets, and whether it has said how long its body is.
my @points = qw/ accepted asked head status part part-chunked all-but-end /;

my $t = Test::Nginx->new()->has(qw/http proxy/);
$t->plan(@chains * @points * 2 * 2 * 2 + 6);

# Each with a name, and so a pool, of its own: two of one pool would wait for each other.
sub guests {
	my $n = 0;
	return join ' ', map { "http_wasm $_.wat name=$_" . ++$n . ';' } split //, $_[0];
}

my $locations = join '', map { my ($name, $guests) = ($_, guests($_)); <<"EOF" } @chains;

        location /$name/ {
            $guests
            proxy_pass http://127.0.0.1:8081;
            location /$name/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081; }
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    error_log %%TESTDIR%%/info.log info;
    proxy_http_version 1.1;
    proxy_read_timeout 1h;
    http_wasm_pool max=1 wait=1h;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS
        location /fine { http_wasm p.wat name=fine; return 204; }
    }
}

EOF

my $end = <<'EOF';
  (func (export "handle_request") (result i64) (call $log (i32.const 0) &"passes") (i64.const 1))
  (func (export "handle_response") (param $ctx i32) (param $error i32)
    (if (local.get $error) (then (call $log (i32.const 0) &"told of an error") (return)))
    (call $log (i32.const 0) &"called for a response")
    (call $wait)
    (call $add_resp &"x-seen" (call $dec (call $get_status_code))))
EOF
my $buffer = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
guest($t, 'p.wat', "(func \$wait)$end");
guest($t, 'b.wat', "(func \$wait)$buffer$end");
guest($t, 's.wat', <<"EOF");
  (import "wasi_snapshot_preview1" "poll_oneoff" (func \$poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\\00\\00\\00\\00\\00\\00\\00\\00\\01\\00\\00\\00\\00\\00\\00\\00\\00\\2d\\31\\01")
  (func \$wait (drop (call \$poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128))))
$end
EOF
guest($t, 'y.wat', <<"EOF");
  (import "wasi_snapshot_preview1" "sched_yield" (func \$yield (result i32)))
  (func \$wait (local \$n i32)
    (loop \$again
      (drop (call \$yield))
      (br_if \$again (i32.lt_u (local.tee \$n (i32.add (local.get \$n) (i32.const 1))) (i32.const 50)))))
$end
EOF

my $upstream = upstream(8081);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);
settle();
my $open = open_files($worker);

###############################################################################

for my $chain (@chains) {
	for my $point (@points) {
		for my $way (qw/ fin rst /) {
			dies($_, $way, $point, $chain) for '', 'direct/';
		}
	}
}

sub dies {
	my ($direct, $way, $point, $chain) = @_;
	my $case = "$chain, $direct" . "upstream dies by $way, $point";
	my ($passed, $called) = map { said($_) } 'passes', 'called for a response';

	my $s = http("GET /$chain/${direct}x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", start => 1);
	my $c = arrives($upstream, $point eq 'accepted') or return fail($case), fail("$case: next request");
	my $chunked = $point =~ /chunked|but/;
	my $head = "HTTP/1.1 200 OK\r\n" . ($chunked ? 'Transfer-Encoding: chunked' : 'Content-Length: 50000') . "\r\n\r\n";
	syswrite $c, 'HTTP/1.1 20' if $point eq 'status';
	syswrite $c, substr $head, 0, 30 if $point eq 'head';
	syswrite $c, $head . ($chunked ? "3e8\r\n" . 'x' x 1000 . "\r\n" : 'x' x 1000) if $point =~ /part|all/;
	# All of the body, and nothing that says so.
	syswrite $c, "5\r\nxxxxx\r\n0\r\n" if $point =~ /all/;
	if ($point =~ /part|all/ && $chain !~ /b.?$/) {
		# Under a guest that sees the header alone: it is at it, or through.
		wait_until(sub { said('called for a response') > $called });
	} else {
		settle();
	}
	$way eq 'rst' ? reset_socket($c) : close $c;

	my $reply = http_end($s);
	my $count = length $chain;
	my $seen = () = ($reply // '') =~ /^x-seen: (?:200|502)\r$/mgi;
	my $cut = $point =~ /part|all/ && $chain !~ /b/;
	# Cut: the head of the response, and a body that does not come to its end.
	my ($body) = ($reply // '') =~ /\r\n\r\n(.*)$/s;
	my $what = !defined $body ? 'nothing'
		: $reply =~ m{^HTTP/1.1 502 } && length $body == header($reply, 'content-length') && $body !~ /xxx/ ? 'page'
		: $reply =~ m{^HTTP/1.1 200 } && (header($reply, 'content-length') // 1e9) > length $body
			&& $body !~ /\r\n0\r\n\r\n$/ && $body =~ /^[^<]*$/ ? 'cut' : 'something else';
	# A page takes the place of a response that guests inside the one that buffers have marked.
	my $marks = $point =~ /part|all/ && !$cut ? rindex($chain, 'b') + 1 : $count;
	is(join(' ', $what, $seen, said('passes') - $passed, said('called for a response') - $called),
		join(' ', $cut ? 'cut' : 'page', $marks, $count, $count), $case);

	$s = http("GET /$chain/${direct}y HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	$c = arrives($upstream);
	syswrite $c, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok" if $c;
	my $r = http_end($s);
	is(status($r) . ' ' . content($r), '200 ok', "$case: next request");
	return;
}

ok(wait_until(sub { open_files($worker) eq $open }), 'nothing is left open')
	or diag("before: $open\nafter: " . open_files($worker));
ok(wait_until(sub { !temporary_files($t) }), 'no temporary files');
is(join(' ', worker_pids($t)), $worker, 'same worker');
is(lines(qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(said('passes'), said('called for a response') + said('told of an error'), 'each guest was told once of each request');

###############################################################################

# The worker has seen all that was sent to it before.
sub settle {
	return status(http_get('/fine')) == 204;
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
