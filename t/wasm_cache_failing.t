#!/usr/bin/perl

# A guest that fails at a response that nginx is to keep: the response is kept, and the upstream is not asked each time.

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

my @outer = qw/ none header whole /;
my @inner = qw/ now now-whole late late-whole /;
my @sources = qw/ all half fcgi-all fcgi-half /;

my $t = Test::Nginx->new()->has(qw/http proxy fastcgi cache/)->plan(@outer * @inner * @sources * 4 + 3);

my $locations = '';
for my $outer (@outer) {
	my $around = $outer eq 'none' ? '' : "http_wasm $outer.wat;";
	$locations .= join '', map { <<"EOF" } @inner;

        location /$outer/$_/ {
            $around
            http_wasm traps.wat config=$_;
            proxy_pass http://127.0.0.1:8081;
            location /$outer/$_/fcgi { fastcgi_pass 127.0.0.1:8081; }
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
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;
    proxy_cache one;
    proxy_cache_key $uri;
    proxy_cache_valid 1h;
    fastcgi_cache_path %%TESTDIR%%/fcgi keys_zone=two:1m;
    fastcgi_cache two;
    fastcgi_cache_key $uri;
    fastcgi_cache_valid 1h;
    fastcgi_param REQUEST_URI $request_uri;
    add_header X-Cache $upstream_cache_status always;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        # The same without guests.
        location /plain/ {
            rewrite ^/plain(/.*)$ $1 break;
            proxy_pass http://127.0.0.1:8081;
            location ~ /fcgi { rewrite ^/plain(/.*)$ $1 break; fastcgi_pass 127.0.0.1:8081; }
        }
        location /next { alias %%TESTDIR%%/next; }
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

my ($first, $second) = ('first ' x 5000, 'second ' x 5000);
$t->write_file('next', 'next');
halves($t, 8081, $first, $second);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my $n = 0;
my @cases;
for my $outer (@outer) {
	for my $inner (@inner) {
		for my $source (@sources) {
			my ($how, $part) = $source =~ /^(?:(fcgi)-)?(\w+)$/;
			# A guest that is to see all of it fails when it has come.
			$part = 'all' if $inner =~ /whole/ || $outer eq 'whole';
			push @cases, { name => "$outer, $inner, $source", uri => "/$outer/$inner/" . ($how // 'up') . "/$part-" . $n++,
				id => $n - 1, half => $part eq 'half' };
		}
	}
}

my @replies = at_once(map { [ [ "GET $_->{uri}" ] ] } @cases);
is(told($replies[$_][0]), '500 page', "$cases[$_]{name}: fails") for 0 .. $#cases;

# The upstream comes to its end, also where the client has its page already.
second_half(8081, $_->{id}) for grep { $_->{half} } @cases;
wait_until(sub { @{ [ glob $t->testdir() . '/{cache,fcgi}/????????????????????????????????' ] } == @cases }, 3);

@replies = at_once(map { [ [ "GET $_->{uri}" ] ] } @cases);
is(told($replies[$_][0]), '500 page', "$cases[$_]{name}: fails again") for 0 .. $#cases;
@replies = at_once(map { [ [ "GET /plain$_->{uri}" ] ] } @cases);
is(header($replies[$_][0], 'X-Cache'), 'HIT', "$cases[$_]{name}: kept") for 0 .. $#cases;
is(told($replies[$_][0]), '200 ' . digest("$first$second"), "$cases[$_]{name}: whole") for 0 .. $#cases;

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################
