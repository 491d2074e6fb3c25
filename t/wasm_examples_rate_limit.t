#!/usr/bin/perl

# examples/rate-limit: a limit that all workers share, and sessions, both in Redis; what happens while Redis is away,
# full, slow or has something else under the key.

###############################################################################

use warnings;
use strict;

use IO::Socket::INET;
use IO::Socket::UNIX;
use Test::More;
use Time::HiRes qw/ sleep time /;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy http_realip/)->plan(11);
my $guest = built('example-rate-limit.wasm');
my $timeout = patience(1);
my ($server, $cli) = map { program($_) } qw/ redis-server redis-cli /;
my ($dir, $tcp) = ($t->testdir(), port(8090));

my $session = '"session": { "cookie": "sid", "headers": { "x-user": "user", "X-Role": "role" } }';
my %config = (
	fixed => '"limit": { "requests": 50, "window": "1h", "prefix": "fixed:" }',
	sliding => '"limit": { "requests": 50, "window": "1000h", "sliding": true, "prefix": "sliding:" }',
	brief => '"limit": { "requests": 2, "window": "1s", "prefix": "brief:" }',
	moving => '"limit": { "requests": 5, "window": "1s", "sliding": true, "prefix": "moving:" }',
	closed => '"limit": { "requests": 1000, "window": "1h", "prefix": "closed:", "on_failure": "refuse" }',
	key => '"limit": { "requests": 2, "window": "1h", "prefix": "key:", "header": "X-Api-Key" }',
	session => $session,
	both => qq("limit": { "requests": 3, "window": "1h", "prefix": "both:" }, $session),
);
my %redis = (
	(map { $_ => "unix:$dir/redis.sock" } keys %config),
	closed => "127.0.0.1:$tcp",
	session => "127.0.0.1:$tcp",
);
for my $mood (qw/ garbage silent drip close huge /) {
	$config{"open-$mood"} = $config{fixed} . ", $session";
	$config{"closed-$mood"} = $config{closed} . ", $session";
	$redis{"$_-$mood"} = "unix:$dir/$mood.sock" for qw/ open closed /;
}
$config{user} = $config{closed} . ', "username": "guest", "password": "se cret", "database": 3';
$config{wrong} = $config{closed} . ', "username": "guest", "password": "wrong"';
$config{away} = $config{closed};
@redis{qw/ user wrong away /} = ("unix:$dir/redis.sock", "unix:$dir/redis.sock", "unix:$dir/away.sock");
$t->write_file("$_.json", qq({ "redis": "$redis{$_}", "timeout": "${timeout}s", $config{$_} })) for keys %config;

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
    http_wasm_connect 127.0.0.1:%%PORT_8090%%;
    http_wasm_connect unix:%%TESTDIR%%/redis.sock;
    http_wasm_connect unix:%%TESTDIR%%/away.sock;
    http_wasm_connect unix:%%TESTDIR%%/garbage.sock;
    http_wasm_connect unix:%%TESTDIR%%/silent.sock;
    http_wasm_connect unix:%%TESTDIR%%/drip.sock;
    http_wasm_connect unix:%%TESTDIR%%/close.sock;
    http_wasm_connect unix:%%TESTDIR%%/huge.sock;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Real-Ip;

SERVERS
}

EOC

backend($t, 8081);
false_redis($_) for qw/ garbage silent drip close huge /;
my $redis = start_redis();
$t->run();

###############################################################################

subtest 'all workers have one limit' => sub {
	for my $name (qw/ fixed sliding /) {
		my @s = map { connection() } 1 .. 40;
		my (%status, %workers);
		for my $round (1 .. 3) {
			syswrite $_, "GET / HTTP/1.1\r\nHost: $name\r\n\r\n" for @s;
			for (@s) {
				my $r = read_reply($_);
				$status{ status($r) }++;
				$workers{ header($r, 'X-Worker') }++;
			}
		}
		is_deeply(\%status, { 200 => 50, 429 => 70 }, "$name: so many pass, and no more");
		is(scalar keys %workers, 2, 'both workers have served');
	}
	my ($key, @more) = split /\n/, redis('KEYS', 'fixed:*');
	is($key, 'fixed:address:127.0.0.1', 'the address without its port');
	is(scalar @more, 0, 'one key');
	cmp_ok(redis('PTTL', $key), '>', 3_000_000, 'which goes away');
	cmp_ok(redis('PTTL', 'sliding:address:127.0.0.1'), '>', 3_600_000, 'so does that of the other');
};

