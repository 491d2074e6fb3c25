#!/usr/bin/perl

# A guest fails while the cache is being filled with the response, and the operator has a page for that: the client gets
# the page once the cache has what it wants, also where the client is not sent a body (HEAD).

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Messages;
use Test::Nginx::Wasm;

require Compress::Zlib;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @guests = qw/ traps late /;
my @gunzip = qw/ on off /;
my @methods = qw/ GET HEAD /;

my $t = Test::Nginx->new()->has(qw/http proxy cache gunzip/)->plan(@guests * @gunzip * @methods * 2 + 3);

my $locations = '';
for my $guest (@guests) {
	$locations .= join '', map { <<"EOF" } @gunzip;

        location /$guest/$_/ { http_wasm $guest.wat; gunzip $_; proxy_pass http://127.0.0.1:8081; }
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
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;
    proxy_cache one;
    proxy_cache_key $uri;
    proxy_cache_valid 1h;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        error_page   500 /page;
        LOCATIONS
        location /page { alias %%TESTDIR%%/page; }
        location /next { alias %%TESTDIR%%/next; }
    }
}

EOF

my $traps = '(func (export "handle_response") (param i32 i32) (call $wait) unreachable)';
guest($t, 'traps.wat', '(func $wait)' . $traps);
guest($t, 'late.wat', waits('sleeps') . $traps);

my ($first, $second) = Compress::Zlib::memGzip('unpacked ' x 50) =~ /\A(.{20})(.*)\z/s;
$t->write_file('page', 'of the operator');
$t->write_file('next', 'next');
halves($t, 8081, $first, $second, 'Content-Encoding: gzip');
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my $n = 0;
for my $guest (@guests) {
	for my $gunzip (@gunzip) {
		for my $method (@methods) {
			my ($id, $sent) = (++$n, 0);
			# The rest of the body comes when the guest has failed.
			my $rest = sub {
				return $sent ||= error_log_count($t, qr/unreachable.*half-$id\b/) && second_half(8081, $id);
			};
			my ($reply, $next) = conversation([ "$method /$guest/$gunzip/half-$id" ], [ 'GET /next' ], { ready => $rest });
			is(told($reply) . ', ' . after($reply, $next),
				($method eq 'HEAD' ? '500 empty' : '500 of the operator') . ', next', "$guest, gunzip $gunzip, $method");
			ok(wait_until(sub { @{ [ glob $t->testdir() . '/cache/????????????????????????????????' ] } == $n }, 3),
				"$guest, gunzip $gunzip, $method: kept");
		}
	}
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/inflate\(\)/), 0, 'nothing inflated that is not there');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]|exited on signal/), 0, 'nothing worse than an error');

###############################################################################
