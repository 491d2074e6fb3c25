#!/usr/bin/perl

# Responses without an end: events reach the client one by one, as they come, through guests without
# buffer_response; upgraded connections work with and without it.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(5 * 5 + 3 * 6 + 2);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_http_version 1.1;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        http_wasm header.wat config=header;

        location /direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8082/; }
        location /accel/ { proxy_pass http://127.0.0.1:8082/accel/; }
        location /prefix/ { http_wasm prefix.wat; proxy_buffering off; proxy_pass http://127.0.0.1:8082/; }
        location /two/ { http_wasm prefix.wat; http_wasm header.wat config=two; proxy_buffering off; proxy_pass http://127.0.0.1:8082/; }
        location /sleepy/ { http_wasm sleepy.wat; proxy_buffering off; proxy_pass http://127.0.0.1:8082/; }

        proxy_set_header Connection $http_connection;
        proxy_set_header Upgrade $http_upgrade;
        location /header/ { proxy_pass http://127.0.0.1:8081/; }
        location /whole/ { http_wasm whole.wat config=whole; proxy_pass http://127.0.0.1:8081/; }
        location /both/ { http_wasm header.wat config=both; http_wasm whole.wat config=both; proxy_pass http://127.0.0.1:8081/; }
    }
}

EOF

my $response = <<'EOF';
  (func (export "handle_response") (param i32 i32)
    (call $log (i32.const 0) (call $config))
    (call $add_resp &"x-status" (call $dec (call $get_status_code))))
EOF
guest($t, 'header.wat', $response);
guest($t, 'whole.wat', '  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))' . $response);
guest($t, 'prefix.wat', <<'EOF' . $response);
  (func (export "handle_request") (result i64) (call $body_resp &"data: 0\0a\0a") (i64.const 1))
EOF
# Waits in handle_response, while the first event comes.
guest($t, 'sleepy.wat', <<'EOF' . $response =~ s/i32 i32\)/i32 i32) (call \$sleep)/r);
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\01")
  (data (i32.const 24) "\00\e1\f5\05")
  (func $sleep (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))
EOF

$t->run_daemon(\&events, port(8082), port(8083));
$t->waitforsocket('127.0.0.1:' . port(8082)) or die "events do not listen\n";
backend($t);
$t->run();

###############################################################################

# The backend sends an event only when the one before is confirmed: none could come in a heap.

for my $uri (qw/ direct accel prefix two sleepy /) {
	my $s = http("GET /$uri/ HTTP/1.1\r\nHost: localhost\r\n\r\n", start => 1);
	my $first = $uri eq 'prefix' || $uri eq 'two' ? "data: 0\n\ndata: 1\n\n" : "data: 1\n\n";
	my $text = '';

	for my $event (1 .. 3) {
		my ($this, $next) = map { qr/data: $_\n\n/ } $event, $event + 1;
		$text = reads($s, $text, $this);
		ok($text =~ $this && $text !~ $next, "$uri, event $event before there is another");
		confirm($event);
	}
	like($text, qr/x-status: 200/, "$uri, header comes with the first");
	is(join('', $text =~ /(data: \d\n\n)/g), $first . "data: 2\n\ndata: 3\n\n", "$uri, events whole");
	close $s;
	# The backend is told that the client has gone, and serves the next.
	confirm('gone');
}

# WebSocket: one handle_response for the handshake, and then bytes both ways.

for my $uri (qw/ header whole both /) {
	my $calls = calls($uri);
	my $s = http("GET /$uri/upgrade HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
		. "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", start => 1);
	my $head = read_reply($s);
	like($head, qr/^HTTP\/1.1 101 .*\r\nUpgrade: echo\r\n/s, "$uri, WebSocket handshake");
	like(header($head, 'x-status'), $uri eq 'both' ? qr/^101\|101$/ : qr/^101$/, "$uri, handle_response sees 101");

	for my $text ("\x81\x03one", "\x82\x00", 'large ' x 30_000) {
		syswrite $s, $text;
		is(length reads($s, '', qr/\Q$text\E/s), length $text, "$uri, " . length($text) . ' bytes there and back');
	}
	is(calls($uri) - $calls, $uri eq 'both' ? 2 : 1, "$uri, one handle_response per guest");
	close $s;
}

is(status(curl('/header/status/200')), 200, 'worker serves on');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

sub calls {
	my ($uri) = @_;
	return error_log_count($t, qr/wasm.*\b$uri\b,? while/);
}

# Reads until the text is there; for a bounded time.
sub reads {
	my ($s, $text, $pattern) = @_;

	eval {
		local $SIG{ALRM} = sub { die "timeout\n" };
		alarm(8);
		while ($text !~ $pattern) {
			sysread $s, $text, 65536, length $text or last;
		}
		alarm(0);
	};
	alarm(0);
	return $text;
}

# Tells the backend, and waits for its word that it knows.
sub confirm {
	my ($event) = @_;
	my $s = connection('127.0.0.1:' . port(8083));
	print $s "$event\n";
	return reads($s, '', qr/\n/);
}

# Three events for each request, each once the one before is confirmed on the other port.
sub events {
	my ($port, $confirmed) = @_;
	local $SIG{PIPE} = 'IGNORE';
	my ($server, $control) = map {
		IO::Socket::INET->new(Proto => 'tcp', LocalAddr => "127.0.0.1:$_", Listen => 5, ReuseAddr => 1)
			or die "can't listen: $!\n"
	} $port, $confirmed;

	while (my $s = $server->accept()) {
		my $head = reads($s, '', qr/\r\n\r\n/);
		my ($accel) = $head =~ /^GET (\S+)/ or next;
		print $s "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n", $accel eq '/accel/' ? "X-Accel-Buffering: no\r\n" : '',
			"Transfer-Encoding: chunked\r\n\r\n";
		for my $event (1 .. 4) {
			my $text = "data: $event\n\n";
			printf $s "%x\r\n%s\r\n", length $text, $text if $event < 4;
			my $c = $control->accept();
			reads($c, '', qr/\n/);
			reads($s, '', qr/never/) if $event == 4;
			print $c "ok\n";
		}
		close $s;
	}
	return;
}

###############################################################################