subtest 'what the client gets' => sub {
	my $r = ask('fixed');
	is(status($r), 429, 'too many');
	is(content($r), "429\n", 'a page');
	like(header($r, 'Retry-After'), qr/^3[56]\d\d$/, 'when to come again');
	like(header(ask('sliding'), 'Retry-After'), qr/^[1-9]\d{2,6}$/, 'with a window that moves');
};

subtest 'windows end' => sub {
	for my $name (qw/ brief moving /) {
		# The windows of the clock may change in between, once.
		my $some = sub { my %n; $n{ status(ask($name)) }++ for 1 .. 20; \%n };
		my $n = $some->();
		ok($n->{429}, "$name: refused") or diag(join ' ', %$n);
		# Of a window that moves, a part has to be out of sight.
		like(header(ask($name), 'Retry-After') // 1, $name eq 'brief' ? qr/^1$/ : qr/^[12]$/, 'not for long');
		ok(wait_until(sub { status(ask($name)) == 200 }), 'passes again');
	}
};

subtest 'who is who' => sub {
	my $limited = sub {
		my ($name, $host, @headers) = @_;
		local $Test::Builder::Level = $Test::Builder::Level + 1;
		is(join(' ', map { status(ask($host, @headers)) } 1 .. 3), '200 200 429', $name);
	};
	$limited->('an address', 'key');
	$limited->('another', 'key', 'X-Real-Ip: 10.0.0.1');
	$limited->('IPv6', 'key', 'X-Real-Ip: 2001:db8:1:2::1');
	is(status(ask('key', 'X-Real-Ip: 2001:db8:1:2:ffff::2')), 429, 'of the same network');
	$limited->('of another', 'key', 'X-Real-Ip: 2001:db8:1:3::1');
	is(status(ask('key', 'X-Real-Ip: ::ffff:10.0.0.1')), 429, 'IPv4, written as IPv6');
	$limited->('a key', 'key', 'X-Api-Key: secret');
	$limited->('another key', 'key', "X-Api-Key: \xff" . 'x' x 2000);
	is(status(ask('key', 'X-Api-Key: secret', 'X-Real-Ip: 10.0.0.2')), 429, 'from anywhere');
	is(status(ask('key', 'X-Api-Key:')), 429, 'an empty one is none');
	unlike(redis('KEYS', '*'), qr/secret/, 'it is not in Redis');
};

subtest 'sessions' => sub {
	redis('HSET', 'session:abc', user => 'alice', role => 'admin, staff', other => 'x');
	redis('HSET', 'session:half', user => 'bob');
	redis('HSET', 'session:bad', user => "a\nX-Role: root", role => 'none');
	redis('HSET', 'session:long', user => 'x' x 9000);
	redis('HSET', 'other:abc', user => 'other');
	redis('SET', 'session:text', 'a');
	redis('HSET', 'session:a b', user => 'space');

	my @false = ('X-User: root', 'x-role: root', 'X_User: root', 'X_ROLE: root');
	for my $case (
		[ 'sid=abc' => 'x-role=admin, staff x-user=alice' ], [ 'a=b; sid=abc;c=d' => 'x-role=admin, staff x-user=alice' ],
		[ 'sid=half' => 'x-user=bob' ], [ 'sid=half; sid=abc' => 'x-user=bob' ], [ 'sid=bad' => 'x-role=none' ], [ 'sid=long' => '' ],
		[ 'sid=text' => '' ], [ 'sid=none' => '' ], [ 'sid=' => '' ], [ 'sid' => '' ], [ 'SID=abc' => '' ], [ 'xsid=abc' => '' ],
		[ 'sid=' . 'x' x 5000 => '' ], [ 'sid=../other:abc' => '' ], [ 'sid=*' => '' ], [ "sid=\xff\x01" => '' ], [ 'sid=a b' => 'x-user=space' ],
	) {
		my ($cookie, $identity) = @$case;
		for my $host (qw/ session both /) {
			redis('DEL', 'both:address:127.0.0.1');
			my $r = ask($host, "Cookie: $cookie", @false);
			is(identity($r), $identity, "$host: " . substr($cookie, 0, 30) =~ s/[^ -~]/./gr);
		}
	}
	is(identity(ask('session', @false)), '', 'no cookie');
	is(identity(ask('session', 'Cookie: a=b', 'Cookie: sid=abc')), 'x-role=admin, staff x-user=alice', 'the second header');
	error_log_like($t, qr/session=failed reason="WRONGTYPE/, 'another type is logged');
	is(join(' ', map { status(ask('both', 'Cookie: sid=abc', 'X-Real-Ip: 10.0.0.9')) } 1 .. 4), '200 200 200 429', 'with a limit');
};

subtest 'users and databases' => sub {
	redis('ACL', 'SETUSER', 'guest', 'on', '>se cret', '~*', '+@all');
	is(status(ask('user')), 200, 'with a password');
	is(redis('-n', 3, 'GET', 'closed:address:127.0.0.1'), 1, 'in that database');
	is(status(ask('wrong')), 503, 'a wrong password');
	error_log_like($t, qr/limit=failed reason="WRONGPASS/, 'is logged');
	unlike($t->read_file('error.log'), qr/se cret/, 'no password is');
};

subtest 'what Redis refuses' => sub {
	for my $name (qw/ fixed sliding closed /) {
		my $status = $name eq 'closed' ? 503 : 200;
		my $key = "$name:address:10.0.1.1";
		redis('LPUSH', $key, 'a');
		is(status(ask($name, 'X-Real-Ip: 10.0.1.1')), $status, "$name: another type");
		redis('DEL', $key);
		is(status(ask($name, 'X-Real-Ip: 10.0.1.1')), 200, 'without it');
		redis('CONFIG', 'SET', 'maxmemory', 1);
		is(status(ask($name, 'X-Real-Ip: 10.0.1.2')), $status, 'full');
		redis('CONFIG', 'SET', 'maxmemory', 0);
		is(status(ask($name, 'X-Real-Ip: 10.0.1.2')), 200, 'with room again');
		redis('SCRIPT', 'FLUSH');
		is(redis('EXISTS', "$name:address:10.0.1.3"), 0, 'nothing yet');
		is(status(ask($name, 'X-Real-Ip: 10.0.1.3')), 200, 'the script is forgotten');
		is(redis('EXISTS', "$name:address:10.0.1.3"), 1, 'and was sent again');
	}
	redis('SET', 'fixed:address:10.0.1.4', 'text');
	is(status(ask('fixed', 'X-Real-Ip: 10.0.1.4')), 200, 'no number');
	redis('HSET', 'sliding:address:10.0.1.4', qw/ start text count text /);
	is(status(ask('sliding', 'X-Real-Ip: 10.0.1.4')), 200, 'no numbers');
	redis('SET', 'fixed:address:10.0.1.5', 1);
	is(status(ask('fixed', 'X-Real-Ip: 10.0.1.5')), 200, 'a key that stays');
	cmp_ok(redis('PTTL', 'fixed:address:10.0.1.5'), '>', 0, 'gets an end');
	error_log_like($t, qr/limit=failed reason="$_/, "logged: $_") for 'WRONGTYPE', 'OOM', 'ERR ';
};

subtest 'Redis goes away' => sub {
	is(status(ask($_, 'X-Real-Ip: 10.0.2.1')), 200, "$_: before") for qw/ fixed closed both /;
	for my $round (1 .. 3) {
		stop_redis($redis);
		is(status(ask('fixed', 'X-Real-Ip: 10.0.2.1')), 200, 'open');
		is(status(ask('closed', 'X-Real-Ip: 10.0.2.1')), 503, 'closed');
		is(identity(ask('both', 'X-Real-Ip: 10.0.2.1', 'Cookie: sid=abc', 'X-User: root')), '', 'no session');
		$redis = start_redis();
		redis('HSET', 'session:abc', user => 'alice');
		is(status(ask('closed', 'X-Real-Ip: 10.0.2.1')), 200, 'back again');
		is(redis('GET', 'closed:address:10.0.2.1'), 1, 'from the beginning');
		is(identity(ask('both', 'X-Real-Ip: 10.0.2.1', 'Cookie: sid=abc', 'X-User: root')), 'x-user=alice', 'sessions too');
	}
	# Restarted behind the back of connections that are open.
	stop_redis($redis);
	$redis = start_redis();
	is(status(ask('closed', 'X-Real-Ip: 10.0.2.2')), 200, "after a restart $_") for 1 .. 5;
	redis('CLIENT', 'KILL', 'TYPE', 'normal');
	is(status(ask('closed', 'X-Real-Ip: 10.0.2.2')), 200, 'a connection that Redis has closed');
	is(redis('GET', 'closed:address:10.0.2.2'), 6, 'each counts once');
	is(status(ask('away')), 503, 'nobody there');

	# It stands still.
	kill 'STOP', $redis;
	my $start = time();
	is(status(ask('closed', 'X-Real-Ip: 10.0.2.3')), 503, 'does not answer');
	cmp_ok(time() - $start, '<', $timeout + patience(2), 'in time');
	kill 'CONT', $redis;
	is(status(ask('closed', 'X-Real-Ip: 10.0.2.3')), 200, 'answers again');
};

subtest 'what is no Redis' => sub {
	for my $mood (qw/ garbage silent drip close huge /) {
		my $start = time();
		is(status(ask("closed-$mood")), 503, "$mood: refused");
		my $r = ask("open-$mood", 'Cookie: sid=abc', 'X-User: root');
		is(status($r), 200, 'or passes');
		is(identity($r), '', 'as nobody');
		cmp_ok(time() - $start, '<', 2 * $timeout + patience(3), 'in time');
	}
	is(status(ask('closed', 'X-Real-Ip: 10.0.3.1')), 200, 'others are served');
};

subtest 'clients' => sub {
	for (1 .. 20) {
		my $s = connection();
		syswrite $s, "GET / HTTP/1.1\r\nHost: closed-silent\r\n\r\n";
		close $s;
	}
	is(status(ask('closed', 'X-Real-Ip: 10.0.3.2')), 200, 'that went away');
	my @s = map { connection() } 1 .. 40;
	for my $round (1 .. 3) {
		redis('HSET', "session:s$_", user => "user$round-$_") for keys @s;
		syswrite $s[$_], "GET / HTTP/1.1\r\nHost: session\r\nCookie: sid=s$_\r\n\r\n" for keys @s;
		is(join(' ', grep { identity(read_reply($s[$_])) ne "x-user=user$round-$_" } keys @s), '', 'many at the same time are told apart');
	}
};

subtest 'a wrong configuration' => sub {
	my ($right, $status) = nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    http_wasm $guest config_file=@{[repo()]}/examples/rate-limit/rate-limit.json;
}
EOF
	is($status, 0, 'the one of the documentation is right') or diag($right);

	my ($to, $l, $s) = ('"redis":"a:1"', '"requests":1,"window":"1s"', '"cookie":"a","headers":{"b":"c"}');
	for my $case (
		(map { [ $_, qr/expected JSON with "redis"/ ] } '', '[]', '{', '{"redis":1}', "{$to,\"limits\":{}}", "{$to,\"limit\":{\"requests\":1.5}}"),
		(map { [ "{\"redis\":\"$_\"}", qr/redis "[^"]*": expected host:port/ ] } '', 'localhost', 'unix:'),
		[ "{$to}", qr/expected "limit" or "session"/ ],
		[ "{$to,\"limit\":{$l}} {}", qr/expected nothing behind/ ],
		[ "{$to,\"username\":\"a\",\"limit\":{$l}}", qr/username: expected a password/ ],
		(map { [ "{$to,\"timeout\":\"$_\",\"limit\":{$l}}", qr/timeout "[^"]*": expected a time/ ] } '1', '0s', '-1s', '1us'),
		(map { [ "{$to,\"limit\":{\"requests\":$_,\"window\":\"1s\"}}", qr/requests -?\d+: expected/ ] } 0, -1),
		(map { [ "{$to,\"limit\":{\"requests\":1,\"window\":\"$_\"}}", qr/window "[^"]*": expected a time/ ] } '', '1', '0s'),
		[ "{$to,\"limit\":{$l,\"header\":\"a b\"}}", qr/header "a b": expected/ ],
		[ "{$to,\"limit\":{$l,\"on_failure\":\"open\"}}", qr/on_failure "open": expected/ ],
		(map { [ "{$to,\"session\":{\"cookie\":\"$_\",\"headers\":{\"b\":\"c\"}}}", qr/cookie "[^"]*": expected/ ] } '', 'a=b'),
		[ "{$to,\"session\":{\"cookie\":\"a\"}}", qr/expected "headers"/ ],
		(map { [ "{$to,\"session\":{\"cookie\":\"a\",\"headers\":{$_}}}", qr/headers "[^"]*": expected/ ] } '"":"a"', '"a":""', '"a:":"b"'),
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
		like($output, qr/\[emerg\].*rate-limit: $reason/, 'with what is expected');
	}
};

###############################################################################

sub servers {
	my $listen = '127.0.0.1:8080 reuseport';
	return join '', map { my $s = <<"EOS"; $listen = '127.0.0.1:8080'; $s } sort keys %config;
    server {
        listen       $listen;
        server_name  $_;

        location / {
            http_wasm $guest name=$_ config_file=%%TESTDIR%%/$_.json;
            add_header X-Worker \$pid always;
            proxy_pass http://127.0.0.1:8081;
        }
    }

EOS
}

sub ask {
	my ($host, @headers) = @_;

	my $s = connection();
	syswrite $s, join "\r\n", 'GET / HTTP/1.1', "Host: $host", @headers, '', '';
	return read_reply($s);
}

# What the upstream hears of the client, by name.
sub identity {
	my ($r) = @_;
	return join ' ', sort map { /^(x[-_](?:user|role)): (.*?)\r?$/i ? lc($1) . "=$2" : () } split /\n/, content($r) // '';
}

###############################################################################

sub program {
	my ($name) = @_;
	my ($path) = grep { -x } map { "$_/$name" } split /:/, $ENV{PATH};
	return $path // die "$name is not installed: make deps-test\n";
}

# An empty Redis, which answers when this returns.
sub start_redis {
	$t->run_daemon($server, '--port', $tcp, '--bind', '127.0.0.1', '--unixsocket', "$dir/redis.sock", '--unixsocketperm', '777',
		'--dir', $dir, '--save', '', '--appendonly', 'no', '--daemonize', 'no', '--logfile', "$dir/redis.log");
	wait_until(sub { redis('PING') eq 'PONG' }) or die "redis-server does not answer\n";
	return $t->{daemons}[-1];
}

sub stop_redis {
	my ($pid) = @_;
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return;
}

# What redis-cli prints.
sub redis {
	my (@args) = @_;
	open my $pipe, '-|', 'sh', '-c', 'exec "$@" 2>/dev/null', 'sh', 'timeout', '10', $cli, '-s', "$dir/redis.sock", @args or die "redis-cli: $!\n";
	chomp(my $text = do { local $/; <$pipe> } // '');
	close $pipe;
	return $text;
}

# Something that listens and is no Redis.
sub false_redis {
	my ($mood) = @_;

	my $listener = IO::Socket::UNIX->new(Local => "$dir/$mood.sock", Listen => 511) or die "can't listen on $mood: $!\n";
	chmod 0777, "$dir/$mood.sock";
	$t->run_daemon(sub {
		local $SIG{PIPE} = local $SIG{CHLD} = 'IGNORE';
		while (1) {
			my $s = $listener->accept() or next;
			my $pid = fork();
			next if $pid;
			sysread $s, my $question, 65536;
			if ($mood eq 'garbage') {
				syswrite $s, "HTTP/1.1 400 Bad Request\r\n\r\n" x 10;
			} elsif ($mood eq 'silent') {
				sysread $s, $question, 1;
			} elsif ($mood eq 'drip') {
				syswrite $s, $_ and sleep(0.02) for split //, ":000000000000000" . '0' x 500;
			} elsif ($mood eq 'huge') {
				syswrite $s, "\$99999999999\r\n";
				1 while syswrite $s, 'x' x 65536;
			}
			POSIX::_exit(0);
		}
	});
	close $listener;
	return;
}

###############################################################################
