#!/usr/bin/perl

# The URI a guest reads is the one the client sent; the one it sets is what everything behind it uses.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_content /;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy rewrite/);

# config => [ what a guest reads after setting it, what the upstream gets ]
my @set = (
	'/new' => '/new',
	'/new?x=1&y' => '/new?x=1&y',
	'/simple%26clean' => '/simple%26clean',
	'/disney?name=chip%26dale' => '/disney?name=chip%26dale',
	'/a%2fb%2F' => '/a%2fb%2F',
	'/foo?' => '/foo?',
	'/a//b' => '/a//b',
	'//foo' => '//foo',
	'/a/../b' => '/a/../b',
	'/a b?q=go language' => '/a%20b?q=go language',
	'/a#b?c' => '/a%23b?c',
	'?x=1' => '/?x=1',
	'' => '/',
	'http://other/p?q' => '/p?q',
);
my @refused = ('new', 'a/b', '/%zz', '/a\\nb', '/a\\00b');

$t->plan(11 + @set + @refused + 11);

my $locations = '';
for my $n (0 .. $#set / 2, map { "r$_" } 0 .. $#refused) {
	my $uri = $n =~ /r(\d+)/ ? $refused[$1] : $set[2 * $n];
	guest($t, "set$n.wat", sprintf <<'EOF', $uri);
  (func (export "handle_request") (result i64)
    (call $set_uri &"%s")
    (call $set_req &"x-after" (i32.const 65536) (call $get_uri (i32.const 65536) (i32.const 4096)))
    (i64.const 1))
EOF
	$locations .= "location /set/$n { http_wasm set$n.wat; proxy_pass http://127.0.0.1:8081; }\n";
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            http_wasm get.wat;
            proxy_pass http://127.0.0.1:8081;
        }

        LOCATIONS

        location /var {
            set $early "$request_uri$uri$args$arg_x";
            http_wasm config.wat config=/v%20w?x=2;
            proxy_pass http://127.0.0.1:8081;
            proxy_set_header X-Uri $uri;
            proxy_set_header X-Args $args;
            proxy_set_header X-Arg $arg_x;
        }

        location /base {
            http_wasm config.wat config=/other%20one?x=1;
            proxy_pass http://127.0.0.1:8081/prefix/;
        }

        location /static {
            http_wasm config.wat config=/files/a%20b.html?x;
        }

        location /dots {
            http_wasm config.wat config=/files/x/../a%20b.html;
        }

        location /root {
            http_wasm config.wat config=/../../../../../../../../etc/hostname;
        }

        location /missing {
            http_wasm config.wat config=/nowhere;
        }
    }
}

EOF

guest($t, 'get.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (if (i32.ne (call $get_uri (i32.const 0) (i32.const 0)) (call $get_uri (i32.const 65536) (i32.const 4096)))
      (then unreachable))
    (call $set_req &"x-uri" (i32.const 65536) (call $get_uri (i32.const 65536) (i32.const 4096)))
    (i64.const 1))
EOF
guest($t, 'config.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $set_uri (call $config)) (i64.const 1))
EOF

mkdir($t->testdir() . '/files');
$t->write_file('files/a b.html', 'a static file');
backend($t);
$t->run();

###############################################################################

is(get('/'), '/', 'root');
is(get('/a/b%2Fc'), '/a/b%2Fc', 'escapes stay');
is(get('/a%7Eb/../c//d'), '/a%7Eb/../c//d', 'nothing normalised');
is(get('//dd'), '//dd', 'two slashes');
is(get('/simple%26clean'), '/simple%26clean', 'escaped path');
is(get('/disney?name=chip%26dale'), '/disney?name=chip%26dale', 'escaped query');
is(get('/?'), '/?', 'empty query');
is(get('/[a];b,c@d:e!'), '/[a];b,c@d:e!', 'legal marks stay');
is(get('/x"<>'), '/x%22%3C%3E', 'illegal bytes escaped');
is(get("/\xc3\xa9"), '/%C3%A9', 'and those above ASCII');
is(get('http://localhost/abs?x'), '/abs?x', 'absolute form');

for my $n (0 .. $#set / 2) {
	my ($uri, $after) = @set[2 * $n, 2 * $n + 1];
	my $seen = http_content(http_get("/set/$n?old=1"));

	# A request line cannot carry a space, even in the query.
	(my $wire = $after) =~ s/ /%20/g;
	like($seen, qr/^x-after: \Q$after\E$/m, "set '$uri' read again");
	like($seen, qr/^GET \Q$wire\E HTTP/, "set '$uri' upstream");
}

for my $n (0 .. $#refused) {
	is(status(http_get("/set/r$n")), 500, "set '$refused[$n]' refused");
}
is(error_log_count($t, qr/set_uri/), scalar @refused, 'each logged with the function');

my $seen = http_content(http_get('/var?x=1'));
like($seen, qr!^X-Uri: /v w$!m, 'uri variable');
like($seen, qr!^X-Args: x=2$!m, 'args variable');
like($seen, qr!^X-Arg: 2$!m, 'arg variable');
like($seen, qr!^GET /v%20w\?x=2 HTTP!, 'upstream');

like(http_get('/base/x'), qr!^GET (?:/prefix)?/other%20one\?x=1 HTTP!m, 'proxy_pass with a URI');

is(content(http_get('/static')), 'a static file', 'static file');
is(content(http_get('/dots')), 'a static file', 'dots resolved for files');
like(status(http_get('/root')), qr/^(?:400|404|500)$/, 'never above the root');
is(status(http_get('/missing')), 404, 'missing file');
is(status(http_get('/')), 200, 'worker alive');

###############################################################################

sub get {
	my ($uri) = @_;
	my ($seen) = http_content(http_get($uri)) =~ /^x-uri: (.*)$/m;
	return $seen;
}

###############################################################################
