#!/usr/bin/perl

# How many header fields guests may set on one request: a thousand of each kind, whatever their size.

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

my %calls = (
	'request-add' => [ 'request', '(call $add_req (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))' ],
	'request-set' => [ 'request', '(call $set_req (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))' ],
	'early-add' => [ 'request', '(call $add_resp (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))' ],
	'early-set' => [ 'request', '(call $set_resp (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))' ],
	'response-add' => [ 'response', '(call $add_resp (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))' ],
	'response-set' => [ 'response', '(call $set_resp (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))' ],
	'trailer-add' => [ 'response',
		'(call $add_header_value (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))' ],
);
my @names = sort keys %calls;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(3 * @names + 6);

my $locations = join '', map { <<"END" } @names;
        location /$_ { http_wasm $_.wat; proxy_pass http://127.0.0.1:8081; }
END

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

LOCATIONS
        location /chain {
            http_wasm request-add.wat name=first;
            http_wasm request-add.wat name=second;
            proxy_pass http://127.0.0.1:8081;
        }

        location /both {
            http_wasm request-add.wat name=request;
            http_wasm early-add.wat name=early;
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

# As often as the header "Times" says, in four digits.
for my $name (@names) {
	my ($phase, $call) = @{ $calls{$name} };
	my $loop = <<"EOF";
    (drop (call \$get_header_values (i32.const 0) &"times" (i32.const 16) (i32.const 8)))
    (local.set \$n (call \$number))
    (loop \$again
      $call
      (br_if \$again (local.tee \$n (i32.sub (local.get \$n) (i32.const 1)))))
EOF
	guest($t, "$name.wat", <<"EOF");
  (data (i32.const 0) "x")
  (start \$start)
  (func \$start (drop (call \$enable_features (i32.const 4))))
  (func \$digit (param i32) (result i32) (i32.sub (i32.load8_u offset=16 (local.get 0)) (i32.const 48)))
  (func \$number (result i32)
    (i32.add (i32.add (i32.mul (call \$digit (i32.const 0)) (i32.const 1000))
      (i32.mul (call \$digit (i32.const 1)) (i32.const 100)))
      (i32.add (i32.mul (call \$digit (i32.const 2)) (i32.const 10)) (call \$digit (i32.const 3)))))
@{[ $phase eq 'request'
	? "  (func (export \"handle_request\") (result i64) (local \$n i32)\n$loop    (i64.const 1))\n"
	: "  (func (export \"handle_response\") (param i32 i32) (local \$n i32)\n$loop)\n" ]}
EOF
}

backend($t);
$t->run();

###############################################################################

for my $name (@names) {
	is(status(asked(1000, "/$name")), 200, "$name: a thousand");
	is(status(asked(1001, "/$name")), 500, "$name: one more");
	error_log_like($t, qr/guest "$name": handle_\w+: (?:add|set)_header_value: .* would be more than 1000/, "$name: logged");
}

my $r = asked(1000, '/early-add');
is(() = (header($r, 'x') // '') =~ /x/g, 1000, 'all of them arrive');
is(status(asked(500, '/chain')), 200, 'of all guests together');
is(status(asked(501, '/chain')), 500, 'not of each');
error_log_like($t, qr/guest "second": .*more than 1000/, 'the one that goes too far');
is(status(asked(1000, '/both')), 200, 'of each kind');
is(status(asked(1001, '/both')), 500, 'of each kind');

###############################################################################

sub asked {
	my ($times, $uri) = @_;
	return curl('-H', sprintf('Times: %04d', $times), $uri);
}

###############################################################################
