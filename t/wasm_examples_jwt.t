#!/usr/bin/perl

# examples/jwt: only requests with a valid token pass, and the backend learns whose it is.

###############################################################################

use warnings;
use strict;

use Digest::SHA qw/ hmac_sha256 hmac_sha512 /;
use JSON::PP;
use MIME::Base64 qw/ decode_base64 encode_base64 encode_base64url decode_base64url /;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(11);
my $guest = built('example-jwt.wasm');
my $json = JSON::PP->new()->canonical();
my $dir = $t->testdir();

# Keys of the issuer, and one of nobody's.
my $SECRET = join '', map { chr } 0 .. 31;
openssl('genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', "$dir/rsa.pem");
openssl('genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:1024', '-out', "$dir/weak.pem");
openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', "$dir/ec.pem");
openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', "$dir/other.pem");
openssl('genpkey', '-algorithm', 'ED25519', '-out', "$dir/ed.pem");

my %key = (
	hs => { kty => 'oct', kid => 'hs', alg => 'HS256', k => encode_base64url($SECRET) },
	rs => { kty => 'RSA', kid => 'rs', alg => 'RS256', use => 'sig', e => 'AQAB', n => modulus('rsa.pem') },
	es => { kty => 'EC', kid => 'es', alg => 'ES256', crv => 'P-256', point('ec.pem') },
	ed => { kty => 'OKP', kid => 'ed', alg => 'EdDSA', crv => 'Ed25519', x => encode_base64url(substr spki('ed.pem'), -32) },
);
my $enc = { kty => 'RSA', kid => 'enc', alg => 'RSA-OAEP', use => 'enc', e => 'AQAB', n => $key{rs}{n} };
my %rules = (issuer => 'https://id.example.com', audience => 'orders', leeway => 5);

$t->write_file('all.json', $json->encode({ %rules, keys => [ @key{qw/ hs rs es ed /}, $enc ], header => 'X-User' }));
$t->write_file('public.json', $json->encode({ %rules, keys => [ @key{qw/ rs es ed /} ] }));
# Providers that publish no algorithm, and no id.
$t->write_file('plain.json', $json->encode({ algorithm => 'RS256', keys => [ { %{ $key{rs} }, alg => undef, kid => undef } ] }));

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format jwt '\$status|\$wasm_log_jwt|\$wasm_log_sub|\$wasm_log_reason';
    large_client_header_buffers 4 64k;
    underscores_in_headers on;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        access_log %%TESTDIR%%/jwt.log jwt;

        location / {
            http_wasm $guest config_file=%%TESTDIR%%/all.json;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /public/ {
            http_wasm $guest config_file=%%TESTDIR%%/public.json;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /plain/ {
            http_wasm $guest config_file=%%TESTDIR%%/plain.json;
            proxy_pass http://127.0.0.1:8081/;
        }
    }
}

EOF

backend($t);
$t->run();

###############################################################################

my $now = time();
my %GOOD = (iss => 'https://id.example.com', aud => 'orders', sub => 'alice', exp => $now + 3600);

subtest 'tokens of all keys' => sub {
	passes(token($_), $_) for qw/ hs rs es ed /;
	passes(token($_), "$_ where there is no secret", '/public/') for qw/ rs es ed /;
	passes(token($_, {}, kid => undef), "$_ without an id") for qw/ hs rs es ed /;
	passes(token('rs', { iss => undef, aud => undef }, kid => $_), 'a key without an id', '/plain/') for undef, 'any';

	my $token = token('hs');
	for my $authorization ("bearer $token", "BEARER  $token", "Bearer $token  ") {
		is(status(curl('-H', "Authorization: $authorization", '/')), 200, 'scheme and spaces: ' . substr $authorization, 0, 8);
	}
};

