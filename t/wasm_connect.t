#!/usr/bin/perl

# What guests may connect to: nothing but what the configuration names, however an address is spelled, whatever a name
# comes to resolve to. What is refused is logged, not again and again.

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

my $t = Test::Nginx->new()->has(qw/http/);

$t->write_file_expand('nginx.conf', <<'EOC' =~ s/GUEST/built('c-sockets.wasm')/er);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm GUEST;
    http_wasm_sockets max=100 connect_timeout=200ms;

    server {
        listen       127.0.0.1:8080;
        server_name  none;

        location /open/1 { http_wasm_connect 127.0.0.1:1; location /open/1/off { http_wasm_connect off; } }
    }

    server {
        listen       127.0.0.1:8080;
        server_name  all;

        http_wasm_connect 0.0.0.0/0;
        http_wasm_connect ::/0;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  one;

        http_wasm_connect 127.0.0.1:%%PORT_8081%%;
        http_wasm_connect unix:%%TESTDIR%%/service.sock;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  names;

        resolver 127.0.0.1:%%PORT_8053_UDP%%;
        resolver_timeout 300ms;
        http_wasm_connect moves.example:%%PORT_8081%%;
        http_wasm_connect silent.example:%%PORT_8081%%;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  nobody;

        http_wasm_connect moves.example:%%PORT_8081%%;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  few;

        http_wasm_sockets max=3;
        http_wasm_connect 127.0.0.1:%%PORT_8081%%;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  strict;

        http_wasm_strict on;
        http_wasm_connect 127.0.0.1:%%PORT_8081%%;
    }
}

EOC

service($t, 8081);
service($t, $t->testdir() . '/service.sock');
service($t, $t->testdir() . '/other.sock');
names($t, 8053,
	'moves.example' => [ '192.0.2.1', '127.0.0.1' ],
	'silent.example' => [ 'silence' ],
);
$t->plan(76);
$t->run();

###############################################################################

my ($local, $tcp) = (hex4('127.0.0.1'), port(8081));

sub ask_at {
	my ($server, @path) = @_;
	return content(curl('-H', "Host: $server", '/' . join '/', @path));
}

# Nothing.
is(ask_at('none', 'open', '2'), '0 76', 'no socket without a rule');
error_log_like($t, qr/guest "c-sockets": opens a socket and may not connect to anything \(see http_wasm_connect\)/,
	'is logged');
is(ask_at('none', 'connect', $local, $tcp), 'sock_open(family, datagram ? DATAGRAM : STREAM, &fd) 76', 'no connection');
is(ask_at('none', 'lookup', 'moves.example'), 2, 'no name is looked up');
is(ask_at('none', 'plain'), 'plain', 'a guest that imports the functions and does not call them');
is(ask_at('none', 'open', '1'), '1 0', 'a location with a rule');
is(ask_at('none', 'open', '1', 'off'), '0 76', 'and one inside of it without');
is(ask_at('strict', 'open', '1'), '0 76', 'guests that see the same everywhere see nobody');

# Special addresses in all spellings, where all others are allowed.
my @v4 = qw/ 127.0.0.1 127.0.0.2 127.255.255.254 0.0.0.0 0.0.0.1 169.254.169.254 224.0.0.1 240.0.0.1 255.255.255.255 /;
for (@v4) {
	is(ask_at('all', 'connect', hex4($_), $tcp), 2, $_);
	is(ask_at('all', 'connect', tagged(1, pack('H*', hex4($_))), $tcp), 2, "$_ with its family");
	is(ask_at('all', 'connect', hex6("::ffff:$_"), $tcp), 2, "$_ as IPv6");
}
for (qw/ ::1 :: ::127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b:1::127.0.0.1 2002:7f00:1:: fe80::1 ff02::1 /) {
	is(ask_at('all', 'connect', hex6($_), $tcp), 2, $_);
}
is(ask_at('all', 'sendto', $local, $tcp), 2, 'datagrams neither');
is(ask_at('all', 'connect', tagged(3, $t->testdir() . '/service.sock'), 0), 2, 'nor unix sockets');
error_log_like($t, qr/guest "c-sockets": may not connect to 169\.254\.169\.254:\d+ \(see http_wasm_connect\)/, 'is logged');

