#!/usr/bin/perl

# Guests on the error pages of a TLS port: a plain request (497), no certificate (496), one that is not trusted (495),
# with a header or, in HTTP/0.9, without.

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

my $t = Test::Nginx->new()->has(qw/http http_ssl proxy socket_ssl/)->has_daemon('openssl');

# What guests do, and what the next handler sees of it.
my @guests = (
	[ 'sets headers', '(call $set_req &"x-set" &"1") (call $set_req &"cookie" &"a=1")', qr/^x-set: 1\ncookie: a=1$/m ],
	[ 'writes the body', '(call $body_req &"written")', qr/^body 7 /m ],
	[ 'fails', '(call $set_req &"x-set" &"1") (call $body_req &"written") unreachable', qr/\A(?!.*x-set).*^body 0 /ms ],
);

my %own = map { ("SSL_$_" => $t->testdir() . "/other.$_") } qw/ cert_file key_file /;
my @clients = (
	[ 'a plain request' ],
	[ 'no certificate', SSL => 1 ],
	[ 'an unknown certificate', SSL => 1, %own ],
);
my @requests = (
	[ 'HTTP/1.0', "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", 400 ],
	[ 'HTTP/0.9', "GET /\r\n", 0 ],
);

$t->plan(@clients * @requests * @guests + 2);

my $servers = join '', map { <<'EOF' =~ s/GUEST/$_/gr } 0 .. $#guests;

    server {
        listen       127.0.0.1:%%PORT_844GUEST%% ssl;
        location / { return 204; }
        location /guest { http_wasm GUEST.wat; proxy_pass http://127.0.0.1:8081; }
    }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/SERVERS/$servers/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;
    http_wasm_on_error open;
    ssl_certificate localhost.cert_file;
    ssl_certificate_key localhost.key_file;
    ssl_client_certificate localhost.cert_file;
    ssl_verify_client on;
    error_page 495 496 497 /guest;
    SERVERS
}

EOF

for my $name (qw/ localhost other /) {
	my $path = $t->testdir() . "/$name";
	system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=$name -out $path.cert_file -keyout $path.key_file"
		. " >$path.out 2>&1") == 0 or die "can't make a certificate: " . $t->read_file("$name.out");
}
guest($t, "$_.wat", qq{(func (export "handle_request") (result i64) $guests[$_][1] (i64.const 1))}) for 0 .. $#guests;

backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $guest (0 .. $#guests) {
	my ($does, undef, $seen) = @{ $guests[$guest] };

	for my $client (@clients) {
		my ($name, @as) = @$client;
		for my $request (@requests) {
			my ($version, $text, $status) = @$request;
			my $r = http($text, PeerAddr => '127.0.0.1:' . port("844$guest"), @as) // '';
			my $as = status($r) == $status && $r =~ $seen;
			ok($as, "$name, $version, a guest $does") or diag($r);
		}
	}
}

is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################
