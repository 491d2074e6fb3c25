#!/usr/bin/perl

# A guest fails while parts of the response are still on their way by subrequests: the client gets an error page, whole,
# be it nginx's own or the one configured, and nothing of the response.

###############################################################################

use warnings;
use strict;

use IO::Select;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# How a guest fails: after a wait, in a loop after a wait, at once, for the response is too large to be kept.
my %guests = (
	waits => [ 'wait.wat', 500 ],
	loops => [ 'loop.wat', 500 ],
	traps => [ 'trap.wat', 500 ],
	large => [ 'whole.wat', 502 ],
);
my $own = qr/<html>\r\n.*<\/html>\r\n/s;
# The page that is configured for it.
my %pages = (
	plain => [ '', $own ],
	static => [ 'error_page 500 502 /page.html;', qr/(?:page){5000}/ ],
	proxied => [ 'error_page 500 502 /page;', qr/(?:0123456789){3000}/ ],
	named => [ 'error_page 500 502 @page;', qr/(?:0123456789){3000}/ ],
);
my @parts = qw/ ssi added /;

my $t = Test::Nginx->new()->has(qw/http proxy ssi addition/)->plan(3 * keys(%guests) * keys(%pages) * @parts + 4);

my $locations = '';
for my $guest (keys %guests) {
	for my $page (keys %pages) {
		$locations .= <<'EOF' =~ s/GUEST/$guests{$guest}[0]/gr =~ s/NAME/$guest-$page/gr =~ s/PAGE/$pages{$page}[0]/gr;

        location /ssi/NAME { http_wasm GUEST; PAGE ssi on; alias %%TESTDIR%%/ssi.html; }
        location /added/NAME { http_wasm GUEST; PAGE alias %%TESTDIR%%/before.html; add_after_body /part; }
EOF
	}
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    default_type text/html;
    http_wasm_breaker off;
    http_wasm_timeout 50ms;
    http_wasm_slice 1ms;
    http_wasm_response_buffer 1k max=4k;
    http_wasm_dir gate /gate;
    proxy_read_timeout 60s;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
LOCATIONS
        location /part { proxy_pass http://127.0.0.1:8082; }
        location /page { proxy_pass http://127.0.0.1:8081/size/30000; }
        location = /page.html { root %%TESTDIR%%; }
        location @page { rewrite ^ /size/30000 break; proxy_pass http://127.0.0.1:8081; }
        location /none { return 204; }
    }
}

EOF

# Waits with the header of the response until there is the file "open", or spends its time then, and fails.
my $wait = <<'EOF';
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (func (export "handle_request") (result i64) (call $body_resp &"SECRET") (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 2000000))
    (loop $again
      (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
      (br_if $again (call $stat (i32.const 3) (i32.const 0) &"open" (i32.const 256))))
    THEN)
EOF
guest($t, 'wait.wat', $wait =~ s/THEN/unreachable/r);
guest($t, 'loop.wat', $wait =~ s/THEN/(loop \$spin (br \$spin))/r);
guest($t, 'trap.wat', '(func (export "handle_response") (param i32 i32) unreachable)');
guest($t, 'whole.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-guest" &"1"))
EOF

my $dir = $t->testdir();
mkdir "$dir/gate";
# More than is kept follows what is included.
$t->write_file('ssi.html', 'SECRET <!--#include virtual="/part" --> ' . 'SECRET ' x 2000 . '<!--#include virtual="/part" -->');
$t->write_file('before.html', 'SECRET ' x 2000);
$t->write_file('page.html', 'page' x 5000);
backend($t);
my $upstream = upstream(8082);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $guest (sort keys %guests) {
	for my $page (sort keys %pages) {
		for my $parts (@parts) {
			my $name = "$guest, $page, $parts";
			my $failures = failures();

			my $s = http("GET /$parts/$guest-$page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", start => 1);
			# Of a response that waits the part is on its way, too.
			my $waits = $guest =~ /waits|loops/;
			my $part = $waits ? arrives($upstream) : undef;
			$t->write_file('gate/open', '');
			wait_until(sub { failures() > $failures }) if $waits;

			my $r = answered($s, $part) // '';
			unlink "$dir/gate/open";
			cmp_ok(failures(), '>', $failures, "$name: fails");
			is(status($r), $guests{$guest}[1], "$name: status");
			ok((content($r) // '') =~ /\A(?:$pages{$page}[1]|$own)\z/ && $r !~ /SECRET|PART/, "$name: the page alone") or diag($r);
			# Parts of a request that ended too early.
			close $upstream->accept() while IO::Select->new($upstream)->can_read(0);
		}
	}
}

is(status(http_get('/none')), 204, 'serves on');
is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:crit|emerg)\]/), 0, 'no other complaint');

###############################################################################

sub failures {
	return error_log_count($t, qr/\[error\].*http_wasm/);
}

# The answer, while the parts of the response that are asked for come.
sub answered {
	my ($s, $part) = @_;

	my ($text, $end) = ('', time + patience(8));
	part($part) if $part;
	my $select = IO::Select->new($s, $upstream);
	while ((my $left = $end - time) > 0) {
		for my $ready ($select->can_read($left)) {
			if ($ready == $upstream) {
				part(arrives($upstream));
			} else {
				sysread $s, $text, 65536, length $text or return $text;
			}
		}
	}
	return;
}

sub part {
	my ($c) = @_;
	return unless $c;
	print $c "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nPART";
	close $c;
	return;
}

###############################################################################
