#!/usr/bin/perl

# proc_exit with every kind of status in every phase: a configuration error in start functions, 500 afterwards.

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

my @phases = qw/ request response held /;
my @codes = (0, 1, 125, 126, 255, 2147483648, 4294967295);

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(@phases * (@codes + 1) + 3 * @codes + 7);

my $locations = join '', map { "        location /$_ { http_wasm $_.wat; proxy_pass http://127.0.0.1:8081; }\n" } @phases;

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

LOCATIONS
        location /late/ {
            http_wasm late.wat;
            http_wasm_pool max=1 queue=0;
            proxy_pass http://127.0.0.1:8081/;
            location /late/hold { proxy_pass http://127.0.0.1:8082; }
        }
        location /fine { http_wasm fine.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

# Exits with the status in a header, eight hexadecimal digits written in letters a to p.
my $exit = <<'EOF';
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (func $leave (local $i i32) (local $code i32)
    (if (i32.wrap_i64 (call $get_header_values (i32.const 0) &"x-exit" (i32.const 0) (i32.const 9))) (then
      (loop $more
        (local.set $code (i32.or (i32.shl (local.get $code) (i32.const 4))
          (i32.sub (i32.load8_u (local.get $i)) (i32.const 97))))
        (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 8))))
      (call $set_resp &"x-leaked" &"leaked")
      (call $exit (local.get $code)))))
EOF
my $response = "  (func (export \"handle_response\") (param i32 i32) (call \$leave))\n";

guest($t, 'request.wat', $exit . "  (func (export \"handle_request\") (result i64) (call \$leave) (i64.const 1))\n");
guest($t, 'response.wat', $exit . $response);
guest($t, 'held.wat', $exit . $response . <<'EOF');
  (start $start)
  (func $start (drop (call $enable_features (i32.const 2))))
EOF

# Leaves when the request is over and nobody listens any more.
guest($t, 'late.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (func (export "handle_response") (param i32) (param $error i32)
    (if (local.get $error) (then (call $exit (i32.const 3)))))
  (start $start)
  (func $start (drop (call $enable_features (i32.const 2))))
EOF
guest($t, 'fine.wat', '');

backend($t);
my $upstream = upstream(8082);
$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });

###############################################################################

for my $phase (@phases) {
	my $function = $phase eq 'request' ? 'handle_request' : 'handle_response';
	for my $code (@codes) {
		my $r = curl('-H', 'X-Exit: ' . sprintf('%08x', $code) =~ tr/0-9a-f/a-p/r, "/$phase/$code");
		my $logged = error_log_count($t,
			qr{\[error\].*guest "$phase": $function: proc_exit\($code\) was called.*"GET /$phase/$code });
		is_deeply([ status($r), $logged, header($r, 'x-leaked') ], [ 500, 1, undef ], "$phase: $code");
	}
	is(status(curl("/$phase")), 200, "$phase: serves on");
}

# The client goes away while the response is being collected.
my $s = connection();
print $s "GET /late/hold HTTP/1.1\r\nHost: localhost\r\n\r\n";
my $up = arrives($upstream);
print $up "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst";
close $s;
error_log_like($t, qr{\[error\].*guest "late": handle_response: proc_exit\(3\)}, 'late: logged');
is(status(curl('/late/')), 200, 'late: serves on');

###############################################################################

for my $code (@codes) {
	for my $start ('start', '_initialize', '_start') {
		my $name = "$start-" . $code;
		my $export = $start eq 'start' ? '(start $leave)' : qq{(export "$start" (func \$leave))};
		guest($t, "$name.wat", <<"EOF");
  (import "wasi_snapshot_preview1" "proc_exit" (func \$exit (param i32)))
  $export
  (func \$leave (call \$exit (i32.const $code)))
EOF
		my ($output, $failed) = nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    %%TEST_GLOBALS_HTTP%%
    server { listen 127.0.0.1:8080; http_wasm $name.wat; }
}
EOF
		if ($failed) {
			like($output, qr/\[emerg\] .*$name\.wat.*does not start: .*proc_exit\($code\).* in \S+:\d+/, "$name: refused");
		} else {
			is("$start $code", '_start 0', "$name: only a command that succeeded may be done");
		}
	}
}

is(status(curl('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
cmp_ok(error_log_count($t, qr/http_wasm/), '<', 200, 'log stays short');

###############################################################################
