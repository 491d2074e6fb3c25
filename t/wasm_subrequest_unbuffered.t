#!/usr/bin/perl

# A guest that is to see the whole response, and parts of it that come through proxy_buffering off, which flushes each
# piece: the end of a part is not the end of the response. A response that is cut, with such a part or without, is.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use POSIX qw//;
use Test::Nginx;
use Test::Nginx::Messages;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @guests = qw/ none whole wraps sleeps two /;

my $t = Test::Nginx->new()->has(qw/http proxy ssi addition slice/)->plan(@guests * 12 + 2 * (@guests - 1) + 4);

my $locations = '';
for my $guest (@guests) {
	my $guests = $guest eq 'two' ? 'http_wasm sleeps.wat; http_wasm whole.wat;'
		: $guest eq 'none' ? '' : "http_wasm $guest.wat;";
	$locations .= <<"EOF";

        location /$guest/ {
            $guests
            ssi on;
            ssi_types *;
            addition_types *;
            location /$guest/file/ { alias %%TESTDIR%%/html/; }
            location /$guest/up/ { proxy_pass http://127.0.0.1:8083/; }
            location /$guest/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8083/; }
            location /$guest/after/ { add_after_body /part/2; proxy_pass http://127.0.0.1:8083/; }
            location /$guest/before/ { add_before_body /part/2; proxy_pass http://127.0.0.1:8083/; }
            location /$guest/both/ {
                add_before_body /part/2;
                add_after_body /part/3;
                proxy_buffering off;
                proxy_pass http://127.0.0.1:8083/;
            }
            location /$guest/slice/ {
                slice 10;
                proxy_set_header Range \$slice_range;
                proxy_buffering off;
                proxy_pass http://127.0.0.1:8083/;
            }
            location /$guest/cut/ { add_before_body /part/2; proxy_pass http://127.0.0.1:8081/; }
            location /$guest/cut-direct/ { add_before_body /part/2; proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
        }
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
    proxy_http_version 1.1;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /part/ { proxy_buffering off; proxy_pass http://127.0.0.1:8082/; }
        location /next { alias %%TESTDIR%%/next; }
    }

    server {
        listen       127.0.0.1:8083;
        location / { root %%TESTDIR%%/html; }
    }
}

EOF

my $feature = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
my $read = '(local.set $n (call $read_all (i32.const 1) (i32.const 7))) (call $set_resp &"x-read" (call $dec (local.get $n)))';
my $begin = '(func (export "handle_response") (param i32 i32) (local $n i32)';
guest($t, 'whole.wat', "$feature $begin $read)");
guest($t, 'sleeps.wat', waits('sleeps') . "$feature $begin (call \$wait) $read (call \$wait))");
guest($t, 'wraps.wat', <<"EOF");
$feature $begin $read
    (call \$body_resp &"<") (call \$body_resp (i32.const 65536) (local.get \$n)) (call \$body_resp &">"))
EOF

$t->write_file('next', 'next');
$t->write_file('html/plain', '-' x 45);
$t->write_file('html/one', 'A<!--# include virtual="/part/3" -->C');
$t->write_file('html/two', 'A<!--# include virtual="/part/3" -->B<!--# include virtual="/part/2" -->C');
$t->write_file('html/wait', 'A<!--# include virtual="/part/3" wait="yes" -->B<!--# include virtual="/next" -->C');
backend($t, 8081);
$t->run_daemon(\&slowly, port(8082));
$t->waitforsocket('127.0.0.1:' . port(8082)) or die "backend does not listen\n";
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my @uris = (
	[ 'file/one', 'Aone two three C' ], [ 'up/one', 'Aone two three C' ], [ 'direct/one', 'Aone two three C' ],
	[ 'file/two', 'Aone two three Bone two C' ], [ 'up/two', 'Aone two three Bone two C' ],
	[ 'direct/two', 'Aone two three Bone two C' ], [ 'up/wait', 'Aone two three BnextC' ],
	[ 'direct/wait', 'Aone two three BnextC' ], [ 'after/plain', '-' x 45 . 'one two ' ],
	[ 'before/plain', 'one two ' . '-' x 45 ], [ 'both/plain', 'one two ' . '-' x 45 . 'one two three ' ],
	[ 'slice/plain', '-' x 45 ],
);
for my $guest (@guests) {
	my @cases = map { my ($uri, $body) = @$_; {
		name => "$guest, $uri", uri => "/$guest/$uri", body => $guest eq 'wraps' ? "<$body>" : $body,
		read => $guest eq 'none' ? 'nothing' : length $body,
	} } @uris;
	my @replies = at_once(map { [ [ "GET $_->{uri}" ], [ 'GET /next' ] ] } @cases);
	for my $n (0 .. $#cases) {
		my ($case, @got) = ($cases[$n], @{ $replies[$n] });
		is(told($got[0]) . ', ' . after(@got) . ', read ' . (header($got[0], 'x-read') // 'nothing'),
			"200 $case->{body}, next, read $case->{read}", $case->{name});
	}
}

# The upstream of the response itself goes away.

my @cases = map { my $guest = $_; map { "/$guest/$_/cut" } qw/ cut cut-direct / } grep { $_ ne 'none' } @guests;
my @replies = at_once(map { [ [ "GET $_" ], [ 'GET /next' ] ] } @cases);
is(told($replies[$_][0]) . ', ' . after(@{ $replies[$_] }), '502 page, next', $cases[$_])
	for grep { $cases[$_] !~ /wraps/ } 0 .. $#cases;
for my $n (grep { $cases[$_] =~ /wraps/ } 0 .. $#cases) {
	my ($reply, @rest) = @{ $replies[$n] };
	like(join(', ', after($reply, @rest), status($reply), $reply->{body}), qr{^next, 502, <<html>.*</html>\r\n>\z}s, $cases[$n]);
}

is(error_log_count($t, qr/the upstream went away/), 8, 'of which the log tells, and of no other');
is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# Answers /N with the first N of these words, each in a packet.
sub slowly {
	my ($port) = @_;

	local $SIG{PIPE} = 'IGNORE';
	local $SIG{CHLD} = 'IGNORE';
	my $server = IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 511, ReuseAddr => 1
	) or die "can't listen: $!\n";
	while (my $s = $server->accept()) {
		my $pid = fork() // die "fork: $!\n";
		next if $pid;
		$s->autoflush(1);
		my $head = '';
		while ($head !~ /\r\n\r\n/) {
			sysread $s, $head, 4096, length $head or POSIX::_exit(0);
		}
		my ($n) = $head =~ m{^GET /(\d+)};
		print $s "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
		for my $word ((qw/ one two three /)[0 .. $n - 1]) {
			printf $s "%x\r\n%s \r\n", 1 + length $word, $word;
			select undef, undef, undef, 0.01;
		}
		print $s "0\r\n\r\n";
		POSIX::_exit(0);
	}
}

###############################################################################
