#!/usr/bin/perl

# examples/redact: secrets and card numbers do not get out in responses.

###############################################################################

use warnings;
use strict;

use IO::Compress::Gzip qw/ gzip /;
use IO::Socket::INET;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy gzip/)->plan(10);
my $guest = built('example-redact.wasm');

my $SECRET = 'open sesame';
my $config = '{ "secrets": ["open sesame", "open sesame street", "a.c*", "p\u00e4ss", "abcdef", "cdefgh", "aaaa"],'
	. ' "patterns": ["can open","\\\\bAKIA[0-9A-Z]{16}\\\\b", "(?i)token-[a-z]+"], "cards": true }';
$t->write_file('redact.json', $config);

my $FILLER = 'lorem ipsum dolor 12 sit amet ' x 34_953;     # a little less than 1 MB
$t->write_file('page.html', "the secret is $SECRET\n");
$t->write_file('image.png', "the secret is $SECRET\n");
$t->write_file('large.html', $FILLER . $SECRET . $FILLER);
$t->write_file('page.gz.html', do { gzip(\"the secret is $SECRET\n", \my $z); $z });

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    types {
        text/html  html;
        image/png  png;
    }
    client_max_body_size 4m;
    http_wasm_timeout 20s;
    http_wasm $guest config_file=%%TESTDIR%%/redact.json;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            proxy_pass http://127.0.0.1:8081/;
        }

        location /own/ {
            proxy_pass http://127.0.0.1:8082/;
        }

        location /files/ {
            alias %%TESTDIR%%/;
            gzip on;
            gzip_min_length 1;
        }

        location /only-html/ {
            http_wasm_buffer_types text/html;
            alias %%TESTDIR%%/;
        }

        location /packed/ {
            alias %%TESTDIR%%/;
            add_header Content-Encoding gzip;
        }

        location /small/ {
            http_wasm_response_buffer 1k max=64k;
            alias %%TESTDIR%%/;
        }
    }
}

EOF

backend($t);
$t->run_daemon(\&typed, port(8082));
$t->waitforsocket('127.0.0.1:' . port(8082));
$t->run();

###############################################################################

subtest 'secrets and patterns' => sub {
	redacted("it is $SECRET", 'it is [redacted]', 'a secret');
	redacted('open sesame street', '[redacted]', 'the longer of two');
	redacted("$SECRET$SECRET, $SECRET", '[redacted][redacted], [redacted]', 'several');
	redacted('xcan open sesame now', 'x[redacted] now', 'a pattern that overlaps a secret');
	redacted('abcdefgh, cdefgh, abcdef', '[redacted], [redacted], [redacted]', 'secrets that overlap');
	redacted('aaaaaaaaab', '[redacted]b', 'a secret that overlaps itself');
	redacted('a.c* but abcc', '[redacted] but abcc', 'one with special characters');
	redacted("p\xc3\xa4ss", '[redacted]', 'one in UTF-8');
	redacted("\xff\xfe$SECRET\0\x80$SECRET", "\xff\xfe[redacted]\0\x80[redacted]", 'between bytes that are no text');
	redacted('AKIAABCDEFGHIJKLMNOP XAKIAABCDEFGHIJKLMNOP', '[redacted] XAKIAABCDEFGHIJKLMNOP', 'a pattern');
	redacted('TOKEN-abc token-', '[redacted] token-', 'one for both cases');
	redacted($_, $_, "nothing in it: $_") for 'Open Sesame', 'open  sesame', 'opensesame', 'open sesam', 'AKIA', "open\nsesame";
};

