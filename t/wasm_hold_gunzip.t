#!/usr/bin/perl

# Compressed responses, unpacked by gunzip, which is before the guests: while a guest waits with the response to a HEAD,
# gunzip does not hear of the end of a body that it would take for a cut one.

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

my @guests = qw/ none header sleeps yields whole two traps fills becomes head head-sleeps head-becomes get /;
my @sources = qw/ up direct cached /;
my @requests = ('GET file', 'HEAD file', 'HEAD error', 'HEAD 304');
# A GET without a body in its reply breaks nginx's gunzip filter, except where a guest gives it one.
my @more = ('GET 304', 'GET 204');
my %gives = (fills => 1, becomes => 1, 'head-becomes' => 1);

my $t = Test::Nginx->new()->has(qw/http proxy cache gunzip gzip_static rewrite/)->plan((@guests * @requests + keys(%gives) * @more) * @sources - 1 + 3);

my $locations = '';
for my $guest (@guests) {
	my $guests = $guest eq 'two' ? 'http_wasm whole.wat; http_wasm sleeps.wat;'
		: $guest eq 'none' ? '' : "http_wasm $guest.wat;";
	$locations .= <<"EOL";

        location /$guest/ {
            $guests
            location /$guest/up/ { proxy_pass http://127.0.0.1:8081/; }
            location /$guest/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
            location /$guest/cached/ { proxy_cache one; proxy_cache_valid any 1h; proxy_pass http://127.0.0.1:8081/; }
        }
EOL
}

$t->write_file_expand('nginx.conf', <<'EOL' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;
    proxy_http_version 1.1;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        gunzip on;
        LOCATIONS
        location /next { alias %%TESTDIR%%/next; }
    }

    server {
        listen       127.0.0.1:8081;
        server_name  localhost;

        location /file { gzip_static always; alias %%TESTDIR%%/file; }
        location /error { add_header Content-Encoding gzip always; return 404; }
        location /304 { add_header Content-Encoding gzip; return 304; }
        location /204 { add_header Content-Encoding gzip; return 204; }
    }
}

EOL

my $seen = '(call $set_resp &"x-seen" (call $dec (call $get_status_code))))';
guest($t, 'header.wat', "(func (export \"handle_response\") (param i32 i32) $seen");
guest($t, "$_.wat", waits($_) . "(func (export \"handle_response\") (param i32 i32) (call \$wait) $seen") for qw/ sleeps yields /;
guest($t, 'whole.wat', waits('yields') . <<"EOL");
  (func (export "_initialize") (drop (call \$enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (call \$wait) $seen
EOL
guest($t, 'traps.wat', waits('yields') . '(func (export "handle_response") (param i32 i32) (call $wait) unreachable)');
guest($t, 'fills.wat', waits('yields') . <<'EOL');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (call $wait) (call $set_status_code (i32.const 200)) (call $body_resp &"filled"))
EOL

my $status = '(func (export "handle_response") (param i32 i32) (call $set_status_code (i32.const 200)))';
guest($t, 'becomes.wat', $status);
my $method = '(func (export "handle_request") (result i64) (call $set_method &"%s") (i64.const 1))';
guest($t, 'head.wat', sprintf($method, 'HEAD'));
guest($t, 'get.wat', sprintf($method, 'GET'));
guest($t, 'head-sleeps.wat', waits('sleeps') . sprintf($method, 'HEAD')
	. "(func (export \"handle_response\") (param i32 i32) (call \$wait) $seen");
guest($t, 'head-becomes.wat', sprintf($method, 'HEAD') . $status);

my $file = 'a file, ' x 100;
$t->write_file('file.gz', Compress::Zlib::memGzip($file));
$t->write_file('next', 'next');
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my @cases;
for my $guest (@guests) {
	for my $source (@sources) {
		for (@requests, $gives{$guest} ? @more : ()) {
			my ($method, $uri) = split;
			# The cache reads the whole page, which is not what its Content-Encoding says.
			next if $guest eq 'get' && $source eq 'cached' && $uri eq 'error';
			my $status = { traps => 500, fills => 200, becomes => 200, 'head-becomes' => 200 }->{$guest}
				// { file => 200, error => 404, 304 => 304, 204 => 204 }->{$uri};
			my $body = $method eq 'HEAD' ? 'empty'
				: $guest eq 'traps' ? 'page'
				: $guest eq 'fills' ? 'filled'
				# A handler that was asked for a header alone has no body for the client.
				: $uri ne 'file' || $guest =~ /^head(?:-|$)/ ? 'empty'
				: digest($file);
			push @cases, {
				name => "$guest, $source, $_", request => [ "$method /$guest/$source/$uri" ], told => "$status $body, next",
			};
		}
	}
}
my @replies = at_once(map { [ $_->{request}, [ 'GET /next' ] ] } @cases);
for my $n (0 .. $#cases) {
	my ($case, @got) = ($cases[$n], @{ $replies[$n] });
	is(told($got[0]) . ', ' . after(@got), $case->{told}, $case->{name});
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################