subtest 'claims' => sub {
	passes(token('hs', { aud => [ 'other', 'orders' ] }), 'one of several audiences');
	passes(token('hs', { nbf => $now - 10 }), 'since then');
	passes(token('hs', { exp => $now + 3600.5 }), 'a fraction of a second');
	passes(token('hs', { more => { nested => [ 1, 2 ] }, jti => 'x' x 10_000 }), 'others, and much of them');

	for my $case (
		[ { exp => $now - 10 }, 'expired' ], [ { exp => undef }, 'never expires' ], [ { exp => -1 }, 'negative' ],
		[ { exp => '' . ($now + 3600) }, 'exp as a text' ], [ { exp => JSON::PP::null }, 'exp as null' ],
		[ { exp => [ $now + 3600 ] }, 'exp as a list' ],
		[ { nbf => $now + 100 }, 'not yet' ], [ { nbf => '' . ($now + 100) }, 'nbf as a text' ],
		[ { nbf => {} }, 'nbf as an object' ],
		[ { iss => 'https://id.example.org' }, 'another issuer' ], [ { iss => 'https://id.example.com/' }, 'nearly the issuer' ],
		[ { iss => undef }, 'no issuer' ],
		[ { aud => 'order' }, 'another audience' ], [ { aud => [ 'orders2' ] }, 'a longer one' ], [ { aud => [] }, 'an empty one' ],
		[ { aud => undef }, 'no audience' ],
		[ { sub => undef }, 'no subject' ], [ { sub => 17 }, 'a number' ], [ { sub => [ 'alice' ] }, 'several' ],
		[ { sub => JSON::PP::null }, 'sub as null' ],
	) {
		my ($claims, $name) = @$case;
		refused(token('hs', $claims), $name);
	}
	refused(token('rs', {}), 'an audience where there is none', '/plain/');
	my $two = '{"sub":"alice","sub":"root",' . substr $json->encode({ map { $_ => $GOOD{$_} } qw/ iss aud exp / }), 1;
	refused(sign('hs', { alg => 'HS256' }, $two), 'two subjects');
	refused(sign('hs', { alg => 'HS256' }, $_), "claims: $_") for '', 'null', '[]', '"alice"', '{', '{}';
};

subtest 'the subject in a header' => sub {
	passes(token('hs', { sub => $_ }), "subject $_", '/', $_) for 'auth0|17', 'CN=Some One, O=Example', 'a', 'x' x 3000;
	refused(token('hs', { sub => $_ }), 'subject ' . s/[^ -~]/./gr) for
		'', ' alice', 'alice ', "a\nX-Admin: 1", "a\r\nX-Admin: 1", "a\0b", "\t", "j\x{fc}rgen";
};

