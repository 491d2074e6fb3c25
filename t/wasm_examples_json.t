#!/usr/bin/perl

# examples/json: members of JSON bodies are renamed and removed, and what is no JSON does not get by.

###############################################################################

use warnings;
use strict;

use IO::Compress::Gzip qw/ gzip /;
use JSON::PP;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(10);
my $guest = built('example-json.wasm');

$t->write_file('request.json',
	'{ "request": { "remove": ["admin", "user.roles"], "rename": { "userName": "name", "user.eMail": "mail" } } }');
$t->write_file('response.json', '{ "response": { "remove": ["users.password", "secret"], "rename": { "users.mail": "email" } } }');
$t->write_file('both.json', '{ "request": { "remove": ["a"] }, "response": { "remove": ["b"] } }');
$t->write_file('order.json', '{ "request": { "remove": ["x"], "rename": { "a": "b", "b": "c" } } }');

my $PUBLIC = '{"users":[{"id":1,"email":"a@b"},{"id":2}]}';
my $SECRET = '{"users": [{"id": 1, "mail": "a@b", "password": "x"}, {"password": "y", "id": 2}], "secret": {"key": 1}}';
$t->write_file('users.json', $SECRET);
$t->write_file('users.txt', $SECRET);
$t->write_file('broken.json', substr $SECRET, 0, -1);
$t->write_file('empty.json', '');
$t->write_file('packed.json', do { gzip(\$SECRET, \my $z); $z });
$t->write_file('large.json', '[' . join(',', map { qq({"users":{"id":$_,"password":"x"},"text":") . 'x' x 100 . '"}' } 1 .. 10_000) . ']');

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    types {
        application/json  json;
        text/plain        txt;
    }
    client_max_body_size 4m;
    http_wasm_timeout 20s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /request/ {
            http_wasm $guest config_file=%%TESTDIR%%/request.json;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /order/ {
            http_wasm $guest config_file=%%TESTDIR%%/order.json;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /both/ {
            http_wasm $guest config_file=%%TESTDIR%%/both.json;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /response/ {
            http_wasm $guest config_file=%%TESTDIR%%/response.json;
            http_wasm_buffer_types application/json;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /files/ {
            http_wasm $guest config_file=%%TESTDIR%%/response.json;
            alias %%TESTDIR%%/;
        }

        location /packed/ {
            http_wasm $guest config_file=%%TESTDIR%%/response.json;
            add_header Content-Encoding gzip;
            alias %%TESTDIR%%/;
        }
    }
}

EOF

backend($t);
$t->run();

###############################################################################

my @TYPE = ('-H', 'Content-Type: application/json');

subtest 'bodies of requests' => sub {
	becomes($_->[0], $_->[1]) for
		[ '{"admin":true,"x":1}', '{"x":1}' ],
		[ ' { "x" : [ 1 , 2 ] , "userName" : "a" , "user" : { "roles" : [1] , "eMail" : "m" , "id" : 7 } } ',
			'{"x":[ 1 , 2 ],"name":"a","user":{"mail":"m","id":7}}' ],
		[ '{"user":[{"roles":1,"id":1},{"roles":2},"text",null,[],{}]}', '{"user":[{"id":1},{},"text",null,[],{}]}' ],
		[ '[{"admin":1},[{"admin":2}]]', '[{},[{}]]' ],
		[ '{"nested":{"admin":1}}', '{"nested":{"admin":1}}' ],
		[ '{"user":"roles","roles":1}', '{"user":"roles","roles":1}' ],
		[ '{"admin":{"a":[{}]},"admin":"}","x":1,"admin":-1.5e3,"admin":null}', '{"x":1}' ],
		[ '{"\u0061dmin":1,"adm\u0069n":2,"user\u004eame":3}', '{"name":3}' ],
		[ '{"Admin":1,"ADMIN":2,"admin ":3,"":4}', '{"Admin":1,"ADMIN":2,"admin ":3,"":4}' ],
		[ '{"user":{"roles":1},"user":{"roles":2}}', '{"user":{},"user":{}}' ],
		[ '{"name":"old","userName":"new","x":1}', '{"name":"new","x":1}' ],
		[ '{"userName":"new","name":"old"}', '{"name":"new"}' ],
		[ '{"userName":1,"x":2,"userName":3,"name":4}', '{"x":2,"name":3}' ],
		[ '{"user":{"mail":1,"eMail":2},"mail":3}', '{"user":{"mail":2},"mail":3}' ],
		# Numbers and texts stay as they were written.
		map { [ $_, $_ ] } '[12345678901234567890,1.10,1e400,-0.0,0]', '["<a href=\'x\'>&","\u00e4","' . "\xc3\xa4" . '","\ud83d","\/"]',
			'null', 'true', '1', '"text"', '[]', '{}', '"]]]]{{{{\"["', '"\\\\"', '{"a\\\\":"\\\\","x\"}":"{"}', '[' x 100 . ']' x 100;

	is(content(ask('{"a":1,"b":2,"c":3,"x":4}', @TYPE, '/order/raw')), '{"b":1,"c":2}', 'renamed all at once');
};

# Compared with what the rules mean for values.
subtest 'random bodies' => sub {
	my $json = JSON::PP->new()->utf8()->canonical();
	srand(my $seed = $ENV{SEED} // time());
	for my $round (1 .. 20) {
		my @values = map { random_value(4) } 1 .. 30;
		my $body = '[' . join(',', map { written($_) } @values) . ']';
		my $got = eval { $json->decode(content(ask($body, @TYPE, '/request/raw'))) };
		my $same = $json->encode($got // [ 'none' ]) eq $json->encode([ map { changed($_, '') } @values ]);
		ok($same, "round $round") or diag("SEED=$seed: $body");
	}
};

subtest 'lengths' => sub {
	my $r = ask('{"admin":true}', @TYPE, '/request/');
	is(join('|', content($r) =~ /^Content-Length: (.*)$/gmi), 2, 'of a request');
	like(content($r), qr/^body 2 /m, 'its body');
	$r = ask('{"admin":true}', @TYPE, '-H', 'Transfer-Encoding: chunked', '/request/');
	like(content($r), qr/^body 2 /m, 'in chunks');
};

subtest 'what is no JSON' => sub {
	refused(ask($_, @TYPE, '/request/'), 400, substr $_, 0, 30) for
		'{', '{"admin":true', '{admin:true}', "{'admin':true}", '{"admin":true}}', '{"admin":true} {"admin":true}',
		'{"admin":true,}', '{"a":01}',
		"\xef\xbb\xbf{}", "{\0\"\0}\0", '//', '{} // text', 'NaN', ' ', "\n", '"', '"\\', '"a' . "\n" . 'b"', 'admin=true', '[1,]', '{"a"}', '{"a":}', '+1',
		'[' x 101 . ']' x 101, '[' x 1_000_000, '{"a":' x 200_000, '[' x 100_000 . ']' x 100_000, ']' x 1000 . '[' x 1000, '"\\"' . '[' x 200;
	is(content(ask('{"x":1}', @TYPE, '/request/raw')), '{"x":1}', 'the guest goes on');
};

subtest 'types of requests' => sub {
	my $body = '{"admin":true}';
	for my $type ('application/json', 'Application/JSON; charset=UTF-8', 'application/merge-patch+json', 'application/json;charset="utf-8"') {
		is(content(ask($body, '-H', "Content-Type: $type", '/request/raw')), '{}', $type);
	}
	for my $type ('text/plain', 'application/x-www-form-urlencoded', 'application/json; charset=utf-16', 'application/jsonp', 'json',
		'application/json, text/plain', 'text/json', 'application/json; charset', 'application/json;;', 'application/json; a=b; a=c')
	{
		refused(ask($body, '-H', "Content-Type: $type", '/request/'), 415, $type);
	}
	refused(ask($body, '-H', 'Content-Type:', '/request/'), 415, 'none');
	refused(ask($body, '-H', 'Content-Type;', '/request/'), 415, 'an empty one');
	refused(ask($body, @TYPE, '-H', 'Content-Type: text/plain', '/request/'), 415, 'two');
	refused(ask($body, @TYPE, '-H', "Content-Encoding: $_", '/request/'), 415, "encoded: $_") for qw/ gzip br GZIP /, 'identity, gzip';
	is(content(ask($body, @TYPE, '-H', 'Content-Encoding: identity', '/request/raw')), '{}', 'not encoded');
};

subtest 'requests without a body' => sub {
	like(content(curl('/request/')), qr{^GET / HTTP}, 'GET');
	is(status(curl('-I', '/request/')), 200, 'HEAD');
	like(content(ask('', @TYPE, '/request/')), qr/^body 0 /m, 'an empty one');
	like(content(ask('', '-H', 'Content-Type: text/plain', '/request/')), qr/^body 0 /m, 'of another type');
	is(content(ask('{"admin":true}', @TYPE, '-X', 'GET', '/request/raw')), '{}', 'GET with a body');
};

subtest 'bodies of responses' => sub {
	my $r = curl('/files/users.json');
	is(content($r), $PUBLIC, 'a file');
	is(header($r, 'Content-Length'), length $PUBLIC, 'its length');
	is(header($r, $_), undef, "no $_ of what it was") for qw/ ETag Last-Modified /;

	is(content(curl('/files/users.txt')), $SECRET, 'another type');
	is(content(curl('/response/size/10')), '0123456789', 'another type, where the host does not give it');
	is(content(curl('/response/headers?Content-Type=text/html')), "headers\n", 'likewise');
	refused(curl('/response/headers?Content-Type=application/json'), 502, 'a text that says it is JSON');
	refused(curl('/response/headers?Content-Type=application/json%3Bcharset=utf-16'), 502, 'in another charset');
	refused(curl('/files/broken.json'), 502, 'broken');
	refused(curl('/packed/packed.json'), 502, 'compressed');
	is(content(curl('/files/empty.json')), '', 'empty');
	unlike(content(curl('-H', 'Accept-Encoding: gzip', '/response/')), qr/Accept-Encoding/i, 'the backend is not asked for a compressed one');

	$r = ask('{"a":1,"b":2}', @TYPE, '/both/raw');
	is(content($r), '{"b":2}', 'a request, whose echo is a text');
};

subtest 'responses without a body' => sub {
	my $r = curl('-I', '/files/users.json');
	is(status($r), 200, 'HEAD');
	is(content($r), '', 'no body');
	$r = curl('-H', 'If-Modified-Since: ' . header(curl('/files/users.txt'), 'Last-Modified'), '/files/users.json');
	like(status($r), qr/^(?:200|304)$/, 'a condition');
	unlike(content($r), qr/password/, 'nothing gets out');
	$r = curl('-r', '0-60', '/files/users.json');
	unlike(content($r), qr/password/, 'a part');
};

subtest 'large bodies' => sub {
	my $element = '{"admin":true,"text":"' . 'x' x 100 . '"}';
	my $r = ask('[' . join(',', ($element) x 10_000) . ']', @TYPE, '/request/raw');
	my $expected = '[' . join(',', ('{"text":"' . 'x' x 100 . '"}') x 10_000) . ']';
	ok(content($r) eq $expected, 'of a request') or diag(status($r), ' ', length content($r));
	is(header($r, 'Content-Length'), length $expected, 'its length');

	$r = curl('/files/large.json');
	is(status($r), 200, 'of a response');
	my $all = content($r);
	is(scalar(() = $all =~ /"users":\{"id":\d+\}/g), 10_000, 'all of it');
	unlike($all, qr/password/, 'without what has to go');

	# What would take a lot of memory as values.
	for my $unit ('[],', '{},', '1,', '{"a":1},', '"a",', '[[]],') {
		$r = ask('[' . $unit x (3_000_000 / length $unit) . '1]', @TYPE, '/request/');
		is(status($r), 200, "3 MB of $unit");
	}
	$r = ask('{' . join(',', map { qq("$_":{"admin":1}) } 1 .. 100_000) . '}', @TYPE, '/request/raw');
	is(status($r), 200, 'many members');
	refused(ask('[' . '[],' x 300_000, @TYPE, '/request/'), 400, 'without an end');
};

subtest 'a wrong configuration' => sub {
	for my $case (
		(map { [ $_, qr/expected JSON with "request" or "response"/ ] } '', '{', '[]', '{"request":[]}', '{"requests":{}}',
			'{"request":{"remove":"a"}}', '{"request":{"delete":["a"]}}', '{"request":{"rename":{"a":1}}}'),
		(map { [ $_, qr/expected "request" or "response"/ ] } '{}', 'null', '{"request":null}'),
		[ '{"request":{"remove":["a"]}} {}', qr/expected nothing behind the JSON/ ],
		(map { [ $_, qr/expected "remove" or "rename"/ ] } '{"request":{}}', '{"request":{"remove":["a"]},"response":{"remove":[]}}'),
		(map { [ qq({"response":{"remove":["$_"]}}), qr/path "[^"]*": expected names/ ] } '', '.', 'a.', '.a', 'a..b'),
		[ '{"request":{"rename":{"a..b":"c"}}}', qr/path "a\.\.b": expected names/ ],
		(map { [ qq({"request":{"rename":{"a":"$_"}}}), qr/rename "a" to "$_": expected a name/ ] } '', 'b.c'),
	) {
		my ($text, $reason) = @$case;
		$t->write_file('tried.json', $text);
		my ($output, $exit) = nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    http_wasm $guest config_file=tried.json;
}
EOF
		isnt($exit, 0, "refused: $text");
		like($output, qr/\[emerg\].*json: $reason/, 'with what is expected');
	}
};

###############################################################################

sub random_value {
	my ($depth) = @_;

	my $kind = $depth ? int rand 8 : 4 + int rand 4;
	return { map { ($_ => random_value($depth - 1)) } grep { rand() < 0.4 }
		qw/ admin user roles userName name eMail mail id / } if $kind < 3;
	return [ map { random_value($depth - 1) } 1 .. rand 4 ] if $kind < 4;
	return ("}]\"\\,:{[", undef, "text", "\x{e4}\n")[ $kind - 4 ];
}

# As somebody might write it: with spaces, in any order, with escapes that need not be.
sub written {
	my ($value) = @_;

	my $space = sub { join '', map { (' ', "\n", "\t", "\r")[rand 4] } 1 .. rand 3 };
	my $between = sub { my ($open, $close, @parts) = @_; $open . $space->() . join($space->() . ',' . $space->(), @parts) . $space->() . $close };
	return $between->('[', ']', map { written($_) } @$value) if ref $value eq 'ARRAY';
	return $between->('{', '}', map {
		my $name = rand() < 0.2 ? sprintf('\u%04x', ord) . substr $_, 1 : $_;
		qq("$name") . $space->() . ':' . $space->() . written($value->{$_})
	} keys %$value) if ref $value;
	return JSON::PP->new()->allow_nonref()->utf8()->encode($value);
}

# What request.json makes of it.
sub changed {
	my ($value, $path) = @_;

	return [ map { changed($_, $path) } @$value ] if ref $value eq 'ARRAY';
	return $value unless ref $value;
	my %removed = map { $_ => 1 } qw/ admin user.roles /;
	my %renamed = (userName => 'name', 'user.eMail' => 'mail');
	my (%result, %moved);
	for my $name (keys %$value) {
		next if $removed{"$path$name"};
		my $to = $renamed{"$path$name"};
		my $member = $path eq '-' ? $value->{$name} : changed($value->{$name}, $path eq '' && $name eq 'user' ? 'user.' : '-');
		($to ? $moved{$to} : $result{$name}) = $member;
	}
	return { %result, %moved };
}

# Sends a body.
sub ask {
	my ($body, @args) = @_;
	$t->write_file('sent', $body);
	return curl('-H', 'Expect:', '--data-binary', '@' . $t->testdir() . '/sent', @args);
}

sub becomes {
	my ($body, $expected) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(content(ask($body, @TYPE, '/request/raw')), $expected, 'becomes ' . substr($expected, 0, 40) =~ s/[^ -~]/./gr);
}

sub refused {
	my ($r, $status, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(status($r), $status, 'refused: ' . $name =~ s/[^ -~]/./gr);
	is(content($r), "$status\n", 'with no more than that');
	is(header($r, 'Content-Encoding'), undef, 'not encoded');
}

###############################################################################
