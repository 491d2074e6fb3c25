#!/usr/bin/perl

# The test library itself, on nginx without any guest.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT :gzip http_start http_end http_content /;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy rewrite gzip/)->plan(20);

$t->write_file_expand('nginx.conf', <<'EOC');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            return 200 "port %%PORT_8081%%";
        }

        location /proxy/ {
            proxy_http_version 1.1;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /gzip {
            gzip on;
            gzip_min_length 0;
            gzip_types *;
            default_type text/plain;
            return 200 "a text that gzip packs";
        }

        location /body {
            client_max_body_size 10;
            lingering_close off;
            proxy_pass http://127.0.0.1:8080/ok;
        }

        location /dir {
            alias %%TESTDIR%%/files;
        }

            }
}

EOC

mkdir($t->testdir() . '/files');
$t->write_file('files/one.txt', 'one');
$t->run_daemon(\&backend, port(8081));
$t->waitforsocket('127.0.0.1:' . port(8081));
$t->run();

###############################################################################

like($t->read_file('nginx.conf'), qr/listen\s+127.0.0.1:\d+;/, 'expanded');
unlike($t->read_file('nginx.conf'), qr/%%/, 'nothing left to expand');
isnt(port(8080), port(8081), 'two ports');
is(port(8080), port(8080), 'one port');

my $r = http_get('/');
like($r, qr!^HTTP/1.1 200 OK!, 'get');
is(http_content($r), 'port ' . port(8081), 'content');
like(http_head('/'), qr!200 OK.*\r\n\r\n$!s, 'head');
like(http_get('/dir/one.txt'), qr/one$/, 'file');

$r = http("GET /proxy/chunked HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
like($r, qr/Transfer-Encoding: chunked/, 'chunked');
is(http_content($r), 'onetwo', 'chunks joined');

http_gzip_like(http_gzip_request('/gzip'), qr/^a text that gzip packs$/, 'gzip');

my $s = http("GET / HTTP/1.1\r\nHost: localhost\r\n", start => 1);
is(http_content(http("Connection: close\r\n\r\n", socket => $s)), 'port ' . port(8081), 'in two parts');

$s = http_start("POST /body HTTP/1.0\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n", body => 'four');
like(http_end($s), qr/200 OK/, 'body');
like(http("POST /body HTTP/1.0\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n", body => 'more than 4'),
	qr/^HTTP\S+ 413/, 'refused body');

ok($t->has_module('proxy'), 'module');
ok($t->has_version('1.22.0'), 'version reached');
ok(!$t->has_version('99.0.0'), 'version not reached');
like($t->dump_config(), qr/configuration file .*proxy_pass/s, 'dump');

$t->reload();
like(http_get('/'), qr/200 OK/, 'after reload');

$t->stop();
is(http_get('/'), undef, 'stopped');

###############################################################################

sub backend {
	my ($port) = @_;

	my $server = IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 5, ReuseAddr => 1
	) or die "can't listen: $!\n";

	while (my $client = $server->accept()) {
		while (<$client>) {
			last if /^\r\n$/;
		}
		print $client "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
			. "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
		close $client;
	}
}

###############################################################################
