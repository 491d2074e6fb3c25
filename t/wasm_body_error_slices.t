#!/usr/bin/perl

# A request body that turns out too large, or malformed, while a guest is to see it: handle_response of the guests that
# went on sees nginx's page, and may work in slices, sleep and read it, for as long as it takes.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# Locations, and how many of their guests see the page.
my %seen = (buffered => 1, first => 1, two => 2, whole => 1, sleeps => 1, page => 1, guest => 1, again => 1);
my @locations = sort keys %seen;

my $head = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
my $part = "200\r\n" . 'x' x 512 . "\r\n";
my @bodies = (
	[ 'too large, at once', 413, "POST", $part . "400\r\n" . 'x' x 1024 . "\r\n0\r\n\r\n" ],
	[ 'too large, late', 413, "POST", $part, "400\r\n" . 'x' x 1024 . "\r\n0\r\n\r\n" ],
	[ 'malformed, at once', 400, "PUT", $part . "garbage\r\n" ],
	[ 'malformed, late', 400, "PUT", $part, "garbage\r\n" ],
);

my $t = Test::Nginx->new()->has(qw/http proxy http_v2/)->plan(3 * @locations * @bodies + @locations + 4);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    error_log %%TESTDIR%%/info.log info;
    client_max_body_size 1k;
    http_wasm_slice 1ms;
    http_wasm_timeout 1m;
    http_wasm_dir gate /gate;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON

        location /none { return 204; }
        location /buffered { http_wasm spin.wat config=b; proxy_pass http://127.0.0.1:8081; }
        location /first { http_wasm spin.wat config=n; http_wasm read.wat; proxy_pass http://127.0.0.1:8081; }
        location /two { http_wasm spin.wat name=one config=n; http_wasm spin.wat name=two config=b; proxy_pass http://127.0.0.1:8081; }
        location /whole { http_wasm spin.wat config=w; proxy_pass http://127.0.0.1:8081; }
        location /sleeps { http_wasm sleep.wat config=b; proxy_pass http://127.0.0.1:8081; }
        location /page { http_wasm spin.wat config=b; error_page 400 413 /sorry; proxy_pass http://127.0.0.1:8081; }
        location /guest { http_wasm spin.wat config=b; error_page 400 413 /guests; proxy_pass http://127.0.0.1:8081; }
        location /again { http_wasm spin.wat config=b; error_page 400 413 /again/sorry; proxy_pass http://127.0.0.1:8081; }
        location /sorry { proxy_pass http://127.0.0.1:8081; }
        location /guests { http_wasm pass.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

# handle_response goes on until there is the file "open". With b the request's body is to be there before, with w the
# response's, too.
my $guest = <<'EOF';
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (func (export "_initialize") (local $kind i32)
    (call $config) (drop) (local.set $kind (i32.load8_u))
    (if (i32.eq (local.get $kind) (i32.const 98)) (then (drop (call $enable_features (i32.const 1)))))
    (if (i32.eq (local.get $kind) (i32.const 119)) (then (drop (call $enable_features (i32.const 3))))))
  (func (export "handle_response") (param i32 i32)
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 2000000))
    (call $log (i32.const 0) &"works")
    (loop $again
      STEP
      (br_if $again (call $stat (i32.const 3) (i32.const 0) &"open" (i32.const 256))))
    (call $add_resp &"x-seen" (call $dec (call $get_status_code))))
EOF
guest($t, 'spin.wat', $guest =~ s/STEP//r);
guest($t, 'sleep.wat', $guest =~ s/STEP/(drop (call \$poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)))/r);
guest($t, 'pass.wat', '(func (export "handle_response") (param i32 i32) (call $add_resp &"x-pass" &"1"))');
guest($t, 'read.wat', <<'EOF');
  (func (export "handle_request") (result i64) (drop (call $read_all (i32.const 0) (i32.const 100))) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $add_resp &"x-seen" &"never"))
EOF

my $dir = $t->testdir();
mkdir "$dir/gate";
backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $location (@locations) {
	for my $body (@bodies) {
		my ($name, $status, $method, $first, @rest) = @$body;

		my $begun = works();
		my $s = http("$method /$location $head$first", start => 1);
		for my $next (@rest) {
			http_get('/none');
			print $s $next;
		}
		ok(wait_until(sub { works() > $begun }), "$location, $name: a guest sees the page");
		$t->write_file('gate/open', '');
		my $r = http_end($s);
		unlink "$dir/gate/open";

		is(status($r), $status, "$location, $name: status");
		is(header($r, 'x-seen'), join('|', ($status) x $seen{$location}), "$location, $name: seen by guests");
	}

	# The same over HTTP/2, of a length that is not announced.
	my $begun = works();
	open my $curl, '-|', 'curl', '-s', '-i', '-m', patience(8), '--noproxy', '*', '--http2-prior-knowledge', '-H', 'Content-Length:',
		'--data-binary', 'x' x 5000, 'http://127.0.0.1:' . port(8083) . "/$location" or die "curl: $!\n";
	wait_until(sub { works() > $begun });
	$t->write_file('gate/open', '');
	my $r = join '', <$curl>;
	close $curl;
	unlink "$dir/gate/open";
	is(status($r) . ' ' . (header($r, 'x-seen') // ''), '413 ' . join('|', (413) x $seen{$location}), "$location, HTTP/2");
}

is(status(http_get('/none')), 204, 'serves on');
is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(scalar(grep { /\[(?:alert|crit|emerg)\]/ } split /\n/, $t->read_file('info.log')), 0, 'no complaint');

###############################################################################

sub works {
	return scalar grep { /guest "\w+": works/ } split /\n/, $t->read_file('info.log');
}

###############################################################################
