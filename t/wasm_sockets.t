#!/usr/bin/perl

# Guests that reach out: TCP, UDP and unix sockets, blocking and polled, by address and by name.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(27);

$t->write_file_expand('nginx.conf', <<'EOC' =~ s/GUEST/built('c-sockets.wasm')/er);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    resolver 127.0.0.1:%%PORT_8053_UDP%% ipv6=off;
    http_wasm GUEST;
    http_wasm_connect 127.0.0.1:%%PORT_8081%%;
    http_wasm_connect 127.0.0.1:%%PORT_8082_UDP%%;
    http_wasm_connect unix:%%TESTDIR%%/service.sock;
    http_wasm_connect service.example:%%PORT_8081%%;
    http_wasm_connect gone.example:%%PORT_8081%%;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /numbers { http_wasm_isolation request; }
    }
}

EOC

service($t, 8081);
service($t, $t->testdir() . '/service.sock');
datagrams($t, 8082);
names($t, 8053, 'service.example' => [ '127.0.0.1' ]);
$t->run();

###############################################################################

my ($local, $tcp, $udp) = (hex4('127.0.0.1'), port(8081), port(8082, udp => 1));
my $mapped = hex6('::ffff:127.0.0.1');
my $path = tagged(3, $t->testdir() . '/service.sock');
my $ok = qr{^HTTP/1\.1 200 OK\r\n.*\r\n\r\n}s;

sub ask { return content(curl('/' . join '/', @_)) }

like(ask('get', $local, $tcp, 'word'), qr/${ok}hello word$/, 'TCP, a socket that blocks');
like(ask('get', tagged(1, pack('H*', $local)), $tcp, 'a'), qr/${ok}hello a$/, 'an address with its family');
like(ask('get', $mapped, $tcp, 'b'), qr/${ok}hello b$/, 'IPv4 over a socket of IPv6');
like(ask('get', $path, 0, 'c'), qr/${ok}hello c$/, 'a unix socket');
like(ask('poll', $local, $tcp, 'word'), qr/${ok}hello word$/, 'TCP, a socket that is polled');
like(ask('poll', $path, 0, 'd'), qr/${ok}hello d$/, 'a unix socket that is polled');
like(ask('get', $local, $tcp, 'size/60000'), qr/${ok}x{30000}x{30000}$/, 'more than fits into a segment');
is(ask('get', $local, $tcp, 'drip/30'), 'x' x 30, 'one byte at a time');
is(ask('poll', $local, $tcp, 'drip/30'), 'x' x 30, 'the same, polled');
is(ask('udp', $local, $udp, 'text'), "TEXT from $udp", 'a datagram and its answer');

# A connection that stays.
my $first = ask('keep', $local, $tcp, 'peer');
like($first, qr/${ok}\d+new$/, 'a connection of the first request');
my ($peer) = $first =~ /(\d+)new$/;
like(ask('keep', $local, $tcp, 'peer'), qr/${ok}${peer}old$/, 'is there for the second');

# Clocks and sockets in one call.
is(ask('clock', $local, $tcp, '30'), 'clock', 'the clock strikes first');
like(ask('clock', $local, $tcp, '1'), qr/^clock$/, 'whatever its time');

# Names.
like(ask('name', 'service.example', $tcp, 'e'), qr/${ok}hello e$/, 'a name');
like(ask('name', 'SERVICE.example.', $tcp, 'f'), qr/${ok}hello f$/, 'in another spelling');
is(ask('lookup', 'service.example'), 1, 'an address of a name');
is(ask('lookup', 'gone.example'), 44, 'a name that is none');
error_log_like($t, qr/guest "c-sockets": "gone.example" cannot be resolved: Host not found/, 'is logged');
is(ask('lookup', '192.0.2.1'), 1, 'an address is its own name');

# What fails.
like(ask('get', $local, $tcp, 'reset'), qr/^fd_read\b|^take\(.* 15$/, 'a connection that is reset');
is(ask('listen'), '58 58 58', 'guests do not listen');
is(ask('numbers'), 0, 'numbers of descriptors that are nobody\'s');
is(ask('plain'), 'plain', 'the guest goes on living');

# The workers' own descriptors.
my ($pid) = worker_pids($t);
my $before = sockets_of($pid);
ask('get', $local, $tcp, 'again') for 1 .. 20;
# A client's connection may have to be closed yet.
ok(wait_until(sub { sockets_of($pid) <= $before }), 'no socket is left behind');
unlike($t->read_file('error.log'), qr/\[alert\]|\[crit\]/, 'nothing is wrong');
is(error_log_count($t, qr/\[warn\]/), 1, 'and nothing else is said');

###############################################################################
