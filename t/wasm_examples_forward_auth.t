#!/usr/bin/perl

# examples/forward-auth: a service decides about each request, what it says of the client is all that the upstream
# hears of it, and a service that fails lets nobody pass.

###############################################################################

use warnings;
use strict;

use IO::Socket::INET;
use Socket qw/ IPPROTO_TCP TCP_NODELAY /;
use Test::More;
use Time::HiRes qw/ sleep time /;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy http_auth_request http_ssl/)->plan(11);
my $guest = built('example-forward-auth.wasm');
my $timeout = patience(1);

sub config {
	my ($name, $more, $port) = @_;
	$t->write_file("$name.json", '{ "url": "http://127.0.0.1:' . port($port // 8082) . '/verify?from=nginx", '
		. qq("timeout": "${timeout}s", "response_headers": ["X-User", "x-groups"]$more }));
}

config('plain', '');
config('cached', ', "cache": { "time": "1h" }');
config('brief', ', "cache": { "time": "100ms" }');
config('small', ', "cache": { "time": "1h", "entries": 2 }');
config('site', ', "cache": { "time": "1h", "by": ["host"] }');
config('open', ', "on_failure": "pass"');
config('down', '', 8083);
config('down-open', ', "on_failure": "pass"', 8083);
$t->write_file("$_.json", '{ "url": "https://127.0.0.1:' . port(8443) . '/", "response_headers": ["x-user"] }') for qw/ secret untrusted /;
config('field', ', "request_headers": ["authorization", "x-forwarded-for"], "cache": { "time": "1h", "by": [] }');

my %more = (
	field => 'http_wasm_field x-forwarded-for $remote_addr;',
	secret => 'http_wasm_dir %%TESTDIR%%/trusted /trusted; http_wasm_env SSL_CERT_FILE=/trusted/auth.crt;',
);
my @names = qw/ plain cached brief small site open down down-open field secret untrusted /;
mkdir $t->testdir() . '/trusted';
my ($key, $crt) = map { $t->testdir() . "/$_" } 'auth.key', 'trusted/auth.crt';
system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=auth "
	. "-addext subjectAltName=IP:127.0.0.1 -keyout $key -out $crt 2>/dev/null") == 0 or die "openssl: $?\n";
$t->write_file_expand('nginx.conf', <<'EOC' =~ s/SERVERS/servers()/er);

%%TEST_GLOBALS%%

daemon off;
worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    underscores_in_headers on;
    http_wasm_timeout 20s;
    http_wasm_connect 127.0.0.1:%%PORT_8082%%;
    http_wasm_connect 127.0.0.1:%%PORT_8083%%;
    http_wasm_connect 127.0.0.1:%%PORT_8443%%;

SERVERS
    server {
        listen               127.0.0.1:8443 ssl;
        ssl_certificate      %%TESTDIR%%/trusted/auth.crt;
        ssl_certificate_key  %%TESTDIR%%/auth.key;

        location / {
            add_header X-User "by TLS";
            return 204;
        }
    }

    server {
        listen       127.0.0.1:8080;
        server_name  request;

        location / {
            auth_request /_verify;
            proxy_pass http://127.0.0.1:8081;
        }

        location = /_verify {
            internal;
            proxy_pass http://127.0.0.1:8082/verify;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Forwarded-Uri $request_uri;
        }
    }
}

EOC

backend($t, 8081);
my $auth = start_service(8082);
$t->run();

###############################################################################

subtest 'what the service is asked' => sub {
	my $r = ask('plain', '/ok/a%20b/../c?d=e&f', 'POST', 'Authorization: alice', 'Cookie: a=1', 'Cookie: b=2', 'X-Other: z',
		'X-Forwarded-Uri: /public', 'X-Forwarded-Method: GET', 'X-Forwarded-Host: other', 'Content-Length: 0');
	is(status($r), 200, 'passes');
	my $asked = $t->read_file('asked.head');
	like($asked, qr{^GET /verify\?from=nginx HTTP/1\.1\r\n}, 'the URL');
	is(header($asked, $_->[0]), $_->[1], $_->[0]) for [ 'X-Forwarded-Method', 'POST' ], [ 'X-Forwarded-Host', 'plain' ],
		[ 'X-Forwarded-Uri', '/ok/a%20b/../c?d=e&f' ], [ 'Authorization', 'alice' ], [ 'Cookie', 'a=1|b=2' ],
		[ 'X-Other', undef ], [ 'User-Agent', undef ], [ 'Content-Length', undef ];
};

