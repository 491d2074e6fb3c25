#!/usr/bin/perl

# http_wasm_status: what all workers have counted, also of workers that are gone, and over reloads.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Digest::SHA;
use JSON::PP;
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# nginx calls a killed worker an alert.
my $t = Test::Nginx->new()->has(qw/http proxy/)->todo_alerts()->plan(61);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
worker_processes 4;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080 reuseport;
        server_name  localhost;

        add_header X-Worker $pid always;

        location /pass/ { http_wasm guest.wat name=pass; proxy_pass http://127.0.0.1:8081/; }
        location /answer { http_wasm answer.wat; }
        location /trap { http_wasm trap.wat; http_wasm_breaker max_fails=3 backoff=1h; empty_gif; }
        location /slow { http_wasm slow.wat; http_wasm_timeout 20ms; http_wasm_breaker off; empty_gif; }
        # more

        location /status { http_wasm_status; }
    }
}

EOF

$t->write_file_expand('nginx.conf', $conf);

guest($t, 'guest.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (drop (call $enable_features (i32.const 2)))
    (call $log (i32.const 0) &"called")
    (i64.const 1))
EOF

guest($t, 'answer.wat', <<'EOF');
  (func (export "handle_request") (result i64) (i64.const 0))
EOF

guest($t, 'trap.wat', <<'EOF');
  (func (export "handle_request") (result i64) unreachable)
EOF

guest($t, 'slow.wat', <<'EOF');
  (func (export "handle_request") (result i64) (loop $again (br $again)) (i64.const 1))
EOF

backend($t);
$t->run();

###############################################################################

# Sums over all workers.

my %served;
my $sent = 0;
while (keys %served < 4 && $sent < 400) {
	$served{ header(curl('/pass/'), 'X-Worker') }++;
	$sent++;
}
is(scalar keys %served, 4, 'every worker has served');

my $pass = guest_status('pass');
is($pass->{requests}, $sent, 'requests of all workers');
is($pass->{passed}, $sent, 'all passed');
is($pass->{handle_request}{count}, $sent, 'all timed');
is($pass->{handle_response}{count}, $sent, 'on their way back too');
is($pass->{instances_started}, 4, 'an instance in each worker');
is($pass->{instances}, 4, 'which are there');
is($pass->{memory_bytes}, 4 * 4 * 65536, 'with their memory');
is($pass->{in_flight}, 0, 'nothing in flight');
is(report()->{workers}, 4, 'workers');
cmp_ok($pass->{handle_request}{p50}, '>', 0, 'a median');
cmp_ok($pass->{handle_request}{p50}, '<=', $pass->{handle_request}{max}, 'not above the maximum');
is_deeply($pass->{features}, ['buffer_response'], 'features');
is($pass->{sha256}, Digest::SHA::sha256_hex($t->read_file('guest.wat')), 'digest');
is_deeply($pass->{places}, [ $t->testdir() . '/nginx.conf:' . line_of('name=pass') ], 'where it is configured');

is(status(curl('/answer')), 200, 'answered') for 1 .. 3;
is(guest_status('answer')->{answered}, 3, 'answers counted');

curl("/trap") for 1 .. 40;
my $trap = guest_status('trap');
is($trap->{requests}, 40, 'traps: requests');
is($trap->{failures}{trap} + $trap->{failures}{resting}, 40, 'each a trap or refused by the breaker');
cmp_ok($trap->{failures}{resting}, '>', 0, 'some were');
is($trap->{failed}, 40, 'all are failures');
cmp_ok($trap->{resting}, '>', 0, 'out of service in some workers');
is($trap->{instances}, 0, 'no instance is left');
is($trap->{memory_bytes}, 0, 'nor memory');

is(status(curl('/slow')), 500, 'stopped');
is(guest_status('slow')->{failures}{timeout}, 1, 'timeout counted');

is(lately('pass', 'requests'), $sent, 'all requests are of the last quarter of an hour');
is(lately('trap', 'failed'), 40, 'all failures');
cmp_ok((grep { defined } map { $_->{p99} } @{ guest_status('slow')->{recent} })[-1], '>=', 0.01, 'how long a call took');

###############################################################################

# In flight, and a worker that dies with it.

my $s = connection();
print $s "GET /pass/barrier/2 HTTP/1.0\r\n\r\n";
ok(wait_until(sub { guest_status('pass')->{in_flight} == 1 }), 'in flight');
curl('/pass/barrier/2');
read_reply($s);
is(guest_status('pass')->{in_flight}, 0, 'and served');
$sent += 2;

$s = connection();
print $s "GET /pass/barrier/2 HTTP/1.0\r\n\r\n";
ok(wait_until(sub { guest_status('pass')->{in_flight} == 1 }), 'in flight again');
$sent++;
my ($victim) = calls();
my $old = report();

