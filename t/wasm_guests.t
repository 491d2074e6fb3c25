#!/usr/bin/perl

# Guests in Go, Rust, C and AssemblyScript, as their authors' toolchains build them.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(9);

# The tools for these need not be there.

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /answer {
            http_wasm @{[ built('go-answer.wasm') ]};
            proxy_pass http://127.0.0.1:8081;
        }

        location /prefix/ {
            http_wasm @{[ built('go-prefix.wasm') ]} "config=before: ";
            proxy_pass http://127.0.0.1:8081/;
        }

        location /state {
            http_wasm @{[ built('go-state.wasm') ]};
            proxy_pass http://127.0.0.1:8081;
        }

        location /state/buffered {
            http_wasm @{[ built('go-state.wasm') ]} config=buffer;
            proxy_pass http://127.0.0.1:8081;
        }

        location /rust {
            http_wasm @{[ built('rust-headers.wasm') ]};
            proxy_pass http://127.0.0.1:8081;
        }

        location /bodies/ {
            http_wasm @{[ built('rust-bodies.wasm') ]} config=PASSWORD;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /teapot {
            http_wasm @{[ built('c-teapot.wasm') ]};
            proxy_pass http://127.0.0.1:8081;
        }

        location /key/ {
            http_wasm @{[ built('as-key.wasm') ]} config=sesame;
            proxy_pass http://127.0.0.1:8081/;
        }
    }
}

EOF

backend($t);
$t->run();

###############################################################################

subtest 'Go: answers by itself' => sub {
	my $r = curl('-X', 'PUT', '/answer/a%20b?c=d');
	is(status($r), 201, 'status');
	is(header($r, 'X-Guest'), 'go-answer', 'header');
	is(header($r, 'Content-Type'), 'text/plain', 'type');
	is(content($r), "hello from Go: PUT /answer/a%20b?c=d\n", 'body');
};

subtest 'Go: prefixes the response body' => sub {
	my $r = curl('/prefix/size/10');
	is(content($r), 'before: 0123456789', 'body');
	is(header($r, 'Content-Length'), 18, 'length');
	is(content(curl('/prefix/chunked')), 'before: onetwothree', 'body in chunks');

	$r = curl('/prefix/size/100000');
	is(length content($r), 100008, 'large body');
	like(content($r), qr/^before: 0123456789(?:0123456789){9999}$/, 'large body whole');

	$r = curl('/prefix/status/404');
	is(status($r), 404, 'status stays');
	is(content($r), "before: status 404\n", 'body of an error');

	is(curl('-I', '/prefix/size/10')->{exit}, 0, 'HEAD ends');
};

for my $path (qw{ /state /state/buffered }) {
	subtest "Go: keeps a value per request, $path" => sub {
		my $r = curl('-H', 'X-Value: first', $path);
		is(status($r), 200, 'status');
		is(header($r, 'X-Remembered'), 'first', 'value');
		is(header($r, 'X-In-Flight'), 1, 'alone in its instance');

		$r = curl('-H', 'X-Value: second', $path);
		is(header($r, 'X-Remembered'), 'second', 'another value');
		is(header($r, 'X-Calls'), 2, 'the instance is used again');
		like(content($r), qr/^X-Value: second$/m, 'body of the upstream');

		# Longer than the buffer that the guest offers first.
		my $long = 'x' x 3000;
		is(header(curl('-H', "X-Value: $long", $path), 'X-Remembered'), $long, 'long value');
	};
}

subtest 'Rust: headers and URI' => sub {
	my $r = curl('-H', 'X-Remove-Me: now', '-H', 'X-Guest: client', '/rust/a?b=c');
	is(status($r), 200, 'status');
	is(header($r, 'X-Guest'), 'rust-headers', 'response header');
	like(content($r), qr{^GET /a\?b=c HTTP}, 'URI');
	like(content($r), qr{^X-Original-Uri: /rust/a\?b=c$}mi, 'request header set');
	like(content($r), qr{^X-Guest: client\n(?:.*\n)*x-guest: rust-headers\n}mi, 'request header added');
	unlike(content($r), qr/X-Remove-Me/i, 'request header removed');
	error_log_like($t, qr{\[info\].*took /rust off /rust/a\?b=c}, 'logged');
};

subtest 'Rust: request and response body' => sub {
	my $r = curl('-d', 'the password is open sesame', '/bodies/raw');
	is(content($r), 'THE ######## IS OPEN SESAME', 'both rewritten');
	is(header($r, 'Content-Length'), 27, 'length');

	my $large = 'a' x 50_000;
	$t->write_file('large', "${large}password$large");
	$r = curl('-H', 'Expect:', '--data-binary', '@' . $t->testdir() . '/large', '/bodies/raw');
	is(length content($r), 100_008, 'large body');
	ok(content($r) eq uc($large) . '########' . uc($large), 'large body rewritten');

	is(content(curl('/bodies/size/10')), '0123456789', 'nothing to rewrite');
};

subtest 'C: answers on a path' => sub {
	my $r = curl('/teapot?x');
	is(status($r), 418, 'its own status');
	is(content($r), "short and stout\n", 'its own body');
	is(header($r, 'X-Guest'), 'c-teapot', 'marked');

	$r = curl('/teapots');
	is(status($r), 200, 'another path goes on');
	like(content($r), qr{^GET /teapots HTTP}, 'to the upstream');
	is(header($r, 'X-Guest'), 'c-teapot', 'and is marked');
};

subtest 'AssemblyScript: lets pass by a key' => sub {
	my $r = curl('/key/size/5');
	is(status($r), 401, 'no key');
	is(content($r), "the header x-api-key is missing or wrong\n", 'refused');
	is(status(curl('-H', 'X-Api-Key: wrong', '/key/size/5')), 401, 'wrong key');
	is(status(curl('-H', 'X-Api-Key: sesame', '-H', 'X-Api-Key: sesame', '/key/size/5')), 401, 'two keys');

	$r = curl('-H', 'X-Api-Key: sesame', '/key/size/5');
	is(status($r), 200, 'right key');
	is(content($r), '01234', 'body');
	is(header($r, 'X-Guest'), 'as-key', 'marked');
};

subtest 'Rust: a start that refuses its configuration' => sub {
	my ($output, $exit) = nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    http_wasm @{[ built('rust-bodies.wasm') ]};
}
EOF
	isnt($exit, 0, 'refused');
	like($output, qr/\[emerg\].*rust-bodies\.wasm/, 'guest named');
};

###############################################################################
