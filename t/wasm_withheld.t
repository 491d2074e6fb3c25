#!/usr/bin/perl

# A guest that fails while parts of the response are still under way, by subrequests or from the upstream: the client
# gets the error page, whole and alone, over HTTP/1.1 and HTTP/2, and nothing of what was withheld.

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

my @outer = qw/ none header whole /;
my @inner = qw/ now now-whole late late-whole large /;
my @sources = qw/ ssi ssi-two ssi-up after before mirror slice up direct /;
my @pages = qw/ own file up /;

my $t = Test::Nginx->new()->has(qw/http proxy ssi addition mirror slice http_v2/);
$t->plan(@outer * @inner * @sources * @pages * 2 + 3);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $locations = '';
for my $outer (@outer) {
	my $around = $outer eq 'none' ? '' : "http_wasm $outer.wat;";
	for my $inner (@inner) {
		my $guest = $inner eq 'large' ? 'http_wasm whole.wat; http_wasm_response_buffer 1k max=2k;'
			: "http_wasm traps.wat config=$inner;";
		$locations .= join '', map { <<"EOF" } @pages;

        location /$outer/$inner/$_/ {
            $around
            $guest
            @{[ $_ eq 'own' ? '' : "error_page 500 502 /page/$_;" ]}
            location /$outer/$inner/$_/ssi { ssi on; ssi_types *; alias %%TESTDIR%%/ssi; }
            location /$outer/$inner/$_/ssi-two { ssi on; ssi_types *; alias %%TESTDIR%%/ssi-two; }
            location /$outer/$inner/$_/ssi-up { ssi on; ssi_types *; proxy_pass http://127.0.0.1:8083/ssi; }
            location /$outer/$inner/$_/after { add_after_body /part/8; alias %%TESTDIR%%/leak; }
            location /$outer/$inner/$_/before { add_before_body /part/8; alias %%TESTDIR%%/leak; }
            location /$outer/$inner/$_/mirror { mirror /part/8; proxy_pass http://127.0.0.1:8082/; }
            location /$outer/$inner/$_/slice {
                slice 1k;
                proxy_set_header Range \$slice_range;
                proxy_pass http://127.0.0.1:8083/leak;
            }
            location /$outer/$inner/$_/up { proxy_pass http://127.0.0.1:8082/; }
            location /$outer/$inner/$_/direct { proxy_buffering off; proxy_pass http://127.0.0.1:8082/; }
        }
EOF
	}
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
    worker_connections 1024;
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;
    proxy_http_version 1.1;
    addition_types *;
    ssi_silent_errors on;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8084LISTEN;
        server_name  localhost;
        ON
        LOCATIONS

        location /part/ { proxy_pass http://127.0.0.1:8082/; }
        location /page/file { alias %%TESTDIR%%/page; }
        location /page/up { proxy_pass http://127.0.0.1:8081/size/3000; }
        location /next { alias %%TESTDIR%%/next; }
    }

    server {
        listen       127.0.0.1:8083;
        location / { root %%TESTDIR%%; }
    }
}

EOF

guest($t, 'traps.wat', waits('sleeps') . <<'EOF');
  (func (export "_initialize")
    (if (i32.gt_u (call $get_config (i32.const 0) (i32.const 0)) (i32.const 4))
      (then (drop (call $enable_features (i32.const 2))))))
  (func (export "handle_response") (param i32 i32)
    (drop (call $config))
    (if (i32.eq (i32.load8_u (i32.const 2048)) (i32.const 108)) (then (call $wait)))
    unreachable)
EOF
my $seen = '(func (export "handle_response") (param i32 i32) (call $set_resp &"x-seen" (call $dec (call $get_status_code))))';
guest($t, 'header.wat', $seen);
guest($t, 'whole.wat', '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))' . $seen);

my $page = '0123456789' x 300;
$t->write_file('page', $page);
$t->write_file('next', 'next');
$t->write_file('leak', 'leak' x 1250);
$t->write_file('ssi', 'leak' x 300 . '<!--# include virtual="/part/8" -->' . 'leak' x 300);
$t->write_file('ssi-two', 'leak<!--# include virtual="/part/8" -->leak<!--# include virtual="/part/3" wait="yes" -->' . 'leak' x 600);
backend($t, 8081);
$t->run_daemon(\&slowly, port(8082));
$t->waitforsocket('127.0.0.1:' . port(8082)) or die "backend does not listen\n";
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $outer (@outer) {
	for my $inner (@inner) {
		my @cases;
		for my $kind (@pages) {
			# A page that is too large as well may be replaced too.
			my $right = $inner eq 'large' ? ($kind eq 'own' ? qr/^502 page$/ : qr/^502 (?:page|@{[ digest($page) ]})$/)
				: $kind eq 'own' ? qr/^500 page$/ : qr/^500 @{[ digest($page) ]}$/;
			push @cases, map { [ "$outer, $inner, page $kind, $_", "/$outer/$inner/$kind/$_", $right ] } @sources;
		}
		my @replies = at_once(map { [ [ "GET $_->[1]" ], [ 'GET /next' ] ] } @cases);
		for my $n (0 .. $#cases) {
			my ($told, $after) = (told($replies[$n][0]), after(@{ $replies[$n] }));
			like($after eq 'next' ? $told : "$told, $after", $cases[$n][2], $cases[$n][0]);
		}

		my $h2 = h2_client(8084);
		my @streams = map { h2_request($h2, 'GET', $_->[1]) } @cases;
		my @h2 = h2_replies($h2, \@streams);
		like(told($h2[$_]), $cases[$_][2], "$cases[$_][0], HTTP/2") for 0 .. $#cases;
	}
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# Answers each request piece by piece.
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
		print $s "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
		for (1 .. 8) {
			print $s "258\r\n" . 'leak' x 150 . "\r\n";
			select undef, undef, undef, 0.02;
		}
		print $s "0\r\n\r\n";
		POSIX::_exit(0);
	}
}

###############################################################################
