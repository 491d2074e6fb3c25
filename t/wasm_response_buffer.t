#!/usr/bin/perl

# http_wasm_response_buffer: in memory, then in a file, then 502.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(25);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_response_buffer 4k max=16k;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        http_wasm ends.wat;

        location / {
            proxy_pass http://127.0.0.1:8081;
        }

        location /direct/ {
            proxy_buffering off;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /more/ {
            http_wasm_response_buffer 1k max=1m;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /static/ {
            alias %%TESTDIR%%/;
        }

        location /page/ {
            error_page 502 /static/sorry.html;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /stream/ {
            http_wasm mark.wat;
            proxy_pass http://127.0.0.1:8081/;
        }
    }
}

EOF

# Reads the whole body in steps of 777 bytes, and puts its size and its last byte in headers.
guest($t, 'ends.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 777)))
    (call $set_resp &"x-size" (call $dec (local.get $n)))
    (if (i32.eq (call $get_status_code) (i32.const 200)) (then
      (call $set_resp &"x-ends" (i32.add (i32.const 65535) (local.get $n)) (i32.const 1)))))
EOF
guest($t, 'mark.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-mark" &"1"))
EOF

$t->write_file('page.html', 'x' x 16384);
$t->write_file('large.html', 'x' x 16385);
$t->write_file('sorry.html', 'sorry');
backend($t);
$t->run();

###############################################################################

for my $way (qw{ /size /chunked /direct/size /direct/chunked }) {
	for my $size (4096, 4097, 16384) {
		my $r = curl("$way/$size");
		my $body = substr '0123456789' x 1700, 0, $size;
		is(join('|', map { $_ // '' } header($r, 'x-size'), header($r, 'x-ends'), content($r) eq $body),
			"$size|" . substr($body, -1) . '|1', "$way/$size");
	}
	is(status(curl("$way/16385")), 502, "$way/16385 is too much");
}
error_log_like($t, qr/\[error\].*16384.*http_wasm_response_buffer/, 'the log names limit and directive');

is(header(curl('/more/size/100000'), 'x-size'), 100_000, 'another limit');
is(header(curl('/static/page.html'), 'x-size'), 16384, 'static');
is(status(curl('/static/large.html')), 502, 'static is too much');
is(header(curl('/stream/size/100000'), 'x-mark'), 1, 'no limit for what streams');
is(content(curl('/page/size/100000')), 'sorry', 'error_page');

# Directives

my @bad = (
	'http_wasm_response_buffer nonsense;' => qr/nonsense/,
	'http_wasm_response_buffer 8k max=4k;' => qr/max=/,
	'http_wasm_response_buffer 1k; http_wasm_response_buffer 1k;' => qr/duplicate/,
	'http_wasm_response_buffer;' => qr/invalid number of arguments/,
);
my $wrong = '';
while (my ($directive, $reason) = splice @bad, 0, 2) {
	my $output = nginx_test($t, "%%TEST_GLOBALS%%\nevents { }\nhttp { $directive }\n");
	$wrong .= "$directive $output\n" unless $output =~ /\[emerg\].*$reason.*test\.conf:\d+$/m;
}
is($wrong, '', 'wrong directives are refused');

is(status(curl('/size/1')), 200, 'worker serves on');
ok(wait_until(sub { !temporary_files($t) }), 'no file left behind');

###############################################################################
