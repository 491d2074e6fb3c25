#!/usr/bin/perl

# Guests that sleep, several of them and beside nginx modules that wait too: nothing hangs, nothing is lost, every
# guest is called once on either side.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Bulk;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy rewrite auth_request mirror ssi gzip limit_req/)->plan(65);

# What a location has: guests r (handle_request), h (handle_response), w (handle_response with the body).
my @chains = qw/ r h w rr hw wh ww rhw /;
my $locations = join '', map {
	my ($name, $guests) = ($_, join ' ', map { "http_wasm $_.wat;" } split //);
	<<'EOF' =~ s/NAME/$name/gr =~ s/GUESTS/$guests/r;

        location /NAME/ {
            GUESTS
            location /NAME/auth/ { auth_request /ok; mirror /copy; proxy_pass http://127.0.0.1:8081/; }
            location /NAME/limit/ { limit_req zone=slow burst=100; auth_request /ok; proxy_pass http://127.0.0.1:8081/; }
            location /NAME/threads/ { aio threads; gzip on; gzip_types *; alias %%TESTDIR%%/html/; }
            location /NAME/ssi/ { ssi on; ssi_types *; alias %%TESTDIR%%/html/; }
            location /NAME/page/ { error_page 404 @page; alias %%TESTDIR%%/html/; }
            location /NAME/cut/ { proxy_pass http://127.0.0.1:8082/; }
            location /NAME/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
        }
EOF
} @chains;

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_http_version 1.1;
    client_body_buffer_size 1k;
    limit_req_zone $server_port zone=slow:1m rate=1000r/s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location @page { proxy_pass http://127.0.0.1:8081; rewrite ^ /source/100000 break; }
        location /part { proxy_pass http://127.0.0.1:8082/size/3; }
        location /copy { internal; proxy_pass http://127.0.0.1:8081; }

        location /ok {
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass http://127.0.0.1:8082/status/200;
        }
    }
}

EOF

my $sleep = <<'EOF';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\80\c3\c9\01")
  (func $sleep (drop (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128))))
EOF
my $called = '(call $log (i32.const 0) &"request begins")';
my $ended = '(call $log (i32.const 0) &"response begins") (call $add_resp &"x-status" (call $dec (call $get_status_code)))';
guest($t, 'r.wat', <<EOF);
$sleep
  (func (export "handle_request") (result i64)
    $called (call \$sleep) (drop (call \$read_all (i32.const 0) (i32.const 9999))) (call \$sleep) (i64.const 1))
  (func (export "handle_response") (param i32 i32) $ended)
EOF
guest($t, 'h.wat', <<EOF);
$sleep
  (func (export "handle_request") (result i64) $called (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call \$sleep) $ended)
EOF
guest($t, 'w.wat', <<EOF);
$sleep
  (func (export "_initialize") (drop (call \$enable_features (i32.const 2))))
  (func (export "handle_request") (result i64) $called (i64.const 1))
  (func (export "handle_response") (param i32 i32) (local \$r i64)
    (call \$sleep)
    (loop \$more
      (local.set \$r (call \$read_body (i32.const 1) (i32.const 65536) (i32.const 65536)))
      (call \$body_resp (i32.const 65536) (i32.wrap_i64 (local.get \$r)))
      (br_if \$more (i64.eqz (i64.shr_u (local.get \$r) (i64.const 32)))))
    $ended)
EOF

my $size = 500_000;
$t->write_file('html/file', bulk_body($size));
$t->write_file('html/ssi', 'a <!--# include virtual="/part" --> b');
bulk_backend($t, 8081);
backend($t, 8082);
$t->run();

###############################################################################

my ($requests, $responses) = (0, 0);
my $body = bulk_digest(40_000) . "\n";
my $line = length($body) . ' ' . Digest::SHA::sha256_hex($body);

for my $chain (@chains) {
	my $buffers = $chain =~ /w/;
	for my $case (
		[ 'auth/x', 200, $line, length => 40_000 ], [ 'limit/x', 200, $line, length => 40_000, chunked => 1 ],
		[ "direct/chunked/$size", 200, bulk_digest($size) ], [ 'threads/file', 200, bulk_digest($size) ],
		[ 'ssi/ssi', 200, '7 ' . Digest::SHA::sha256_hex('a 012 b') ], [ 'page/x', 404, bulk_digest(100_000) ],
		[ 'cut/cut', $buffers ? 502 : 200 ], [ 'cut/status/304', 304 ])
	{
		my ($uri, $status, $digest, %extra) = @$case;
		my $r = bulk("/$chain/$uri", %extra);
		my $whole = $uri ne 'cut/cut' || $buffers ? $r->{whole} : !$r->{whole};
		my $begun = error_log_count($t, qr/request begins/);
		my $over = error_log_count($t, qr/response begins/);
		is(join(' ', $r->{status}, $whole ? 'whole' : 'broken', $digest ? $r->{digest} : '-',
			$begun - $requests, $over - $responses),
			join(' ', $status, 'whole', $digest // '-', length $chain, length $chain), "$chain, $uri");
		($requests, $responses) = ($begun, $over);
	}
}

is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################
