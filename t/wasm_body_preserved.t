#!/usr/bin/perl

# A response that fails after the request's body has gone to an upstream, and an error page that is proxied: it gets the
# whole body, too, from memory or from its file, as it came or as a guest has written it.

###############################################################################

use warnings;
use strict;

use Digest::SHA qw/ sha256_hex /;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# What the guest does with the request, and what it reads of it with the response.
my @guests = qw/ passes buffers reads writes /;
my @fails = qw/ traps waits collects /;
my %pages = (named => 'error_page 500 @page;', uri => 'error_page 500 /page;', guest => 'error_page 500 @guest;', twice => 'error_page 500 @twice;');
my @sizes = (500, 30_000, 300_000);

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(@guests * @fails * keys(%pages) * @sizes + 4);

my $locations = '';
for my $guest (@guests) {
	for my $fails (@fails) {
		for my $page (keys %pages) {
			$locations .= <<"EOF";

        location /$guest/$fails/$page/ {
            http_wasm $guest-$fails.wat;
            $pages{$page}
            proxy_pass http://127.0.0.1:8081;
        }
EOF
		}
	}
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    client_max_body_size 1m;
    client_body_buffer_size 1k;
    http_wasm_breaker off;
    recursive_error_pages on;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
LOCATIONS
        location /page { proxy_pass http://127.0.0.1:8081; }
        location @page { proxy_pass http://127.0.0.1:8081; }
        location @guest { http_wasm pass.wat; proxy_pass http://127.0.0.1:8081; }
        # The first of them does not answer, either.
        location @twice { http_wasm traps.wat; error_page 500 @page; proxy_pass http://127.0.0.1:8081; }
        location /none { return 204; }
    }
}

EOF

my $sleep = <<'EOF';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (func $sleep
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 2000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))
EOF
my %request = (
	passes => '',
	buffers => '(drop (call $enable_features (i32.const 1)))',
	reads => '(drop (call $read_all (i32.const 0) (i32.const 4096)))',
	# As much as came.
	writes => '(local.set $n (call $read_all (i32.const 0) (i32.const 4096))) (call $body_req (i32.const 65536) (local.get $n))',
);
my %response = (
	traps => '',
	waits => '(call $sleep)',
	collects => '(drop (call $read_all (i32.const 1) (i32.const 4096)))',
);
for my $guest (@guests) {
	for my $fails (@fails) {
		my $whole = $fails eq 'collects' ? '(drop (call $enable_features (i32.const 2)))' : '';
		guest($t, "$guest-$fails.wat", <<"EOF");
$sleep
  (func (export "handle_request") (result i64) (local \$n i32)
    (if (i32.gt_u (i32.const 300000) (i32.mul (memory.size) (i32.const 65536))) (then (drop (memory.grow (i32.const 8)))))
    $whole $request{$guest} (i64.const 1))
  (func (export "handle_response") (param i32 i32) $response{$fails} unreachable)
EOF
	}
}
guest($t, 'traps.wat', '(func (export "handle_response") (param i32 i32) unreachable)');
guest($t, 'pass.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $set_req &"x-guest" &"1") (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-guest" &"1"))
EOF

my $dir = $t->testdir();
my %sent = map { $_ => substr 'The whole body. ' x ($_ / 16 + 1), 0, $_ } @sizes;
$t->write_file("body-$_", $sent{$_}) for @sizes;
backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $guest (@guests) {
	for my $fails (@fails) {
		for my $page (sort keys %pages) {
			for my $size (@sizes) {
				my $uri = "/$guest/$fails/$page/";
				my $r = curl('--data-binary', "\@$dir/body-$size", $uri);
				my $line = $page eq 'uri' ? 'GET /page' : "POST $uri";
				my ($seen) = content($r) =~ /^(body .*)$/m;
				my $as = status($r) == 500 && content($r) =~ m{^$line HTTP}
					&& ($seen // '') eq "body $size " . sha256_hex($sent{$size});
				ok($as, "guest $guest and $fails, page $page, body of $size bytes")
					or diag('status ' . status($r) . ': ' . content($r));
			}
		}
	}
}

is(status(http_get('/none')), 204, 'serves on');
is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:crit|emerg)\]/), 0, 'no other complaint');

###############################################################################
