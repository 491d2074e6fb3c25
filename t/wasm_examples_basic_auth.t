#!/usr/bin/perl

# examples/basic-auth: only users with a right password pass.

###############################################################################

use warnings;
use strict;

use MIME::Base64 qw/ encode_base64 /;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(9);
my $guest = built('example-basic-auth.wasm');

# As operators make them. Few iterations: there are many passwords to try.
my $alice = user('alice', 'open sesame', 1000);
my $umlaut = user("j\xc3\xbcrgen", "p\xc3\xa4ss:w\xc3\xb6rd:", 1500);
my $long = user('long', 'x' x 300, 1000);
my $slow = user('slow', 'patience', 300_000);

$t->write_file('users', "# For the test.\r\n\r\nrealm Staff: only (1)\r\n$alice\r\n$umlaut\n$long");
$t->write_file('slow', "$slow\n");

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format users '\$status \$remote_user \$wasm_request_time';
    large_client_header_buffers 4 32k;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            http_wasm $guest config_file=%%TESTDIR%%/users;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /alone/ {
            http_wasm $guest config_file=%%TESTDIR%%/users;
            http_wasm_isolation request;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /slow/ {
            http_wasm $guest config_file=%%TESTDIR%%/slow;
            http_wasm_timeout 30s;
            access_log %%TESTDIR%%/slow.log users;
            proxy_pass http://127.0.0.1:8081/;
        }
    }
}

EOF

backend($t);
$t->run();

###############################################################################

subtest 'right passwords' => sub {
	for my $credentials ('alice:open sesame', "j\xc3\xbcrgen:p\xc3\xa4ss:w\xc3\xb6rd:", 'long:' . 'x' x 300) {
		# The second time it is remembered.
		passes('Basic ' . base64($credentials), substr $credentials, 0, 20) for 1 .. 2;
	}
	passes('bAsIc    ' . base64('alice:open sesame'), 'scheme in other letters, several spaces');
	passes('Basic ' . base64('alice:open sesame'), 'an instance for each request', '/alone/') for 1 .. 2;
};

subtest 'wrong passwords and names' => sub {
	refused('Basic ' . base64($_), $_) for
		'alice:open sesam', 'alice:open sesamE', 'alice:open sesame ', 'alice:', 'alice', 'Alice:open sesame',
		'alic:open sesame', 'alice :open sesame', ':open sesame', ':', '', "alice:open sesame\0", "alice\0:open sesame",
		"j\xc3\xbcrgen:open sesame", 'nobody:open sesame', 'realm Staff:only (1)', '# For the test.:', 'alice:1000';
	# A hash is not a password.
	refused('Basic ' . base64("alice:$_"), 'a part of the configuration') for split /:/, $alice;
};

subtest 'passwords of others are not remembered' => sub {
	passes('Basic ' . base64('alice:open sesame'), 'right');
	refused('Basic ' . base64('long:open sesame'), 'with another name');
	refused('Basic ' . base64('alice:' . 'x' x 300), 'the other way round');
	# More than there is room for.
	refused('Basic ' . base64("alice:$_"), $_) for 1 .. 40;
	passes('Basic ' . base64('alice:open sesame'), 'still right');
};

subtest 'no credentials' => sub {
	my $right = base64('alice:open sesame');
	refused($_, substr $_, 0, 30) for
		"Bearer $right", "Basic$right", "Basic\t$right", "Basi $right", $right, 'Basic', 'Basic ', "Basic $right!",
		"Basic $right $right", "Basic $right,", "Basic $right=", "Basic ====", 'Basic =' . $right, 'Basic a', 'Basic ab=c',
		'Basic ' . $right =~ s/.$//r, 'Basic ' . $right =~ tr{+/}{-_}r . '====';
	refused('Basic ' . base64('alice:' . 'x' x $_), "$_ bytes") for 505, 506, 507, 700, 5000, 20_000;

	my $r = curl('/');
	is(status($r), 401, 'no header');
	is(header($r, 'WWW-Authenticate'), 'Basic realm="Staff: only (1)", charset="UTF-8"', 'challenge');
};

# nginx refuses them, and guests cannot add a second one. Other hosts let them through.
subtest 'two headers' => sub {
	my $right = 'Basic ' . base64('alice:open sesame');
	for my $pair ([ $right, 'Basic ' . base64('nobody:x') ], [ 'Bearer x', $right ], [ $right, $right ]) {
		is(status(curl(map({ ('-H', "Authorization: $_") } @$pair), '/')), 400, 'refused');
	}
};

subtest 'responses' => sub {
	my @right = ('-H', 'Authorization: Basic ' . base64('alice:open sesame'));
	is(status(curl('-I', @right, '/size/10')), 200, 'HEAD with a password');
	is(status(curl('-I', '/size/10')), 401, 'HEAD without');
	is(content(curl(@right, '-d', 'text', '/raw')), 'text', 'POST with a password');
	my $r = curl('-H', 'Expect:', '-d', 'x' x 100_000, '/raw');
	is(status($r), 401, 'POST without');
	is(content($r), '', 'no body');
	is(header($r, 'Content-Length'), 0, 'its length');
};

