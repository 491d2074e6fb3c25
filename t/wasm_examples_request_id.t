#!/usr/bin/perl

# examples/request-id: every request has an id, its own or one that it came with.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(7);
my $guest = built('example-request-id.wat');

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format ids '\$wasm_log_request_id \$wasm_log_request_id_from \$status \$request_uri';
    access_log %%TESTDIR%%/ids.log ids;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /new/ {
            http_wasm $guest;
            proxy_pass http://127.0.0.1:8081/;
        }

        location /trust/ {
            http_wasm $guest config=trust;
            proxy_pass http://127.0.0.1:8081/;
        }

        # An instance for each request, and all begin with the same snapshot.
        location /alone/ {
            http_wasm $guest;
            http_wasm_isolation request;
            proxy_pass http://127.0.0.1:8081/;
        }
    }
}

EOF

backend($t);
$t->run();

###############################################################################

my $NEW = qr/^[0-9a-f]{32}$/;

subtest 'a new id' => sub {
	my $r = curl('-H', 'X-Request-Id: mine', '-H', 'X-Request-ID: another', '/new/');
	my $id = header($r, 'X-Request-Id');
	like($id, $NEW, 'for the client');
	is(ids($r), $id, 'the same for the backend, and no other');
	logged("$id guest 200 /new/");

	my $other = header(curl('/new/'), 'X-Request-Id');
	like($other, $NEW, 'the next request has one');
	isnt($other, $id, 'of its own');
};

subtest 'a trusted id' => sub {
	for my $id ('a', 'A-1_b.9', 'x' x 64) {
		my $r = curl('-H', "X-Request-Id: $id", '/trust/');
		is(header($r, 'X-Request-Id'), $id, "for the client: $id");
		is(ids($r), $id, 'for the backend');
		logged("$id client 200 /trust/");
	}
	# What was there before does not remain behind a shorter one.
	is(header(curl('-H', 'X-Request-Id: b', '/trust/'), 'X-Request-Id'), 'b', 'a shorter one');
};

subtest 'an id that is none' => sub {
	for my $id ('', 'x' x 65, 'x' x 5000, 'a b', 'a,b', 'a"b', 'a=b', "\xc3\xa9", map { "a${_}b" } qw/ @ [ ` { : \ /, '/', "\t") {
		my $r = curl('-H', length $id ? "X-Request-Id: $id" : 'X-Request-Id;', '/trust/');
		like(header($r, 'X-Request-Id'), $NEW, 'a new one for "' . substr($id, 0, 20) . '"');
		is(ids($r), header($r, 'X-Request-Id'), 'and for the backend');
	}
	my $r = curl('-H', 'X-Request-Id: a', '-H', 'X-Request-Id: b', '/trust/');
	like(header($r, 'X-Request-Id'), $NEW, 'a new one for two');
	is(ids($r), header($r, 'X-Request-Id'), 'and one for the backend');
	like(header(curl('/trust/'), 'X-Request-Id'), $NEW, 'a new one for none');
};

subtest 'responses of all kinds' => sub {
	my $r = curl('/new/headers?X-Request-Id=theirs&X-Request-Id=again');
	like(header($r, 'X-Request-Id'), $NEW, 'that of the backend is replaced');
	like(header(curl("/new/status/$_"), 'X-Request-Id'), $NEW, "status $_") for qw/ 204 304 404 500 /;
	like(header(curl('-I', '/new/size/10'), 'X-Request-Id'), $NEW, 'HEAD');
};

subtest 'instances that begin with one snapshot' => sub {
	my %ids = map { header(curl('/alone/'), 'X-Request-Id') => 1 } 1 .. 5;
	is(scalar keys %ids, 5, 'have ids of their own');
	like($_, $NEW, 'new') for keys %ids;
};

subtest 'many requests' => sub {
	my %ids = map { header($_, 'X-Request-Id') => 1 }
		replies("GET /new/ HTTP/1.1\r\nHost: localhost\r\n\r\n" x 200, 200);
	is(scalar keys %ids, 200, 'have ids of their own');
};

subtest 'a wrong configuration' => sub {
	for my $config (qw/ trusted trus TRUST yes /, 'x' x 1000) {
		my ($output, $exit) = nginx_test($t, <<"EOF");
%%TEST_GLOBALS%%
events {
}
http {
    http_wasm $guest config=$config;
}
EOF
		isnt($exit, 0, substr($config, 0, 10) . ' is refused');
		like($output, qr/\[emerg\].*request-id: expected no configuration, or "trust"/, 'with what is expected');
	}
};

###############################################################################

# What the backend got.
sub ids {
	my ($r) = @_;
	return join '|', content($r) =~ /^X-Request-Id: (.*)$/gmi;
}

sub logged {
	my ($line) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_until(sub { grep { $_ eq $line } split /\n/, $t->read_file('ids.log') }), "logged: $line");
}

###############################################################################
