#!/usr/bin/perl

# examples/ab-split: visitors get a variant and keep it, and the backend learns which.

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

my $t = Test::Nginx->new()->has(qw/http proxy cache/)->plan(9);
my $guest = built('example-ab-split.wasm');

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format variants '\$wasm_log_variant \$request_uri';
    access_log %%TESTDIR%%/variants.log variants;
    large_client_header_buffers 4 32k;
    underscores_in_headers on;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=cache:1m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            http_wasm $guest "config=old:50 new:50";
            proxy_pass http://127.0.0.1:8081/;
        }

        location /named/ {
            http_wasm $guest "config=cookie=check-out header=X-Check_Out
                days=7 secure  one:0 two:1\tthree:0";
            proxy_pass http://127.0.0.1:8081/;
        }

        location /rare/ {
            http_wasm $guest "config=old:90 new:10";
            proxy_pass http://127.0.0.1:8081/;
        }

        # Instances begin with the same snapshot.
        location /alone/ {
            http_wasm $guest "config=old:50 new:50";
            http_wasm_isolation request;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /cached/ {
            http_wasm $guest "config=old:50 new:50";
            proxy_pass http://127.0.0.1:8081/;
            proxy_cache cache;
            proxy_cache_key \$uri\$http_x_variant;
            proxy_cache_valid 1m;
        }
    }
}

EOF

backend($t);
$t->run();

###############################################################################

subtest 'a new visitor' => sub {
	my $r = curl('/');
	is(status($r), 200, 'status');
	like(header($r, 'Set-Cookie'), qr{^ab=(?:old|new); Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax$}, 'cookie');
	is(header($r, 'Vary'), 'Cookie', 'caches learn that it counts');
	my ($variant) = header($r, 'Set-Cookie') =~ /^ab=(\w+)/;
	is(variants($r), $variant, 'the backend has the same');

	$r = curl('/named/');
	is(header($r, 'Set-Cookie'), 'check-out=two; Path=/; Max-Age=604800; HttpOnly; SameSite=Lax; Secure', 'as configured');
	is(variants($r, 'X-Check_Out'), 'two', 'header');
};

subtest 'one who has a variant' => sub {
	for my $variant (qw/ old new /) {
		for my $cookie ("ab=$variant", "a=b; ab=$variant; c=d", "a=b;ab=$variant", "ab=$variant;", "xab=old; ab=$variant",
			"ab=gone; ab=$variant")
		{
			my $r = curl('-H', "Cookie: $cookie", '/');
			is(variants($r), $variant, "keeps it: $cookie");
			is(header($r, 'Set-Cookie'), undef, 'no other cookie');
			is(header($r, 'Vary'), 'Cookie', 'caches learn that it counts');
			like(content($r), qr/^Cookie: \Q$cookie\E$/m, 'the backend has the cookies');
		}
	}
	is(variants(curl('-H', 'Cookie: a=b', '-H', 'Cookie: ab=new', '/')), 'new', 'two lines') for 1 .. 10;
	is(variants(curl('-H', 'Cookie: a=' . 'x' x 20_000 . '; ab=new', '/')), 'new', 'many cookies') for 1 .. 5;
	for my $variant (qw/ one three /) {
		is(variants(curl('-H', "Cookie: check-out=$variant", '/named/'), 'X-Check_Out'), $variant, 'also one that nobody new gets');
	}
};

