#!/usr/bin/perl

# A Host or a method that nginx refuses of a client is refused of a guest, which may have it from one: configurations
# rely on it that $host is a name and nothing else.

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

# What nginx of any version takes of a client, and what $host is then.
my @taken = (
	[ 'site.example', 'site.example' ],
	[ 'Site.Example.:8080', 'site.example' ],
	[ 'a_b', 'a_b' ],
	[ '127.0.0.1:80', '127.0.0.1' ],
	[ '[::1]:80', '[::1]' ],
);

# What it takes from none, and the reason.
my @refused = (
	[ '../secret', 'contains "/"' ],
	[ 'a/b', 'contains "/"' ],
	[ 'a:80/b', 'contains "/"' ],
	[ '..', 'contains ".."' ],
	[ 'a..b', 'contains ".."' ],
	[ '', 'names no host' ],
	[ '.', 'names no host' ],
	[ ':80', 'names no host' ],
	[ 'a b', 'contains a space' ],
	[ "a\tb", 'contains a space' ],
	[ "a\x7fb", 'contains a space' ],
);

# What older versions take.
my @strange = (
	[ '[::1', 'brackets' ],
	[ '[]', 'brackets' ],
	[ 'a[b]', 'brackets' ],
	[ 'a:b', 'port' ],
	[ 'a:65536', 'port' ],
	[ '[::1]80', 'port' ],
);

my $t = Test::Nginx->new()->has(qw/http proxy rewrite/)
	->plan(3 * @taken + 3 * @refused + 2 * @strange + 18);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    # Most requests here fail.
    http_wasm_breaker off;

    proxy_set_header Host $http_host;
    proxy_set_header X-Var $host;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / { http_wasm copy.wat; proxy_pass http://127.0.0.1:8081; }
        location /none { return 200 "$host\n"; }
        location /added { http_wasm copy.wat config=add; proxy_pass http://127.0.0.1:8081; }
        location /sites/ { http_wasm copy.wat; alias %%TESTDIR%%/sites/$host/; }
        location /open { http_wasm copy.wat; http_wasm_on_error open; proxy_pass http://127.0.0.1:8081; }
        location /response { http_wasm response.wat; proxy_pass http://127.0.0.1:8081; }
        location /method { http_wasm method.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

# Makes X-Forwarded-Host the Host.
guest($t, 'copy.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $r i64)
    (local.set $r (call $get_header_values (i32.const 0) &"x-forwarded-host" (i32.const 65536) (i32.const 4096)))
    (if (i64.eqz (local.get $r)) (then (return (i64.const 1))))
    (if (call $get_config (i32.const 0) (i32.const 0))
      (then (call $add_req &"host" (i32.const 65536) (i32.sub (i32.wrap_i64 (local.get $r)) (i32.const 1))))
      (else (call $set_req &"Host" (i32.const 65536) (i32.sub (i32.wrap_i64 (local.get $r)) (i32.const 1)))))
    (i64.const 1))
EOF

# In a response it is a name as others.
guest($t, 'response.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_resp &"host" &"../early")
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $add_resp &"host" &"../late"))
EOF

# Makes X-Method the method.
guest($t, 'method.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_method (i32.const 65536) (i32.sub (i32.wrap_i64
      (call $get_header_values (i32.const 0) &"x-method" (i32.const 65536) (i32.const 4096))) (i32.const 1)))
    (i64.const 1))
EOF

mkdir $t->testdir() . "/$_" for 'sites', 'sites/site.example', 'secret';
$t->write_file('sites/site.example/f', 'public');
$t->write_file('secret/f', 'secret');
backend($t);
$t->run();

###############################################################################

for (@taken) {
	my ($value, $host) = @$_;
	is(content(client('/none', "Host: $value")), "$host\n", "$value: of a client");
	my $r = client('/', 'Host: localhost', "X-Forwarded-Host: $value");
	like($r, qr/^X-Var: \Q$host\E\r?$/m, "$value: of a guest, as \$host");
	like($r, qr/^Host: \Q$value\E\r?$/m, "$value: sent on");
}

for (@refused) {
	my ($value) = @$_;
	is(status(client('/none', "Host: $value")), 400, shown($value) . ': refused of a client');
}
refused(@$_) for @refused, @strange;

is(status(client('/added', 'Host: localhost', 'X-Forwarded-Host: ../secret')), 500, 'refused when added');
error_log_like($t, qr{add_header_value got "\.\./secret" as Host: it contains "/"}, 'and named');

is(content(client('/sites/f', 'Host: localhost', 'X-Forwarded-Host: site.example')), 'public', 'files by $host');
my $r = client('/sites/f', 'Host: localhost', 'X-Forwarded-Host: ../secret');
is(status($r), 500, 'and no others');
unlike($r, qr/^secret/m, 'not a byte of them');

$r = client('/open', 'Host: localhost', 'X-Forwarded-Host: ../secret');
is(status($r), 200, 'goes on without the guest');
like($r, qr/^X-Var: localhost\r?$/m, 'with the Host of the client');

$r = client('/response', 'Host: localhost');
is(status($r), 200, 'a response may have such a header');
like($r, qr{^host: \.\./early\r?$}mi, 'set early');
like($r, qr{^host: \.\./late\r?$}mi, 'and added late');

for my $method (qw/ CONNECT TRACE /) {
	like(status(http("$method / HTTP/1.0\r\nHost: localhost\r\n\r\n")), qr/^40[05]$/, "$method: refused of a client");
	is(status(client('/method', 'Host: localhost', "X-Method: $method")), 500, "$method: refused of a guest");
	error_log_like($t, qr/set_method got method "$method", which clients may not use either/, "$method: named");
}
like(client('/method', 'Host: localhost', 'X-Method: PUT'), qr!^PUT /method!m, 'others are taken');

is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing severe');

###############################################################################

sub client {
	my ($uri, @headers) = @_;
	return http("GET $uri HTTP/1.0\r\n" . join('', map { "$_\r\n" } @headers) . "\r\n");
}

# As the log has it.
sub shown {
	my ($value) = @_;
	return $value =~ s/\t/\\t/r =~ s/\x7f/\\x7f/r;
}

# The guest's call ends, and the log says why.
sub refused {
	my ($value, $reason) = @_;
	my $shown = shown($value);
	is(status(client('/', 'Host: localhost', "X-Forwarded-Host: $value")), 500, "$shown: refused of a guest");
	error_log_like($t, qr/set_header_value got "\Q$shown\E" as Host: [^\n]*\Q$reason\E/, "$shown: value and reason");
}

###############################################################################
