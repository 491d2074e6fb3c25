#!/usr/bin/perl

# Guests that set or add headers without end: many small ones, large ones, the same one over and over; and method, URI
# and template likewise. Each is stopped or refused, and the worker does not grow by what was asked for.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# What is called 100,000 times with another name each time, and 500 times with 180 kB.
my %floods = (
	add_request => '(call $add_req NAME VALUE)',
	set_request => '(call $set_req NAME VALUE)',
	add_response => '(call $add_resp NAME VALUE)',
	set_response => '(call $set_resp NAME VALUE)',
);
my %large = (
	again_request => '(call $set_req &"x-again" VALUE)',
	again_response => '(call $set_resp &"x-again" VALUE)',
	names => '(call $set_resp VALUE &"1")',
	method => '(call $set_method VALUE)',
	uri => '(i32.store8 (i32.const 65536) (i32.const 47)) (call $set_uri VALUE)',
	template => '(call $set_template VALUE)',
);

my @names = ((map { ("many-request-$_", "large-request-$_") } sort keys %floods),
	(map { ("many-response-$_", "large-response-$_") } qw/ add_response set_response /),
	'large-response-again_response', map { "large-request-$_" } sort keys %large);

my $t = Test::Nginx->new()->has(qw/http empty_gif/)->plan(3 * @names + 7);

my $locations = join '', map { "        location /$_ { http_wasm $_.wat; empty_gif; }\n" } @names;

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format uri $uri;
    access_log %%TESTDIR%%/order.log uri;
    http_wasm_timeout 500ms;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

LOCATIONS
        location /once { http_wasm once.wat; empty_gif; }
        location /fine { http_wasm fine.wat; empty_gif; }
    }
}

EOF

for my $name (@names) {
	my ($how, $phase, $what) = split /-/, $name;
	my ($times, $value) = $how eq 'many' ? (100_000, '&"v"') : (500, '(i32.const 65536) (i32.const 180000)');
	my $call = ($floods{$what} // $large{$what}) =~ s/NAME/(i32.const 1024) (i32.const 10)/r =~ s/VALUE/$value/r;
	my $flood = <<"EOF";
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 180000))
    (i64.store (i32.const 1024) (i64.const 0x6161616161612d78))
    (loop \$again
      (i32.store (i32.const 1030) (i32.or (i32.const 0x61616161) (i32.or (i32.and (local.get \$n) (i32.const 15))
        (i32.or (i32.shl (i32.and (local.get \$n) (i32.const 0xf0)) (i32.const 4))
        (i32.or (i32.shl (i32.and (local.get \$n) (i32.const 0xf00)) (i32.const 8))
        (i32.shl (i32.and (local.get \$n) (i32.const 0xf000)) (i32.const 12)))))))
      $call
      (br_if \$again (i32.lt_u (local.tee \$n (i32.add (local.get \$n) (i32.const 1))) (i32.const $times))))
EOF
	guest($t, "$name.wat", $phase eq 'request'
		? "  (func (export \"handle_request\") (result i64) (local \$n i32)\n$flood    (i64.const 1))\n"
		: "  (func (export \"handle_response\") (param i32 i32) (local \$n i32)\n$flood)\n");
}

# All of a large memory at once.
guest($t, 'once.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (drop (memory.grow (i32.const 1600)))
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 100000000))
    (call $set_template (i32.const 65536) (i32.const 100000000))
    (i64.const 1))
EOF
guest($t, 'fine.wat', '');

$t->run();

my @workers;
wait_until(sub { @workers = worker_pids($t) });
http_get('/fine');

###############################################################################

for my $name (@names) {
	my $before = reset_peak();
	my $s = http("GET /$name HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	is(status(http_get('/fine')), 200, "$name: others are served");

	# Stopped or refused, or small enough to be sent.
	my $status = status(http_end($s));
	like($status, qr/^(?:200|500)$/, "$name: over");
	cmp_ok(memory_kb('VmHWM') - $before, '<', 40_000 + kept_memory(), "$name: the worker does not grow by it");
}

my $before = reset_peak();
is(status(http_get('/once')), 500, 'a template of 100 MB: refused');
cmp_ok(memory_kb('VmHWM') - $before, '<', 130_000, 'and not copied');
is(error_log_count($t, qr/set_template: the template would exceed 1048576 bytes/), 1, 'logged');

is(status(http_get('/fine')), 200, 'others are served');
is_deeply([ worker_pids($t) ], \@workers, 'same worker');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

# Lets the kernel measure the worker's largest size from now on.
sub reset_peak {
	open my $fh, '>', "/proc/$workers[0]/clear_refs" or return 0;
	print $fh '5';
	close $fh;
	return memory_kb('VmHWM');
}

sub memory_kb {
	my ($name) = @_;
	open my $fh, '<', "/proc/$workers[0]/status" or return 0;
	local $/;
	return (<$fh> =~ /^$name:\s+(\d+)/m)[0];
}

###############################################################################
