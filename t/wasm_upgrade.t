#!/usr/bin/perl

# Upgraded connections through guests that wait, fail or change what is no longer theirs: the client has the 101 before
# anything that comes through the tunnel, or an error page and no tunnel.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Messages;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @waits = qw/ none sleeps yields spins /;
# What handle_response does when it has waited; whether the guest has buffer_response.
my %acts = (
	nothing => '',
	header => '(call $set_resp &"x-seen" (call $dec (call $get_status_code)))',
	status => '(call $set_status_code (i32.const 403))',
	body => '(call $body_resp &"instead")',
	traps => 'unreachable',
);
my %features = (streams => 0, whole => 2);
my @acts = sort keys %acts;

my $t = Test::Nginx->new()->has(qw/http proxy/);
$t->plan(@waits * @acts * keys(%features) * 2 * 2 + @waits * 2 + 5);

my $locations = '';
for my $wait (@waits) {
	for my $act (@acts) {
		$locations .= join '', map { <<"EOF" } sort keys %features;

        location /$wait/$act/$_/ { http_wasm $wait-$act-$_.wat; proxy_pass http://127.0.0.1:8082/; }
EOF
	}
	$locations .= <<"EOF";

        location /$wait/open/ { http_wasm_on_error open; http_wasm $wait-traps-streams.wat; proxy_pass http://127.0.0.1:8082/; }
EOF
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;
    http_wasm_slice 1ms;
    proxy_http_version 1.1;
    proxy_read_timeout 4s;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS
        location /next { alias %%TESTDIR%%/next; }
    }
}

EOF

for my $wait (@waits) {
	for my $act (@acts) {
		for my $feature (keys %features) {
			guest($t, "$wait-$act-$feature.wat", ($wait eq 'none' ? '(func $wait)' : waits($wait)) . <<"EOF");
  (func (export "_initialize") (drop (call \$enable_features (i32.const $features{$feature}))))
  (func (export "handle_response") (param i32 i32) (call \$wait) $acts{$act})
EOF
		}
	}
}

$t->write_file('next', 'next');
$t->run_daemon(\&tunnels, port(8082));
$t->waitforsocket('127.0.0.1:' . port(8082)) or die "backend does not listen\n";
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my @cases;
for my $wait (@waits) {
	for my $act (@acts) {
		push @cases, map { { name => "$wait, $act, $_", uri => "/$wait/$act/$_", act => $act } } sort keys %features;
	}
	push @cases, { name => "$wait, traps, open", uri => "/$wait/open", act => 'nothing' };
}

# The first words of the upstream come with the 101, or when the client has it.

for my $when (qw/ now later /) {
	my @replies = at_once(map { [ [ "GET $_->{uri}/$when", 'Upgrade: echo' ], { more => \&speaks } ] } @cases);
	for my $n (0 .. $#cases) {
		my $case = $cases[$n];
		my $told = join ', ', map { told($_) } @{ $replies[$n] };
		my $right = $case->{act} eq 'traps' ? qr/^500 page$/
			# It may be ignored, or refused.
			: $case->{act} =~ /status|body/ ? qr/^(?:101 hello<ping>|500 page)$/ : qr/^101 hello<ping>$/;
		like($told, $right, "$case->{name}, $when");
		my $tunnel = $told =~ /^101/;
		next if $case->{name} =~ /open$/;
		is(grep({ lc $_->[0] eq 'upgrade' } @{ $replies[$n][0]{headers} }) . '', $tunnel ? 1 : 0,
			"$case->{name}, $when: Upgrade only where there is a tunnel");
	}
}

is(wait_until(sub { open_tunnels() eq '0' }), 1, 'no tunnel is left open');
is(told(conversation([ 'GET /next' ])), '200 next', 'others are served');
is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# The client's side of a conversation through the tunnel.
sub speaks {
	my ($text, $s) = @_;
	syswrite $s, 'go' if $text =~ /\AHTTP.* 101 .*\r\n\r\n\z/s;
	syswrite $s, 'ping' if $text =~ /hello\z/ || $text =~ /hello.*\r\n\r\n\z/s;
	return;
}

sub open_tunnels {
	my $s = connection('127.0.0.1:' . port(8082));
	print $s "count\n";
	return (<$s> // '') =~ s/\n//r;
}

# Upgrades, says hello at once or on "go", answers a ping and hangs up; tells how many tunnels it has.
sub tunnels {
	my ($port) = @_;

	local $SIG{PIPE} = 'IGNORE';
	my $server = IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 511, ReuseAddr => 1
	) or die "can't listen: $!\n";
	my $select = IO::Select->new($server);
	my (%buffer, %tunnel);

	while (1) {
		for my $s ($select->can_read()) {
			if ($s == $server) {
				my $client = $server->accept() or next;
				$client->autoflush(1);
				$select->add($client);
				$buffer{$client} = '';
				next;
			}
			my $open = sysread $s, $buffer{$s}, 65536, length $buffer{$s};
			if ($buffer{$s} =~ s/\Acount\n//) {
				print $s keys(%tunnel) . "\n";
				$open = 0;
			} elsif ($buffer{$s} =~ s/\AGET (\S+).*\r\n\r\n//s) {
				$tunnel{$s} = $1 =~ /now/ ? 'now' : 'later';
				print $s "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
					$tunnel{$s} eq 'now' ? 'hello' : '';
			}
			# What is said at once may reach the client in a packet of its own, after it has asked.
			if ($buffer{$s} =~ s/\Ago// && $tunnel{$s} eq 'later') {
				print $s 'hello';
			}
			if ($buffer{$s} =~ s/\Aping//) {
				print $s '<ping>';
				$open = 0;
			}
			unless ($open) {
				$select->remove($s);
				delete $buffer{$s};
				delete $tunnel{$s};
				close $s;
			}
		}
	}
}

###############################################################################
