#!/usr/bin/perl

# A trap answers 500 and nothing else; the log knows why; the same worker goes on with a fresh instance.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(31);

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

        location /request { http_wasm request.wat name=asks; proxy_pass http://127.0.0.1:8081; }
        location /response { http_wasm response.wat name=streams; proxy_pass http://127.0.0.1:8081; }
        location /buffered { http_wasm buffered.wat name=holds; proxy_pass http://127.0.0.1:8081; }
        location /exit { http_wasm exit.wat name=leaves; proxy_pass http://127.0.0.1:8081; }
        location /misuse { http_wasm misuse.wat name=misuses; proxy_pass http://127.0.0.1:8081; }
        location /stack { http_wasm stack.wat name=deep; proxy_pass http://127.0.0.1:8081; }

        location /page {
            error_page 500 /sorry.html;
            http_wasm request.wat name=excused;
            proxy_pass http://127.0.0.1:8081;
        }

        location /sorry.html { }
    }
}

EOF

# Each counts its calls in $calls, writes what must not get out, and traps when asked to.
my $guest = <<'EOF';
  (global $calls (mut i32) (i32.const 0))
  (func $inner_boom unreachable)
  (func $outer_boom (call $inner_boom))
  (func $asked (result i32)
    (i32.wrap_i64 (call $get_header_values (i32.const 0) &"x-trap" (i32.const 0) (i32.const 0))))
  (func (export "handle_request") (result i64)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (call $set_resp &"x-calls" (call $dec (global.get $calls)))
    (if (call $asked) (then (call $set_resp &"x-secret" &"leaked")))
    REQUEST
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    RESPONSE)
  (func $start FEATURES)
  (start $start)
EOF

write_guest($t, 'request.wat', REQUEST => '(if (call $asked) (then (call $set_status_code (i32.const 404))
    (call $body_resp &"leaked") (call $outer_boom)))');
write_guest($t, 'response.wat', RESPONSE => '(if (call $asked) (then (call $set_resp &"x-more" &"leaked") (call $outer_boom)))');
write_guest($t, 'buffered.wat', FEATURES => '(drop (call $enable_features (i32.const 2)))',
	RESPONSE => '(if (call $asked) (then (call $body_resp &"leaked") (call $outer_boom)))');
write_guest($t, 'misuse.wat', RESPONSE => '(if (call $asked) (then (call $body_resp &"leaked")))');
write_guest($t, 'stack.wat', REQUEST => '(if (call $asked) (then (call $recurse)))', more => '(func $recurse (call $recurse))');
guest($t, 'exit.wat', <<'EOF');
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "handle_request") (result i64) (call $exit (i32.const 0)) (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
EOF

$t->write_file('sorry.html', 'sorry');
backend($t);
$t->run();

###############################################################################

my @workers;
ok(wait_until(sub { (@workers = worker_pids($t)) == 1 }), 'one worker');

for my $path (qw/ request response buffered misuse stack /) {
	is(header(curl("/$path"), 'x-calls'), 1, "$path: works");

	my $r = curl('-H', 'X-Trap: 1', "/$path");
	is(status($r), 500, "$path: 500");
	unlike(join("\n", $r->{body}, map { "@$_" } @{ $r->{headers} }), qr/leaked|secret|wasm|unreachable|boom|x-calls/i,
		"$path: nothing leaked");

	is(header(curl("/$path"), 'x-calls'), 1, "$path: next request has a fresh instance");
}

is(status(curl('/exit')), 500, 'exit');
is(content(curl('-H', 'X-Trap: 1', '/page')), 'sorry', 'error_page');

error_log_like($t, qr/\[error\].*asks.*handle_request/, 'guest and function of a trap in the request');
error_log_like($t, qr/\[error\].*(?:streams|holds).*handle_response/, 'guest and function of a trap in the response');
my $log = join "\n", grep { !/\[debug\]/ } split /\n/, $t->read_file('error.log');
like($log, qr/inner_boom.*outer_boom/s, 'backtrace, innermost first');
like($log, qr/\[error\].*misuses.*write_body/, 'misuse names the function');

is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(status(http_get('/sorry.html')), 200, 'serves on');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
ok(error_log_count($t, qr/wasm/) < 100, 'log stays short');

###############################################################################

sub write_guest {
	my ($t, $name, %parts) = @_;
	(my $text = $guest) =~ s/(REQUEST|RESPONSE|FEATURES)/$parts{$1} \/\/ ''/eg;
	return guest($t, $name, $text . ($parts{more} // ''));
}

###############################################################################
