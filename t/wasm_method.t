#!/usr/bin/perl

# The method as the guest reads and changes it.

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

my $t = Test::Nginx->new()->has(qw/http proxy rewrite/)->plan(21);

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
            http_wasm get.wat;
            proxy_pass http://127.0.0.1:8081;
        }

        location /post { http_wasm set.wat config=POST; proxy_pass http://127.0.0.1:8081; }
        location /get { http_wasm set.wat config=GET; proxy_pass http://127.0.0.1:8081; }
        location /head { http_wasm set.wat config=HEAD; proxy_pass http://127.0.0.1:8081; }
        location /odd { http_wasm set.wat config=fOO-bar; proxy_pass http://127.0.0.1:8081; }
        location /bad { http_wasm set.wat "config=GET /x"; proxy_pass http://127.0.0.1:8081; }
        location /empty { http_wasm set.wat; proxy_pass http://127.0.0.1:8081; }

        location /var {
            set $early $request_method;
            http_wasm set.wat config=PATCH;
            proxy_pass http://127.0.0.1:8081;
            proxy_set_header X-Method $request_method;
        }

        location /static/ {
            http_wasm set.wat config=GET;
            alias %%TESTDIR%%/;
        }
    }
}

EOF

guest($t, 'get.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_req &"x-method" (i32.const 65536) (call $get_method (i32.const 65536) (i32.const 64)))
    (i64.const 1))
EOF
guest($t, 'set.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_method (call $config))
    (call $set_req &"x-after" (i32.const 65536) (call $get_method (i32.const 65536) (i32.const 64)))
    (i64.const 1))
EOF

$t->write_file('page.html', 'a page');
backend($t);
$t->run();

###############################################################################

for my $method (qw/ GET POST PUT DELETE OPTIONS PATCH PURGE ODD-X /) {
	my $r = curl('-X', $method, '/');
	like($r->{body}, qr/^x-method: \Q$method\E$/m, "read $method");
}
is(status(curl('-I', '/')), 200, 'HEAD goes through');

my $seen = curl('/post')->{body};
like($seen, qr!^POST /post HTTP!, 'GET to POST');
like($seen, qr/^x-after: POST$/m, 'read again');

$seen = curl('-d', 'some', '/get')->{body};
like($seen, qr!^GET /get HTTP!, 'POST to GET');
like($seen, qr/^body 4 /m, 'with its body');

my $r = curl('/head');
is(status($r), 200, 'GET to HEAD');
is($r->{exit}, 0, 'does not wait for a body') or diag($r->{exit});

like(curl('/odd')->{body}, qr!^fOO-bar /odd HTTP!, 'unknown method, case kept');
like(curl('/var')->{body}, qr/^X-Method: PATCH$/m, 'variable');
is(content(curl('-X', 'POST', '-d', 'x', '/static/page.html')), 'a page', 'POST to a static file as GET');

is(status(curl('/bad')), 500, 'no method');
is(status(curl('/empty')), 500, 'empty method');
error_log_like($t, qr/set_method/, 'function named');

###############################################################################
