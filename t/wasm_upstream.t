#!/usr/bin/perl

# What upstreams do: stop in the middle, stream, compress, upgrade, come from the cache.

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

my $t = Test::Nginx->new()->has(qw/http proxy cache gunzip/)->plan(20);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_http_version 1.1;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        http_wasm wrap.wat;

        location / {
            proxy_pass http://127.0.0.1:8081;
        }

        location /direct/ {
            proxy_buffering off;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /stream/ {
            http_wasm mark.wat;
            proxy_buffering off;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /gunzip/ {
            gunzip on;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /upgrade {
            proxy_set_header Connection upgrade;
            proxy_set_header Upgrade $http_upgrade;
            proxy_pass http://127.0.0.1:8081/upgrade;
        }

        location /cached/ {
            proxy_cache one;
            proxy_cache_valid 1h;
            add_header X-Cache $upstream_cache_status;
            proxy_pass http://127.0.0.1:8081/;
        }
    }
}

EOF

guest($t, 'wrap.wat', <<'EOF');
  (global $calls (mut i32) (i32.const 0))
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param $ctx i32) (param $error i32) (local $n i32)
    (if (local.get $error) (then (call $log (i32.const 0) &"end with error")))
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (call $set_resp &"x-calls" (call $dec (global.get $calls)))
    (local.set $n (call $read_all (i32.const 1) (i32.const 4096)))
    (call $body_resp &"<")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &">"))
EOF
guest($t, 'mark.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-mark" &"1"))
EOF

backend($t);
$t->run();

###############################################################################

# A body that ends too early is never shown as whole.

for my $uri (qw{ /cut /cut-chunked /direct/cut /direct/cut-chunked }) {
	my $r = curl($uri);
	is(status($r), 502, "$uri");
	unlike($r->{body}, qr/xxx|one/, "$uri: nothing of it");
}
my $r = curl('/stream/cut');
is(header($r, 'x-mark'), 1, 'streamed: header was through already');
isnt($r->{exit}, 0, 'streamed: the client sees it cut');

# A stream flows while its guest only looks at the header.

my $s = http("GET /stream/hold HTTP/1.1\r\nHost: localhost\r\n\r\n", start => 1);
my $text = '';
eval {
	local $SIG{ALRM} = sub { die };
	alarm(8);
	sysread($s, $text, 4096, length $text) or last while $text !~ /first/;
	alarm(0);
};
alarm(0);
like($text, qr/^HTTP\/1.1 200.*x-mark: 1\r\n.*first/s, 'first part comes before the last');
close $s;

# Compressed

require Compress::Zlib;
$r = curl('/gzip');
is(Compress::Zlib::memGunzip(my $packed = substr($r->{body}, 1, -1)), "packed by the backend\n", 'read as it came');
is(content(curl('/gunzip/gzip')), "<packed by the backend\n>", 'unpacked by gunzip before');

# Upgraded

$s = http("GET /upgrade HTTP/1.1\r\nHost: localhost\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n", start => 1);
like(read_reply($s), qr/^HTTP\/1.1 101/, 'upgrade passes');
syswrite $s, 'to and fro';
$text = '';
eval {
	local $SIG{ALRM} = sub { die };
	alarm(8);
	sysread($s, $text, 4096, length $text) or last while length $text < 10;
	alarm(0);
};
alarm(0);
is($text, 'to and fro', 'and so do bytes');
close $s;

# Cached: the upstream's body is in the cache, the guest runs for each answer.

my @seen = map { curl('/cached/size/5') } 1 .. 3;
is(join(' ', map { header($_, 'x-cache') } @seen), 'MISS HIT HIT', 'cache');
is(join(' ', map { content($_) } @seen), '<01234> <01234> <01234>', 'rewritten once each');
isnt(header($seen[1], 'x-calls'), header($seen[2], 'x-calls'), 'by a call each');
is(header(curl('-I', '/cached/size/5'), 'x-cache'), 'HIT', 'HEAD from the cache');

is(status(curl('/size/1')), 200, 'worker serves on');

###############################################################################
