#!/usr/bin/perl

# http_wasm ... if=: which requests go through a guest, by whatever a variable says when the guest's turn comes; and guests
# in limit_except.

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

my $t = Test::Nginx->new()->has(qw/http proxy map/)->plan(41);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    map $request_method $changes {
        default 1;
        GET 0;
        HEAD "";
    }

    map $uri $is_secret {
        volatile;
        default 0;
        ~secret 1;
    }

    add_header x-guests "[$wasm_guest] [$wasm_outcome]" always;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        http_wasm mark.wat name=server if=$arg_server;

        location /inherits { proxy_pass http://127.0.0.1:8081; }
        location /method { http_wasm mark.wat name=m if=$changes; proxy_pass http://127.0.0.1:8081; }
        location /constant {
            http_wasm mark.wat name=never if=0;
            http_wasm mark.wat name=always if=1;
            http_wasm mark.wat name=text if=a$arg_none;
            proxy_pass http://127.0.0.1:8081;
        }
        location /earlier {
            http_wasm sets.wat;
            http_wasm mark.wat name=on if=$http_x_on;
            http_wasm mark.wat name=off if=$http_x_off;
            proxy_pass http://127.0.0.1:8081;
        }
        location /later {
            http_wasm mark.wat name=off if=$http_x_on;
            http_wasm sets.wat;
            proxy_pass http://127.0.0.1:8081;
        }
        location /twice {
            http_wasm mark.wat name=same if=$arg_a;
            http_wasm mark.wat name=same if=$arg_b;
            proxy_pass http://127.0.0.1:8081;
        }
        location /moved {
            http_wasm mark.wat name=first if=$arg_a;
            error_page 404 = /there?$args;
            proxy_intercept_errors on;
            proxy_pass http://127.0.0.1:8081/status/404?;
        }
        location /there {
            http_wasm mark.wat name=first if=$arg_a;
            http_wasm mark.wat name=second if=$arg_b;
            proxy_pass http://127.0.0.1:8081;
        }
        location /answers { http_wasm answers.wat if=$arg_deny; proxy_pass http://127.0.0.1:8081; }
        # What nginx makes of the URI afterwards decides anew.
        location /dir/ {
            http_wasm mark.wat;
            http_wasm answers.wat if=$is_secret;
            alias %%TESTDIR%%/dir/;
            index secret.html;
        }
        location /accel {
            http_wasm mark.wat;
            http_wasm answers.wat if=$arg_deny;
            proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=/accel%3Fdeny=1;
        }
        # Guests so far may decide.
        location /outcome {
            http_wasm mark.wat;
            http_wasm answers.wat if=$wasm_outcome;
            proxy_pass http://127.0.0.1:8081;
        }
        location /once {
            http_wasm mark.wat;
            error_page 404 = /again;
            proxy_intercept_errors on;
            proxy_pass http://127.0.0.1:8081/status/404?;
        }
        location /again {
            http_wasm mark.wat if=0;
            http_wasm mark.wat;
            proxy_pass http://127.0.0.1:8081;
        }
        location /except {
            http_wasm off;
            limit_except GET { http_wasm mark.wat name=except; }
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF
$t->write_file_expand('nginx.conf', $conf);

guest($t, 'mark.wat', '(func (export "handle_request") (result i64) (call $add_req &"x-mark" &"1") (i64.const 1))');
guest($t, 'sets.wat', '(func (export "handle_request") (result i64) (call $set_req &"x-on" &"1") (call $del_req &"x-off") (i64.const 1))');
guest($t, 'answers.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $set_status_code (i32.const 403)) (call $body_resp &"no") (i64.const 0))
EOF

mkdir $t->testdir() . '/dir';
$t->write_file('dir/secret.html', 'secret');
backend($t);
$t->run();

###############################################################################

# URI, guests that it goes through, further arguments of curl.
for my $case (
	[ '/inherits', '' ],
	[ '/inherits?server=1', 'server' ],
	[ '/inherits?server=0', '' ],
	[ '/method', '' ],
	[ '/method', '', '-I' ],
	[ '/method', 'm', '-d', 'body' ],
	[ '/method', 'm', '-X', 'DELETE' ],
	[ '/constant', 'always, text' ],
	[ '/earlier', 'sets, on', '-H', 'x-off: 1' ],
	[ '/later', 'sets' ],
	[ '/twice', '' ],
	[ '/twice?a=1', 'same' ],
	[ '/twice?b=1', 'same' ],
	[ '/twice?a=1&b=1', 'same, same' ],
	[ '/moved', '' ],
	[ '/moved?a=1', 'first' ],
	[ '/moved?b=1', 'second' ],
	[ '/moved?a=1&b=1', 'first, second' ],
	[ '/answers', '' ],
	[ '/except', '' ],
	[ '/except', 'except', '-X', 'POST' ],
) {
	my ($uri, $guests, @arguments) = @$case;
	my $r = curl(@arguments, $uri);
	my $outcomes = join ', ', map { 'passed' } split /, /, $guests;
	is(status($r) . ' ' . header($r, 'x-guests'), "200 [$guests] [$outcomes]", "@arguments $uri");
}

for my $uri ('/dir/secret.html', '/dir/', '/accel?deny=1', '/accel', '/outcome') {
	my $r = curl($uri);
	is(status($r) . content($r), '403no', "$uri: refused");
	is(header($r, 'x-guests'), '[mark, answers] [passed, answered]', "$uri: by the guest whose turn came");
}
is(header(curl('/once'), 'x-guests'), '[mark] [passed]', 'a line that does not count is not the one that was met');

my $r = curl('/answers?deny=1');
is(status($r) . content($r) . header($r, 'x-guests'), '403no[answers] [answered]', 'an answer');

# What is sent is what the guests made of it: those that were passed by did nothing.
is(scalar(() = content(curl('/twice?a=1&b=1')) =~ /^x-mark: 1\r?$/mg), 2, 'both were called');
is(scalar(() = content(curl('/twice?b=1')) =~ /^x-mark: 1\r?$/mg), 1, 'one was');

for my $wrong ([ 'if=', qr/expected a variable/ ], [ 'if=$nowhere', qr/unknown "nowhere" variable/ ],
	[ 'if=1 if=0', qr/duplicate parameter "if=0"/ ])
{
	my ($parameters, $reason) = @$wrong;
	my ($output, $exit) = nginx_test($t, $conf =~ s/if=0;/$parameters;/r);
	like($output, qr/\[emerg\].*$reason/, "$parameters is refused");
}

my ($output) = nginx_test($t, $conf =~ s/location \/except \{/location \/except { if (\$arg_a) { http_wasm mark.wat; }/r);
like($output, qr/\[emerg\].*"http_wasm" directive is not allowed here/, 'not in "if"');

($output) = nginx_test($t, $conf =~ s/limit_except GET \{.*\}/limit_except GET { http_wasm nowhere.wat; }/r);
like($output, qr/\[emerg\].*nowhere\.wat/, 'a guest in limit_except is loaded');
is(error_log_count($t, qr/\[(?:error|alert|crit)\]/), 0, 'no guest fails');

###############################################################################
