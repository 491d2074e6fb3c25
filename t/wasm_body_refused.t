#!/usr/bin/perl

# Request bodies that do not come whole: too large (413), or the client goes away while it sends. No guest sees
# a part as the whole, no upstream gets one, every guest that said next gets its handle_response, and the worker
# serves on.

###############################################################################

use warnings;
use strict;

use JSON::PP;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy http_v2/)->plan(47);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    client_body_buffer_size 1k;
    client_max_body_size 10k;
    log_format end "$request_uri $status";
    access_log %%TESTDIR%%/end.log end;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON

        location /steps { http_wasm steps.wat; proxy_pass http://127.0.0.1:8081; }
        location /buffered { http_wasm buffered.wat; proxy_pass http://127.0.0.1:8081; }
        location /unread { http_wasm unread.wat; proxy_pass http://127.0.0.1:8081; }
        location /status { http_wasm_status; access_log off; }
    }

    server {
        listen       127.0.0.1:8081;
        access_log   %%TESTDIR%%/upstream.log end;

        location / {
            return 200 "upstream";
        }
    }
}

EOF

my $response = <<'EOF';
  (func (export "handle_response") (param $ctx i32) (param $error i32)
    (if (local.get $error)
      (then (call $log (i32.const 0) &"ends with an error"))
      (else
        (call $log (i32.const 0) &"ends in peace")
        (call $set_resp &"x-status" (call $dec (call $get_status_code))))))
EOF
guest($t, 'steps.wat', <<'EOF' . $response);
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"begins")
    (drop (call $read_all (i32.const 0) (i32.const 700)))
    (call $log (i32.const 0) &"has read")
    (i64.const 1))
EOF
guest($t, 'buffered.wat', <<'EOF' . $response);
  (func (export "_initialize") (drop (call $enable_features (i32.const 1))))
  (func (export "handle_request") (result i64) (call $log (i32.const 0) &"begins") (i64.const 1))
EOF
guest($t, 'unread.wat', <<'EOF' . $response);
  (func (export "handle_request") (result i64) (call $log (i32.const 0) &"begins") (i64.const 1))
EOF

$t->run();
wait_until(sub { worker_pids($t) });
my @workers = worker_pids($t);

###############################################################################

my ($requests, %seen) = (0);

for my $guest (qw/ steps buffered unread /) {
	my $head = "POST /$guest HTTP/1.1\r\nHost: localhost\r\n";
	my $body = 'x' x 20_000;
	my $next = $guest ne 'steps';

	# Known from the header: before any guest.
	http($head . "Content-Length: 20000\r\n\r\n", body => $body);
	is(logged(), "/$guest 413", "$guest: 413 by Content-Length");
	counted($guest, '413 by Content-Length', 0, 0);

	# Known while it comes.
	my $r = http($head . "Transfer-Encoding: chunked\r\n\r\n", body => "4e20\r\n$body\r\n0\r\n\r\n");
	is(logged(), "/$guest 413", "$guest: 413 by chunks");
	is(header($r, 'x-status'), $next ? 413 : undef, "$guest: 413 by chunks, seen by a guest that said next");
	counted($guest, '413 by chunks', $next, 0);

	# The client goes away in the middle of a body in memory, in a file, in chunks.
	for my $part ([ 'Content-Length: 1000', 'x' x 500 ], [ 'Content-Length: 9000', 'x' x 5000 ],
		[ 'Transfer-Encoding: chunked', "1388\r\n" . 'x' x 5000 . "\r\n1388\r\nxxx" ])
	{
		my $begun = begun($next);
		my $s = http($head . "$part->[0]\r\n\r\n$part->[1]", start => 1);
		wait_until(sub { begun($next) > $begun });
		close $s;
		like(logged(), qr{^/$guest (?:400|499)$}, "$guest: client gone, $part->[0]");
		counted($guest, "client gone, $part->[0]", 0, $next);
	}

	my $begun = begun($next);
	my $curl = open my $pipe, '|-', 'curl', '-s', '--http2-prior-knowledge', '-m', 8, '-T', '-',
		'http://127.0.0.1:' . port(8083) . "/$guest" or die "curl: $!\n";
	syswrite $pipe, 'x' x 5000;
	wait_until(sub { begun($next) > $begun });
	kill 'KILL', $curl;
	close $pipe;
	like(logged(), qr{^/$guest (?:400|499)$}, "$guest: client gone, HTTP/2: logged");
	counted($guest, 'client gone, HTTP/2', 0, $next);

	http($head . "Content-Length: 2\r\nConnection: close\r\n\r\nok");
	is(logged(), "/$guest 200", "$guest: next request");
	counted($guest, 'next request', 1, 0, !$next);
}

is(join(' ', worker_pids($t)), "@workers", 'by the same worker');
$t->stop();
is($t->read_file('upstream.log'), join('', map { "/$_ 200\n" } qw/ steps buffered unread /), 'only whole bodies upstream');

###############################################################################

# What the access log says of the request just made.
sub logged {
	my @lines;
	wait_until(sub { @lines = split /\n/, $t->read_file('end.log'); return @lines > $requests });
	$requests = @lines;
	return $lines[-1];
}

# Requests that wait for their body or did: the guest reads it, or has said next.
sub begun {
	my ($next) = @_;
	return calls('begins') unless $next;
	my $passed = 0;
	$passed += $_->{passed} for @{ decode_json(content(http_get('/status?format=json')))->{guests} };
	return $passed;
}

sub calls {
	my ($line) = @_;
	return error_log_count($t, qr/wasm.*\Q$line\E/);
}

# How the calls of the request just made ended: in peace, with an error, with a body read.
sub counted {
	my ($guest, $name, $peace, $error, $read) = @_;
	my @lines = ('ends in peace', 'ends with an error', 'has read');

	my %now = map { $_ => calls($_) } @lines;
	is(join('/', map { $now{$_} - ($seen{$_} // 0) } @lines), join('/', map { $_ || 0 } $peace, $error, $read),
		"$guest: $name: calls");
	%seen = %now;
}

###############################################################################
