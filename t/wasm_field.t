#!/usr/bin/perl

# http_wasm_field: fields that guests find among the request's, from variables; a client's of that name they do not see,
# and nobody behind them sees the operator's.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(25);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_field X-Given of-http;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        http_wasm tells.wat;
        proxy_set_header X-Id $request_id;

        location /constant { proxy_pass http://127.0.0.1:8081; }
        location /id { http_wasm_field x-given $request_id; proxy_pass http://127.0.0.1:8081; }
        location /text { http_wasm_field x-given "<$arg_a>$request_method"; proxy_pass http://127.0.0.1:8081; }
        location /empty { http_wasm_field x-given $arg_none; proxy_pass http://127.0.0.1:8081; }
        location /none { http_wasm_field x-given ""; proxy_pass http://127.0.0.1:8081; }
        location /other { http_wasm_field x-other 1; proxy_pass http://127.0.0.1:8081; }
        location /host { http_wasm_field host h.example; proxy_pass http://127.0.0.1:8081; }
        location /sets { http_wasm sets.wat; http_wasm tells.wat; proxy_pass http://127.0.0.1:8081; }
        location /moved {
            http_wasm_field x-given first;
            error_page 404 = /there;
            proxy_intercept_errors on;
            proxy_pass http://127.0.0.1:8081/status/404?;
        }
        location /there { http_wasm tells.wat name=there; http_wasm_field x-given second; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF
$t->write_file_expand('nginx.conf', $conf);

# Says what it finds: the values of X-Given (in handle_request and in handle_response) and the names of all fields.
guest($t, 'tells.wat', <<"EOF");
  (func (export "handle_request") (result i64)
    (memory.fill (i32.const 65536) (i32.const 0) (i32.const 1000))
    (call \$add_resp &"x-request" (call \$values))
    (memory.fill (i32.const 65536) (i32.const 0) (i32.const 1000))
    (call \$add_resp &"x-names" (call \$names))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call \$add_resp &"x-response" (call \$values)))
  ;; Values and names end with a zero: the last one goes, those between become commas.
  (func \$commas (param \$len i32) (result i32 i32) (local \$at i32)
    (local.set \$at (i32.const 65536))
    (block \$done (loop \$again
      (br_if \$done (i32.ge_u (local.get \$at) (i32.add (i32.const 65536) (local.get \$len))))
      (if (i32.eqz (i32.load8_u (local.get \$at))) (then (i32.store8 (local.get \$at) (i32.const 44))))
      (local.set \$at (i32.add (local.get \$at) (i32.const 1)))
      (br \$again)))
    (i32.const 65536) (local.get \$len))
  (func \$values (result i32 i32)
    (call \$commas (i32.wrap_i64 (call \$get_header_values (i32.const 0) &"x-GIVEN" (i32.const 65536) (i32.const 900)))))
  (func \$names (result i32 i32)
    (call \$commas (i32.wrap_i64 (call \$get_header_names (i32.const 0) (i32.const 65536) (i32.const 900)))))
EOF
guest($t, 'sets.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $set_req &"x-given" &"of-a-guest") (i64.const 1))
EOF

backend($t);
$t->run();

###############################################################################

my $r = seen('/constant');
is($r->{values}, 'of-http', 'a text, inherited');
is($r->{response}, 'of-http', 'in handle_response, too');
like($r->{names}, qr/^(?:.*,)?x-given,/, 'among the names');
is($r->{upstream}, undef, 'the upstream does not get it');

$r = seen('/constant', '-H', 'X-Given: forged', '-H', 'x-GIVEN: twice');
is($r->{values}, 'of-http', "a client's is not seen");
is(scalar(() = $r->{names} =~ /x-given/gi), 1, 'the name is there once');
is($r->{upstream}, 'forged', "and the upstream gets the client's");

$r = seen('/id', '-H', 'X-Given: forged');
like($r->{values}, qr/^[0-9a-f]{32}$/, 'a variable');
is($r->{values}, $r->{id}, 'as others see it');
is($r->{response}, $r->{id}, 'the same in handle_response');

is(seen('/text?a=b', '-X', 'DELETE')->{values}, '<b>DELETE', 'a text with variables');

$r = seen('/empty', '-H', 'X-Given: forged');
is($r->{values}, '', 'an empty value is none');
unlike($r->{names}, qr/x-given/i, 'nor a name');
is($r->{upstream}, 'forged', "the client's goes its way all the same");

is(seen('/none', '-H', 'X-Given: forged')->{values}, '', 'so is no text at all');

$r = seen('/other', '-H', 'X-Given: of-client');
is($r->{values}, 'of-client', 'a level with fields of its own does not inherit');
like($r->{names}, qr/x-other/, 'and has its own');

$r = seen('/host');
is(scalar(() = $r->{names} =~ /\bhost\b/gi), 1, 'one that every request has');

$r = seen('/sets');
is($r->{values}, 'of-http', 'what a guest sets is not seen either');
is($r->{upstream}, 'of-a-guest', 'and goes to the upstream');

$r = curl('/moved');
is(header($r, 'x-request'), 'first,|second,', 'after a redirect the other location has its say');

is(error_log_count($t, qr/\[(?:error|alert|crit)\]/), 0, 'no guest fails');

for my $wrong ([ 'a:b 1', qr/invalid value "a:b": expected the name of a header field/ ],
	[ 'x $nowhere', qr/unknown "nowhere" variable/ ], [ 'a 1; http_wasm_field A 2', qr/duplicate field "a"/ ])
{
	my ($arguments, $reason) = @$wrong;
	my ($output) = nginx_test($t, $conf =~ s/X-Given of-http/$arguments/r);
	like($output, qr/\[emerg\].*$reason/, "$arguments is refused");
}

###############################################################################

sub seen {
	my ($uri, @arguments) = @_;
	my $r = curl(@arguments, $uri);
	my ($upstream) = content($r) =~ /^x-given: (.*?)\r?$/mi;
	my ($id) = content($r) =~ /^x-id: (.*?)\r?$/mi;
	my ($values, $names, $response) = map { (header($r, $_) // '') =~ s/,\z//r } qw/x-request x-names x-response/;
	return { values => $values, names => "$names,", response => $response, upstream => $upstream, id => $id };
}

###############################################################################
