#!/usr/bin/perl

# What the next handler gets of a request body: proxy_pass with and without request buffering, a second upstream
# after a failed one, FastCGI, static files; and how much of one a guest may write.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

use Digest::SHA qw/ sha256_hex /;

eval { require FCGI; 1 } or plan(skip_all => 'FCGI not installed');

my $t = Test::Nginx->new()->has(qw/http proxy fastcgi rewrite/)->plan(68);

my $locations = join '', map { my $guest = $_; <<'EOF' =~ s/GUEST/$guest/gr } qw/ read twice nothing /;

        location /GUEST/ {
            http_wasm GUEST.wat;

            location /GUEST/proxy {
                proxy_pass http://127.0.0.1:8081;
            }

            location /GUEST/direct {
                proxy_pass http://127.0.0.1:8081;
                proxy_http_version 1.1;
                proxy_request_buffering off;
            }

            location /GUEST/retried {
                proxy_pass http://retried;
                proxy_next_upstream error non_idempotent;
            }

            location /GUEST/fastcgi {
                fastcgi_pass 127.0.0.1:8083;
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param CONTENT_LENGTH $content_length;
            }

            location /GUEST/static/ {
                alias %%TESTDIR%%/;
            }
        }
EOF

# Nobody listens on 8082.
$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    client_body_buffer_size 1k;
    client_max_body_size 100k;

    upstream retried {
        server 127.0.0.1:8082;
        server 127.0.0.1:8081 backup;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /limit {
            http_wasm twice.wat;
            client_max_body_size 10k;
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

guest($t, 'read.wat', <<'EOF');
  (func (export "handle_request") (result i64) (drop (call $read_all (i32.const 0) (i32.const 999))) (i64.const 1))
EOF
# The body two times over.
guest($t, 'twice.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $n i32)
    (local.set $n (call $read_all (i32.const 0) (i32.const 999)))
    (call $body_req (i32.const 65536) (local.get $n))
    (call $body_req (i32.const 65536) (local.get $n))
    (i64.const 1))
EOF
guest($t, 'nothing.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $body_req (i32.const 0) (i32.const 0)) (i64.const 1))
EOF

$t->write_file('page.html', 'a static page');
$t->run_daemon(\&responder, '127.0.0.1:' . port(8083));
$t->waitforsocket('127.0.0.1:' . port(8083)) or die "responder does not listen\n";
backend($t);
$t->run();

###############################################################################

my %made = (read => sub { $_[0] }, twice => sub { $_[0] x 2 }, nothing => sub { '' });

for my $guest (qw/ read twice nothing /) {
	for my $size (4, 40_000) {
		my $body = join '', map { chr(97 + $_ % 26) } 1 .. $size;
		my $passed = $made{$guest}->($body);
		my ($length, $digest) = (length $passed, sha256_hex($passed));

		for my $chunked (0, 1) {
			my $kind = ($chunked ? 'chunked ' : '') . "body of $size bytes";
			for my $to (qw/ proxy direct retried fastcgi /) {
				my $seen = content(post("/$guest/$to", $body, $chunked));
				my @is = $seen =~ /^(?:Content-Length|CONTENT_LENGTH): (.*)$/m;
				is("@is, " . ($seen =~ /^(body .*)$/m ? $1 : ''), "$length, body $length $digest", "$guest, $to, $kind");
			}
		}
		my @r = replies("GET /$guest/static/page.html HTTP/1.1\r\nHost: localhost\r\nContent-Length: $size\r\n\r\n$body" x 2, 2);
		is(join(' ', map { status($_) . ' ' . content($_) } @r), '200 a static page 200 a static page',
			"$guest, static file, two GET with $size bytes");
		is(status(post("/$guest/static/page.html", $body)), 405, "$guest, static file, POST of $size bytes");
	}
}

unlike(content(http_get('/read/proxy')), qr/^Content-Length/m, 'no length where there is no body');
like(content(http_get('/twice/direct')), qr/^body 0 /m, 'nothing, two times');

is(status(post('/limit', 'x' x 5120)), 200, 'client_max_body_size allows a guest as much');
my $r = post('/limit', 'x' x 5121);
is(status($r), 500, 'but not more');
error_log_like($t, qr/\[error\].*twice.*write_body.*client_max_body_size/, 'and the log says why');

# Framing is exact: no byte of a body is taken for a request.
is(error_log_count($t, qr/invalid (?:method|request|header)/), 0, 'connections in step');
is(status(http_get('/read/static/page.html')), 200, 'worker serves on');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

sub post {
	my ($uri, $body, $chunked) = @_;
	my $length = length $body;
	my $framed = $chunked ? sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", $length, $body)
		: "Content-Length: $length\r\n\r\n$body";
	return http("POST $uri HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n$framed");
}

# FastCGI: the parameters, then length and digest of the body.
sub responder {
	my ($address) = @_;
	my %env;
	my $socket = FCGI::OpenSocket($address, 511);
	my $request = FCGI::Request(\*STDIN, \*STDOUT, \*STDERR, \%env, $socket);

	while ($request->Accept() >= 0) {
		my $body = '';
		1 while read STDIN, $body, 65536, length $body;
		print "Content-Type: text/plain\r\n\r\n", map({ "$_: $env{$_}\n" } sort keys %env),
			sprintf("body %d %s\n", length $body, sha256_hex($body));
	}
	return;
}

###############################################################################
