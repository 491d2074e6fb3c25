#!/usr/bin/perl

# A guest that keeps state between its two calls, under concurrency: each answer is about its own request, and no
# instance holds two requests.

###############################################################################

use warnings;
use strict;

use IO::Socket::INET;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $CONNECTIONS = 50;
my $ROUNDS = 20;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(6);

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
    worker_connections 512;
}

http {
    %%TEST_GLOBALS_HTTP%%
    keepalive_requests 1000;
    http_wasm @{[ built('go-state.wasm') ]};

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            proxy_pass http://127.0.0.1:8081;
        }

        location /silent {
            proxy_pass http://127.0.0.1:8082;
        }
    }
}

EOF

backend($t);
$t->run_daemon(\&silent, port(8082));
$t->waitforsocket('127.0.0.1:' . port(8082));
$t->run();

###############################################################################

# The backend holds every answer until all requests of a round are with it, so that each round has that many
# requests between their two calls at the same time.

my @connections = map { connection() } 1 .. $CONNECTIONS;
my %seen = (status => {}, value => {}, in_flight => {}, first => {});

for my $round (1 .. $ROUNDS) {
	round($round) or last;
}

my $requests = $CONNECTIONS * $ROUNDS;
is_deeply($seen{status}, { 200 => $requests }, 'all served');
is_deeply($seen{value}, { right => $requests }, 'every answer about its own request');
is_deeply($seen{in_flight}, { 1 => $requests }, 'one request per instance');
is($seen{first}{yes}, $CONNECTIONS, 'as many instances as requests at a time');

# A client that goes away while its request is with the backend ends the request for the guest too.
my $gone = connection();
syswrite $gone, "GET /silent HTTP/1.1\r\nHost: localhost\r\nX-Value: gone\r\n\r\n";
$t->waitforfile($t->testdir() . '/arrived');
close $gone;
error_log_like($t, qr/client prematurely closed connection/, 'a client has gone');

%{ $seen{$_} } = () for keys %seen;
round($ROUNDS + 1);
is_deeply($seen{in_flight}, { 1 => $CONNECTIONS }, 'no instance left with its request');

###############################################################################

sub round {
	my ($round) = @_;

	for my $i (0 .. $#connections) {
		syswrite $connections[$i], "GET /barrier/$CONNECTIONS HTTP/1.1\r\nHost: localhost\r\n"
			. "X-Value: $round-$i\r\n\r\n";
	}
	for my $i (0 .. $#connections) {
		# One that does not come is enough to fail, and the others would be waited for as long.
		my $r = read_reply($connections[$i]) // return;
		my $value = header($r, 'X-Remembered') // '';
		$seen{status}{status($r)}++;
		$seen{value}{$value eq "$round-$i" ? 'right' : "wrong: $value"}++;
		$seen{in_flight}{header($r, 'X-In-Flight') // 'none'}++;
		$seen{first}{yes}++ if (header($r, 'X-Calls') // 0) == 1;
	}
	return 1;
}

# Takes a request, says so, and never answers.
sub silent {
	my ($port) = @_;

	my $server = IO::Socket::INET->new(Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 5, ReuseAddr => 1)
		or die "can't listen: $!\n";
	while (my $client = $server->accept()) {
		my $request = '';
		1 while sysread($client, $request, 4096, length $request) && $request !~ /\r\n\r\n/;
		$t->write_file('arrived', '') if $request;
		1 while sysread $client, $request, 4096;
	}
}

###############################################################################