subtest 'card numbers' => sub {
	redacted($_->[0], $_->[1], "a card: $_->[0]") for
		[ '4111111111111111', '############1111' ],
		[ '4111 1111 1111 1111', '#### #### #### 1111' ],
		[ '5500-0000-0000-0004', '####-####-####-0004' ],
		[ '378282246310005', '###########0005' ],
		[ '3782 822463 10005', '#### ###### #0005' ],
		[ '4222222222222', '#########2222' ],
		[ '6304000000000000000', '###############0000' ],
		[ '"card":4111111111111111,', '"card":############1111,' ],
		[ "4111111111111111.\n", "############1111.\n" ],
		[ '#4111111111111111#', '#############1111#' ],
		# What is beside it does not hide it.
		[ '4111 1111 1111 1111 123', '#### #### #### 1111 123' ],
		[ '1 4111 1111 1111 1111 09/27', '1 #### #### #### 1111 09/27' ],
		[ '17-4111111111111111-5500000000000004', '17-############1111-############0004' ],
		[ "4111111111111111\n5500000000000004", "############1111\n############0004" ];
	redacted($_, $_, "not a card: $_") for
		'4111111111111112', '411111111111', '41111111111111111111', 'x4111111111111111', '4111111111111111x', '4111  1111 1111 1111',
		'0000000000000000', '1756000000000', '0.4111111111111111', '4111111111111111.5', '4111_1111_1111_1111', '123456',
		join(' ', split //, '4111111111111111');
};

subtest 'bodies of all sizes' => sub {
	redacted('', '', 'empty');
	# The secret over each boundary that guest, host and nginx have.
	for my $size (map { my $edge = $_; map { $edge - $_ } 0, 5, 11 } 2048, 4096, 16_384, 65_536) {
		redacted('x' x $size . $SECRET . 'y' x 100, 'x' x $size . '[redacted]' . 'y' x 100, "at $size");
	}
	redacted($FILLER . $SECRET . $FILLER . '4111 1111 1111 1111', $FILLER . '[redacted]' . $FILLER . '#### #### #### 1111', '2 MB');
	redacted($FILLER, $FILLER, '1 MB without');
	redacted($SECRET x 10_000, '[redacted]' x 10_000, 'nothing else');

	my $r = curl('/files/large.html');
	ok(content($r) eq $FILLER . '[redacted]' . $FILLER, 'a file of 2 MB');
	is(header($r, 'Content-Length'), 2 * length($FILLER) + length '[redacted]', 'its length');
	is(header($r, $_), undef, "no $_ of what it was") for qw/ ETag Last-Modified /;
	is(content(curl('/chunked')), 'onetwothree', 'in chunks');
};

# Digits are what the search for cards has to do with.
subtest 'bodies that are hard to read' => sub {
	for my $digits ('4 ' x 500_000, '4' x 1_000_000, '4-' x 500_000, '41111111111111 ' x 70_000, '1' x 19 . ' ') {
		redacted($digits, $digits, length($digits) . ' of ' . substr $digits, 0, 20);
	}
	redacted('4111111111111111 ' x 60_000, '############1111 ' x 60_000, 'sixty thousand cards');
};

subtest 'types' => sub {
	for my $type ('text/plain', 'TEXT/HTML; charset=UTF-8', 'application/json', 'application/problem+json;charset="utf-8"', 'application/xml',
		'application/xhtml+xml', 'image/svg+xml', 'application/javascript', 'application/x-www-form-urlencoded', 'text/csv; charset=iso-8859-1',
		'text/html; charset=windows-1252', 'text/html;', 'text/html; charset=', ' text/html', '-')
	{
		is(content(own($type, '-')), 'it is [redacted]', "read: $type");
	}
	for my $type ('image/png', 'application/octet-stream', 'application/pdf', 'video/mp4', 'application/jsonp', 'x/json') {
		is(content(own($type, '-')), "it is $SECRET", "not read: $type");
	}
	for my $type ('text/html; charset=utf-16', 'text/plain;charset="UTF-16LE"', 'application/json; charset=utf-7', 'text/html; a=b; charset=shift_jis') {
		withheld(own($type, '-'), $type);
	}
	is(content(curl('/only-html/page.html')), "the secret is [redacted]\n", 'a type that the host gives');
	is(content(curl('/only-html/image.png')), "the secret is $SECRET\n", 'one that it does not');
};

subtest 'encodings' => sub {
	my $packed = do { my $text = "it is $SECRET"; gzip(\$text, \my $z); $z };
	withheld(own('text/html', $_, $packed), "encoded: $_") for qw/ gzip br GZIP zstd x-gzip /, 'gzip, identity';
	is(content(own('text/html', 'identity')), 'it is [redacted]', 'not encoded');
	is(length content(own('image/png', 'gzip', $packed)), length $packed, 'another type goes on as it is');
	withheld(curl('/gzip'), 'the backend');
	withheld(curl('/packed/page.gz.html'), 'nginx itself');

	# Nobody asks for it, and nginx compresses what is left.
	unlike(content(curl('-H', 'Accept-Encoding: gzip', '/')), qr/Accept-Encoding/i, 'the backend is not asked for it');
	my $r = curl('-H', 'Accept-Encoding: gzip', '--compressed', '/files/page.html');
	is(header($r, 'Content-Encoding'), 'gzip', 'the client gets it');
	is(content($r), "the secret is [redacted]\n", 'of what is left');
};

subtest 'parts' => sub {
	my $r = curl('-r', '14-20', '/files/page.html');
	unlike(content($r), qr/$SECRET/, 'a part');
	is(content($r), "the secret is [redacted]\n", 'becomes the whole') if status($r) == 200;
	unlike(content(curl('/')), qr/^Range:/m, 'the backend is not asked for it');
	withheld(curl('/own/206'), 'a part that nobody has asked for');
};

subtest 'responses without a body' => sub {
	my $r = curl('-I', '/files/page.html');
	is(status($r), 200, 'HEAD');
	is(content($r), '', 'no body');
	is(status(curl("/status/$_")), $_, "status $_") for qw/ 204 304 /;
	$r = curl('-H', 'If-Modified-Since: ' . header(curl('/files/image.png'), 'Last-Modified'), '/files/image.png');
	is(status($r), 304, 'a condition');
	is(content(curl('/status/404')), "status 404\n", 'an error has one');
};

subtest 'too large' => sub {
	my $r = curl('/small/large.html');
	is(status($r), 502, 'refused');
	unlike(content($r), qr/lorem/, 'nothing of it gets out');
};

subtest 'a wrong configuration' => sub {
	my $try = sub {
		my ($text) = @_;
		$t->write_file('tried.json', $text);
		return nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    http_wasm $guest config_file=tried.json;
}
EOF
	};
	for my $case (
		(map { [ $_, qr/expected JSON with "secrets", "patterns" or "cards"/ ] } '', 'null', '[1]', '{', '{"secret":["abcd"]}', '{"secrets":"abcd"}', '{"cards":1}',
			'{"cards":true} x'),
		(map { [ $_, qr/expected "secrets", "patterns" or "cards"/ ] } '{}', '{"secrets":[],"cards":false}'),
		[ '{"secrets":["abcd",""]}', qr/secrets\[1\]: expected a text of 4 bytes or more/ ],
		[ '{"secrets":["abc"]}', qr/secrets\[0\]: expected a text of 4 bytes or more/ ],
		[ '{"patterns":["a","("]}', qr/patterns\[1\]: regex parse error/ ],
		(map { [ qq({"patterns":["$_"]}), qr/patterns\[0\]: expected one that needs at least a character/ ] } '', 'a*', '^', '\\\\b', 'a|'),
		[ '{"patterns":["(a{1000}){1000}"]}', qr/patterns\[0\]: / ],
	) {
		my ($text, $reason) = @$case;
		my ($output, $exit) = $try->($text);
		isnt($exit, 0, "refused: $text");
		# A message of the regular expression is on lines of its own.
		like($output, qr/\[emerg\].*redact: $reason/, 'with what is expected');
	}
	my ($output, $exit) = $try->('{"secrets":[' . join(',', map { qq("secret number $_") } 1 .. 500) . ']}');
	is($exit, 0, '500 secrets') or diag($output);
};

