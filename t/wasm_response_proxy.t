#!/usr/bin/perl

# Proxied responses through a guest that looks at the header, one that reads the body and one that rewrites it:
# buffered or not, of known and unknown length, cut, compressed, without a body, from the cache, in slices.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @guests = qw/ header seen wrap /;

my $t = Test::Nginx->new()->has(qw/http proxy cache slice/)->plan(@guests * 46 + 2);

my $locations = join '', map { my $guest = $_; <<'EOF' =~ s/GUEST/$guest/gr } @guests;

        location /GUEST/ {
            http_wasm GUEST.wat;

            location /GUEST/buffered/ { proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/small/ { proxy_buffers 2 1k; proxy_buffer_size 1k; proxy_busy_buffers_size 1k; proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/memory/ { proxy_max_temp_file_size 0; proxy_pass http://127.0.0.1:8081/; }

            location /GUEST/cached/ {
                proxy_cache one;
                proxy_cache_key $uri;
                proxy_force_ranges on;
                proxy_cache_valid 1h;
                add_header X-Cache $upstream_cache_status;
                proxy_pass http://127.0.0.1:8081/;
            }

            location /GUEST/slice/ {
                slice 10;
                proxy_cache one;
                proxy_cache_key $uri$slice_range;
                proxy_set_header Range $slice_range;
                proxy_cache_valid 200 206 1h;
                proxy_pass http://127.0.0.1:8082/;
            }
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_http_version 1.1;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS
    }

    server {
        listen       127.0.0.1:8082;

        location / {
            root %%TESTDIR%%/html;
        }
    }
}

EOF

guest($t, 'header.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32)
    (call $add_resp &"x-status" (call $dec (call $get_status_code))))
EOF
my $feature = <<'EOF';
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (call $add_resp &"x-status" (call $dec (call $get_status_code)))
    (local.set $n (call $read_all (i32.const 1) (i32.const 1000)))
    (call $add_resp &"x-read" (call $dec (local.get $n)))
EOF
guest($t, 'seen.wat', $feature . ')');
guest($t, 'wrap.wat', $feature . <<'EOF');
    (call $body_resp &"<")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &">"))
EOF

$t->write_file('html/sliced', join '', 'a' .. 'z');
backend($t);
$t->run();

###############################################################################

require Compress::Zlib;

for my $guest (@guests) {
	my $made = sub { $guest eq 'wrap' ? "<$_[0]>" : $_[0] };
	my $buffers = $guest ne 'header';

	for my $how (qw/ buffered direct small memory /) {
		my $name = "$guest, proxy $how";
		for my $size (0, 5, 100_000) {
			my $r = curl("/$guest/$how/size/$size");
			my $body = $made->(substr '0123456789' x 10_000, 0, $size);
			ok(content($r) eq $body && header($r, 'content-length') == length $body, "$name, $size bytes");
		}
		is(content(curl("/$guest/$how/chunked")), $made->('onetwothree'), "$name, chunked upstream");

		for my $cut (qw/ cut cut-chunked /) {
			my $r = curl("/$guest/$how/$cut");
			my $seen = $buffers ? status($r) == 502 && header($r, 'x-status') eq '502' && $r->{exit} == 0
				&& content($r) !~ /xxx|one/ : $r->{exit} != 0 && header($r, 'x-status') eq '200';
			ok($seen, "$name, upstream " . ($cut eq 'cut' ? 'cut mid-body' : 'cut mid-body in chunks'))
				or diag(status($r) . " exit $r->{exit} seen " . (header($r, 'x-status') // 'nothing'));
		}

		my $body = content(curl("/$guest/$how/gzip"));
		$body =~ s/^<(.*)>$/$1/s if $guest eq 'wrap';
		is(Compress::Zlib::memGunzip($body), "packed by the backend\n", "$name, upstream gzip");
		is(header(curl("/$guest/$how/gzip"), 'content-encoding'), $guest eq 'wrap' ? undef : 'gzip',
			"$name, upstream gzip, named unless replaced");
	}

	for my $status (204, 304) {
		my $r = curl("/$guest/buffered/status/$status");
		is(join(' ', status($r), header($r, 'x-status'), length content($r)), "$status $status 0", "$guest, $status");
	}
	my $r = curl("/$guest/buffered/status/301");
	is(status($r) . content($r), 301 . $made->("status 301\n"), "$guest, 301");
	$r = curl("/$guest/buffered/headers?Location=/x");
	is(header($r, 'location'), '/x', "$guest, Location \"/x\"");

	my @r = map { curl('-I', "/$guest/$_/size/77") } qw/ buffered direct /;
	is(join(' ', map { status($_) . $_->{exit} } @r), '2000 2000', "$guest, HEAD proxy");
	is(header($r[0], 'content-length'), $guest eq 'wrap' ? undef : 77, "$guest, HEAD proxy, length");

	# From the upstream, then from the cache: a HEAD fills the cache for a GET.
	@r = map { curl(@$_, "/$guest/cached/size/20") } [ '-I' ], [], [ '-I' ], [ '-r', '2-4' ];
	is(join(' ', map { header($_, 'x-cache') } @r), 'MISS HIT HIT HIT', "$guest, proxy_cache");
	is(content($r[1]), $made->('0123456789' x 2), "$guest, proxy_cache hit");
	is($r[0]{exit} . $r[2]{exit}, '00', "$guest, HEAD cached");
	is(header($r[2], 'content-length'), $guest eq 'wrap' ? undef : 20, "$guest, HEAD cached, length");
	is(status($r[3]) . content($r[3]), $buffers || restless() ? 200 . $made->('0123456789' x 2) : '206234',
		"$guest, Range of the cached");

	for my $state (qw/ miss hit /) {
		$r = curl("/$guest/slice/sliced");
		is(status($r) . content($r), 200 . $made->(join '', 'a' .. 'z'), "$guest, slice, $state");
	}
	$r = curl('-r', '8-12', "/$guest/slice/sliced");
	is(content($r), $buffers ? $made->(join '', 'a' .. 'z') : 'ijklm', "$guest, Range in slices");
}

is(error_log_count($t, qr/\[error\].*http_wasm: the upstream went away/), 16, 'every cut body is logged');
is(error_log_count($t, qr/\[(?:crit|alert|emerg)\]/), 0, 'no trouble');

###############################################################################
