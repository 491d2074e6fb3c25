#!/usr/bin/perl

# get_template and set_template: a text kept for the request, and the variable $wasm_template.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(8);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    map $wasm_template $page {
        default        other;
        one.html       first;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        proxy_set_header X-Template "[$wasm_template]";
        proxy_set_header X-Page $page;

        location / {
            http_wasm set.wat config=one.html;
            proxy_pass http://127.0.0.1:8081;
        }

        location /none {
            proxy_pass http://127.0.0.1:8081;
        }

        location /chain {
            http_wasm set.wat config=one.html;
            http_wasm set.wat config=two.html;
            proxy_pass http://127.0.0.1:8081;
        }

        location /empty { http_wasm set.wat; proxy_pass http://127.0.0.1:8081; }
        location /late { http_wasm late.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

guest($t, 'set.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $add_req &"x-before" (i32.const 65536) (call $get_template (i32.const 65536) (i32.const 100)))
    (call $set_template (call $config))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-after" (i32.const 65536) (call $get_template (i32.const 65536) (i32.const 100))))
EOF
guest($t, 'late.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32) (call $set_template &"too late"))
EOF

backend($t);
$t->run();

###############################################################################

my $r = curl('/');
like($r->{body}, qr/^x-before: ?$/m, 'empty at first');
like($r->{body}, qr/^X-Template: \[one\.html\]$/m, 'variable');
like($r->{body}, qr/^X-Page: first$/m, 'in a map');
is(header($r, 'x-after'), 'one.html', 'read in handle_response');

like(curl('/none')->{body}, qr/^X-Template: \[\]$/m, 'no guest');
like(curl('/chain')->{body}, qr/^x-before: ?\nx-before: one\.html\n.*$/m, 'one for all guests of a request');

is(status(curl('/empty')), 500, 'an empty one');
is(status(curl('/late')), 500, 'in handle_response');

###############################################################################