subtest 'algorithms' => sub {
	my $claims = $json->encode(\%GOOD);
	my $bare = sub { join '.', encode_base64url($_[0]), encode_base64url($claims), $_[1] // '' };

	refused($bare->($json->encode({ alg => $_ })), "alg $_") for qw/ none None NONE nOnE HS256 RS256 /, '';
	refused($bare->('{"alg":"none"}', encode_base64url('x')), 'none with a signature');
	refused($bare->('{"typ":"JWT"}'), 'no alg');
	refused($bare->('{"alg":null}'), 'null');

	# A public key is known to everybody: it is not a secret.
	for my $public (pem('rsa.pem'), pem('rsa.pem') =~ s/\n$//r, spki('rsa.pem'), decode_base64url($key{rs}{n}), $key{rs}{n}) {
		for my $header ({ alg => 'HS256', kid => 'rs' }, { alg => 'HS256' }, { alg => 'HS256', kid => 'hs' }) {
			refused(hs256($header, $claims, $public), 'signed with the public key');
			refused(hs256($header, $claims, $public), 'where there is no secret', '/public/');
		}
	}
	refused(sign('rs', { alg => 'RS256', kid => 'hs' }, $claims), 'the id of another key');
	refused(sign('rs', { alg => 'RS384', kid => 'rs' }, $claims), 'another algorithm of the same key');
	refused(sign('rs', { alg => 'PS256', kid => 'rs' }, $claims), 'another padding');
	refused(sign('hs', { alg => 'HS512', kid => 'hs' }, $claims, sub { hmac_sha512(@_) }), 'another hash');
	refused(sign('hs', { alg => 'HS256', kid => 'gone' }, $claims), 'a key that is not there');
	refused(sign('rs', { alg => 'RS256', kid => 'enc' }, $claims), 'a key for encryption');
	# Keys that the token brings.
	refused(hs256({ alg => 'HS256', jwk => { kty => 'oct', k => 'AAAA' } }, $claims, "\0\0\0"), 'a key in the token');
	refused(sign('hs', { alg => 'HS256', crit => [ 'b64' ], b64 => JSON::PP::false }, $claims), 'an extension that must be understood');
	refused(sign('hs', { alg => 'HS256', crit => [ 'exp' ] }, $claims), 'another one');
};

subtest 'signatures' => sub {
	for my $key (qw/ hs rs es ed /) {
		my ($header, $claims, $signature) = split /\./, token($key);
		my $forged = encode_base64url($json->encode({ %GOOD, sub => 'root' }));
		refused("$header.$forged.$signature", "$key: other claims");
		refused("$header.$claims.", "$key: no signature");
		refused("$header.$claims", "$key: two parts");
		refused("$header.$claims.$signature.x", "$key: four parts");
		refused("$header.$claims.$signature=", "$key: padded");
		refused("$header.$claims." . substr($signature, 0, -2), "$key: shorter");
		refused("$header.$claims.${signature}AA", "$key: longer");
		my $bytes = decode_base64url($signature);
		substr $bytes, 5, 1, chr(1 ^ ord substr $bytes, 5, 1);
		refused("$header.$claims." . encode_base64url($bytes), "$key: one bit");
		refused("$header.$claims." . encode_base64url("\0" x length $bytes), "$key: zeros");
	}
	my $claims = $json->encode(\%GOOD);
	refused(sign('es', { alg => 'ES256', kid => 'es' }, $claims, sub { es256("$dir/other.pem", $_[0]) }), 'a key of nobody');
	refused(sign('es', { alg => 'ES256', kid => 'es' }, $claims, sub { der("$dir/ec.pem", $_[0]) }), 'ES256 in DER');
};

subtest 'garbage' => sub {
	refused($_, substr $_, 0, 20) for
		'.', '..', '...', 'a', 'a.b.c', '{}.{}.{}', 'e30.e30.e30', 'null', "\xff\xfe", 'x' x 60_000, '.' x 1000,
		'eyJ', ('[' x 5000) . '.x.y', encode_base64url('[' x 20_000) . '.e30.x', encode_base64url('{"alg":"HS256","x":' . '[' x 20_000) . '.e30.x',
		encode_base64url('{"alg":"HS256"}') . '.' . encode_base64url('[' x 20_000) . '.x';
	# A token that was signed may have what it likes.
	passes(sign('hs', { alg => 'HS256' }, substr($json->encode({ %GOOD, x => 1 }), 0, -2) . ('[' x 10_000) . (']' x 10_000) . '}'), 'ten thousand levels');
};

subtest 'headers of the request' => sub {
	my $token = token('hs');
	my $r = curl('/');
	is(status($r), 401, 'no token');
	is(header($r, 'WWW-Authenticate'), 'Bearer', 'no error in the challenge');
	unlike(content($r), qr/GET/, 'not asked for');
	for my $other ("Basic $token", "Bearer$token", "Bearer", "Bearer\t$token", "Token $token", $token, '') {
		is(status(curl('-H', length $other ? "Authorization: $other" : 'Authorization;', '/')), 401, 'another scheme');
	}
	is(status(curl("/?access_token=$token")), 401, 'a token in the URI');

	# nginx refuses them, and guests cannot add a second one. Other hosts let them through.
	for my $pair ([ $token, 'x' ], [ 'x', $token ], [ $token, $token ]) {
		is(status(curl((map { ('-H', "Authorization: Bearer $_") } @$pair), '/')), 400, 'two headers');
	}
};

# What a client says of itself.
subtest 'smuggling' => sub {
	my @right = ('-H', 'Authorization: Bearer ' . token('hs'));
	for my $name (qw/ X-User x-user X-USER X_User x_user /) {
		my $r = curl(@right, '-H', "$name: root", '-H', "$name: admin", '-H', 'X-Users: some', '/');
		is(join('|', content($r) =~ /^x[-_]user: (.*)$/gmi), 'alice', "$name is replaced");
		like(content($r), qr/^X-Users: some$/m, 'others stay');
	}
	my $r = curl('-H', 'Authorization: Bearer ' . token('rs', { aud => undef }), '-H', 'x_jwt-subject: root', '/plain/');
	is(join('|', content($r) =~ /^x[-_]jwt[-_]subject: (.*)$/gmi), 'alice', 'likewise the default name');
};

subtest 'methods' => sub {
	my @right = ('-H', 'Authorization: Bearer ' . token('es'));
	is(status(curl('-I', @right, '/size/10')), 200, 'HEAD with a token');
	is(status(curl('-I', '/size/10')), 401, 'HEAD without');
	is(content(curl(@right, '-d', 'text', '/raw')), 'text', 'POST with a token');
	is(status(curl('-H', 'Expect:', '-d', 'x' x 100_000, '/raw')), 401, 'POST without');
};

subtest 'the log' => sub {
	my @lines;
	wait_until(sub { @lines = split /\n/, $t->read_file('jwt.log'); grep { $_ eq '200|ok|auth0|17|-' } @lines });
	ok(grep({ $_ eq '200|ok|auth0|17|-' } @lines), 'whose token');
	ok(grep({ $_ eq '401|refused|-|ExpiredSignature' } @lines), 'why not');
	ok(grep({ $_ eq '401|refused|-|no token' } @lines), 'none');
};

subtest 'a wrong configuration' => sub {
	my $refused = sub {
		my ($config, $reason) = @_;
		my $text = ref $config ? $json->encode($config) : $config;
		local $Test::Builder::Level = $Test::Builder::Level + 1;
		$t->write_file('tried.json', $text);
		my ($output, $exit) = nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    http_wasm $guest config_file=tried.json;
}
EOF
		isnt($exit, 0, 'refused: ' . substr $text, 0, 60);
		like($output, qr/\[emerg\].*jwt: $reason/, 'with what is expected');
	};
	my $with = sub { my ($key, %more) = @_; return { keys => [ { %{ $key{$key} }, %more } ] } };

	$refused->($_, qr/expected JSON with "keys" and "audience"/) for '', 'null', '{', '[]', '{"keys":1}', { %rules }, { keys => [], leewey => 1 },
		{ keys => [], leeway => -1 }, { keys => [], audience => [ 'a' ] }, { keys => [], algorithm => 'none' };
	$refused->({ keys => [] }, qr/0 keys for signatures: expected 1 to 16/);
	$refused->({ keys => [ $enc ] }, qr/0 keys for signatures: expected 1 to 16/);
	$refused->({ keys => [ map { $key{hs} } 1 .. 17 ] }, qr/17 keys for signatures: expected 1 to 16/);
	$refused->({ keys => [ $key{hs}, $_ ] }, qr/keys\[1\]: expected a JSON Web Key/) for 1, {}, { kty => 'oct' }, { kty => 'DSA' };
	$refused->($with->('rs', alg => undef), qr/keys\[0\]: expected an "alg" for signatures/);
	$refused->($with->('rs', alg => $_), qr/keys\[0\]: expected an "alg" for signatures/) for qw/ none RSA-OAEP ES256K /;
	$refused->($with->('hs', k => encode_base64url('x' x 31)), qr/keys\[0\]: expected a secret of 32 bytes or more/);
	$refused->($with->('rs', n => modulus('weak.pem')), qr/keys\[0\]: expected an RSA key of 2048 to 4096 bits/);
	$refused->($with->('ed', x => 'AAAA'), qr/keys\[0\]: expected an Ed25519 key of 32 bytes/);
	$refused->($with->('rs', n => '!' x 342), qr/keys\[0\]: /);
	$refused->($with->('es', x => encode_base64url('x' x 32)), qr/keys\[0\]: the key is not one for ES256/);
	$refused->($with->('rs', alg => 'ES256'), qr/keys\[0\]: the key is not one for ES256/);
	$refused->($with->('rs', alg => 'HS256'), qr/keys\[0\]: the key is not one for HS256/);
	$refused->($with->('hs', alg => 'RS256'), qr/keys\[0\]: the key is not one for RS256/);
	$refused->({ keys => [ $key{hs} ], leeway => 601 }, qr/invalid leeway 601: expected 0 to 600/);
	$refused->({ keys => [ $key{hs} ], header => $_ }, qr/invalid header/) for '', 'x user', "x\ny", 'x:';
};

