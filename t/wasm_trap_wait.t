#!/usr/bin/perl

# A guest that traps in handle_response while a guest around it waits: the client gets the whole error page, as that
# guest made it, and nothing of the response that it replaces, whoever still sends that one.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use IO::Select;
use IO::Socket::INET;
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @outer = qw/ sleeps spins sleeps-whole spins-whole /;
my @inner = qw/ now now-whole late late-whole /;

my $t = Test::Nginx->new()->has(qw/http proxy rewrite http_v2/);
$t->plan(@outer * @inner * 5 * 2 + 2 * @outer + @inner * 3 * 3 + 3);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $locations = '';
for my $outer (@outer) {
	$locations .= join '', map { <<"EOF" } @inner;

        location /$outer/$_/ {
            http_wasm @{[ $outer =~ s/-.*//r ]}.wat "config=@{[ $outer =~ /whole/ ? 'whole' : 'head' ]}";
            http_wasm traps.wat config=$_;
            proxy_http_version 1.1;
            location /$outer/$_/up/ { proxy_pass http://127.0.0.1:8081/; }
            location /$outer/$_/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
            location /$outer/$_/file { alias %%TESTDIR%%/file; }
        }
EOF
	$locations .= <<"EOF";

        location /$outer/large/ {
            http_wasm @{[ $outer =~ s/-.*//r ]}.wat "config=@{[ $outer =~ /whole/ ? 'whole' : 'head' ]}";
            http_wasm whole.wat;
            http_wasm_response_buffer 1k max=2k;
            proxy_pass http://127.0.0.1:8081/;
        }
EOF
}

# A guest alone, and pages of the operator's.
for my $inner (@inner) {
	$locations .= <<"EOF";

        location /alone/$inner/ { http_wasm traps.wat config=$inner; proxy_pass http://127.0.0.1:8081/; }
        location /page/$inner/ {
            http_wasm sleeps.wat;
            http_wasm traps.wat config=$inner;
            proxy_pass http://127.0.0.1:8081/;
            error_page 500 /html;
            location /page/$inner/other/ { error_page 500 \@other; proxy_pass http://127.0.0.1:8081/; }
        }
EOF
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%
    http_wasm_breaker off;

    error_log %%TESTDIR%%/info.log info;
    http_wasm_pool max=1 wait=1h;
    http_wasm_slice 1ms;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON
        LOCATIONS

        location /html { alias %%TESTDIR%%/page; }
        location @other { proxy_pass http://127.0.0.1:8082; rewrite ^ /size/50000 break; }
    }
}

EOF

# Configured "whole" it has buffer_response.
my $may_buffer = <<'EOF';
  (func (export "_initialize")
    (if (i32.eq (call $get_config (i32.const 0) (i32.const 0)) (i32.const 5))
      (then (drop (call $enable_features (i32.const 2))))))
EOF
my $around = <<'EOF';
  (func (export "handle_response") (param $ctx i32) (param $error i32)
    (call $log (i32.const 0) &"outer called")
    (call $wait)
    (call $set_resp &"x-seen" (call $dec (call $get_status_code))))
EOF
my $sleep = <<'EOF';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\5a\62\02")
  (func $sleep (drop (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128))))
EOF
guest($t, 'sleeps.wat', "$sleep(func \$wait (call \$sleep))$may_buffer$around");
# Gives up its turn until others have been served often.
guest($t, 'spins.wat', <<"EOF");
  (import "wasi_snapshot_preview1" "sched_yield" (func \$yield (result i32)))
  (func \$wait (local \$n i32)
    (loop \$again
      (drop (call \$yield))
      (br_if \$again (i32.lt_u (local.tee \$n (i32.add (local.get \$n) (i32.const 1))) (i32.const 100)))))
$may_buffer$around
EOF
# Configured now, now-whole, late, late-whole: the longer ones have buffer_response, the late ones sleep before.
guest($t, 'traps.wat', $sleep . <<'EOF');
  (func (export "_initialize")
    (if (i32.gt_u (call $get_config (i32.const 0) (i32.const 0)) (i32.const 4))
      (then (drop (call $enable_features (i32.const 2))))))
  (func (export "handle_response") (param i32 i32)
    (drop (call $config))
    (if (i32.eq (i32.load8_u (i32.const 2048)) (i32.const 108)) (then (call $sleep)))
    unreachable)
EOF
guest($t, 'whole.wat', '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))');
$t->write_file('page', "the operator's");
$t->write_file('file', 'secret' x 20_000);

# The next handler, by hand.
my $upstream = IO::Socket::INET->new(
	Proto => 'tcp', LocalAddr => '127.0.0.1', LocalPort => port(8081), Listen => 16, Reuse => 1,
) or die "listen: $!";

backend($t, 8082);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $outer (@outer) {
	for my $inner (@inner) {
		for my $source (qw/ file up direct up-more direct-more /) {
			my $case = "$outer, $inner, $source";
			my $calls = lines(qr/outer called/);
			my $s = http("GET /$outer/$inner/" . ($source =~ s/-.*//r) . ($source eq 'file' ? '' : '/x')
				. " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", start => 1);

			my $up;
			if ($source ne 'file') {
				$up = arrives();
				# A guest that is to see all of the body is called at its end.
				my $more = $source =~ /more/ && $inner !~ /whole/;
				print $up "HTTP/1.1 200 OK\r\nContent-Length: " . ($more ? 100_000 : 12) . "\r\n\r\nsecretsecret";
				if ($more && wait_until(sub { lines(qr/outer called/) > $calls })) {
					# The outer guest has the page in hand, and this is not for it.
					print $up 'secret' x 1000;
				}
			}
			my $reply = http_end($s);
			close $up if $up;
			is(told($reply), '500 seen 500, page alone', $case);
			is(lines(qr/outer called/) - $calls, 1, "$case: called once");
		}
	}
	my $s = http("GET /$outer/large/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", start => 1);
	my $up = arrives();
	my $calls = lines(qr/outer called/);
	print $up "HTTP/1.0 200 OK\r\n\r\n" . 'secret' x 1000;
	wait_until(sub { lines(qr/outer called/) > $calls });
	print $up 'secret' x 1000;
	is(told(http_end($s)), '502 seen 502, page alone', "$outer, too large");
	close $up;
	is(lines(qr/outer called/) - $calls, 1, "$outer, too large: called once");
}

for my $inner (@inner) {
	for (
		[ 'alone', '500 seen nothing, page alone' ],
		[ 'page', '500 seen 500, whole', "the operator's" ],
		[ 'page', '500 seen 500, whole', '0123456789' x 5000, 'other/' ])
	{
		my ($place, $expected, $page, $more) = (@$_, '', '');
		my $s = http("GET /$place/$inner/${more}x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", start => 1);
		my $up = arrives();
		# It is still at it when the guest traps.
		print $up "HTTP/1.0 200 OK\r\nContent-Length: " . ($inner =~ /whole/ ? 12 : 100_000) . "\r\n\r\nsecretsecret";
		my $reply = http_end($s);
		my $told = told($reply);
		$told =~ s/with other bytes/content($reply) eq $page ? 'whole' : 'with other bytes'/e if $page;
		is($told, $expected, "$place, $inner $more");
		$up->blocking(1);
		is(sysread($up, my $rest, 1), 0, "$place, $inner $more: the upstream is left");
		is(status(http_get("/html")), 200, "$place, $inner $more: others are served");
	}
}

is(lines(qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');
is(error_log_count($t, qr{exited on signal}), 0, 'no crash');
is(join(' ', worker_pids($t)), $worker, 'same worker');

###############################################################################

# A request on its way to the next handler.
sub arrives {
	IO::Select->new($upstream)->can_read(8) or return;
	my $c = $upstream->accept() or return;
	my $head = '';
	while ($head !~ /\r\n\r\n/) {
		sysread($c, $head, 4096, length $head) or return;
	}
	$c->autoflush(1);
	return $c;
}

sub told {
	my ($reply) = @_;
	my ($status, $seen) = (status($reply) // 'none', header($reply, 'x-seen') // 'nothing');
	my ($body) = $reply =~ /\r\n\r\n(.*)$/s;
	my $whole = defined $body && length $body == (header($reply, 'content-length') // -1);
	my $alone = defined $body && $body =~ m{^<html>.*</html>\s*\z}s && $body !~ /secret/;
	return "$status seen $seen, " . (!$whole ? 'broken' : $alone ? 'page alone' : 'with other bytes');
}

sub lines {
	my ($pattern) = @_;
	return scalar grep { $_ =~ $pattern } split /\n/, $t->read_file('info.log');
}

###############################################################################
