#!/usr/bin/perl

# A guest whose handle_response is an empty function: nobody can tell whether it is called, so it is not, and its
# instance serves others while the next handler works.

###############################################################################

use warnings;
use strict;

use JSON::PP;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(27);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_pool max=1 queue=0;
    log_format wasm '$uri $wasm_guest|$wasm_outcome|$wasm_response_time';
    access_log %%TESTDIR%%/wasm.log wasm;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /empty { http_wasm empty.wat; proxy_pass http://127.0.0.1:8081; }
        location /called { http_wasm called.wat; proxy_pass http://127.0.0.1:8081; }
        location /buffers { http_wasm buffers.wat; proxy_pass http://127.0.0.1:8081; }

        location /inside { http_wasm outer.wat; http_wasm early.wat name=inner; proxy_pass http://127.0.0.1:8082; }
        location /outside { http_wasm early.wat name=outer; http_wasm outer.wat name=o2; proxy_pass http://127.0.0.1:8082; }
        location /alone { http_wasm early.wat; proxy_pass http://127.0.0.1:8082; }
        location /page {
            http_wasm early.wat name=page;
            proxy_pass http://127.0.0.1:8082;
            proxy_intercept_errors on;
            error_page 404 /made;
        }
        location = /made { internal; http_wasm early.wat name=again; proxy_pass http://127.0.0.1:8082; }

        location /none { empty_gif; }
        location /status { http_wasm_status; }
    }

    server {
        listen       127.0.0.1:8082;
        location / { return 200 "body\n"; }
        location /page { return 404; }
        location /made { return 200 "made\n"; }
    }
}

EOF

my $count = <<'EOF';
  (global $n (mut i32) (i32.const 0))
  (func (export "handle_request") (result i64)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (call $set_resp &"x-count" (call $dec (global.get $n)))
EOF

guest($t, 'empty.wat', $count . '(i64.const 1)) (func (export "handle_response") (param i32 i32))');
guest($t, 'called.wat', $count . '(i64.const 1)) (func (export "handle_response") (param i32 i32) nop)');
guest($t, 'buffers.wat', $count . '(drop (call $enable_features (i32.const 2))) (i64.const 1))'
	. ' (func (export "handle_response") (param i32 i32))');

# Writes before the body, adds a header.
guest($t, 'early.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $add_resp &"x-early" &"yes")
    (call $write_body (i32.const 1) &"early ")
    (i64.const 1))
  (func (export "handle_response") (param i32 i32))
EOF

# Writes before the body too, and says how long it is at the end.
guest($t, 'outer.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (drop (call $enable_features (i32.const 2)))
    (call $write_body (i32.const 1) &"outer ")
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $add_resp &"x-read" (call $dec (call $read_all (i32.const 1) (i32.const 4096)))))
EOF

my $upstream = upstream(8081);
$t->run();

###############################################################################

# One after the other while the guest is called, and then all at once.
my (@waiting, @up);
for my $n (1 .. 3) {
	push @waiting, request("/empty/$n");
	push @up, arrives_at($upstream, "/empty/$n");
}
answer($_) for @up;
is(join(' ', map { header(http_end($_), 'x-count') } @waiting), '1 2 3', 'one instance, three at a time');

for my $uri (qw{ /called /buffers }) {
	my $first = request($uri);
	my $up = arrives_at($upstream, $uri);
	is(status(http_end(request($uri))), 503, "$uri keeps its instance");
	answer($up);
	is(header(http_end($first), 'x-count'), 1, "$uri is served");
}

my $r = http_get('/alone');
is(content($r), "early body\n", 'what it wrote goes first');
is(header($r, 'x-early'), 'yes', 'with its header');
is(header($r, 'content-length'), length "early body\n", 'and their length');

$r = http_get('/inside');
is(content($r), "outer early body\n", 'before what an outer guest wrote');
is(header($r, 'x-read'), length "outer early body\n", 'which sees it');
is(header($r, 'x-early'), 'yes', 'its header too');

$r = http_get('/outside');
is(content($r), "early outer body\n", 'around another guest');
is(header($r, 'x-read'), length "outer body\n", 'which does not see it');

$r = http_get('/page');
is(content($r), "early early made\n", 'before an error page, for each location');
is(header($r, 'x-early'), 'yes|yes', 'with both headers');

my ($status) = grep { $_->{name} eq 'empty' } @{ guests() };
is($status->{passed}, 3, 'counted as passed');
is($status->{handle_response}{count}, 0, 'and never called');
is($status->{in_flight}, 0, 'nothing in flight');
is($status->{instances}, 1, 'one instance');

$t->stop();
like($t->read_file('wasm.log'), qr{^/empty/1 empty\|passed\|-$}m, 'no time of a response');
like($t->read_file('wasm.log'), qr{^/called called\|passed\|\d+\.\d+$}m, 'where it is called, there is');
is(error_log_count($t, qr/\[(?:alert|emerg|crit|error)\](?!.*all instances)/), 0, 'nothing in the log');

###############################################################################

sub request {
	my ($uri) = @_;
	return http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
}

sub guests {

	return decode_json(content(http_get('/status?format=json')))->{guests};
}

###############################################################################