###############################################################################
# Keys and tokens

sub openssl {
	my (@args) = @_;
	open my $pipe, '-|', 'sh', '-c', 'exec openssl "$@" 2>/dev/null', 'sh', @args or die "openssl: $!\n";
	binmode $pipe;
	my $output = do { local $/; <$pipe> };
	close $pipe or die "openssl @args failed\n";
	return $output;
}

# The public part of a key: as DER and as PEM; the modulus of an RSA key, the point of one on a curve.
sub spki { return openssl('pkey', '-in', "$dir/$_[0]", '-pubout', '-outform', 'DER') }

sub pem { return openssl('pkey', '-in', "$dir/$_[0]", '-pubout') }

sub modulus {
	my ($hex) = openssl('rsa', '-in', "$dir/$_[0]", '-noout', '-modulus') =~ /^Modulus=(\w+)/;
	return encode_base64url(pack 'H*', $hex);
}

sub point {
	my ($x, $y) = unpack 'a32 a32', substr spki($_[0]), -64;
	return (x => encode_base64url($x), y => encode_base64url($y));
}

# A token with these claims and fields of its header instead of the usual ones; undef for none.
sub token {
	my ($key, $claims, %header) = @_;

	my %claims = (%GOOD, %{ $claims // {} });
	my %head = (typ => 'JWT', alg => $key{$key}{alg}, kid => $key, %header);
	defined $claims{$_} or delete $claims{$_} for keys %claims;
	defined $head{$_} or delete $head{$_} for keys %head;
	return sign($key, \%head, $json->encode(\%claims));
}

# $signer takes the place of the key's own.
sub sign {
	my ($key, $header, $claims, $signer) = @_;

	$signer //= {
		hs => sub { hmac_sha256($_[0], $SECRET) },
		rs => sub { der("$dir/rsa.pem", $_[0]) },
		es => sub { es256("$dir/ec.pem", $_[0]) },
		ed => sub { openssl('pkeyutl', '-sign', '-rawin', '-inkey', "$dir/ed.pem", '-in', message($_[0])) },
	}->{$key};
	utf8::encode($claims);
	my $signed = encode_base64url($json->encode($header)) . '.' . encode_base64url($claims);
	return "$signed." . encode_base64url($signer->($signed, $SECRET));
}

sub hs256 {
	my ($header, $claims, $secret) = @_;
	return sign('hs', $header, $claims, sub { hmac_sha256($_[0], $secret) });
}

sub message {
	$t->write_file('message', $_[0]);
	return "$dir/message";
}

sub der { return openssl('dgst', '-sha256', '-sign', $_[0], message($_[1])) }

# Two numbers of 32 bytes, which openssl writes as a list of DER.
sub es256 {
	my ($length, $rest) = unpack 'x3 C a*', der(@_);
	my ($r, $s) = unpack "a$length x2 a*", $rest;
	return join '', map { my $n = s/^\0+//r; ("\0" x (32 - length $n)) . $n } $r, $s;
}

###############################################################################

sub passes {
	my ($token, $name, $path, $subject) = @_;
	$subject //= 'alice';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $r = curl('-H', "Authorization: Bearer $token", $path // '/');
	is(status($r), 200, "passes: $name");
	my @got = content($r) =~ /^x-(?:user|jwt-subject): (.*)$/gmi;
	is("@got", $subject, 'its subject');
}

sub refused {
	my ($token, $name, $path) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $r = curl('-H', "Authorization: Bearer $token", $path // '/');
	is(status($r), 401, "refused: $name");
	is(header($r, 'WWW-Authenticate'), 'Bearer error="invalid_token"', 'with a challenge');
}

###############################################################################
