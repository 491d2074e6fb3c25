#!/usr/bin/perl

# FastCGI parameters and body are those the guest left.

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

my $t = Test::Nginx->new()->has(qw/http fastcgi/)->plan(13);

$t->write_file_expand('nginx.conf', <<'EOF');

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
            http_wasm edit.wat;
            fastcgi_pass 127.0.0.1:8081;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param DOCUMENT_URI $document_uri;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param CONTENT_TYPE $content_type;
        }
    }
}

EOF

guest($t, 'edit.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_method &"PUT")
    (call $set_uri &"/new%20path?b=2")
    (call $set_req &"x-set" &"new")
    (call $add_req &"x-many" &"two")
    (call $del_req &"x-gone")
    (call $set_req &"content-type" &"text/guest")
    (call $body_req &"written by the guest")
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-status" (call $dec (call $get_status_code))))
EOF

$t->run_daemon(\&responder, port(8081));
$t->waitforsocket('127.0.0.1:' . port(8081));
$t->run();

###############################################################################

my $r = curl('-d', 'old', '-H', 'X-Set: old', '-H', 'X-Many: one', '-H', 'X-Gone: 1', '/old?a=1');

is(status($r), 201, 'status');
is(header($r, 'x-status'), 201, 'status seen');
my %param = map { split /=/, $_, 2 } split /\n/, $r->{body};

is($param{REQUEST_METHOD}, 'PUT', 'method');
is($param{REQUEST_URI}, '/new%20path?b=2', 'URI');
is($param{DOCUMENT_URI}, '/new path', 'path');
is($param{QUERY_STRING}, 'b=2', 'query');
is($param{CONTENT_LENGTH}, 20, 'length');
is($param{CONTENT_TYPE}, 'text/guest', 'type');
is($param{HTTP_X_SET}, 'new', 'header set');
# nginx joins several lines of one header since 1.23.0; before, the last line counts.
like($param{HTTP_X_MANY}, qr/two$/, 'header added');
is($param{HTTP_X_GONE}, undef, 'header removed');
is($param{body}, 'written by the guest', 'body');

is(status(http_get('/')), 201, 'no body at first');

###############################################################################

# Answers each request with its parameters and its body, a line each.
sub responder {
	my ($port) = @_;

	my $server = IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 5, ReuseAddr => 1
	) or die "can't listen: $!\n";

	while (my $client = $server->accept()) {
		my ($params, $body) = ('', '');
		while (8 == read $client, my $header, 8) {
			my (undef, $type, undef, $length, $padding) = unpack 'CCnnC', $header;
			read $client, my $content, $length + $padding;
			$params .= substr $content, 0, $length if $type == 4;
			$body .= substr $content, 0, $length if $type == 5;
			last if $type == 5 && $length == 0;
		}

		my $text = "Status: 201 Made\r\nContent-Type: text/plain\r\n\r\n";
		while (length $params) {
			my @length = map {
				unpack('C', $params) & 0x80
					? unpack('N', substr $params, 0, 4, '') & 0x7fffffff
					: unpack('C', substr $params, 0, 1, '')
			} 1 .. 2;
			my ($name, $value) = map { substr $params, 0, $_, '' } @length;
			$text .= "$name=$value\n";
		}
		$text .= "body=$body\n";
		print $client pack('CCnnCx', 1, 6, 1, length $text, 0), $text, pack('CCnnCx', 1, 6, 1, 0, 0),
			pack('CCnnCx', 1, 3, 1, 8, 0), pack('NCx3', 0, 0);
		close $client;
	}
}

###############################################################################
