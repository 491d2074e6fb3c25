#!/usr/bin/perl

# Request headers as the guest leaves them are what the upstream, variables and later modules see.

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

my $t = Test::Nginx->new()->has(qw/http proxy rewrite access/)->plan(31);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format headers "$http_x_set|$http_x_new|$http_x_gone|$http_user_agent|$cookie_b";

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        access_log %%TESTDIR%%/headers.log headers;

        location / {
            # Evaluated before the guest runs, and again after.
            set $early "$http_x_set$http_x_gone$http_user_agent$cookie_b$http_host";

            http_wasm edit.wat;
            proxy_pass http://127.0.0.1:8081;
            proxy_set_header Host $http_host;
            proxy_set_header X-Var-Set $http_x_set;
            proxy_set_header X-Var-Gone "[$http_x_gone]";
            proxy_set_header X-Var-Agent $http_user_agent;
            proxy_set_header X-Var-Cookie $cookie_b;
            proxy_set_header X-Var-Host $host;
        }

        location /read {
            http_wasm read.wat;
            proxy_pass http://127.0.0.1:8081;
        }

        location /framing {
            http_wasm framing.wat;
            proxy_pass http://127.0.0.1:8081;
        }

        location /name { http_wasm name.wat; proxy_pass http://127.0.0.1:8081; }
        location /value { http_wasm value.wat; proxy_pass http://127.0.0.1:8081; }
        location /nul { http_wasm nul.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

guest($t, 'edit.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_req &"X-Set" &"new")
    (call $set_req &"x-new" &"made")
    (call $add_req &"x-many" &"two")
    (call $add_req &"X-MANY" &"three")
    (call $set_req &"x-collapsed" &"one")
    (call $set_req &"x-empty" &"")
    (call $del_req &"X-gone")
    (call $del_req &"x-never-there")
    (call $set_req &"user-agent" &"guest/1")
    (call $set_req &"cookie" &"a=1; b=2")
    (call $set_req &"host" &"guest.example:81")
    (i64.const 1))
EOF
guest($t, 'read.wat', <<'EOF');
  (func (export "handle_request") (result i64) (local $r i64)
    (local.set $r (call $get_header_values (i32.const 0) &"X-Many" (i32.const 0) (i32.const 0)))
    (call $set_req &"x-count" (call $dec (i32.wrap_i64 (i64.shr_u (local.get $r) (i64.const 32)))))
    (call $set_req &"x-length" (call $dec (i32.wrap_i64 (local.get $r))))
    (drop (call $get_header_values (i32.const 0) &"x-many" (i32.const 65536) (i32.const 4096)))
    (call $set_req &"x-first" (i32.const 65536) (i32.const 3))
    (call $set_req &"x-second" (i32.const 65540) (i32.const 10))
    (local.set $r (call $get_header_names (i32.const 0) (i32.const 65536) (i32.const 4096)))
    (loop $separate
      (local.set $r (i64.sub (local.get $r) (i64.const 1)))
      (if (i32.eqz (i32.load8_u offset=65536 (i32.wrap_i64 (local.get $r))))
        (then (i32.store8 offset=65536 (i32.wrap_i64 (local.get $r)) (i32.const 32))))
      (br_if $separate (i32.wrap_i64 (local.get $r))))
    (call $set_req &"x-names" (i32.const 65536)
      (i32.wrap_i64 (call $get_header_names (i32.const 0) (i32.const 131072) (i32.const 4096))))
    (i64.const 1))
EOF
guest($t, 'framing.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_req &"content-length" &"1")
    (call $set_req &"transfer-encoding" &"chunked")
    (call $set_req &"connection" &"upgrade")
    (i64.const 1))
EOF
my $bad = '  (func (export "handle_request") (result i64) (call $set_req %s) (i64.const 1))';
guest($t, 'name.wat', sprintf $bad, '&"x a" &"1"');
guest($t, 'value.wat', sprintf $bad, '&"x-a" &"1\0d\0aX-Smuggled: 1"');
guest($t, 'nul.wat', sprintf $bad, '&"x-a" &"1\002"');

backend($t);
$t->run();

###############################################################################

my $seen = seen('/', 'X-Set: old', 'X-Many: one', 'X-Collapsed: 1', 'X-Collapsed: 2', 'X-Gone: here',
	'X-Kept: kept', 'Cookie: a=0; b=1', 'User-Agent: client/1');

like($seen, qr/^X-Set: new$/m, 'set existing');
unlike($seen, qr/old/, 'old value gone');
like($seen, qr/^x-new: made$/m, 'set new');
is(join('|', $seen =~ /^(X-Many: .*)$/mig), 'X-Many: one|x-many: two|X-MANY: three', 'add keeps order');
is(() = $seen =~ /^X-Collapsed: /mig, 1, 'set collapses several lines');
like($seen, qr/^x-collapsed: one$/mi, 'to the new value');
like($seen, qr/^x-empty: ?$/mi, 'empty value');
unlike($seen, qr/^X-Gone:/mi, 'remove');
like($seen, qr/^X-Kept: kept$/m, 'others untouched');
is(join('', $seen =~ /^User-Agent: (.*)$/mig), 'guest/1', 'known header');
is(join('', $seen =~ /^Cookie: (.*)$/mig), 'a=1; b=2', 'cookie');
is(join('', $seen =~ /^Host: (.*)$/mig), 'guest.example:81', 'host, one line');

like($seen, qr/^X-Var-Set: new$/m, 'variable read before');
like($seen, qr/^X-Var-Gone: \[\]$/m, 'variable of a removed header');
like($seen, qr/^X-Var-Agent: guest\/1$/m, 'variable of a known header');
like($seen, qr/^X-Var-Cookie: 2$/m, 'variable of a cookie');
like($seen, qr/^X-Var-Host: guest\.example$/m, 'variable host');

$t->stop();
is($t->read_file('headers.log'), "new|made|-|guest/1|2\n", 'access log');
$t->run();

$seen = seen('/read', 'X-Many: one', 'x-many: two, three', 'X-Z: 1');
like($seen, qr/^x-count: 2$/m, 'number of lines');
like($seen, qr/^x-length: 15$/m, 'length of their list');
like($seen, qr/^x-first: one$/m, 'first line');
like($seen, qr/^x-second: two, three$/m, 'second line, not split');
my ($names) = $seen =~ /^x-names: (.*)$/m;
is(join(' ', sort split / /, $names), 'accept host user-agent x-count x-first x-length x-many x-second x-z',
	'names in lower case, once each');

my $r = curl('-d', 'four', '/framing');
like($r->{body}, qr/^body 4 /m, 'the body decides about the length');
is(() = $r->{body} =~ /^Content-Length: 4$/mig, 1, 'one content-length');
unlike($r->{body}, qr/^(?:Transfer-Encoding|Connection: upgrade)/mi, 'framing stays ours');

$r = http_get('/name');
is(status($r), 500, 'bad name');
is(status(http_get('/value')), 500, 'line break in a value');
is(status(http_get('/nul')), 500, 'NUL in a value');
error_log_like($t, qr/set_header_value/, 'function named');
unlike($r, qr/set_header_value|wasm/, 'not to the client');

###############################################################################

# The request as the backend saw it.
sub seen {
	my ($uri, @headers) = @_;
	return curl((map { ('-H', $_) } @headers), $uri)->{body};
}

###############################################################################
