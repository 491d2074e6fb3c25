#!/usr/bin/perl

# Response headers that guests set before the next handler runs, however many, beside those of nginx's configuration,
# however many: all of them are there, and an error page that takes their place has the configured ones.

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

my @early = (1, 2, 5, 19, 20, 21, 40);
my @added = (1, 17, 19, 20, 45);
my @sources = qw/ file up cached missing /;
my %ends = (passes => '', traps => 'http_wasm traps.wat;', late => 'http_wasm late.wat;', whole => 'http_wasm whole.wat;');
my @ends = sort keys %ends;

my $t = Test::Nginx->new()->has(qw/http proxy cache/)->plan(@early * @added * @sources * (@ends + 1) + 3);

my $locations = '';
for my $early (@early) {
	for my $added (@added) {
		my $headers = join ' ', map { "add_header X-Added-$_ $_ always;" } 1 .. $added;
		$locations .= join '', map { <<"EOF" } @ends;

        location /$early/$added/$_/ {
            http_wasm early.wat config=$early;
            $ends{$_}
            $headers
            location /$early/$added/$_/file { alias %%TESTDIR%%/file; }
            location /$early/$added/$_/missing { alias %%TESTDIR%%/missing; }
            location /$early/$added/$_/up { proxy_pass http://127.0.0.1:8081/headers?X-Up=1&X-Up=2; }
            location /$early/$added/$_/cached {
                proxy_cache one;
                proxy_cache_key key;
                proxy_cache_valid 1h;
                proxy_pass http://127.0.0.1:8081/headers?X-Up=1&X-Up=2;
            }
        }
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

    http_wasm_breaker off;
    proxy_http_version 1.1;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;
    log_not_found off;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS
        location /next { alias %%TESTDIR%%/next; }
    }
}

EOF

# As many as the configuration says: x-early-aa, x-early-ab, ...
guest($t, 'early.wat', <<'EOF');
  (data (i32.const 16) "x-early-aa")
  (func (export "handle_request") (result i64) (local $p i32) (local $end i32) (local $n i32)
    (call $config) (local.set $end (i32.add (i32.const 2048))) (local.set $p)
    (loop $digit
      (local.set $n (i32.add (i32.mul (local.get $n) (i32.const 10)) (i32.sub (i32.load8_u (local.get $p)) (i32.const 48))))
      (br_if $digit (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 1))) (local.get $end))))
    (loop $more
      (i32.store8 (i32.const 24) (i32.add (i32.const 97) (i32.div_u (local.get $n) (i32.const 10))))
      (i32.store8 (i32.const 25) (i32.add (i32.const 97) (i32.rem_u (local.get $n) (i32.const 10))))
      (call $set_resp (i32.const 16) (i32.const 10) (call $dec (local.get $n)))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-seen" (call $dec (call $get_status_code))))
EOF
guest($t, 'traps.wat', '(func (export "handle_response") (param i32 i32) unreachable)');
guest($t, 'late.wat', waits('sleeps') . '(func (export "handle_response") (param i32 i32) (call $wait) unreachable)');
guest($t, 'whole.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) unreachable)
EOF

$t->write_file('file', 'of the file');
$t->write_file('next', 'next');
backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my %body = (file => 'of the file', up => "headers\n", cached => "headers\n", missing => 'page');

for my $early (@early) {
	my @cases;
	for my $added (@added) {
		for my $source (@sources) {
			push @cases, map { [ $added, $source, $_, "/$early/$added/$_/$source" ] } @ends;
			# A page that nginx puts in place of the response by itself.
			push @cases, [ $added, $source, 'passes', "/$early/$added/passes/$source", 'If-Match: "other"' ];
		}
	}
	my @replies = at_once(map { my (undef, undef, undef, $uri, @headers) = @$_;
		[ [ "GET $uri", @headers ], [ 'GET /next' ] ] } @cases);
	for my $n (0 .. $#cases) {
		my ($added, $source, $end, undef, @condition) = @{ $cases[$n] };
		my ($reply, @rest) = @{ $replies[$n] };
		my %count = map { my $name = qr/^x-$_(?:-|$)/; ($_ => scalar grep { (lc $_->[0]) =~ $name } @{ $reply->{headers} }) }
			qw/ added early up seen /;
		my $condition = @condition && $source eq 'file' || @condition && $source eq 'cached' && $reply->{status} == 412;
		my $status = $end ne 'passes' ? 500 : $condition ? 412 : $source eq 'missing' ? 404 : 200;
		my $body = $status >= 400 ? 'page' : $body{$source};
		# A page in place of the response may have them or not.
		my $early_ones = $end eq 'passes' ? $early : "(?:0|$early)";
		my $up = $status == 200 && $source =~ /up|cached/ ? 2 : 0;
		like(join(' ', told($reply), map({ "$count{$_} $_" } qw/ added early up seen /), after($reply, @rest)),
			qr/^$status \Q$body\E $added added $early_ones early $up up 1 seen next$/,
			"$early before, $added configured, $source, $end" . (@condition ? ', with a condition' : ''));
	}
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################