###############################################################################

# What a client gets of this body.
sub redacted {
	my ($body, $expected, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$t->write_file('sent', $body);
	my $r = curl('-H', 'Expect:', '--data-binary', '@' . $t->testdir() . '/sent', '/raw');
	ok(content($r) eq $expected, $name =~ s/[^ -~]/./gr) or diag(status($r), ' ', substr content($r), 0, 200);
	is(header($r, 'Content-Length'), length $expected, 'its length');
}

# A response with this type and this encoding, "-" for none.
sub own {
	my ($type, $encoding, $body) = @_;
	$t->write_file('sent', $body // "it is $SECRET");
	return curl('-H', 'Expect:', '-H', "X-Type: $type", '-H', "X-Encoding: $encoding", '--data-binary', '@' . $t->testdir() . '/sent', '/own/');
}

sub withheld {
	my ($r, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(status($r), 502, "withheld: $name");
	is(content($r), "502\n", 'nothing of it gets out');
	is(header($r, 'Content-Encoding'), undef, 'not encoded');
}

# Answers with the body it gets, of the type it is told.
sub typed {
	my ($port) = @_;

	my $server = IO::Socket::INET->new(Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 5, ReuseAddr => 1)
		or die "can't listen: $!\n";
	while (my $client = $server->accept()) {
		my $request = '';
		1 while $request !~ /\r\n\r\n/ && sysread $client, $request, 65536, length $request;
		next unless length $request;
		my ($head, $body) = split /\r\n\r\n/, $request, 2;
		my ($length) = $head =~ /^Content-Length: (\d+)/mi;
		1 while length $body < ($length // 0) && sysread $client, $body, 65536, length $body;

		my $reply = "HTTP/1.1 200 OK\r\n";
		if ($head =~ m{^GET /206 }) {
			$body = 'n sesame';
			$reply = "HTTP/1.1 206 Partial Content\r\nContent-Type: text/plain\r\nContent-Range: bytes 2-9/11\r\n";
		}
		for my $name (qw/ Type Encoding /) {
			my ($value) = $head =~ /^X-$name: *(.*?)\r?$/m;
			$reply .= "Content-$name: $value\r\n" if defined $value && $value ne '-';
		}
		print $client $reply, 'Content-Length: ', length $body, "\r\nConnection: close\r\n\r\n", $body;
		close $client;
	}
}

###############################################################################
