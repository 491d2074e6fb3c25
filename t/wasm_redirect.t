#!/usr/bin/perl

# A request that nginx redirects inside keeps its exchange: one handle_request, one handle_response.

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

my $t = Test::Nginx->new()->has(qw/http proxy rewrite/)->plan(31);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm trace.wat config=outer;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /page {
            proxy_pass http://127.0.0.1:8081/status/404;
            proxy_intercept_errors on;
            error_page 404 /err.html;
        }

        location /named {
            proxy_pass http://127.0.0.1:8081/status/404;
            proxy_intercept_errors on;
            error_page 404 = @named;
        }

        location @named {
            proxy_pass http://127.0.0.1:8081;
        }

        location /try {
            try_files /nowhere @named;
        }

        location /file {
            try_files /nowhere /err.html;
        }

        location /dir/ {
            index index.html;
        }

        location /accel {
            proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=/err.html;
        }

        location /inner {
            proxy_pass http://127.0.0.1:8081/status/404;
            proxy_intercept_errors on;
            error_page 404 = /fallback;
        }

        location /fallback {
            http_wasm trace.wat config=inner;
            proxy_pass http://127.0.0.1:8081;
        }

        location /off {
            proxy_pass http://127.0.0.1:8081/status/404;
            proxy_intercept_errors on;
            error_page 404 = /without;
        }

        location /without {
            http_wasm off;
            proxy_pass http://127.0.0.1:8081;
        }

        location /large {
            client_max_body_size 1;
            error_page 413 /err.html;
            proxy_pass http://127.0.0.1:8081;
        }

        location /returns {
            error_page 418 = @named;
            return 418;
        }
    }
}

EOF

guest($t, 'trace.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"request begins")
    (call $add_req &"x-trace" (call $config))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $log (i32.const 0) &"response begins")
    (call $add_resp &"x-trace" (call $config)))
EOF

$t->write_file('err.html', 'an error page');
mkdir($t->testdir() . '/dir');
$t->write_file('dir/index.html', 'the index');
backend($t);
$t->run();

###############################################################################

my ($requests, $responses) = (0, 0);

once($t, '/page', 404, qr/^an error page$/, 'error_page');
once($t, '/named', 200, qr/^x-trace: outer\n(?!x-trace)/m, 'error_page to a named location');
once($t, '/try', 200, qr/^GET \/try /, 'try_files to a named location');
once($t, '/file', 200, qr/^an error page$/, 'try_files to a file');
once($t, '/dir/', 200, qr/^the index$/, 'index');
once($t, '/accel', 200, qr/^an error page$/, 'X-Accel-Redirect');
once($t, '/off', 200, qr/^GET \/without /, 'into a location without guests');
once($t, '/returns', 200, qr/^GET \/returns /, 'before the guest ran');

# A guest that only the new location has runs there, inside the one that came first.

my $r = curl('/inner');
is(status($r), 200, 'into a location with another guest');
like(content($r), qr/^x-trace: outer\nx-trace: inner$/m, 'it runs after');
is(header($r, 'x-trace'), 'inner|outer', 'and inside');
counted($t, 2, 'two guests');

$r = curl('-d', 'too large', '/large');
is(status($r), 413, 'refused before any guest');
is(content($r), 'an error page', 'with a page');

is(status(curl('/page')), 404, 'worker alive');

###############################################################################

sub once {
	my ($t, $uri, $status, $body, $name) = @_;

	my $r = curl($uri);
	is(status($r), $status, "$name, status");
	like(content($r), $body, "$name, body");
	counted($t, 1, $name);
}

sub counted {
	my ($t, $count, $name) = @_;

	my $begun = error_log_count($t, qr/request begins/);
	my $ended = error_log_count($t, qr/response begins/);
	is($begun - $requests . '/' . ($ended - $responses), "$count/$count", "$name, calls");
	($requests, $responses) = ($begun, $ended);
}

###############################################################################
