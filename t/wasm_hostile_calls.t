#!/usr/bin/perl

# A trap right after every host function in turn, in handle_request and in handle_response with and without the body.

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

# Name, arguments of a call that is right in itself, and what says no to it after next: "never", or "held" when it
# takes a response that is held.
my @calls = (
	[ 'enable_features', '(i32.const 1)' ],
	[ 'get_config', '(i32.const 0) (i32.const 100)' ],
	[ 'log', '(i32.const 1) &"a line"' ],
	[ 'log_enabled', '(i32.const 1)' ],
	[ 'get_method', '(i32.const 0) (i32.const 100)' ],
	[ 'set_method', '&"PUT"', 'never' ],
	[ 'get_uri', '(i32.const 0) (i32.const 100)' ],
	[ 'set_uri', '&"/other?a=b"', 'never' ],
	[ 'get_protocol_version', '(i32.const 0) (i32.const 100)' ],
	[ 'get_source_addr', '(i32.const 0) (i32.const 100)' ],
	[ 'get_header_names', '(i32.const 0) (i32.const 0) (i32.const 1000)' ],
	[ 'get_header_values', '(i32.const 0) &"host" (i32.const 0) (i32.const 100)' ],
	[ 'set_header_value', '(i32.const 1) &"x-leaked" &"leaked"' ],
	[ 'add_header_value', '(i32.const 1) &"x-leaked" &"leaked"' ],
	[ 'remove_header', '(i32.const 1) &"server"' ],
	[ 'read_body', '(i32.const 1) (i32.const 0) (i32.const 100)', 'held' ],
	[ 'write_body', '(i32.const 1) &"leaked"', 'held' ],
	[ 'get_status_code', '' ],
	[ 'set_status_code', '(i32.const 404)' ],
	[ 'get_template', '(i32.const 0) (i32.const 100)' ],
	[ 'set_template', '&"leaked"', 'never' ],
);
my @phases = qw/ request response held /;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(@phases * (@calls + 1) + 4);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /request { http_wasm request.wat; proxy_pass http://127.0.0.1:8081; }
        location /response { http_wasm response.wat; proxy_pass http://127.0.0.1:8081; }
        location /held { http_wasm held.wat; proxy_pass http://127.0.0.1:8081; }
        location /fine { http_wasm fine.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

# $boom makes the call whose number is in a header, and traps.
my $boom = '  (table funcref (elem ' . join(' ', map { "\$boom_$_->[0]" } @calls) . "))\n  (type \$boom (func))\n"
	. join('', map { boom(@$_) } @calls) . <<'EOF';
  (func $boom
    (if (i32.wrap_i64 (call $get_header_values (i32.const 0) &"x-call" (i32.const 0) (i32.const 3))) (then
      (call_indirect (type $boom) (i32.add
        (i32.mul (i32.sub (i32.load8_u (i32.const 0)) (i32.const 48)) (i32.const 10))
        (i32.sub (i32.load8_u (i32.const 1)) (i32.const 48)))))))
EOF
my $response = "  (func (export \"handle_response\") (param i32 i32) (call \$boom))\n";

guest($t, 'request.wat', $boom . "  (func (export \"handle_request\") (result i64) (call \$boom) (i64.const 1))\n");
guest($t, 'response.wat', $boom . $response);
guest($t, 'held.wat', $boom . $response . <<'EOF');
  (start $start)
  (func $start (drop (call $enable_features (i32.const 3))))
EOF
guest($t, 'fine.wat', '');

backend($t);
$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });

###############################################################################

for my $phase (@phases) {
	my $function = $phase eq 'request' ? 'handle_request' : 'handle_response';

	for my $n (0 .. $#calls) {
		my ($name, undef, $needs) = @{ $calls[$n] };
		my $denied = $phase ne 'request' && $needs && "$phase$needs" ne 'heldheld';
		my $reason = $denied ? qr/$name (?:is not allowed|needs feature)/ : qr/wasm trap: wasm .unreachable/;

		my $r = curl('-H', sprintf('X-Call: %02d', $n), '-d', 'a body', "/$phase/$name");
		my $told = join ' ', $r->{body}, map { "@$_" } @{ $r->{headers} };
		my $logged = error_log_count($t, qr{\[error\].*guest "$phase": $function: $reason.*"POST /$phase/$name });
		is_deeply([ status($r), $logged, $told =~ /leaked|wasm|unreachable/ ? 'told' : '' ], [ 500, 1, '' ],
			"$phase: trap after $name");
	}

	is(status(curl("/$phase")), 200, "$phase: serves on");
}

is(error_log_count($t, qr/\[error\].*boom_get_uri/), 3, 'backtraces');
is(status(curl('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

sub boom {
	my ($name, $arguments) = @_;
	my $call = "(call \$$name $arguments)";
	$call = "(drop $call)" if $name =~ /^(?:get|enable|read)_|_enabled$/;
	return "  (func \$boom_$name $call unreachable)\n";
}

###############################################################################