subtest 'what the upstream hears' => sub {
	my $r = ask('plain', '/ok', 'Authorization: alice');
	is(identity($r), 'x-user=alice x-groups=staff x-groups=admin of alice', 'who it is');
	like(content($r), qr/^Authorization: alice\r?$/mi, 'the credentials are still there');

	# The client says who it is.
	my @false = ('X-User: root', 'x-user: root2', 'X-GROUPS: wheel', 'X_User: root3', 'X-Group: stays');
	$r = ask('plain', '/ok', 'Authorization: alice', @false);
	is(identity($r), 'x-user=alice x-groups=staff x-groups=admin of alice', 'not what the client says');
	like(content($r), qr/^X-Group: stays\r?$/mi, 'others stay');
	is(identity(ask('plain', '/nobody', @false)), '', 'nor if the service says nothing');
	is(identity(ask($_, '/slow', @false)), '', "nor if it is not heard: $_") for qw/ open down-open /;
	is(identity(ask('cached', '/nobody', 'Authorization: a', @false)), '', 'nor from the cache') for 1 .. 2;
};

subtest 'what the client gets' => sub {
	my $r = ask('plain', '/401', 'Authorization: mallory');
	is(status($r), 401, 'the status');
	is(header($r, 'WWW-Authenticate'), 'Basic realm="a"|Bearer', 'both challenges');
	is(header($r, 'Content-Type'), 'text/x-reason', 'the type');
	is(content($r), "reason 401\n", 'the body');
	is(header($r, $_), undef, "no $_") for qw/ X-Internal X-User /;

	$r = ask('plain', '/302');
	is(status($r), 302, 'a redirect');
	is(header($r, 'Location'), 'https://login.example/?back=%2F', 'where to');
	is(header($r, 'Set-Cookie'), 'a=1|b=2', 'its cookies');
	is(status(ask('plain', "/$_")), $_, "status $_") for qw/ 304 307 400 403 404 429 500 503 /;
	is(status(ask('open', "/$_")), $_, "$_ is an answer also when failures pass") for qw/ 401 403 500 /;

	$r = ask('plain', '/401', 'HEAD');
	is(status($r), 401, 'HEAD');
	is(content($r), '', 'has no body');
};

subtest 'beside auth_request' => sub {
	for my $uri (qw{ /ok /204 /nobody /401 /403 }) {
		is(status(ask('request', $uri, 'Authorization: alice')), status(ask('plain', $uri, 'Authorization: alice')), $uri);
	}
};

subtest 'connections' => sub {
	my $s = connection();
	my ($before, $asked) = (lines('connections'), lines('asked'));
	is(status(ask_on($s, 'plain', "/ok/$_", 'Authorization: alice')), 200, "request $_") for 1 .. 10;
	is(lines('asked') - $asked, 10, 'each is asked about');
	cmp_ok(lines('connections') - $before, '<=', 1, 'over one connection');

	# The service closes it without a word, after an answer or in place of one.
	is(status(ask_on($s, 'plain', '/last')), 200, "the last of a connection $_"), is(status(ask_on($s, 'plain', '/ok')), 200, 'and the next')
		for 1 .. 5;
	# All connections are gone at once, as the service is started anew.
	is(status(ask_on($s, 'plain', '/ok')), 200, 'before');
	stop_service($auth);
	is(status(ask_on($s, 'plain', '/ok')), 503, 'while the service is down');
	is(status(ask_on($s, 'open', '/ok')), 200, 'where failures pass');
	$auth = start_service(8082);
	is(status(ask_on($s, 'plain', '/ok')), 200, 'when it is back');
};

