#!/usr/bin/perl

# Bytes that split a message, end a string or are no text, in every string a guest hands over: what is refused is
# refused by name, what is taken reaches client, backend and log as one thing.

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

# BAD is where the bytes go, between others.
my @calls = (
	[ 'set_method', '&"PUTBADX"' ],
	[ 'set_uri', '&"/echo/aBADb"' ],
	[ 'set_uri', '&"/echo/a?bBADc"' ],
	(map { my $function = $_; map { my $kind = $_;
		[ $function, qq{(i32.const $kind) &"x-aBADb" &"value"} ], [ $function, qq{(i32.const $kind) &"x-ab" &"aBADb"} ]
	} 0, 1 } qw/ set_header_value add_header_value /),
	[ 'remove_header', '(i32.const 0) &"x-aBADb"' ],
	[ 'remove_header', '(i32.const 1) &"x-aBADb"' ],
	[ 'get_header_values', '(i32.const 0) &"x-aBADb" (i32.const 0) (i32.const 100)', 1 ],
	[ 'set_template', '&"aBADb"', 1 ],
	[ 'log', '(i32.const 2) &"aBADb"', 1 ],
	[ 'write_body', '(i32.const 0) &"aBADb"', 1 ],
);

# As WAT writes them; whether a value may have them, and whether a URI may.
my @bad = (
	[ '\0d\0aX-Split: yes\0d\0a\0d\0asplit' ],
	[ '\0a2026/01/01 00:00:00 [alert] 1#1: split' ],
	[ '\0d' ],
	[ '\00' ],
	[ '\ff\c3\28\ed\a0\80', 1, 1 ],
	[ '\e2\80\a8\c2\85', 1, 1 ],
	[ '\1b[2J\7f', 1 ],
);

my @names = map { my $call = $_; map { "c${call}_$_" } 0 .. $#bad } 0 .. $#calls;

# A guest of its own for each: of one guest's failures of one kind not all are logged.
my $locations = join '', map {
	"        location /$_/ { http_wasm bad.wat name=bad$_; proxy_pass http://127.0.0.1:8081; }\n"
} 0 .. $#names;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(@calls + 8);

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;

    error_log %%TESTDIR%%/strings.log info;
    log_format template $request_uri:$wasm_template;
    access_log %%TESTDIR%%/template.log template;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

LOCATIONS
        location /trap { http_wasm trap.wat; proxy_pass http://127.0.0.1:8081; }
        location /fine { http_wasm fine.wat; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

my $functions = join '', map {
	my ($call, $bad) = /c(\d+)_(\d+)/;
	my ($function, $arguments) = @{ $calls[$call] };
	my $text = "(call \$$function " . $arguments =~ s/BAD/$bad[$bad][0]/r . ')';
	"  (func \$$_ " . ($function =~ /^get_/ ? "(drop $text)" : $text) . ")\n";
} @names;

# Calls the function of the table whose index the header gives in three digits.
guest($t, 'bad.wat', '  (table funcref (elem ' . join(' ', map { "\$$_" } @names) . "))\n" . <<'EOF' . $functions);
  (type $call (func))
  (func $digit (param i32) (result i32) (i32.sub (i32.load8_u (local.get 0)) (i32.const 48)))
  (func (export "handle_request") (result i64)
    (drop (call $get_header_values (i32.const 0) &"x-call" (i32.const 0) (i32.const 4)))
    (call_indirect (type $call) (i32.add (i32.add (i32.mul (call $digit (i32.const 0)) (i32.const 100))
      (i32.mul (call $digit (i32.const 1)) (i32.const 10))) (call $digit (i32.const 2))))
    (i64.const 1))
EOF

# Names in a backtrace are the guest's, too.
guest($t, 'trap.wat', <<'EOF');
  (func $"boom\0a2026/01/01 00:00:00 [alert] 1#1: split" unreachable)
  (func (export "handle_request") (result i64) (call $"boom\0a2026/01/01 00:00:00 [alert] 1#1: split") (i64.const 1))
EOF
guest($t, 'fine.wat', '  (func (export "handle_request") (result i64) (call $log (i32.const 2) &"a line") (i64.const 1))');

backend($t);
$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });

###############################################################################

my $case = 0;
for my $call (@calls) {
	my ($function, $arguments, $any) = @$call;
	my $wrong = '';

	for my $bad (@bad) {
		my ($bytes, $in_value, $in_uri) = @$bad;
		my $allowed = $any || $function eq 'set_uri' && $in_uri || $in_value && $arguments =~ /"aBADb"/;
		my $r = curl('-H', sprintf('X-Call: %03d', $case), "/$case/");
		my $logged = lines(qr{\[error\].*guest "bad$case": handle_request: $function got .*"GET /$case/ });
		my $got = status($r) . " $logged";
		my $expected = $allowed ? '200 0' : '500 1';
		$wrong .= "$bytes: $got, expected $expected; " if $got ne $expected;
		$wrong .= "$bytes: split; " if defined header($r, 'x-split') || content($r) =~ /^X-Split/mi;
		$case++;
	}
	is($wrong, '', "$function $arguments");
}

is(status(curl('/trap')), 500, 'trap');
is(lines(qr/guest "trap":.*boom[ ?]2026/), 1, 'names in a backtrace are one line');
is(lines(qr{^(?!\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\w+\] \d+#\d+: )}), 0, 'the log is lines');
is(lines(qr/[^\x20-\x7e\x80-\xff]/), 0, 'of printable characters');
is(lines(qr/^.{20}\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(scalar(grep { !m{^/} } split /\n/, $t->read_file('template.log')), 0, 'so is the access log');

is(status(curl('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');

###############################################################################

sub lines {
	my ($pattern) = @_;
	return scalar grep { $_ =~ $pattern } split /\n/, $t->read_file('strings.log');
}

###############################################################################
