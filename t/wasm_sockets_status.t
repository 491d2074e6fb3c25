#!/usr/bin/perl

# What operators see of guests' connections: the status in its three formats, variables, and the log.

###############################################################################

use warnings;
use strict;

use JSON::PP;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Outside;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http/)->plan(22);

$t->write_file_expand('nginx.conf', <<'EOC' =~ s/GUEST/built('c-sockets.wasm')/egr);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format sockets "$wasm_socket_failed|$wasm_socket_refused|$wasm_socket_sent|$wasm_socket_received|$wasm_socket_time";

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        access_log %%TESTDIR%%/sockets.log sockets;

        http_wasm GUEST name=guest;
        http_wasm_connect 127.0.0.1;
        http_wasm_sockets timeout=100ms;

        location /status { http_wasm off; http_wasm_status; access_log off; }
        location /silent { http_wasm GUEST name=silent; }
    }
}

EOC

service($t, 8081);
$t->run();

###############################################################################

my ($local, $tcp) = (hex4('127.0.0.1'), port(8081));

my $asked = 0;

sub ask { $asked += $_[0] !~ /status/; return content(curl('/' . join '/', @_)) }

# The line of the last request, which may come after the client has its answer.
sub logged {
	my $lines = wait_until(sub { my @lines = split /\n/, $t->read_file('sockets.log'); @lines == $asked && \@lines });
	return $lines->[-1];
}

like(ask('keep', $local, $tcp, 'word'), qr/hello wordnew$/, 'a connection that stays');
my ($failed, $refused, $sent, $received, $time) = split /\|/, logged();
is("$failed $refused", '0 0', 'nothing failed, nothing was refused');
is($sent, length "GET /word HTTP/1.1\r\nHost: a\r\n\r\n", 'what was sent');
is($received, length "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello word", 'what was received');
like($time, qr/^0\.0\d{5}$/, 'what was waited for');

like(ask('get', $local, $tcp, 'stall'), qr/ 73$/, 'a service that does not speak');
cmp_ok((split /\|/, logged())[4], '>=', 0.1, 'was waited for');
is(ask('connect', $local, port(8082)), 14, 'a service that is not there');
is((split /\|/, logged())[0], 1, 'has failed');
error_log_like($t, qr/guest "guest": cannot connect to 127\.0\.0\.1:\d+: connection refused/, 'is logged');
is(ask('connect', hex4('192.0.2.1'), 80), 2, 'a service that is not allowed');
is((split /\|/, logged())[1], 1, 'was refused');
is(ask('silent', 'plain'), 'plain', 'a guest without connections');
is(logged(), '0|0|0|0|0.000000', 'has none');

my ($guest) = grep { $_->{name} eq 'guest' } @{ decode_json(ask('status?format=json'))->{guests} };
my $sockets = $guest->{sockets};
# One is kept, and two that did not lead anywhere.
is_deeply([ map { $sockets->{$_} } qw/ open connected refused failed / ], [ 4, 2, 1, 1 ], 'the status counts them')
	or diag(explain($sockets));
is($sockets->{received_bytes}, $received, 'what was received');
cmp_ok($sockets->{sent_bytes}, '>', $sent, 'what was sent');
cmp_ok($sockets->{wait_seconds}, '>=', 0.1, 'what was waited for');

my $metrics = ask('status?format=prometheus');
like($metrics, qr/^http_wasm_sockets\{guest="guest"\} 4$/m, 'for Prometheus');
like($metrics, qr/^http_wasm_connections_total\{guest="guest",outcome="refused"\} 1$/m, 'as well');
my $page = ask('status');
like($page, qr{<dt>Connections</dt><dd>4 open, 2 made, 1 refused, 1 failed; sent}, 'for people');
is(() = $page =~ m{<dt>Connections</dt>}g, 1, 'where there are any');

###############################################################################
