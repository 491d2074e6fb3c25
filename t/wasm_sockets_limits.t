#!/usr/bin/perl

# Guests that open sockets for ever, connect to what does not answer, and wait in numbers: others are served.

###############################################################################

use warnings;
use strict;

use IO::Socket::INET;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Outside;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http/)->plan(14);

$t->write_file_expand('nginx.conf', <<'EOC' =~ s/GUEST/built('c-sockets.wasm')/egr);

%%TEST_GLOBALS%%

daemon off;
worker_rlimit_nofile 160;

events {
    worker_connections 32;
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm GUEST;
    http_wasm_connect 127.0.0.1;
    http_wasm_sockets max=1000 connect_timeout=200ms;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        http_wasm_isolation request;

        location /keep { http_wasm_isolation worker; }
    }
}

EOC

service($t, 8081);
$t->run();

###############################################################################

my ($local, $tcp) = (hex4('127.0.0.1'), port(8081));
my ($pid) = worker_pids($t);

sub ask { return content(curl('/' . join '/', @_)) }

# As many as a quarter of what the worker may have.
is(ask('open', 200), '40 41', 'sockets of all guests');
error_log_like($t, qr/gets no socket: all guests together have as many .* \(see worker_rlimit_nofile\)/, 'is logged');
is(ask('open', 40), '40 0', 'the next request has as many');
is(ask('get', $local, $tcp, 'a') =~ s/.*\r\n//sr, 'hello a', 'others have theirs');

# One that accepts nobody: its queue is full.
my $full = IO::Socket::INET->new(Proto => 'tcp', LocalAddr => '127.0.0.1', Listen => 1) or die "listen: $!\n";
my @queue = map {
	IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . $full->sockport(), Blocking => 0)
} 1 .. 8;
is(ask('connect', $local, $full->sockport()), 73, 'a connection that does not come about');
is(ask('poll', $local, $full->sockport(), 'a'), 'value 73', 'the same, polled');
like(ask('clock', $local, $full->sockport(), 1), qr/ 73$/, 'and where it is not waited for');

# More that wait than there are connections. Those of clients count, too.
my @clients = map {
	my $s = connection();
	syswrite $s, "GET /get/$local/$tcp/stall HTTP/1.1\r\nHost: a\r\n\r\n";
	$s;
} 1 .. 16;
ok(wait_until(sub { error_log_count($t, qr/cannot wait for a socket: too few connections are free/) }), 'too many wait');
is(ask('plain'), 'plain', 'a client that does not wait is served');
my $select = IO::Select->new(@clients);
ok((grep { read_reply($_) =~ /fd_read|take\(fd, !keep\) 42/ } $select->can_read(1)), 'some get an error number');
close $_ for @clients;

# All is as it was.
ok(wait_until(sub { sockets_of($pid) < 12 }), 'all sockets are closed') or diag(sockets_of($pid));
is(ask('get', $local, $tcp, 'b') =~ s/.*\r\n//sr, 'hello b', 'guests are served');
like(ask('keep', $local, $tcp, 'c'), qr/hello cnew$/, 'and keep connections');
is(error_log_count($t, qr/\[alert\]|\[crit\]/), 0, 'nothing is wrong');

###############################################################################
