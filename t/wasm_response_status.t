#!/usr/bin/perl

# What a guest makes of status, length and validators of a response whose body it reads, replaces or takes away.

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

my @names = qw/ ETag Last-Modified Accept-Ranges Digest Content-Digest Repr-Digest Content-MD5 /;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(6 * @names + 33);

my %guest = (
	# handle_response of each, in short
	seen => '(drop (call $read_all (i32.const 1) (i32.const 100)))',
	same => '(drop (call $read_all (i32.const 1) (i32.const 100))) (call $body_resp (i32.const 65536) (i32.const 8))',
	other => '(call $body_resp &"another body")',
	own => '(call $body_resp &"another body") (call $set_resp &"etag" &"\22mine\22")',
	none => '(call $body_resp (i32.const 0) (i32.const 0))',
	zero => '(call $set_resp &"Content-Length" &"0")',
	then => '(call $set_resp &"content-length" &"0") (call $body_resp &"written after")',
	wrong => '(call $set_resp &"content-length" &"99") (call $body_resp &"another body")',
	gone => '(call $del_resp &"content-length") (call $body_resp &"another body")',
	204 => '(call $set_status_code (i32.const 204)) (call $body_resp &"must not be sent")',
	304 => '(call $set_status_code (i32.const 304)) (call $body_resp &"must not be sent")',
	201 => '(call $set_status_code (i32.const 201)) (call $body_resp &"made")',
	filled => '(call $set_status_code (i32.const 200)) (call $body_resp &"filled")',
);
my $locations = '';
for my $name (keys %guest) {
	guest($t, "$name.wat", <<EOF);
  (func (export "_initialize") (drop (call \$enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) $guest{$name})
EOF
	$locations .= "location /$name/ { http_wasm $name.wat; proxy_pass http://127.0.0.1:8081/; }\n";
}
# The guest's own responses.
for my $status (204, 304) {
	guest($t, "answer$status.wat", <<EOF);
  (func (export "handle_request") (result i64)
    (call \$set_status_code (i32.const $status)) (call \$body_resp &"must not be sent") (i64.const 0))
EOF
	$locations .= "location /answer/$status { http_wasm answer$status.wat; }\n";
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_http_version 1.1;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS
    }
}

EOF

backend($t);
$t->run();

###############################################################################

my $headers = '/headers?' . join('&', map { "$_=%22x%22" } grep { $_ ne 'Last-Modified' } @names)
	. '&Last-Modified=Sun,%2006%20Nov%201994%2008:49:37%20GMT';

# Kept while the body is the one they speak of.
for my $name (qw/ seen other none own zero same /) {
	my $r = curl("/$name$headers");
	for my $header (@names) {
		my $kept = $name eq 'seen';
		my $value = $name eq 'own' && $header eq 'ETag' ? '"mine"' : $kept ? header(curl("/seen$headers"), $header) : undef;
		is(header($r, $header), $value, "$name: $header " . (defined $value ? $kept ? 'kept' : 'of the guest' : 'dropped'));
	}
}
is(header(curl("/seen$headers"), 'etag'), '"x"', 'seen: the upstream\'s ETag');
like(header(curl("/seen$headers"), 'last-modified'), qr/^Sun, 06 Nov 1994/, 'seen: the upstream\'s Last-Modified');

my %body = (seen => "headers\n", other => 'another body', own => 'another body', none => '', zero => '',
	then => 'written after', wrong => 'another body', gone => 'another body', same => "headers\n");
for my $name (sort keys %body) {
	my $r = curl("/$name$headers");
	is(content($r), $body{$name}, "$name: body");
	is(header($r, 'content-length'), length $body{$name}, "$name: length");
}

# A status without a body: none is sent, and the connection stays in step.
for my $uri (qw{ /204/size/10 /304/size/10 /answer/204 /answer/304 }) {
	my ($status) = $uri =~ /([23]04)/;
	my @r = replies("GET $uri HTTP/1.1\r\nHost: localhost\r\n\r\nGET /201/size/10 HTTP/1.1\r\nHost: localhost\r\n\r\n", 2);
	is(status($r[0]), $status, "$uri: status");
	is(status($r[1]) . content($r[1]), '201made', "$uri: connection in step");
}
error_log_like($t, qr/\[warn\].*204.*has no body/, 'a body for nothing is logged');

# The upstream had none: the guest's status and body.
my $r = curl('/filled/status/204');
is(status($r), 200, '204 made 200');
is($r->{exit}, 0, '204 made 200, complete');

is(error_log_count($t, qr/\[(?:crit|alert|emerg)\]/), 0, 'no trouble');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################
