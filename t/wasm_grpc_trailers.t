#!/usr/bin/perl

# The status of a gRPC call, which comes in trailers or, alone, in a header: it reaches the client through guests that
# wait, that fail with http_wasm_on_error open, and that set trailers of their own.

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

# Calls that succeed, that fail, that fail without a body and trailers, that come bit by bit, that have no body.
my %ports = (good => 8091, bad => 8092, only => 8093, paced => 8094, empty => 8096, late => 8097);
my @kinds = sort keys %ports;
my @ways = qw/ now now-whole late late-whole /;
my @acts = qw/ seen traps sums fails /;

my $t = Test::Nginx->new()->has(qw/http proxy grpc http_v2/)->has_daemon('nghttp');
$t->plan(@kinds * (1 + @ways * @acts) + @ways + 3);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $passes = $t->has_version('1.27.2');
my $pass = $passes ? 'proxy_pass_trailers on;' : '';
my $locations = '';
for my $kind (@kinds) {
	$locations .= <<"EOF";

        location /plain/$kind { grpc_pass grpc://127.0.0.1:$ports{$kind}; }
EOF
	for my $way (@ways) {
		$locations .= join '', map { <<"EOF" } @acts;

        location /$way/$_/$kind {
            http_wasm_on_error @{[ $_ eq 'fails' ? 'closed' : 'open' ]};
            http_wasm $way-$_.wat;
            grpc_pass grpc://127.0.0.1:$ports{$kind};
        }
EOF
	}
}
$locations .= join '', map { <<"EOF" } @ways;

        location /$_/proxy { http_wasm_on_error open; http_wasm $_-traps.wat; $pass proxy_pass http://127.0.0.1:8095; }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;
    proxy_http_version 1.1;

    server {
        listen       127.0.0.1:8080LISTEN;
        server_name  localhost;
        ON
        LOCATIONS
    }
}

EOF

my %does = (
	seen => '(call $set_resp &"x-seen" &"1")',
	traps => '(call $set_header_value (i32.const 3) &"x-sum" &"one") unreachable',
	sums => '(call $set_header_value (i32.const 3) &"x-sum" &"one")',
	fails => 'unreachable',
);
for my $way (@ways) {
	for my $act (@acts) {
		guest($t, "$way-$act.wat", ($way =~ /late/ ? waits('sleeps') : '(func $wait)') . <<"EOF");
  (func (export "_initialize") (drop (call \$enable_features (i32.const @{[ $way =~ /whole/ ? 6 : 4 ]}))))
  (func (export "handle_response") (param i32 i32) (call \$wait) $does{$act})
EOF
	}
}

$t->run_daemon(\&calls, map { port($ports{$_}) } @kinds);
$t->run_daemon(\&with_trailers, port(8095));
$t->waitforsocket('127.0.0.1:' . port($_)) or die "backend does not listen\n" for 8091 .. 8097;
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my %plain = (good => '200 body, grpc-status: 0|x-up: yes', bad => '200 body, grpc-status: 5|x-up: yes',
	only => '200 grpc-status: 7|grpc-message: no', paced => '200 body, grpc-status: 0|x-up: yes',
	empty => '200 grpc-status: 3|x-up: yes', late => '200 grpc-status: 3|x-up: yes');

for my $kind (@kinds) {
	is(call("/plain/$kind"), $plain{$kind}, "$kind, no guest");
	for my $way (@ways) {
		is(call("/$way/seen/$kind"), $plain{$kind}, "$kind, seen $way");
		is(call("/$way/traps/$kind"), $plain{$kind}, "$kind, traps $way, open");
		is(call("/$way/fails/$kind"), '500 page', "$kind, traps $way, closed");

		my $summed = call("/$way/sums/$kind");
		if ($kind eq 'only') {
			# The last thing to come has the status, with the guest's trailer or without.
			my ($status) = $summed =~ /(?:^200 |, )((?:[^,]*\|)?grpc-status: 7\b[^,]*)$/;
			isnt($status, undef, "$kind, trailer set $way") or diag($summed);
		} else {
			is($summed, $plain{$kind} =~ s/\|/|x-sum: one|/r, "$kind, trailer set $way");
		}
	}
}

# HTTP: where nginx passes trailers.

SKIP: {
	skip 'nginx passes no trailers before 1.27.2', scalar @ways unless $passes;

	is(call("/$_/proxy"), '200 body, x-up: yes', "proxy, traps $_, open") for @ways;
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# A call as "STATUS BODY, TRAILERS"; with fields of gRPC in the header instead of the body where there is none.
sub call {
	my ($uri) = @_;

	open my $pipe, '-|', 'nghttp', '-v', '-t', 8, '--no-dep', 'http://127.0.0.1:' . port(8080) . $uri or die "nghttp: $!\n";
	my $frames = do { local $/; <$pipe> } // '';
	close $pipe;
	$frames =~ s/\e\[[\d;]*m//g;
	log_in($frames);
	my ($head, $rest) = split /recv HEADERS frame.*?\n/, $frames, 2;
	my ($status) = $head =~ / :status: (\d+)/;
	my @fields = $head =~ /\) (grpc-\S+: .*|x-(?:sum|up): .*)/g;
	my @trailers = ($rest // '') =~ /\) ([a-z-]+: .*)/g;
	my $body = $frames =~ m{<html>.*</html>}s ? 'page' : ($rest // '') =~ /body/ ? 'body' : '';
	return ($status // 'nothing') . ' ' . join ', ', grep { length } join('|', $body, @fields) =~ s/^\|//r, join '|', sort @trailers;
}

# Answers calls, each of the ports in its own way.
sub calls {
	my (@ports) = @_;

	local $SIG{PIPE} = 'IGNORE';
	my $select = IO::Select->new();
	my (%kind, %buffer);
	for my $n (0 .. $#ports) {
		my $server = IO::Socket::INET->new(
			Proto => 'tcp', LocalAddr => "127.0.0.1:$ports[$n]", Listen => 511, ReuseAddr => 1
		) or die "can't listen: $!\n";
		$kind{$server} = $kinds[$n];
		$select->add($server);
	}
	while (1) {
		for my $s ($select->can_read()) {
			if (!defined $buffer{$s}) {
				my $client = $s->accept() or next;
				$client->autoflush(1);
				$select->add($client);
				@kind{$client} = $kind{$s};
				$buffer{$client} = '';
				next;
			}
			my $open = sysread $s, $buffer{$s}, 65536, length $buffer{$s};
			$buffer{$s} =~ s/\APRI .*?SM\r\n\r\n//s and print $s frame(4, 0, 0, '');
			while ($buffer{$s} =~ /\A(...)(.)(.)(....)/s && length $buffer{$s} >= 9 + unpack 'N', "\0$1") {
				my ($length, $type, $flags, $stream) = (unpack('N', "\0$1"), ord $2, ord $3, unpack 'N', $4);
				substr $buffer{$s}, 0, 9 + $length, '';
				print $s frame(4, 1, 0, '') if $type == 4 && !($flags & 1);
				respond($s, $kind{$s}, $stream) if $type <= 1 && $flags & 1;
			}
			next if $open;
			$select->remove($s);
			delete $buffer{$s};
			close $s;
		}
	}
}

sub respond {
	my ($s, $kind, $stream) = @_;

	my @type = ('content-type' => 'application/grpc');
	my $status = $kind eq 'bad' ? 5 : $kind =~ /empty|late/ ? 3 : 0;
	my @frames = $kind eq 'only'
		? frame(1, 5, $stream, "\x88" . literal(@type, 'grpc-status' => 7, 'grpc-message' => 'no'))
		: (frame(1, 4, $stream, "\x88" . literal(@type)), frame(6, 0, 0, '12345678'),
			$status == 3 ? () : frame(0, 0, $stream, 'body'),
			frame(1, 5, $stream, literal('grpc-status' => $status, 'x-up' => 'yes')));
	for (@frames) {
		print $s $_;
		select undef, undef, undef, 0.01 if $kind =~ /paced|late/;
	}
	return;
}

sub with_trailers {
	my ($port) = @_;
	my $server = IO::Socket::INET->new(Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 5, ReuseAddr => 1)
		or die "can't listen: $!\n";

	while (my $s = $server->accept()) {
		while (my $line = <$s>) {
			last if $line eq "\r\n";
		}
		print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Up\r\nConnection: close\r\n\r\n",
			"4\r\nbody\r\n0\r\nx-up: yes\r\n\r\n";
		close $s;
	}
	return;
}

###############################################################################