subtest 'what it costs' => sub {
	my $right = 'Basic ' . base64('slow:patience');
	refused('Basic ' . base64('slow:impatience'), 'wrong', '/slow/');
	refused('Basic ' . base64('nobody:impatience'), 'no such user', '/slow/');
	passes($right, 'right', '/slow/');
	passes($right, 'right again', '/slow/');

	my @times;
	wait_until(sub { (@times = map { (split)[2] } split /\n/, $t->read_file('slow.log')) == 4 });
	my ($wrong, $nobody, $first, $again) = @times;
	# 300,000 iterations of two hashes each: by far more than 10 ms on any machine.
	cmp_ok($_, '>', 0.010, 'takes its time') for $wrong, $nobody, $first;
	cmp_ok($nobody, '>', $wrong / 4, 'no such user: about as long as a wrong password');
	cmp_ok($again, '<', $first / 4, 'remembered');
	like($t->read_file('slow.log'), qr/^200 slow /m, 'nginx knows the name');
};

subtest 'a wrong configuration' => sub {
	my ($salt, $hash) = ('ab' x 16, 'cd' x 32);
	my $user = qr/expected NAME:ITERATIONS:SALT:HASH/;

	config_refused($_, qr/line 1: $user/) for
		'alice', 'alice:open sesame', "alice:1000:$salt", ":1000:$salt:$hash", "alice:999:$salt:$hash", "alice:10000001:$salt:$hash",
		"alice:99999999999:$salt:$hash", "alice:-1000:$salt:$hash", "alice::$salt:$hash", "alice:1000:abc:$hash",
		"alice:1000::$hash", (map { 'alice:1000:' . 'ab' x $_ . ":$hash" } 7, 65), (map { "alice:1000:$salt:" . 'cd' x $_ } 31, 33),
		"alice:1000:$salt:" . 'xy' x 32, "alice:1000:$salt:$hash:", "alice:1e3:$salt:$hash", 'x' x 257 . ":1000:$salt:$hash";
	config_refused("alice:1000:$salt:$hash\nbob:1000\n", qr/line 2: $user/);
	config_refused("alice:1000:$salt:$hash\n" x 257, qr/line 257: $user/);
	config_refused("realm $_\nalice:1000:$salt:$hash", qr/line 1: expected "realm TEXT"/) for 'a"b', 'a\\b', "a\x01b", "\xc3\xa9", 'x' x 230;
	config_refused($_, qr/expected at least one user/) for '', "# nothing\n\n", "realm Staff\n";
	config_refused('#' x 70_000, qr/expected a configuration of up to 64 kB/);
};

subtest 'limits of a configuration' => sub {
	my $line = ':10000000:' . 'AB' x 64 . ':' . 'CD' x 32 . "\n";
	my ($output, $exit) = tried('realm ' . 'r' x 200 . "\n" . join '', map { "user-$_$line" } 1 .. 256);
	is($exit, 0, '256 users') or diag($output);
};

###############################################################################

sub base64 {
	return encode_base64($_[0], '');
}

# The line of a user, made by users.py.
sub user {
	my ($name, $password, $iterations) = @_;

	$t->write_file('password', "$password\n");
	my $script = repo() . '/examples/basic-auth/users.py';
	local $ENV{PYTHONUTF8} = 1;
	open my $pipe, '-|', 'sh', '-c', 'exec "$0" "$1" "$2" < "$3"', $script, $name, $iterations, $t->testdir() . '/password'
		or die "sh: $!\n";
	chomp(my $line = <$pipe> // '');
	close $pipe or die "users.py failed\n";
	return $line;
}

sub passes {
	my ($authorization, $name, $path) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $r = curl('-H', "Authorization: $authorization", $path // '/');
	is(status($r), 200, "$name passes");
	like(content($r), qr/^Authorization: \Q$authorization\E$/mi, 'and the header with it');
}

sub refused {
	my ($authorization, $name, $path) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $r = curl('-H', "Authorization: $authorization", $path // '/');
	is(status($r), 401, $name =~ s/[^ -~]/./gr . ' is refused');
	like(header($r, 'WWW-Authenticate'), qr/^Basic realm="[^"]*", charset="UTF-8"$/, 'with a challenge');
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

sub config_refused {
	my ($config, $reason) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($output, $exit) = tried($config);
	isnt($exit, 0, 'refused: ' . substr($config, 0, 30) =~ s/[^ -~]/./gr);
	like($output, qr/\[emerg\].*basic-auth: $reason/, 'with what is expected');
}

###############################################################################
