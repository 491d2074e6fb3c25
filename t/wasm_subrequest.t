#!/usr/bin/perl

# Subrequests are no requests of a client: guests neither see nor change them.

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

my $t = Test::Nginx->new()->has(qw/http proxy ssi auth_request mirror addition/)->plan(16);

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

        http_wasm wrap.wat;

        location / {
            ssi on;
        }

        location /part {
            proxy_pass http://127.0.0.1:8081/size/10;
        }

        location /auth {
            auth_request /check/200;
            proxy_pass http://127.0.0.1:8081/size/3;
        }

        location /denied {
            auth_request /check/403;
            proxy_pass http://127.0.0.1:8081/size/3;
        }

        location /check/ {
            proxy_pass http://127.0.0.1:8081/status/;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }

        location /mirrored {
            mirror /copy;
            proxy_pass http://127.0.0.1:8081/raw;
        }

        location /copy {
            internal;
            proxy_pass http://127.0.0.1:8081/status/200;
        }

        location /added/ {
            alias %%TESTDIR%%/;
            add_after_body /part;
        }
    }
}

EOF

# Runs for each main request once, and wraps what it sees; what it writes is not read as SSI.
guest($t, 'wrap.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"request begins")
    (i64.const 1))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (call $log (i32.const 0) &"response begins")
    (local.set $n (call $read_all (i32.const 1) (i32.const 4096)))
    (call $body_resp &"[<!--# echo var=\22uri\22 -->")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &"]"))
EOF

$t->write_file('ssi.html', 'one <!--# include virtual="/part" --> two');
$t->write_file('plain.html', 'plain ');
backend($t);
$t->run();

###############################################################################

my $tag = '[<!--# echo var="uri" -->';
my ($requests, $responses) = (0, 0);

is(content(curl('/ssi.html')), "${tag}one 0123456789 two]", 'SSI merged, guest\'s tags left alone');
counted($t, 'SSI');

is(content(curl('/auth')), "${tag}012]", 'auth_request');
counted($t, 'auth_request');

my $r = curl('/denied');
is(status($r), 403, 'auth_request denies');
unlike(content($r), qr/012/, 'no answer of the backend');
counted($t, 'denied');

is(content(curl('-d', 'body', '/mirrored')), "${tag}body]", 'mirror');
counted($t, 'mirror');

is(content(curl('/added/plain.html')), "${tag}plain 0123456789]", 'addition');
counted($t, 'addition');

is(content(curl('/part')), "${tag}0123456789]", 'the part itself');
counted($t, 'the part');

is(status(curl('/copy')), 404, 'an internal location');
counted($t, 'an internal location', 0);
is(error_log_count($t, qr/\[(?:error|crit|alert)\].*wasm/), 0, 'no error');

###############################################################################

sub counted {
	my ($t, $name, $count) = @_;
	$count //= 1;

	my $begun = error_log_count($t, qr/request begins/);
	my $ended = error_log_count($t, qr/response begins/);
	is($begun - $requests . '/' . ($ended - $responses), "$count/$count", "$name: calls");
	($requests, $responses) = ($begun, $ended);
}

###############################################################################
