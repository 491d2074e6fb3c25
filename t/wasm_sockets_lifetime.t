#!/usr/bin/perl

# Sockets belong to an instance: they live as long as it does and no longer, whatever ends it.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Outside;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http/)->plan(26);

$t->write_file_expand('nginx.conf', <<'EOC' =~ s/GUEST/built('c-sockets.wasm')/egr);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    resolver 127.0.0.1:%%PORT_8053_UDP%% ipv6=off;
    http_wasm_connect 127.0.0.1:%%PORT_8081%%;
    http_wasm_connect silent.example:%%PORT_8081%%;
    http_wasm_breaker off;

    server {
        listen       127.0.0.1:8080;
        server_name  worker;
        http_wasm GUEST name=worker;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  request;
        http_wasm GUEST name=request;
        http_wasm_isolation request;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  brief;
        http_wasm GUEST name=brief;
        http_wasm_pool idle_timeout=50ms;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  impatient;
        http_wasm GUEST name=impatient;
        http_wasm_sockets timeout=50ms;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  start;
        http_wasm start.wat;
        http_wasm_snapshot on;
    }
}

EOC

# Opens a socket when it starts, and answers with the error number of that.
guest($t, 'start.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "sock_open" (func $sock_open (param i32 i32 i32) (result i32)))
  (global $errno (mut i32) (i32.const 0))
  (func (export "_initialize")
    (global.set $errno (call $sock_open (i32.const 1) (i32.const 2) (i32.const 0))))
  (func (export "handle_request") (result i64)
    (call $body_resp (call $dec (global.get $errno)))
    (i64.const 0))
EOF

service($t, 8081);
names($t, 8053, 'silent.example' => [ 'silence' ]);
$t->run();

###############################################################################

my ($local, $tcp) = (hex4('127.0.0.1'), port(8081));
my ($pid) = @{ wait_until(sub { my @pids = worker_pids($t); @pids && \@pids }) };

sub ask_at {
	my ($server, @path) = @_;
	return content(curl('-H', "Host: $server", '/' . join '/', @path));
}

# Asks and goes away before there is an answer.
sub leave {
	my ($server, @path) = @_;
	my $s = connection();
	syswrite $s, 'GET /' . join('/', @path) . " HTTP/1.1\r\nHost: $server\r\n\r\n";
	# A guest that waits is seen by its connection.
	wait_until(sub { connections($tcp) > 0 }) or die "the guest does not wait\n";
	close $s;
	wait_until(sub { connections($tcp) == 0 }) or die "the guest still waits\n";
}

# Those that are open to a port.
sub connections {
	my ($port) = @_;
	open my $fh, '<', '/proc/net/tcp' or die "tcp: $!\n";
	my $to = sprintf '0100007F:%04X', $port;
	my @fields = map { [ split ] } <$fh>;
	return scalar grep { $_->[2] eq $to && $_->[3] eq '01' } @fields;
}

# Sockets that are not closed where a program takes the place of the worker, except those of nginx's own.
sub inherited {
	my ($pid) = @_;
	open my $fh, '<', '/proc/net/tcp' or die "tcp: $!\n";
	my $to = sprintf '0100007F:%04X', $tcp;
	my %ours = map { my @fields = split; $fields[2] eq $to ? ("socket:[$fields[9]]" => 1) : () } <$fh>;
	my @fds = grep { $ours{ readlink("/proc/$pid/fd/$_") // '' } } map { m{(\d+)$} } glob "/proc/$pid/fd/*";
	die "no socket\n" unless @fds;
	return scalar grep {
		open my $info, '<', "/proc/$pid/fdinfo/$_" or die "fdinfo: $!\n";
		my ($flags) = join('', <$info>) =~ /^flags:\s*(\d+)/m;
		!(oct($flags) & 02000000);
	} @fds;
}

sub settles {
	my ($count, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_until(sub { sockets_of($pid) == $count }), $name) or diag(sockets_of($pid) . " and not $count");
}

# Before there has been a client.
my $none = sockets_of($pid);

# One that stays.
like(ask_at('worker', 'keep', $local, $tcp, 'a'), qr/new$/, 'a connection');
settles($none + 1, 'is kept');
like(ask_at('worker', 'keep', $local, $tcp, 'a'), qr/old$/, 'is used again');
settles($none + 1, 'and is one');
is(inherited($pid), 0, 'which no program that nginx starts has');

# A trap ends the instance.
is(status(curl('-H', 'Host: worker', "/trap/$local/$tcp")), 500, 'a trap');
settles($none, 'closes all of them');

# With isolation per request.
like(ask_at('request', 'keep', $local, $tcp, 'a'), qr/new$/, 'a connection of a request');
settles($none, 'ends with it');
like(ask_at('request', 'keep', $local, $tcp, 'a'), qr/new$/, 'the next request has none');
settles($none, 'and its own ends, too');
is(ask_at('request', 'open', 20), '16 33', 'sockets that nobody has closed');
settles($none, 'are closed');

# An instance that nobody needs.
like(ask_at('brief', 'keep', $local, $tcp, 'a'), qr/new$/, 'a connection of an instance that idles');
settles($none, 'ends with it');

# A client that goes away, while the guest waits for a connection that does not speak, and for a name.
leave('worker', 'get', $local, $tcp, 'stall');
settles($none, 'a client has left');
leave('worker', 'poll', $local, $tcp, 'stall') for 1 .. 30;
settles($none, 'thirty have');
{
	my $s = connection();
	syswrite $s, "GET /lookup/silent.example HTTP/1.1\r\nHost: worker\r\n\r\n";
	ok(wait_until(sub { -e $t->testdir() . '/asked' }), 'one that waits for a name');
	close $s;
}
like(ask_at('worker', 'get', $local, $tcp, 'a'), qr/hello a$/, 'the worker goes on living');

# A wait that is over.
like(ask_at('impatient', 'get', $local, $tcp, 'stall'), qr/ 73$/, 'a service that does not speak');
like(ask_at('impatient', 'poll', $local, $tcp, 'stall'), qr/ 73$/, 'the same, polled');

# No sockets in a start that is tried out, and none in a snapshot.
is(ask_at('start'), 0, 'a start in a worker has a socket');
error_log_like($t, qr/start.wat": has no snapshot, every instance is started: its start functions open sockets/,
	'but the guest no snapshot');

# Reload.
my $old = $pid;
like(ask_at('worker', 'keep', $local, $tcp, 'a'), qr/(new|old)$/, 'a connection');
$t->reload();
ok(wait_until(sub { my ($new) = worker_pids($t); $new && $new != $old && !-e "/proc/$old" }), 'a reload');
is(connections($tcp), 0, 'closes all that were open');

###############################################################################
