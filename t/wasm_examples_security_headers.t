#!/usr/bin/perl

# examples/security-headers: headers that every response has, and headers that none has.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(6);
my $guest = built('example-security-headers.wasm');

$t->write_file('good', "# For the test.\r\n\r\n  X-One: first value; with \"all\" kinds = of, text  \r\n"
	. "?X-Two:second\n\t-Server\n-X-Powered-By\n-X-Nginx\n-Link\nContent-Security-Policy: default-src 'self'");

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

        location / {
            http_wasm $guest;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /own/ {
            http_wasm $guest config_file=%%TESTDIR%%/good;
            add_header X-Nginx here always;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /files/ {
            http_wasm $guest;
            alias %%TESTDIR%%/;
        }

        location /gone/ {
            http_wasm $guest;
            proxy_pass http://127.0.0.1:8082/;
        }

        location /buffered/ {
            http_wasm $guest;
            http_wasm @{[ built('go-prefix.wasm') ]} "config=before: ";
            proxy_pass http://127.0.0.1:8081/;
        }

        location /answered/ {
            http_wasm $guest;
            http_wasm @{[ built('go-answer.wasm') ]};
        }
    }
}

EOF

backend($t);
$t->run();

###############################################################################

my %DEFAULT = (
	'X-Content-Type-Options' => 'nosniff',
	'X-Frame-Options' => 'SAMEORIGIN',
	'Content-Security-Policy' => "base-uri 'self'; frame-ancestors 'self'; object-src 'none'",
	'Referrer-Policy' => 'strict-origin-when-cross-origin',
	'Permissions-Policy' => 'camera=(), geolocation=(), microphone=()',
);

subtest 'without a configuration' => sub {
	my $r = curl('/size/10');
	has_defaults($r, 'a response');
	is(content($r), '0123456789', 'its body');

	$r = curl('/headers?X-Powered-By=PHP&X-Powered-By=ASP&X-Content-Type-Options=maybe&X-Content-Type-Options=not'
		. '&X-Frame-Options=DENY&Referrer-Policy=no-referrer&referrer-policy=origin');
	is(header($r, 'X-Powered-By'), undef, 'removed');
	is(header($r, 'X-Content-Type-Options'), 'nosniff', 'replaced, once');
	is(header($r, 'X-Frame-Options'), 'DENY', 'kept');
	is(header($r, 'Referrer-Policy'), 'no-referrer|origin', 'kept, twice');
};

subtest 'responses of all kinds' => sub {
	has_defaults(curl("/status/$_"), "status $_") for qw/ 204 304 404 500 /;
	has_defaults(curl('-I', '/size/10'), 'HEAD');
	has_defaults(curl('/chunked'), 'in chunks');
	has_defaults(curl('/files/good'), 'a file');
	has_defaults(curl('/files/none'), 'a page of nginx about a file that is not there');
	my $r = curl('/gone/');
	is(status($r), 502, 'no backend');
	has_defaults($r, 'its page');
	has_defaults(curl('-r', '0-3', '/files/good'), 'a part');
};

subtest 'with other guests' => sub {
	my $r = curl('/buffered/size/10');
	has_defaults($r, 'one that holds the response');
	is(content($r), 'before: 0123456789', 'its body');
	has_defaults(curl('/answered/'), 'one that answers');
};

subtest 'a configuration' => sub {
	my $r = curl('/own/headers?X-One=theirs&X-Two=theirs&X-Powered-By=x&Link=a&Link=b'
		. '&Content-Security-Policy=a&Content-Security-Policy=b');
	is(header($r, 'X-One'), 'first value; with "all" kinds = of, text', 'set');
	is(header($r, 'X-Two'), 'theirs', 'kept');
	is(header($r, 'Content-Security-Policy'), "default-src 'self'", 'replaced, also at the end of the file');
	is(header($r, $_), undef, "$_ is removed") for qw/ Server X-Powered-By Link X-Nginx /;
	is(header($r, 'X-Frame-Options'), undef, 'no defaults');

	is(header(curl('/own/size/1'), 'X-Two'), 'second', 'set where there is none');
};

subtest 'a wrong configuration' => sub {
	refused($_, 1) for 'X-One', 'X-One:', 'X-One: ', ':value', 'X One: value', '-', '?', '?X-One', '-X-One: value',
		"X-One: a\x01b", "X-One: a\x7fb", "X\xc3\xa9: a", "X-One: a\0b";
	refused("# For the test.\n  X-One :: not a name", 2);
	refused("X-One: value\n" x 65, 65);
	refused("# nothing\n\n", 0, qr/expected at least one/);
	refused("X-One: value\n" . '#' x 20_000, 0, qr/expected a configuration of up to 16 kB/);
};

subtest 'limits of a configuration' => sub {
	my ($output, $exit) = tried(join "\n", map { "X-$_: " . 'v' x 200 } 1 .. 64);
	is($exit, 0, '64 lines') or diag($output);
};

###############################################################################

sub has_defaults {
	my ($r, $name) = @_;
	my %got = map { $_ => header($r, $_) } keys %DEFAULT;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_deeply(\%got, \%DEFAULT, "$name has all headers, each once");
}

# What nginx says of a configuration.
sub tried {
	my ($config) = @_;

	$t->write_file('tried', $config);
	return nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    http_wasm $guest config_file=tried;
}
EOF
}

sub refused {
	my ($config, $line, $reason) = @_;
	my $at = $line ? "line $line: " : '';
	$reason //= qr/expected NAME: VALUE, \?NAME: VALUE or -NAME/;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($output, $exit) = tried($config);
	isnt($exit, 0, 'refused: ' . substr($config, 0, 20) =~ s/[^ -~]/./gr);
	like($output, qr/\[emerg\].*security-headers: $at$reason/, 'with what is expected');
}

###############################################################################