kill 'KILL', $victim;
ok(wait_until(sub { my @now = worker_pids($t); @now == 4 && !grep { $_ == $victim } @now }), 'a new worker');
ok(wait_until(sub { report()->{workers} == 4 }), 'has its row');
$pass = guest_status('pass');
is($pass->{requests}, $sent, 'requests of a dead worker still count');
is($pass->{in_flight}, 0, 'what it was doing is over');
cmp_ok($pass->{instances}, '<', of($old, 'pass')->{instances}, 'its instance is gone');
is_deeply($pass->{handle_request}{buckets}, of($old, 'pass')->{handle_request}{buckets}, 'times as before');

###############################################################################

# A reload, with another guest that sorts before the others.

(my $more = $conf) =~ s/# more/location \/new { http_wasm guest.wat name=a; empty_gif; }/;
$t->write_file_expand('nginx.conf', $more);
reload_all();
ok(wait_until(sub { of(report(), 'a') }), 'another guest came');
ok(wait_until(sub { my @now = worker_pids($t); @now == 4 }), 'reloaded');
$pass = guest_status('pass');
is($pass->{requests}, $sent, 'counts stay');
is(lately('pass', 'requests'), $sent, 'and are of the last quarter of an hour');
is(guest_status('a')->{requests}, 0, 'nothing of a new guest');
curl('/pass/');
$sent++;
ok(wait_until(sub { guest_status('pass')->{passed} == $sent }), 'and go on');
ok(wait_until(sub { guest_status('pass')->{instances} == 1 && report()->{workers} == 4 }),
	'what old workers had is gone');

###############################################################################

# More guests than there are places make another zone. First in a reload that fails after that: the port is the
# backend's. A worker that starts later counts where the others do.

(my $many = $conf) =~ s/# more/join ' ', map { "location \/n$_ { http_wasm guest.wat name=n$_; empty_gif; }" } 1 .. 13/e;
$t->write_file_expand('nginx.conf', $many =~ s/(    server \{)/    server { listen 127.0.0.1:8081; }\n$1/r);
$t->reload();
ok(wait_until(sub { error_log_count($t, qr/still could not bind/) }), 'a reload that fails');
($victim) = worker_pids($t);
kill 'KILL', $victim;
ok(wait_until(sub { my @now = worker_pids($t); @now == 4 && !grep { $_ == $victim } @now }), 'another worker');
ok(wait_until(sub { report()->{workers} == 4 }), 'has its row');
is(join(' ', map { curl('/pass/'); guest_status('pass')->{requests} - ++$sent } 1 .. 12), join(' ', (0) x 12), 'counts');

$t->write_file_expand('nginx.conf', $many);
reload_all();
ok(wait_until(sub { of(report(), 'n13') }), 'many guests came');
is(guest_status('pass')->{requests}, $sent, 'counts move');
is(lately('pass', 'requests'), $sent, 'with their times');
curl("/n$_") for 1 .. 13;
is(requests('n'), 13, 'new ones are counted');

# Guests that are gone make room for others, who find nothing of them.
for my $name (qw/ m p /) {
	$t->write_file_expand('nginx.conf', $many =~ s/name=n/name=$name/gr);
	reload_all();
	ok(wait_until(sub { of(report(), "${name}13") && report()->{workers} == 4 }), "$name: others came");
	is(requests($name), 0, "$name: begin at 0");
	curl("/n$_") for 1 .. 13;
	is(requests($name), 13, "$name: are counted");
}

###############################################################################

# A reload after which nobody but new workers takes requests.
sub reload_all {
	my %old = map { $_ => 1 } worker_pids($t);
	$t->reload();
	wait_until(sub { my @now = worker_pids($t); @now == 4 && !grep { $old{$_} } @now }) or die "no reload\n";
}

# Requests of all guests called so, with a number.
sub requests {
	my ($name) = @_;
	my $sum = 0;
	$sum += $_->{requests} for grep { $_->{name} =~ /^$name\d+$/ } @{ report()->{guests} };
	return $sum;
}

sub report {
	my $reply = curl('/status?format=json');
	return decode_json(content($reply));
}

sub of {
	my ($report, $name) = @_;
	my ($guest) = grep { $_->{name} eq $name } @{ $report->{guests} };
	return $guest;
}

sub guest_status {
	return of(report(), $_[0]) // die "no guest $_[0]\n";
}

# A figure of the last quarter of an hour.
sub lately {
	my ($name, $figure) = @_;
	my $sum = 0;
	$sum += $_->{$figure} for @{ guest_status($name)->{recent} };
	return $sum;
}

# Process ids of the calls of guest "pass", the last first.
sub calls {
	return reverse $t->read_file('error.log') =~ /(\d+)#\d+: \*\d+ http_wasm guest "pass": called/g;
}

sub line_of {
	my ($text) = @_;
	my $n = 0;
	for (split /\n/, $t->read_file('nginx.conf')) {
		$n++;
		return $n if /\Q$text\E/;
	}
	return;
}

###############################################################################
