#!/usr/bin/perl

# A directive or a guest that cannot work fails `nginx -t` with one line: where, which guest, why.

###############################################################################

use warnings;
use strict;

use POSIX ();
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http/);

# Only `nginx -t` runs.
$t->write_file('error.log', '');

guest($t, 'good.wat', '');
guest($t, 'silent.wat', '  (func (export "handle_response") (param i32 i32))');
$t->write_file('variables', 'for $host');
$t->write_file('component.wasm', "\0asm\x0d\0\x01\0");
$t->write_file('component.wat', '(component (core module (memory (export "memory") 1)))');
POSIX::mkfifo($t->testdir() . '/fifo', 0600) or die "fifo: $!";
$t->write_file('text.wasm', "this is no wasm\n");
guest($t, 'response.wat', <<'EOF');
(module
  (memory (export "memory") 1)
  (func (export "handle_request") (result i64) (i64.const 1)))
EOF
guest($t, 'request.wat', <<'EOF');
(module
  (memory (export "memory") 1)
  (func (export "handle_response") (param i32 i32)))
EOF
guest($t, 'signature.wat', <<'EOF');
(module
  (memory (export "memory") 1)
  (func (export "handle_request") (result i32) (i32.const 1))
  (func (export "handle_response") (param i32 i32)))
