#!/usr/bin/perl

# A client that goes away: each begun exchange ends once, with is_error, and the instance is free again.

###############################################################################

use warnings;
use strict;

use JSON::PP;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(10);

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
            http_wasm trace.wat config=streams;
            proxy_pass http://127.0.0.1:8081;
        }

        location /held/ {
            http_wasm trace.wat config=holds;
            proxy_pass http://127.0.0.1:8081/;
        }

        location = /counts {
            http_wasm_status;
        }

        location /read/ {
            http_wasm read.wat;
            proxy_pass http://127.0.0.1:8081/;
        }
    }
}

EOF

# Logs how it ends; changes made after an error must do no harm. Configured "holds" it has buffer_response.
guest($t, 'trace.wat', <<'EOF');
  (global $calls (mut i32) (i32.const 0))
  (func (export "_initialize")
    (if (i32.eq (call $get_config (i32.const 0) (i32.const 0)) (i32.const 5))
      (then (drop (call $enable_features (i32.const 2))))))
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"begin")
    (i64.const 1))
  (func (export "handle_response") (param $ctx i32) (param $error i32)
    (if (local.get $error)
      (then
        (call $log (i32.const 0) &"end with error")
        (call $set_resp &"x-ignored" &"1")
        (call $set_status_code (i32.const 200))
        (if (i32.eq (call $get_config (i32.const 0) (i32.const 0)) (i32.const 5))
          (then (call $body_resp &"ignored"))))
      (else (call $log (i32.const 0) &"end in peace"))))
EOF
guest($t, 'read.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"reads")
    (drop (call $read_all (i32.const 0) (i32.const 100)))
    (call $log (i32.const 0) &"has read")
    (i64.const 1))
EOF

backend($t);
$t->run();

###############################################################################

my $n = 0;

for my $uri ('/barrier/99', '/held/barrier/98') {
	my $s = http("GET $uri HTTP/1.1\r\nHost: localhost\r\n\r\n", start => 1);
	$n++;
	wait_until(sub { passed() == $n });
	close $s;
	ok(wait_until(sub { error_log_count($t, qr/end with error/) == $n }), "$uri: ended with an error");
}

my $s = http("GET /held/hold HTTP/1.1\r\nHost: localhost\r\n\r\n", start => 1);
wait_until(sub { passed() == 3 });
close $s;
ok(wait_until(sub { error_log_count($t, qr/end with error/) == 3 }), 'while a body is collected');

is(status(curl('/status/200')), 200, 'worker serves on');
ok(wait_until(sub { error_log_count($t, qr/end in peace/) == 1 }), 'and ends in peace');
is(content(curl('/held/size/3')), '012', 'held ones too');

$s = http("POST /read/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345", start => 1);
ok(wait_until(sub { error_log_count($t, qr/reads/) == 1 }), 'waits for a body');
is(status(curl('-d', 'x', '/read/')), 200, 'others are served meanwhile');
close $s;
is(status(curl('-d', 'x', '/read/')), 200, 'and after it was given up');

$t->stop();
is(error_log_count($t, qr/end (?:with|in)/) . ' ' . error_log_count($t, qr/has read/), '5 2', 'every exchange ended once');

###############################################################################

# Requests whose guest has said next.
sub passed {
	my $sum = 0;
	$sum += $_->{passed} for @{ decode_json(content(http_get('/counts?format=json')))->{guests} };
	return $sum;
}

###############################################################################