subtest 'the cache' => sub {
	my $s = connection();
	my $count = sub {
		my ($n, $name, @args) = @_;
		my $before = lines('asked');
		my @got = map { identity(ask_on($s, @args)) } 1 .. 3;
		is(lines('asked') - $before, $n, $name);
		return @got;
	};

	is(join('|', $count->(1, 'asked once', 'cached', '/ok', 'Authorization: alice', 'X-User: root')),
		join('|', ('x-user=alice x-groups=staff x-groups=admin of alice') x 3), 'with the same answer');
	is(($count->(1, 'others are asked about', 'cached', '/ok', 'Authorization: bob'))[2],
		'x-user=bob x-groups=staff x-groups=admin of bob', 'and get their own');
	$count->(1, 'another cookie', 'cached', '/ok', 'Authorization: alice', 'Cookie: a=1');
	$count->(1, 'two of them', 'cached', '/ok', 'Authorization: alice', 'Cookie: a=1', 'Cookie: b=2');
	$count->(1, 'one header in place of the other', 'cached', '/ok', 'Cookie: alice');
	$count->(0, 'the first is still known', 'cached', '/ok', 'Authorization: alice');
	$count->(1, 'another URI', 'cached', '/ok?a', 'Authorization: alice');
	$count->(1, 'another method', 'cached', '/ok', 'POST', 'Authorization: alice', 'Content-Length: 0');
	$count->(1, 'by the host alone', 'site', '/ok', 'Authorization: alice');
	$count->(0, 'any URI', 'site', '/401', 'Authorization: alice');
	$count->(3, 'other credentials', 'site', '/401', 'Authorization: mallory');
	$count->(3, 'no credentials', 'cached', '/ok');
	$count->(3, 'refusals', 'cached', '/401', 'Authorization: alice');
	$count->(3, "/cache/$_", 'cached', "/cache/$_", 'Authorization: alice')
		for 'no-store', 'No-Store', 'private,no-store', 'no-cache', 'max-age=0', 'max-age=x', 'max-age=99999999999';
	$count->(1, "/cache/$_", 'cached', "/cache/$_", 'Authorization: alice') for 'private', 'max-age=100', 'public,max-age="100"';
	$count->(3, $_, 'cached', $_, 'Authorization: alice') for qw{ /set-cookie /vary };

	$count->(1, "of three: $_", 'small', '/ok', "Authorization: $_") for qw/ a b c /;
	$count->(0, 'the last two are known', 'small', '/ok', "Authorization: $_") for qw/ b c /;
	$count->(1, 'the first is not', 'small', '/ok', 'Authorization: a');
	$count->(0, 'the one that was used last is', 'small', '/ok', 'Authorization: c');

	my $before = lines('asked');
	ok(wait_until(sub { ask_on($s, 'brief', '/ok', 'Authorization: alice'); lines('asked') - $before >= 3 }), 'it forgets');
};

subtest 'what nginx knows' => sub {
	my $s = connection();
	my $before = lines('asked');
	is(status(ask_on($s, 'field', '/ok', 'Authorization: alice', 'X-Forwarded-For: 10.1.2.3')), 200, 'passes');
	is(header($t->read_file('asked.head'), 'X-Forwarded-For'), '127.0.0.1', 'not what the client says');
	ask_on($s, 'field', '/ok', 'Authorization: alice', 'X-Forwarded-For: 10.1.2.4');
	is(lines('asked') - $before, 1, 'is part of what is remembered');
};