EOF
guest($t, 'memory.wat', <<'EOF');
(module
  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
EOF
guest($t, 'import.wat', <<'EOF');
(module
  (import "http_handler" "nope" (func (param i32)))
  (memory (export "memory") 1)
  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
EOF
guest($t, 'start.wat', <<'EOF');
  (func $boom (export "_initialize") unreachable)
EOF
guest($t, 'phase.wat', <<'EOF');
  (func $early (call $set_req &"x-a" &"1"))
  (start $early)
EOF

# directive => what the line says besides file and line
my @bad = (
	'http_wasm missing.wat;' => qr/missing\.wat.*No such file/,
	'http_wasm guests/$host.wasm;' => qr/\$host\.wasm.*No such file.*\(variables are not evaluated here\)/,
	'location / { http_wasm_pool max=1; http_wasm good.wat; http_wasm good.wat; }' =>
		qr/good\.wat": is 2 times in one location: .* "http_wasm_pool" has "max=1"/,
	'http_wasm component.wasm;' => qr/component\.wasm.*is a WebAssembly component, expected a core module/,
	'http_wasm component.wat;' => qr/component\.wat.*is a WebAssembly component, expected a core module/,
	'http_wasm text.wasm;' => qr/text\.wasm/,
	'http_wasm response.wat;' => qr/response\.wat.*handle_response/,
	'http_wasm request.wat;' => qr/request\.wat.*handle_request/,
	'http_wasm signature.wat;' => qr/signature\.wat.*handle_request/,
	'http_wasm memory.wat;' => qr/memory\.wat.*memory/,
	'http_wasm import.wat;' => qr/import\.wat.*http_handler.*nope/,
	'http_wasm start.wat;' => qr/start\.wat.*(?:unreachable|trap)/,
	'http_wasm phase.wat;' => qr/phase\.wat.*set_header_value/,

	'http_wasm;' => qr/invalid number of arguments in "http_wasm"/,
	'http_wasm "";' => qr/argument 1 of "http_wasm" is empty/,
	'http_wasm good.wat "";' => qr/argument 2 of "http_wasm" is empty/,
	'http_wasm good.wat config_file=;' => qr/invalid value "": expected the path of a file/,
	'http_wasm .;' => qr/\.".*not a regular file/,
	'http_wasm fifo;' => qr/fifo".*not a regular file/,
	'http_wasm /dev/zero;' => qr/zero".*not a regular file/,
	'http_wasm good.wat config_file=fifo;' => qr/guest configuration ".*fifo".*not a regular file/,
	'http_wasm good.wat config_file=/dev/zero;' => qr/guest configuration ".*zero".*not a regular file/,
	'http_wasm_dir "" /x;' => qr/argument 1 of "http_wasm_dir" is empty/,
	'http_wasm_dir . "";' => qr/argument 2 of "http_wasm_dir" is empty/,
	(map { ("$_ \"\";" => qr/argument 1 of "$_" is empty/) } map { "http_wasm_$_" } qw/breaker env isolation memory_limit
		on_error pool response_buffer slice snapshot strict timeout/),
	'http_wasm good.wat bogus=1;' => qr/bogus=1/,
	'http_wasm good.wat good.wat;' => qr/good\.wat/,
	'http_wasm good.wat name=;' => qr/name/,
	'http_wasm good.wat name=a name=b;' => qr/name=b|duplicate/,
	'http_wasm good.wat config_file=nowhere;' => qr/nowhere.*No such file/,
	'http_wasm good.wat config=a config_file=text.wasm;' => qr/config/,
	'http_wasm off name=a;' => qr/"http_wasm off" takes no parameters/,
	'http_wasm off; http_wasm off;' => qr/http_wasm.*off|off.*http_wasm/,
	'http_wasm off; http_wasm good.wat;' => qr/http_wasm.*off|off.*http_wasm/,
	'http_wasm good.wat; http_wasm off;' => qr/http_wasm.*off|off.*http_wasm/,

	'http_wasm_memory_limit 1k;' => qr/invalid value "1k": expected 64k.* to 4g/,
	'http_wasm_memory_limit much;' => qr/invalid value "much": expected a size/,
	'http_wasm_memory_limit 1m; http_wasm_memory_limit 2m;' => qr/"http_wasm_memory_limit" directive is duplicate/,
	'http_wasm good.wat; http_wasm_memory_limit 64k;' => qr/good\.wat.*memory/,
	'http_wasm_snapshot maybe;' => qr/invalid value "maybe": expected "auto", "on" or "off"/,
	'http_wasm_isolation none;' => qr/invalid value "none": expected "worker" or "request"/,
	'http_wasm_on_error maybe;' => qr/invalid value "maybe": expected "closed" or "open"/,
	'http_wasm_pool max=0;' => qr/invalid value "max=0": expected a number, 1 or more/,
	'http_wasm_pool wait=;' => qr/invalid value "": expected a time/,
	'http_wasm_pool least=1;' => qr/invalid parameter "least=1": "http_wasm_pool" takes max=, min=, start=, idle=, i/,
	'http_wasm_pool min=-1;' => qr/invalid value "min=-1": expected a number, 0 or more/,
	'http_wasm_pool idle_timeout=never;' => qr/invalid value "never": expected a time/,
	'http_wasm_pool max=1 max=2;' => qr/duplicate parameter "max=2"/,
	'http_wasm_breaker off max_fails=1;' => qr/invalid parameter "off": "http_wasm_breaker" takes "off" alone, or max_f/,
	'http_wasm_breaker max_fails=0;' => qr/invalid value "max_fails=0": expected a number, 1 or more/,
	'http_wasm_breaker backoff=2s max_backoff=1s;' => qr/"max_backoff=".* is 1000 ms: expected at least the 2000 ms/,
	'http_wasm_breaker backoff=0;' => qr/invalid value "0": expected a time/,
	'http_wasm_breaker off; http_wasm_breaker off;' => qr/"http_wasm_breaker" directive is duplicate/,
	'http_wasm_slice 0;' => qr/invalid value "0": expected a time/,
	'http_wasm_slice 5ms; http_wasm_slice 5ms;' => qr/"http_wasm_slice" directive is duplicate/,
	'http_wasm_strict yes;' => qr/invalid value "yes": expected "on" or "off"/,
	'http_wasm_strict on; http_wasm_strict on;' => qr/"http_wasm_strict" directive is duplicate/,
	'http_wasm_timeout soon;' => qr/invalid value "soon": expected a time/,
	'http_wasm_timeout 1s; http_wasm_timeout 1s;' => qr/"http_wasm_timeout" directive is duplicate/,
	'http_wasm_response_buffer 64k max=1k;' => qr/max=.*expected at least/,
	'http_wasm_response_buffer max=x;' => qr/invalid value "max=x": expected a size/,
	'http_wasm_response_buffer 1m; http_wasm_response_buffer 1m;' => qr/response_buffer" directive is duplicate/,
);

# directive => what a warning says
my @warned = (
	'http_wasm good.wat config=$host;' => qr/variables are not evaluated in "config=": a guest is configured once/,
	'http_wasm good.wat config=a${host};' => qr/variables are not evaluated/,
	'http_wasm good.wat; return 200;' => qr/good\.wat": does not run here: "return" answers before guests do/,
	'return 301 /x; http_wasm good.wat;' => qr/good\.wat": does not run here/,
);

my @good = (
	'http_wasm good.wat "config=^/api/v1$"; http_wasm good.wat config_file=variables; http_wasm good.wat config=a$b;',
	'location / { http_wasm_pool max=1; http_wasm good.wat if=$arg_a; http_wasm good.wat if=$arg_b; }',
	'http_wasm good.wat; if ($arg_a) { return 403; }',
	'location / { http_wasm_pool max=2; http_wasm good.wat; http_wasm good.wat; }',
	'location / { http_wasm_pool max=1; http_wasm silent.wat; http_wasm silent.wat; }',
	'http_wasm good.wat;',
	'http_wasm %%TESTDIR%%/good.wat name=other "config=a b";',
	'http_wasm good.wat config_file=text.wasm;',
	'http_wasm good.wat; http_wasm good.wat; http_wasm good.wat name=other; http_wasm good.wat config=a;',
	'http_wasm off;',
	'http_wasm good.wat; http_wasm_snapshot on; http_wasm_isolation request;',
	'http_wasm good.wat; http_wasm_memory_limit 4g; http_wasm_slice 1ms; http_wasm_timeout 1m;',
	'http_wasm_response_buffer 0 max=1g;',
	'http_wasm_breaker off; http_wasm good.wat;',
	'http_wasm_breaker max_fails=1 backoff=1ms max_backoff=1h; http_wasm good.wat;',
	'http_wasm_breaker backoff=1m;',
	'http_wasm_strict on; http_wasm good.wat;',
	'http_wasm_pool idle_timeout=off; http_wasm good.wat;',
	'http_wasm_pool max=1 idle=0 queue=0 wait=1s requests=1; http_wasm_isolation request; http_wasm good.wat;',
);

# Around the location, and in it.
my @levels = (
	[ 'http_wasm_pool max=1; http_wasm good.wat; http_wasm good.wat;', 'http_wasm_pool max=2;', undef ],
	[ 'http_wasm_pool max=1; http_wasm good.wat; http_wasm good.wat;', 'http_wasm off;', undef ],
	[ 'http_wasm good.wat; http_wasm good.wat;', 'http_wasm_pool max=1;', qr/good\.wat": is 2 times in one location/ ],
	[ 'http_wasm_instances 1;', 'http_wasm good.wat; http_wasm good.wat name=other;',
		qr/good\.wat": is one of 2 guests in one location: .*"http_wasm_instances" is 1/ ],
	[ 'http_wasm_instances 2;', 'http_wasm good.wat; http_wasm good.wat name=other;', undef ],
);

# Directives of the http block alone.
my @bad_http = (
	(map { ("$_ \"\";" => qr/argument 1 of "$_" is empty/) } map { "http_wasm_$_" } qw/cache_path instances stack_limit/),
	'http_wasm_instances 0;' => qr/invalid value "0": expected a number, 1 or more/,
	'http_wasm_instances 100000;' => qr/invalid value "100000": expected 1 to 10240/,
	'http_wasm_instances 8; http_wasm_instances 8;' => qr/"http_wasm_instances" directive is duplicate/,
	'http_wasm_stack_limit 1k;' => qr/invalid value "1k": expected 64k to 64m/,
	'http_wasm_stack_limit 1m; http_wasm_stack_limit 1m;' => qr/"http_wasm_stack_limit" directive is duplicate/,
);

$t->plan(3 * @bad / 2 + 2 * @bad_http / 2 + @levels + 3 * @warned / 2 + 2 * @good + 1);

###############################################################################

my %reasons;

while (my ($directive, $reason) = splice @bad, 0, 2) {
	my ($output, $exit) = nginx_test($t, conf($directive));
	my @emerg = $output =~ /^(.*\[emerg\].*)$/mg;

	isnt($exit, 0, "$directive refused");
	is(@emerg, 1, "$directive one line") or diag($output);
	like($emerg[0] // '', qr/$reason.* in \S*\/test\.conf:9$/, "$directive reason");
	$reasons{$emerg[0] // ''}++;
}

is_deeply([ grep { $reasons{$_} > 1 } keys %reasons ], [], 'all reasons distinct');

while (my ($directive, $reason) = splice @bad_http, 0, 2) {
	my $conf = conf('http_wasm good.wat;');
	$conf =~ s/access_log off;/$directive/;
	my ($output, $exit) = nginx_test($t, $conf);
	isnt($exit, 0, "$directive refused");
	like($output, qr/\[emerg\].*$reason.* in \S*\/test\.conf:6$/m, "$directive reason");
}

for my $case (@levels) {
	my ($around, $inside, $reason) = @$case;
	my ($output, $exit) = nginx_test($t, conf("location / { $inside }") =~ s/access_log off;/$& $around/r);
	defined $reason ? like($output, qr/\[emerg\].*$reason/, "$around $inside refused")
		: is($exit, 0, "$around $inside accepted") || diag($output);
}

while (my ($directive, $reason) = splice @warned, 0, 2) {
	my ($output, $exit) = nginx_test($t, conf($directive));
	my @warn = $output =~ /^(.*\[warn\].*)$/mg;
	is($exit, 0, "$directive accepted");
	is(@warn, 1, "$directive one warning") or diag($output);
	like($warn[0] // '', qr/$reason.* in \S*\/test\.conf:9$/, "$directive warning");
}

for my $directive (@good) {
	my ($output, $exit) = nginx_test($t, conf($directive));
	is($exit, 0, "$directive accepted") or diag($output);
	unlike($output, qr/\[warn\]/, "$directive no warning");
}

###############################################################################

sub conf {
	my ($directive) = @_;
	(my $globals = $ENV{TEST_NGINX_GLOBALS} // '') =~ s/\n/ /g;

	# One line for all globals: the directive is on line 9.
	return <<"EOF";
$globals
pid %%TESTDIR%%/test.pid;
events {
}
http {
    access_log off;
    server {
        listen 127.0.0.1:8080;
        $directive
    }
}
EOF
}

###############################################################################
