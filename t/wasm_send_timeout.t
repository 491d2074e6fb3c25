#!/usr/bin/perl

# send_timeout is for clients that do not read: one that waits for a guest, or for a body that a guest is to see first,
# is served however long that takes.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use POSIX qw//;
use Test::Nginx;
use Test::Nginx::Messages;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @guests = qw/ sleeps whole two request /;
my @sources = qw{ file large sendfile up/size/100 up/size/300000 up/chunked direct/size/300000 direct/chunked slow/ slow-direct/
	ssi cached/size/5000 limited/size/300 };

my $t = Test::Nginx->new()->has(qw/http proxy cache ssi http_v2/)->plan(@guests * @sources * 3 + 4);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $locations = '';
for my $guest (@guests) {
	my $guests = join ' ', map { "http_wasm $_.wat;" } $guest eq 'two' ? qw/ whole sleeps / : $guest;
	$locations .= <<"EOF";

        location /$guest/ {
            $guests
            location /$guest/file { alias %%TESTDIR%%/small; }
            location /$guest/large { alias %%TESTDIR%%/large; }
            location /$guest/sendfile { sendfile on; alias %%TESTDIR%%/large; }
            location /$guest/up/ { proxy_pass http://127.0.0.1:8081/; }
            location /$guest/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
            location /$guest/slow/ { proxy_pass http://127.0.0.1:8082/; }
            location /$guest/slow-direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8082/; }
            location /$guest/ssi { ssi on; ssi_types *; alias %%TESTDIR%%/ssi; }
            location /$guest/limited/ { limit_rate 300; proxy_pass http://127.0.0.1:8081/; }
            location /$guest/cached/ {
                proxy_cache one;
                proxy_cache_key \$uri;
                proxy_cache_valid 1h;
                proxy_pass http://127.0.0.1:8081/;
            }
        }
EOF
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r =~ s/LISTEN/$listen/r =~ s/ON/$on/r =~ s/%%SEND_TIMEOUT%%/patience(500)/re);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_http_version 1.1;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;
    send_timeout %%SEND_TIMEOUT%%ms;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON
        LOCATIONS

        location /part { proxy_pass http://127.0.0.1:8082/; }
        location /stuck { http_wasm sleeps.wat; alias %%TESTDIR%%/huge; }
        location /next { alias %%TESTDIR%%/next; }
    }
}

EOF

# For longer than the timeout.
my $sleep = <<'EOF';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\8c\86\47")
  (func $wait (if (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable)))
EOF
my $feature = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
my $response = '(func (export "handle_response") (param i32 i32) (call $wait) (call $set_resp &"x-seen" &"1"))';
guest($t, 'sleeps.wat', "$sleep $response");
guest($t, 'whole.wat', "$sleep $feature $response");
guest($t, 'request.wat', "$sleep $feature (func (export \"handle_request\") (result i64) (call \$wait) (i64.const 1))");

my %file = (small => 'a file', large => '0123456789' x 30_000, huge => 'x' x 20_000_000);
$t->write_file($_, $file{$_}) for keys %file;
$t->write_file('next', 'next');
$t->write_file('ssi', 'a <!--# include virtual="/part" --> b');
backend($t, 8081);
$t->run_daemon(\&slowly, port(8082));
$t->waitforsocket('127.0.0.1:' . port(8082)) or die "backend does not listen\n";
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my $slow = '01234567';
my %body = (
	file => 'a file', large => $file{large}, sendfile => $file{large}, ssi => "a $slow b", 'slow/' => $slow, 'slow-direct/' => $slow,
	'up/chunked' => 'onetwothree', 'direct/chunked' => 'onetwothree',
);
my @cases;
for my $guest (@guests) {
	for my $source (@sources) {
		my $body = $body{$source};
		$body = substr '0123456789' x 30_000, 0, $1 if $source =~ m{/size/(\d+)};
		push @cases, { name => "$guest, $source", uri => "/$guest/$source",
			told => '200 ' . (length $body > 80 ? digest($body) : $body) };
	}
}

# One that never reads.
my $stuck = IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port(8080),
	Sockopts => [ [ Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 4096 ] ]) or die "can't connect: $!\n";
print $stuck "GET /stuck HTTP/1.1\r\nHost: localhost\r\n\r\n";

my @replies = at_once(map { [ [ "GET $_->{uri}" ], [ 'GET /next' ] ] } @cases);
for my $n (0 .. $#cases) {
	is(told($replies[$n][0]) . ', ' . after(@{ $replies[$n] }), "$cases[$n]{told}, next", $cases[$n]{name});
	ok($cases[$n]{name} =~ /request/ || header($replies[$n][0], 'x-seen'), "$cases[$n]{name}: seen");
}
error_log_like($t, qr/client timed out .* while sending response to client/, 'who does not read is left');

my $h2 = h2_client(8083, 1 << 20);
my @streams = map { h2_request($h2, 'GET', $_->{uri}) } @cases;
my @h2 = h2_replies($h2, \@streams);
is(told($h2[$_]), $cases[$_]{told}, "$cases[$_]{name}, HTTP/2") for 0 .. $#cases;

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# Takes longer than the timeout for its eight bytes.
sub slowly {
	my ($port) = @_;

	local $SIG{PIPE} = 'IGNORE';
	local $SIG{CHLD} = 'IGNORE';
	my $server = IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 511, ReuseAddr => 1
	) or die "can't listen: $!\n";
	while (my $s = $server->accept()) {
		my $pid = fork() // die "fork: $!\n";
		next if $pid;
		$s->autoflush(1);
		my $head = '';
		while ($head !~ /\r\n\r\n/) {
			sysread $s, $head, 4096, length $head or POSIX::_exit(0);
		}
		print $s "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
		for (0 .. 7) {
			print $s "1\r\n$_\r\n";
			select undef, undef, undef, 0.1;
		}
		print $s "0\r\n\r\n";
		POSIX::_exit(0);
	}
}

###############################################################################