subtest 'cookies that are none' => sub {
	for my $cookie ('ab', 'ab=', 'ab=ol', 'ab=olds', 'ab="old"', 'AB=old', 'ab =old', 'xab=old', 'ab=OLD', 'ab=other',
		'ab=old,new', 'ab=%6fld',
		"ab=\xff", "ab=\xf0\x9f", "\xc3; a", "ab=old\xc3", ';', '=', ';;=;', '=old', 'x' x 20_000, 'ab=' . 'x' x 20_000)
	{
		my $r = curl('-H', "Cookie: $cookie", '/');
		my ($variant) = (header($r, 'Set-Cookie') // '') =~ /^ab=(old|new); /;
		ok($variant, 'a new variant for ' . substr($cookie, 0, 20) =~ s/[^ -~]/./gr);
		is(variants($r), $variant, 'the backend has the same');
	}
};

subtest 'what clients send' => sub {
	for my $name (qw/ X-Variant x-variant X_Variant x_VARIANT /) {
		my $r = curl('-H', "$name: old", '-H', "$name: new", '-H', 'Cookie: ab=new', '-H', 'X-Variants: all', '/');
		is(variants($r), 'new', "$name is replaced");
		like(content($r), qr/^X-Variants: all$/m, 'others stay');
	}
	is(variants(curl('-H', 'X_Check-Out: one', '-H', 'x-check_out: one', '/named/'), 'X-Check_Out'), 'two', 'a name with both');
};

subtest 'other headers of the response' => sub {
	my $r = curl('/headers?Set-Cookie=a%3Db&Vary=Accept');
	my @cookies = split /\|/, header($r, 'Set-Cookie');
	is(scalar(grep { $_ eq 'a=b' } @cookies), 1, 'the cookie of the backend');
	is(scalar(grep { /^ab=/ } @cookies), 1, 'and ours');
	is_deeply([ sort split /\|/, header($r, 'Vary') ], [ qw/ Accept Cookie / ], 'both in Vary');
	is(status(curl('-I', '/size/1')), 200, 'HEAD');
	is(status(curl("/status/$_")), $_, "status $_") for qw/ 204 304 500 /;
};

# 500 visitors: between 180 and 320, or 15 and 90, of them; luck goes beyond that once in millions of runs.
subtest 'weights' => sub {
	for my $case ([ '/', 180, 320 ], [ '/rare/', 15, 90 ]) {
		my ($path, $least, $most) = @$case;
		my %count = (new => 0, old => 0);
		for my $r (replies("GET $path HTTP/1.1\r\nHost: localhost\r\n\r\n" x 500, 500)) {
			$count{$1}++ if (header($r, 'Set-Cookie') // '') =~ /^ab=(\w+)/;
		}
		is($count{new} + $count{old}, 500, "$path: all have one");
		cmp_ok($count{new}, '>=', $least, 'new is not too rare');
		cmp_ok($count{new}, '<=', $most, 'and not too frequent');
	}
	my %seen;
	wait_until(sub { header(curl('/alone/'), 'Set-Cookie') =~ /^ab=(\w+)/; $seen{$1} = 1; keys %seen == 2 });
	is(scalar keys %seen, 2, 'instances that begin with one snapshot give different ones');
};

subtest 'a cache' => sub {
	my %body = map { $_ => content(curl('-H', "Cookie: ab=$_", "/cached/x")) } qw/ old new /;
	for my $variant (qw/ old new old new /) {
		is(content(curl('-H', "Cookie: ab=$variant", '/cached/x')), $body{$variant}, "$variant as before");
		like($body{$variant}, qr/^X-Variant: $variant$/m, 'and right');
	}
};

subtest 'the log' => sub {
	curl('-H', 'Cookie: ab=new', '/logged');
	ok(wait_until(sub { $t->read_file('variants.log') =~ m{^new /logged$}m }), 'has the variant');
};

subtest 'a wrong configuration' => sub {
	for my $case (
		(map { [ $_, qr/expected two variants or more/ ] } '', 'a:1', 'secure', 'a:0 b:0'),
		(map { [ "a:1 b:1 $_", qr/unknown word "$_": expected/ ] } 'c', 'color=red', 'Secure', 'days'),
		(map { [ "a:1 $_", qr/invalid variant "\Q$_\E": expected NAME:WEIGHT/ ] } 'b:', ':1', 'b:x', 'b:-1', 'b:1.5', 'b:1000001',
			'b:99999999999999999999', 'a:2', 'b;c:1', "b\xc3\xa4:1", 'b,c:1', 'b:1:2', 'x' x 33 . ':1'),
		[ join(' ', map { "v$_:1" } 1 .. 17), qr/invalid variant "v17:1": expected NAME:WEIGHT, 2 to 16/ ],
		(map { [ "a:1 b:1 $_", qr/expected letters, digits, - and _ in cookie=NAME and header=NAME/ ] } 'cookie=', 'cookie=a;b',
			'header=', 'header=x@y', 'cookie=' . 'x' x 33),
		(map { [ "a:1 b:1 days=$_", qr/expected days=NUMBER, 1 to 400/ ] } '', 0, 401, -1, 'x', '99999999999999'),
	) {
		my ($config, $reason) = @$case;
		$t->write_file('tried', $config);
		my ($output, $exit) = nginx_test($t, conf());
		isnt($exit, 0, 'refused: ' . $config =~ s/[^ -~]/./gr);
		like($output, qr/\[emerg\].*ab-split: $reason/, 'with what is expected');
	}
	$t->write_file('tried', join "\n", 'days=400', 'secure', 'cookie=' . 'x' x 32, map { "v$_:1000000" } 1 .. 16);
	my ($output, $exit) = nginx_test($t, conf());
	is($exit, 0, 'the limits') or diag($output);
};

###############################################################################

# What the backend got under this name, in whatever spelling.
sub variants {
	my ($r, $name) = @_;
	my $pattern = ($name // 'X-Variant') =~ s/[-_]/[-_]/gr;
	return join '|', content($r) =~ /^$pattern: (.*)$/gmi;
}

sub conf {
	return <<"EOF";
%%TEST_GLOBALS%%
events {
}
http {
    http_wasm $guest config_file=tried;
}
EOF
}

###############################################################################
