#!/usr/bin/perl

# A reload while guests wait for sockets: those that are served come to their end, those that are not are closed when
# the old worker's time is over.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(8);

$t->write_file_expand('nginx.conf', <<'EOC' =~ s/GUEST/built('c-sockets.wasm')/egr =~ s/TIME/patience(2)/er);

%%TEST_GLOBALS%%

daemon off;
worker_shutdown_timeout TIMEs;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    resolver 127.0.0.1:%%PORT_8053_UDP%% ipv6=off;

    http_wasm GUEST;
    http_wasm_connect 127.0.0.1:%%PORT_8081%%;
    http_wasm_connect silent.example:%%PORT_8081%%;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
    }
}

EOC

service($t, 8081);
names($t, 8053, 'silent.example' => [ 'silence' ]);
$t->run();

###############################################################################

my ($local, $tcp) = (hex4('127.0.0.1'), port(8081));

is(content(curl('/plain')), 'plain', 'a worker');
my ($old) = worker_pids($t);

sub begin {
	my $s = connection();
	syswrite $s, 'GET /' . join('/', @_) . " HTTP/1.1\r\nHost: a\r\n\r\n";
	return $s;
}

my @served = map { begin($_, $local, $tcp, 'drip/20') } qw/ get poll /;
my @stalled = map { begin($_, $local, $tcp, 'stall') } qw/ get poll /;
my $asks = begin('lookup', 'silent.example');
ok(wait_until(sub { sockets_of($old) >= 11 }), 'guests wait');
ok(wait_until(sub { -e $t->testdir() . '/asked' }), 'one of them for a name');

$t->reload();
like(read_reply($_), qr/\r\n\r\nx{20}$/, 'a guest that is served goes on') for @served;
ok(wait_until(sub { !-e "/proc/$old" }, patience(10)), 'the others are closed with their worker');
is(join('', map { read_reply($_) // '' } @stalled), '', 'without an answer');
is(content(curl("/get/$local/$tcp/word")) =~ s/.*\r\n//sr, 'hello word', 'the next worker serves');
close $asks;

###############################################################################