subtest 'a service that fails' => sub {
	for my $uri (qw{ /garbage /silent /reset /huge-header /nul /cr /999 /101 /cut-401 /cut-ok /slow /drip-slow }) {
		my $start = time();
		my $r = ask('plain', $uri, 'Authorization: alice');
		is(status($r), 503, $uri);
		is(content($r), "503\n", 'says no more');
		cmp_ok(time() - $start, '<', $timeout + patience(2), 'in time');
		is(status(ask('open', $uri, 'Authorization: alice')), 200, "$uri, where failures pass");
	}
	is(status(ask('down', '/ok')), 503, 'nobody there');
	is(status(ask('plain', '/ok')), 200, 'it goes on');
	error_log_like($t, qr/auth=failed reason=.*refused/i, 'the log says why');

	is(identity(ask('plain', '/drip', 'Authorization: alice')), 'x-user=alice x-groups=staff x-groups=admin of alice', 'a byte at a time');
	for my $uri (qw{ /huge-401 /endless-401 }) {
		my $r = ask('plain', $uri);
		is(status($r), 401, $uri);
		is(content($r), '', 'without the body');
	}
	# A second answer that nobody has asked for is not the answer to the next question.
	my $s = connection();
	for (1 .. 5) {
		is(status(ask_on($s, 'plain', '/twice')), 401, 'two answers at once');
		is(status(ask_on($s, 'plain', '/403')), 403, 'the second is not taken for the next');
	}

	is(length content(ask('plain', '/limit-401')), 65536, 'as large as may be');
	is(status(ask('plain', '/huge-ok')), 200, 'a large answer that lets pass');
};