# One address.
is(ask_at('one', 'connect', $local, $tcp), 0, 'the address that is named');
is(ask_at('one', 'connect', hex4('0.0.0.0'), $tcp), 0, 'in other words');
is(ask_at('one', 'connect', $local, $tcp + 1), 2, 'another port');
is(ask_at('one', 'connect', hex4('127.0.0.2'), $tcp), 2, 'another address');
is(ask_at('one', 'connect', $local, 65536 + $tcp), 28, 'a number that is no port');
is(ask_at('one', 'connect', tagged(3, $t->testdir() . '/service.sock'), 0), 0, 'the path that is named');
for ('/other.sock', '//service.sock', '/./service.sock') {
	is(ask_at('one', 'connect', tagged(3, $t->testdir() . $_), 0), 2, "another path, $_");
}

# Names.
is(ask_at('names', 'lookup', 'moves.example'), 1, 'addresses of this machine are left out of what a name resolves to');
is(ask_at('names', 'connect', $local, $tcp), 2, 'and are not what it stands for');
isnt(ask_at('names', 'connect', hex4('192.0.2.1'), $tcp), 2, 'the other one is');
is(ask_at('names', 'connect', hex4('192.0.2.2'), $tcp), 2, 'an address that it does not resolve to');
is(ask_at('names', 'connect', hex4('192.0.2.1'), $tcp + 1), 2, 'an address that it resolves to on another port');
set_names($t, 'moves.example' => [ '192.0.2.2', '127.0.0.1' ], 'silent.example' => [ 'silence' ]);
ok(wait_until(sub { ask_at('names', 'connect', hex4('192.0.2.2'), $tcp) ne 2 }), 'it has moved');
is(ask_at('names', 'connect', hex4('192.0.2.1'), $tcp), 2, 'what it resolved to before is nothing any more');
is(ask_at('names', 'connect', $local, $tcp), 2, 'this machine is not where it can move to');
is(ask_at('names', 'lookup', 'secret.evil.example'), 2, 'a name that is in no rule');
unlike($t->read_file('asked'), qr/evil/, 'nobody is asked for');
is(ask_at('names', 'lookup', 'silent.example'), 73, 'nobody answers');
error_log_like($t, qr/"silent.example" cannot be resolved: timed out \(see resolver_timeout\)/, 'is logged');
is(ask_at('nobody', 'lookup', 'moves.example'), 52, 'nobody to ask');
error_log_like($t, qr/"moves.example" cannot be resolved: there is no "resolver"/, 'is logged with the directive');

# Not again and again.
my $before = error_log_count($t, qr/127\.0\.0\.9:$tcp/);
ask_at('one', 'connect', hex4('127.0.0.9'), $tcp) for 1 .. 40;
cmp_ok(error_log_count($t, qr/127\.0\.0\.9:$tcp/), '<', 20, 'not every attempt is logged');

# Limits.
is(ask_at('few', 'open', 5), '3 33', 'as many sockets as an instance may have');

$t->stop();

# Words that are no rules.
my $conf = $t->read_file('nginx.conf');
sub refused {
	my ($word, $expected) = @_;
	(my $bad = $conf) =~ s/http_wasm_connect ::.0;/http_wasm_connect $word;/;
	like((nginx_test($t, $bad))[0], $expected, "the rule $word");
}
refused('example.com', qr/invalid value "example.com": expected a port behind the host.* in \S+:\d+$/m);
refused('10.0.0.1/8', qr/invalid value "10.0.0.1\/8": expected an address that has only zeroes behind its mask of 8 bits/);
refused('off', qr/"http_wasm_connect off" cannot stand beside other "http_wasm_connect"/);
refused('0.0.0.0/0', qr/"http_wasm_connect 0.0.0.0\/0" is duplicate/);

###############################################################################
