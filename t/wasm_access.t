#!/usr/bin/perl

# Guests run before nginx's own access checks and neither replace them nor are skipped by them.

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

my $t = Test::Nginx->new()->has(qw/http proxy access auth_basic auth_request/)->plan(19);

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

        http_wasm mark.wat;
        auth_basic_user_file %%TESTDIR%%/htpasswd;

        location /deny {
            deny all;
            proxy_pass http://127.0.0.1:8081;
        }

        location /any/deny {
            satisfy any;
            deny all;
            auth_basic closed;
            proxy_pass http://127.0.0.1:8081;
        }

        location /any/allow {
            satisfy any;
            allow all;
            auth_basic closed;
            proxy_pass http://127.0.0.1:8081;
        }

        location /all {
            allow all;
            auth_basic closed;
            proxy_pass http://127.0.0.1:8081;
        }

        location /answer {
            http_wasm answer.wat;
            satisfy any;
            allow all;
            auth_basic closed;
            proxy_pass http://127.0.0.1:8081;
        }

        location /header {
            http_wasm header.wat;
            auth_basic closed;
            proxy_pass http://127.0.0.1:8081;
        }

        location /request {
            http_wasm header.wat;
            auth_request /check;
            proxy_pass http://127.0.0.1:8081;
        }

        location /check {
            http_wasm off;
            proxy_pass http://127.0.0.1:8081/status/401;
        }
    }
}

EOF

guest($t, 'mark.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $set_req &"x-guest" &"1") (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-status" (call $dec (call $get_status_code))))
EOF
guest($t, 'answer.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_status_code (i32.const 403))
    (call $body_resp &"the guest says no")
    (i64.const 0))
EOF
# Logs in: user "a", password "b".
guest($t, 'header.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_req &"authorization" &"Basic YTpi")
    (i64.const 1))
EOF

$t->write_file('htpasswd', "a:{PLAIN}b\n");
backend($t);
$t->run();

###############################################################################

my @login = ('-u', 'a:b');

is(status(curl('/deny')), 403, 'denied');
is(header(curl('/deny'), 'x-status'), 403, 'guest sees it');

my $r = curl('/any/deny');
is(status($r), 401, 'satisfy any is not satisfied by a guest');
is(header($r, 'x-status'), 401, 'guest sees it');
like(header($r, 'www-authenticate'), qr/closed/, 'with its header');
$r = curl(@login, '/any/deny');
is(status($r), 200, 'satisfied by a password');
like($r->{body}, qr/^x-guest: 1$/m, 'guest ran');

$r = curl('/any/allow');
is(status($r), 200, 'satisfied by an address');
like($r->{body}, qr/^x-guest: 1$/m, 'guest ran');
is(header($r, 'x-status'), 200, 'both its calls');

is(status(curl('/all')), 401, 'satisfy all');
is(status(curl(@login, '/all')), 200, 'satisfy all with a password');

$r = curl('/answer');
is(status($r), 403, 'a guest\'s 403 stays');
is(content($r), 'the guest says no', 'with its text');
$r = curl(@login, '/answer');
is(content($r), 'the guest says no', 'with a password too');

is(status(curl('/header')), 200, 'auth_basic sees the header a guest set');

$r = curl('/request');
is(status($r), 401, 'auth_request denies');
is(header($r, 'x-guest'), undef, 'by its own answer');
is(error_log_count($t, qr/\[(?:crit|alert)\]/), 0, 'no trouble');

###############################################################################