subtest 'clients' => sub {
	for my $header ("Authorization: a\x01b", "Cookie: a\x7f") {
		is(status(ask($_, '/ok', $header)), 400, "what nobody can be asked: $_") for qw/ plain open cached down-open /;
	}
	is(status(ask('plain', '/ok', 'Authorization: ' . "\xff\xe4")), 200, 'bytes beyond ASCII');

	# Clients that go away meanwhile.
	for (1 .. 20) {
		my $s = connection();
		syswrite $s, "GET /slow HTTP/1.1\r\nHost: plain\r\n\r\n";
		close $s;
	}
	is(status(ask('plain', '/ok')), 200, 'clients that went away');

	# Many at the same time, of both workers: everybody is told apart.
	my @s = map { connection() } 1 .. 40;
	my %workers;
	for my $round (1 .. 3) {
		syswrite $s[$_], "GET /ok HTTP/1.1\r\nHost: cached\r\nAuthorization: user$_\r\n\r\n" for keys @s;
		my @wrong = grep { my $r = read_reply($s[$_]); $workers{ header($r, 'X-Worker') // '' }++;
			identity($r) ne "x-user=user$_ x-groups=staff x-groups=admin of user$_" } keys @s;
		is("@wrong", '', "round $round");
	}
	is(scalar keys %workers, 2, 'both workers have served');
};

subtest 'certificates' => sub {
	is(identity(ask('secret', '/')), 'x-user=by TLS', 'a certificate that is trusted');
	is(status(ask('untrusted', '/')), 503, 'one that is not');
	error_log_like($t, qr/auth=failed reason=.*certificate/, 'the log says why');
};

subtest 'a wrong configuration' => sub {
	my ($right, $status) = nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    http_wasm $guest config_file=@{[repo()]}/examples/forward-auth/forward-auth.json;
}
EOF
	is($status, 0, 'the one of the documentation is right') or diag($right);

	my $url = '"url": "http://127.0.0.1/"';
	for my $case (
		(map { [ $_, qr/expected JSON with "url"/ ] } '', '[]', '{', '{"url":1}', "{$url,\"header\":[]}", "{$url,\"cache\":\"10s\"}"),
		(map { [ $_, qr/url "[^"]*": expected http/ ] } '{}', '{"url":"ftp://a/"}', '{"url":"/verify"}', '{"url":"http://"}', '{"url":"http://:80/"}', '{"url":"http://a:b@c/"}'),
		[ "{$url} {}", qr/expected nothing behind/ ],
		(map { [ "{$url,\"request_headers\":[\"$_\"]}", qr/request_headers "[^"]*": expected the name/ ] }
			'', 'a b', 'a:', 'host', 'X-FORWARDED-URI', 'Transfer-Encoding', 'connection'),
		(map { [ "{$url,\"response_headers\":[\"$_\"]}", qr/response_headers "[^"]*": expected the name/ ] } '', "a\\n", 'content-length', 'Host'),
		(map { [ "{$url,\"cache\":{\"time\":\"$_\"}}", qr/cache time "[^"]*": expected a time/ ] } '', '10', '-1s'),
		(map { [ "{$url,\"cache\":{\"entries\":$_}}", qr/cache entries -?\d+: expected/ ] } 0, -1, 100_001),
		[ "{$url,\"cache\":{\"by\":[\"path\"]}}", qr/cache by "path": expected/ ],
		(map { [ "{$url,\"timeout\":\"$_\"}", qr/timeout "[^"]*": expected/ ] } '', '0s', '2'),
		(map { [ "{$url,\"body_limit\":$_}", qr/body_limit -?\d+: expected/ ] } -1, 1048577),
		[ "{$url,\"on_failure\":\"open\"}", qr/on_failure "open": expected/ ],
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
		like($output, qr/\[emerg\].*forward-auth: $reason/, 'with what is expected');
	}
};

###############################################################################

sub servers {
	return join '', map { <<"EOS" } @names;
    server {
        listen       127.0.0.1:8080@{[ $_ eq 'plain' ? ' reuseport' : '' ]};
        server_name  $_;

        location / {
            http_wasm $guest name=$_ config_file=%%TESTDIR%%/$_.json;
            @{[ $more{$_} // '' ]}
            add_header X-Worker \$pid;
            proxy_pass http://127.0.0.1:8081;
        }
    }

EOS
}

# One request, on a connection of its own or on one that stays open. A method may stand before the headers.
sub ask { return ask_on(connection(), @_) }

sub ask_on {
	my ($s, $host, $uri, @headers) = @_;

	my $method = @headers && $headers[0] !~ /:/ ? shift @headers : 'GET';
	syswrite $s, join "\r\n", "$method $uri HTTP/1.1", "Host: $host", @headers, '', '';
	return read_reply($s, head => $method eq 'HEAD');
}

# What the upstream hears of the client, in the order that it came.
sub identity {
	my ($r) = @_;
	return join ' ', map { /^(x[-_](?:user|groups)): (.*?)\r?$/i ? lc($1) . "=$2" : () } split /\n/, content($r) // '';
}

# How many requests and connections the service has had.
sub lines {
	my ($name) = @_;
	return -f $t->testdir() . "/$name" ? scalar(() = $t->read_file($name) =~ /\n/g) : 0;
}

sub note_line {
	my ($name, $line) = @_;
	open my $fh, '>>', $t->testdir() . "/$name" or die "$name: $!\n";
	syswrite $fh, "$line\n";
	close $fh;
}

###############################################################################

# The service: what it answers is up to the URI that it is asked about.

sub start_service {
	my ($port) = @_;

	my $server = IO::Socket::INET->new(Proto => 'tcp', LocalAddr => '127.0.0.1:' . port($port), Listen => 511, ReuseAddr => 1)
		or die "can't listen: $!\n";
	$t->run_daemon(sub {
		local $SIG{PIPE} = local $SIG{CHLD} = 'IGNORE';
		while (1) {
			my $s = $server->accept() or next;
			my $pid = fork();
			serve($s), POSIX::_exit(0) if defined $pid && $pid == 0;
			close $s;
		}
	});
	close $server;
	return $t->{daemons}[-1];
}

# With all of its connections.
sub stop_service {
	my ($pid) = @_;
	kill 'KILL', -$pid;
	waitpid $pid, 0;
	return;
}

sub serve {
	my ($s) = @_;

	setsockopt $s, IPPROTO_TCP, TCP_NODELAY, 1;
	note_line('connections', $$);
	my $buffer = '';
	while (1) {
		while ($buffer !~ /\r\n\r\n/) {
			sysread $s, $buffer, 65536, length $buffer or return;
		}
		$buffer =~ s/^(.*?\r\n\r\n)//s;
		my $head = $1;
		# In place at once.
		$t->write_file("asked.$$", $head);
		rename $t->testdir() . "/asked.$$", $t->testdir() . '/asked.head';
		note_line('asked', header("HTTP\r\n$head", 'X-Forwarded-Uri'));
		decide($s, $head) or return;
	}
}

sub reply {
	my ($s, $status, $body, @headers) = @_;
	return print_all($s, join "\r\n", "HTTP/1.1 $status Said", @headers, 'Content-Length: ' . length $body, '', $body);
}

sub print_all {
	my ($s, $text, $pause) = @_;

	for my $part ($pause ? split(//, $text) : $text) {
		while (length $part) {
			my $n = syswrite $s, $part or return 0;
			substr $part, 0, $n, '';
		}
		sleep($pause) if $pause;
	}
	return 1;
}

sub decide {
	my ($s, $head) = @_;

	my ($mood, $rest) = header($head, 'X-Forwarded-Uri') =~ m{^/([^/?]*)/?([^?]*)};
	$rest =~ s/%(..)/chr hex $1/ge;
	my $user = header($head, 'Authorization') // 'nobody';
	my @who = ("X-User: $user", 'X-Groups: staff', "x-groups: admin of $user");

	return reply($s, 200, '', @who) if $mood eq 'ok';
	return reply($s, 200, '', @who, "Cache-Control: $rest") if $mood eq 'cache';
	return reply($s, 200, '', @who, 'Set-Cookie: a=b') if $mood eq 'set-cookie';
	return reply($s, 200, '', @who, 'Vary: *') if $mood eq 'vary';
	return reply($s, 200, 'body') if $mood eq 'nobody';
	return reply($s, 200, 'x' x 200_000, @who) if $mood eq 'huge-ok';
	return reply($s, 200, '', 'X-User: ' . 'x' x 100_000) if $mood eq 'huge-header';
	return reply($s, 200, '', "X-User: a\0b") if $mood eq 'nul';
	return reply($s, 200, '', "X-User: a\rb") if $mood eq 'cr';
	return reply($s, 401, 'x' x 200_000) if $mood eq 'huge-401';
	return reply($s, 401, 'x' x 65536) if $mood eq 'limit-401';
	return reply($s, 302, '', 'Location: https://login.example/?back=%2F', 'Set-Cookie: a=1', 'Set-Cookie: b=2') if $mood eq '302';
	return reply($s, 401, "reason 401\n", 'WWW-Authenticate: Basic realm="a"', 'WWW-Authenticate: Bearer', 'Content-Type: text/x-reason',
		'X-Internal: 1', 'X-User: root') if $mood eq '401';
	return print_all($s, "HTTP/1.1 $mood Said\r\n\r\n") if $mood eq '304' || $mood eq '204';
	return print_all($s, "HTTP/1.1 101 Said\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n") if $mood eq '101';
	return reply($s, $mood, "reason $mood\n") if $mood =~ /^\d{3}$/;
	return reply($s, 200, '', @who) && 0 if $mood eq 'last';
	return print_all($s, "hello\r\n\r\n" x 10) && 0 if $mood eq 'garbage';
	return reply($s, 401, '') && reply($s, 200, '', 'X-User: root') if $mood eq 'twice';
	return 0 if $mood eq 'silent';
	if ($mood eq 'reset') {
		setsockopt $s, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack('ii', 1, 0);
		return 0;
	}
	return print_all($s, "HTTP/1.1 401 Said\r\nContent-Length: 100\r\n\r\nten bytes.") && 0 if $mood eq 'cut-401';
	return print_all($s, "HTTP/1.1 200 Said\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n") && 0 if $mood eq 'cut-ok';
	return print_all($s, join("\r\n", 'HTTP/1.1 200 Said', @who, 'Content-Length: 3', '', 'abc'), 0.001) if $mood eq 'drip';
	return print_all($s, "HTTP/1.1 200 Said\r\nX-User: root\r\nX-Slow: " . 'x' x 1000, 0.02) if $mood eq 'drip-slow';
	if ($mood eq 'endless-401') {
		print_all($s, "HTTP/1.1 401 Said\r\nTransfer-Encoding: chunked\r\n\r\n");
		1 while print_all($s, "1000\r\n" . 'x' x 4096 . "\r\n");
		return 0;
	}
	# "slow": it does not answer.
	sysread $s, my $rest_of_it, 1;
	return 0;
}

###############################################################################
