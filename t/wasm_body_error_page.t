#!/usr/bin/perl

# A request body that nginx cannot read, while a guest waits for it, and an error page that is a location of its own:
# nginx begins anew there, and nobody waits for the body any more.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(15);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    client_max_body_size 1k;
    error_page 413 /sorry;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /read { http_wasm read.wat; proxy_pass http://127.0.0.1:8081; }
        location /buffered { http_wasm buffered.wat; proxy_pass http://127.0.0.1:8081; }

        location /again {
            error_page 413 /again/sorry;
            http_wasm buffered.wat name=again;
            proxy_pass http://127.0.0.1:8081;
        }

        location /other {
            error_page 413 /reads;
            http_wasm buffered.wat name=other;
            proxy_pass http://127.0.0.1:8081;
        }

        # A guest that reads what is left of the body.
        location /reads { http_wasm read.wat name=reads; proxy_pass http://127.0.0.1:8081; }

        location /sorry { proxy_pass http://127.0.0.1:8081; }
        location /quick { http_wasm read.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

guest($t, 'read.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_req &"x-length" (call $dec (call $read_all (i32.const 0) (i32.const 100))))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $add_resp &"x-response" &"read"))
EOF

guest($t, 'buffered.wat', <<'EOF');
  (start $start)
  (func $start (drop (call $enable_features (i32.const 1))))
  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $add_resp &"x-response" &"buffered"))
EOF

backend($t);
$t->run();


###############################################################################

# In two parts, so that the guest is waiting when the body turns out too large.
sub too_large {
	my ($uri) = @_;

	my $s = http("POST $uri HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
		. "200\r\n" . 'x' x 512 . "\r\n", start => 1);
	is(status(http_get('/quick')), 200, "$uri: waits");
	print $s "400\r\n" . 'x' x 1024 . "\r\n0\r\n\r\n";
	return Test::Nginx::http_end($s);
}

my $r = too_large('/read');
is(status($r), 413, 'a guest that reads');
like($r, qr/^GET \/sorry HTTP/m, 'the page');
is(header($r, 'X-Response'), undef, 'its call did not return: nothing is owed');
like($r, qr/^body 0 /m, 'no part of the body goes anywhere');

$r = too_large('/buffered');
is(status($r), 413, 'a guest that said next');
like($r, qr/^GET \/sorry HTTP/m, 'the page');
is(() = $r =~ /x-response: buffered/gi, 1, 'and is called for it once');

$r = too_large('/again');
is(status($r), 413, 'the page in the same location');
is(() = $r =~ /x-response: buffered/gi, 1, 'the guest is not started again');

# Half a body is never seen as a whole one.
$r = too_large('/other');
is(status($r), 500, 'a guest that reads what is not there');
is(error_log_count($t, qr/guest "reads": handle_request: .*was not received whole/), 1, 'logged');

###############################################################################
