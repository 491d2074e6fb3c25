#!/usr/bin/perl

# A guest in Go with net/http: connections that are kept over requests, several at a time, names, redirects, and
# services that are slow, silent or gone.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(19);

$t->write_file_expand('nginx.conf', <<'EOC' =~ s/GUEST/built('go-fetch.wasm')/egr);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    resolver 127.0.0.1:%%PORT_8053_UDP%%;
    http_wasm_timeout 10s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            http_wasm GUEST name=fetch;
            http_wasm_pool max=1;
            http_wasm_sockets timeout=1s;
            http_wasm_connect 127.0.0.1:%%PORT_8081%%;
            http_wasm_connect service.example:%%PORT_8081%%;
        }

        location /none { }
    }

    server {
        listen       127.0.0.1:8080;
        server_name  many;

        http_wasm GUEST name=many;
        http_wasm_connect 127.0.0.1:%%PORT_8081%%;
    }
}

EOC

service($t, 8081);
names($t, 8053, 'service.example' => [ '127.0.0.1' ], 'local.example' => [ '127.0.0.1' ]);
$t->run();

###############################################################################

my ($tcp, $other) = (port(8081), port(8082));

sub fetch { return content(curl("/fetch?http://$_[0]")) }

is(fetch("127.0.0.1:$tcp/a"), '200 new hello a', 'a connection');
is(fetch("127.0.0.1:$tcp/b"), '200 reused hello b', 'is used again by the next request');
my ($peer) = fetch("127.0.0.1:$tcp/peer") =~ /^200 reused (\d+)$/;
is(fetch("127.0.0.1:$tcp/peer"), "200 reused $peer", 'and by the one after it');
is(fetch("service.example:$tcp/c"), '200 new hello c', 'a name');
like(fetch("127.0.0.1:$tcp/size/200000"), qr/^200 reused x{100}/, 'a long answer');

is(content(curl("/both?http://127.0.0.1:$tcp/d+http://127.0.0.1:$tcp/e")) =~ s/new|reused/any/gr,
	"200 any hello d\n200 any hello e", 'two at the same time');

# The other side has closed a connection that nobody has looked at.
like(fetch("127.0.0.1:$tcp/last"), qr/^200 \w+ hello last$/, 'the last of a connection');
like(fetch("127.0.0.1:$tcp/next"), qr/^200 \w+ hello next$/, 'the next request takes another one');

# What is not allowed.
like(fetch("127.0.0.1:$other/"), qr/connect: Permission denied/, 'another port');
like(fetch("local.example:$tcp/"), qr/getaddrinfo: Permission denied/, 'another name');
like(fetch("127.0.0.1:$tcp/to/127.0.0.1:$other/"), qr/connect: Permission denied/, 'where a redirect leads');
like(fetch("127.0.0.1:$tcp/to/127.0.0.1:$tcp/f"), qr/^200 \w+ hello f$/, 'a redirect to what is allowed');
error_log_like($t, qr/guest "fetch": may not connect to 127\.0\.0\.1:$other \(see http_wasm_connect\)/, 'is logged');

# What fails.
like(fetch("127.0.0.1:$tcp/reset"), qr/EOF|reset/i, 'a connection that is reset');
like(fetch("127.0.0.1:$tcp/stall"), qr/not pollable|deadline|Timeout/i, 'a service that does not speak');
is(fetch("127.0.0.1:$tcp/g") =~ s/new|reused/any/r, '200 any hello g', 'the guest goes on living');

# Many clients, each with an instance of its own; slow ones keep nobody waiting.
my @slow = map { my $s = connection(); syswrite $s, "GET /fetch?http://127.0.0.1:$tcp/stall HTTP/1.1\r\nHost: many\r\n\r\n"; $s } 1 .. 10;
is(content(curl('-H', 'Host: many', "/fetch?http://127.0.0.1:$tcp/h")), '200 new hello h', 'while ten wait');
close $_ for @slow;
my ($pid) = worker_pids($t);
ok(wait_until(sub { sockets_of($pid) < 25 }), 'their sockets are closed');
unlike($t->read_file('error.log'), qr/\[alert\]|\[crit\]/, 'nothing is wrong');

###############################################################################
