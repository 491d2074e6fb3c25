#!/usr/bin/perl

# http_wasm_intercept_errors: what a guest answers with a status of 300 or above is replaced by the operator's error_page,
# as proxy_intercept_errors does it for upstreams; and stays a refusal.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Messages;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy http_v2/)->plan(51);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_intercept_errors on;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON

        error_page 302 403 /page;
        error_page 401 = @login;
        error_page 500 /page500;

        location /page { internal; alias %%TESTDIR%%/page; }
        location /page500 { internal; alias %%TESTDIR%%/page500; }
        location @login { proxy_pass http://127.0.0.1:8081; }

        location /answers { http_wasm answers.wat; proxy_pass http://127.0.0.1:8081; }
        location /outer { http_wasm outer.wat; http_wasm answers.wat; proxy_pass http://127.0.0.1:8081; }
        location /off { http_wasm_intercept_errors off; http_wasm answers.wat; proxy_pass http://127.0.0.1:8081; }
        location /any { satisfy any; allow all; http_wasm answers.wat; proxy_pass http://127.0.0.1:8081; }
        # A page that the upstream makes gets the request's body, one that comes late, too.
        location /late { error_page 403 = @echo; http_wasm answers.wat; }
        location @echo { proxy_pass http://127.0.0.1:8081; }
        # Guests of the page make a body of their own of it.
        location /smuggle { error_page 403 @empty; http_wasm answers.wat; }
        location @empty { http_wasm empties.wat; proxy_pass http://127.0.0.1:8081; }
        location /longer { error_page 403 @longer; http_wasm answers.wat; }
        location @longer { http_wasm lengthens.wat; proxy_pass http://127.0.0.1:8081; }
        # A response that was begun, and whose body nginx has begun to drop.
        location /begun { http_wasm traps.wat; error_page 500 @empty; http_wasm answers.wat; }
        location /lost { http_wasm traps.wat; error_page 500 = @echo; http_wasm answers.wat; }
        location /closes { error_page 408 444 /page; http_wasm answers.wat; }
        location /passes { http_wasm outer.wat; proxy_pass http://127.0.0.1:8081/status/403?; }
        location /paged { http_wasm outer.wat name=o; error_page 403 =200 /wrapped; http_wasm answers.wat; }
        location /wrapped { http_wasm wraps.wat; alias %%TESTDIR%%/page; }
    }
}

EOF

# The status is the query.
guest($t, 'answers.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $end i32)
    (local.set $end (call $get_uri (i32.const 0) (i32.const 1024)))
    (call $set_status_code (i32.add (i32.add
      (i32.mul (i32.sub (i32.load8_u (i32.sub (local.get $end) (i32.const 3))) (i32.const 48)) (i32.const 100))
      (i32.mul (i32.sub (i32.load8_u (i32.sub (local.get $end) (i32.const 2))) (i32.const 48)) (i32.const 10)))
      (i32.sub (i32.load8_u (i32.sub (local.get $end) (i32.const 1))) (i32.const 48))))
    (call $set_resp &"x-own" &"1")
    (call $set_resp &"www-authenticate" &"Basic")
    (call $body_resp &"of the guest")
    (i64.const 0))
EOF
guest($t, 'outer.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $set_resp &"x-outer" &"1") (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-seen" (call $dec (call $get_status_code))))
EOF
guest($t, 'empties.wat', '(func (export "handle_request") (result i64) (call $body_req (i32.const 0) (i32.const 0)) (i64.const 1))');
guest($t, 'lengthens.wat', '(func (export "handle_request") (result i64) (call $body_req &"longer!") (i64.const 1))');
guest($t, 'traps.wat', '(func (export "handle_response") (param i32 i32) unreachable)');
guest($t, 'wraps.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 100)))
    (call $body_resp &"<") (call $body_resp (i32.const 65536) (local.get $n)) (call $body_resp &">"))
EOF
$t->write_file('page', 'of the operator');
$t->write_file('page500', 'sorry');
backend($t);
$t->run();

###############################################################################

for my $status (200, 204, 299) {
	my $r = curl("/answers?$status");
	is(status($r) . ' ' . header($r, 'x-own'), "$status 1", "$status is the guest's");
}
for my $status (302, 403, 500) {
	my $r = curl("/answers?$status");
	is(status($r), $status, "$status: status");
	is(content($r), $status == 500 ? 'sorry' : 'of the operator', "$status: the operator's page");
	is(header($r, 'x-own'), undef, "$status: without the guest's headers");
	is(header($r, 'www-authenticate'), 'Basic', "$status: except one");
}
my $r = curl('/answers?404');
is(status($r) . content($r) . header($r, 'x-own'), '404of the guest1', 'nobody has a page for it');
$r = curl('/answers?401');
like(content($r), qr{^GET /answers\?401 }, 'a named location answers');
is(header($r, 'www-authenticate'), 'Basic', 'with the challenge');

$r = curl('/outer?403');
is(content($r), 'of the operator', 'behind another guest');
is(header($r, 'x-outer') . header($r, 'x-seen'), '1403', 'which sees the page, and whose headers stay');

$r = curl('/off?403');
is(content($r), 'of the guest', 'off');
$r = curl('/passes');
like(content($r), qr/status 403/, "an upstream's answer is not a guest's");

$r = curl('/any?403');
is(status($r) . content($r), '403of the operator', 'satisfy any: it stays a refusal');

$r = curl('/paged?403');
is(status($r) . content($r), '200<of the operator>', 'the page goes through guests of its own');

$r = curl('-I', '/answers?403');
is(status($r) . ' ' . header($r, 'content-length'), '403 15', 'HEAD');
$r = curl('--http2-prior-knowledge', 'http://127.0.0.1:' . port(8083) . '/answers?403');
is(status($r) . content($r), '403of the operator', 'HTTP/2');

# The next request on the connection is in step, also behind a body that nobody has read.
my @r = conversation([ 'POST /answers?403', \('b' x 50_000) ], [ 'POST /answers?200', \'abc' ],
	[ 'GET /answers?403' ]);
is(join(', ', map { told($_) } @r), '403 of the operator, 200 of the guest, 403 of the operator', 'a connection is kept');

# Bodies that come once the answer is there.
my $body = "GET /passes HTTP/1.1\r\nHost: localhost\r\n\r\n";
for my $framing ('Content-Length: ' . length $body, 'Transfer-Encoding: chunked') {
	my $sent = $framing =~ /chunked/ ? sprintf("%x\r\n%s\r\n0\r\n\r\n", length $body, $body) : $body;
	for my $case ([ late => qr/^POST .*body \d+ /s ], [ smuggle => qr/^POST .*body 0 /s ], [ longer => qr/^POST .*body 7 /s ],
		[ begun => qr/^POST .*body 0 /s ], [ lost => qr/^POST .*body 0 /s ])
	{
		my ($uri, $right) = @$case;
		my $s = connection();
		syswrite $s, "POST /$uri?403 HTTP/1.1\r\nHost: localhost\r\n$framing\r\n\r\n";
		select undef, undef, undef, 0.1;
		syswrite $s, $sent . "GET /answers?200 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
		my @all = split m{(?=HTTP/1\.1 \d)}, read_all($s);
		like(content($all[0]), $right, "$framing, /$uri: the page");
		ok(@all == 1 || @all == 2 && $all[1] =~ /of the guest/, "$framing, /$uri: what follows is in step") or diag(@all);
	}
}
is(status(curl("/closes?$_")), $_, "$_ is the guest's") for 408, 444;

is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]|exited on signal/), 0, 'no alert, no crash');
is(error_log_count($t, qr/\[error\](?!.*guest "traps")/), 0, 'no guest fails but the one that is to');

###############################################################################

sub read_all {
	my ($s) = @_;
	my $text = '';
	wait_until(sub { !sysread $s, $text, 65536, length $text });
	return $text;
}

###############################################################################
