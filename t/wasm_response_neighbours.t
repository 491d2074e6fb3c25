#!/usr/bin/perl

# nginx's own filters and pages around a guest that looks at the header, one that reads the body and one that
# rewrites it.

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

my $t = Test::Nginx->new()->has(qw/http proxy rewrite gzip gunzip sub ssi addition charset gzip_static/)
	->plan(@guests * 29 + 2);

my $locations = join '', map { my $guest = $_; <<'EOF' =~ s/GUEST/$guest/gr } @guests;

        location /GUEST/ {
            http_wasm GUEST.wat;

            location /GUEST/gzip/ { gzip on; gzip_min_length 0; gzip_types *; proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/gunzip/ { gunzip on; proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/packed/ { gzip_static on; alias %%TESTDIR%%/html/; }
            location /GUEST/sub/ { sub_filter 345 three; sub_filter_types *; proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/ssi/ { ssi on; ssi_types *; alias %%TESTDIR%%/html/; }
            location /GUEST/after/ { add_after_body /after; addition_types *; alias %%TESTDIR%%/html/; }
            location /GUEST/charset/ { charset utf-8; source_charset koi8-r; default_type text/plain; alias %%TESTDIR%%/html/; }
            location /GUEST/header/ { add_header X-Added 1; add_header X-Always 1 always; expires 1h; proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/return/ { return 200 "x"; }
            location /GUEST/moved/ { return 301 /x; }
            location /GUEST/page/ { error_page 404 /GUEST/gzip/size/7; alias %%TESTDIR%%/html/; }
            location /GUEST/text/ { error_page 404 =203 @text; alias %%TESTDIR%%/html/; }
            location /GUEST/intercept/ { proxy_intercept_errors on; error_page 503 @text; proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/try/ { try_files /nowhere @text; }
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    charset_map koi8-r utf-8 {
        C1 D0B0;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /after {
            proxy_pass http://127.0.0.1:8081/size/4;
        }

        location @text {
            proxy_pass http://127.0.0.1:8081;
            rewrite ^ /size/3 break;
        }
    }
}

EOF

guest($t, 'header.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $log (i32.const 0) &"request begins") (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $add_resp &"x-status" (call $dec (call $get_status_code))))
EOF
my $feature = <<'EOF';
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_request") (result i64) (call $log (i32.const 0) &"request begins") (i64.const 1))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (call $add_resp &"x-status" (call $dec (call $get_status_code)))
    (local.set $n (call $read_all (i32.const 1) (i32.const 1000)))
EOF
guest($t, 'seen.wat', $feature . ')');
guest($t, 'wrap.wat', $feature . <<'EOF');
    (call $body_resp &"<")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &">"))
EOF

require Compress::Zlib;

$t->write_file('html/ssi.html', 'uri <!--# echo var="uri" -->, part <!--# include virtual="/after" -->.');
$t->write_file('html/plain', 'plain ');
$t->write_file('html/koi8', "not \xc1 here");
$t->write_file('html/packed.gz', Compress::Zlib::memGzip('packed'));
$t->write_file('html/packed', 'not packed');
backend($t);
$t->run();

###############################################################################

for my $guest (@guests) {
	my $made = sub { $guest eq 'wrap' ? "<$_[0]>" : $_[0] };
	my $long = $made->('0123456789' x 10_000);

	my $r = curl('--compressed', "/$guest/gzip/size/100000");
	is(header($r, 'content-encoding'), 'gzip', "$guest, gzip on");
	ok(content($r) eq $long, "$guest, gzip on, body");
	is(header($r, 'content-length'), undef, "$guest, gzip on, no length");
	ok(content(curl("/$guest/gzip/size/100000")) eq $long, "$guest, gzip on, not asked for");
	$r = curl('-H', 'Accept-Encoding: gzip', "/$guest/gunzip/gzip");
	# Guests that have the body are not given an encoded one.
	my $packed = $guest eq 'header';
	is($packed ? header($r, 'content-encoding') : content($r), $packed ? 'gzip' : $made->("packed by the backend\n"),
		"$guest, gunzip for guests");
	$r = curl("/$guest/gunzip/gzip");
	is(content($r), $made->("packed by the backend\n"), "$guest, gunzip");
	is(header($r, 'content-encoding'), undef, "$guest, gunzip, encoding gone");
	$r = curl('-H', 'Accept-Encoding: gzip', "/$guest/packed/packed");
	is($packed ? Compress::Zlib::memGunzip(content($r)) : content($r), $packed ? 'packed' : $made->('not packed'),
		"$guest, gzip_static");

	is(content(curl("/$guest/sub/size/10")), $made->('012three6789'), "$guest, sub_filter");
	is(content(curl("/$guest/ssi/ssi.html")), $made->("uri /$guest/ssi/ssi.html, part 0123."), "$guest, SSI");
	is(content(curl("/$guest/after/plain")), $made->('plain 0123'), "$guest, addition");
	$r = curl("/$guest/charset/koi8");
	is(content($r), $made->("not \xd0\xb0 here"), "$guest, charset");
	is(header($r, 'content-type'), 'text/plain; charset=utf-8', "$guest, charset named");

	$r = curl("/$guest/header/size/4");
	is(header($r, 'x-added') . header($r, 'x-always'), 11, "$guest, add_header");
	like(header($r, 'cache-control'), qr/max-age=3600/, "$guest, expires");
	$r = curl("/$guest/header/status/500");
	is((header($r, 'x-added') // '') . header($r, 'x-always'), 1, "$guest, add_header always");

	# The rewrite module answers before the access phase: no guest is called.
	my $calls = calls();
	is(content(curl("/$guest/return/")), 'x', "$guest, return 200 \"x\"");
	like(header(curl("/$guest/moved/"), 'location'), qr!^http://[^/]+/x$!, "$guest, return 301");
	is(header(curl("/$guest/return/"), 'x-status'), undef, "$guest, return, no handle_response");
	is(calls(), $calls, "$guest, return, no handle_request");

	for my $case ([ page => 404, '0123456' ], [ text => 203, '012' ], [ try => 200, '012' ]) {
		my ($uri, $status, $body) = @$case;
		$calls = calls();
		$r = curl("/$guest/$uri/nothing");
		is(join(' ', status($r), header($r, 'x-status'), content($r)), "$status $status " . $made->($body),
			"$guest, " . ($uri eq 'try' ? 'try_files' : "error_page $uri"));
		is(calls() - $calls, 1, "$guest, " . ($uri eq 'try' ? 'try_files' : "error_page $uri") . ', one call');
	}
	$r = curl("/$guest/intercept/status/503");
	is(join(' ', status($r), header($r, 'x-status'), content($r)), '503 503 ' . $made->('012'), "$guest, error_page named");
	$r = curl("/$guest/page/../nothing");
	is(status($r), 404, "$guest, nginx's own page");
	like(content($r), $guest eq 'wrap' ? qr/^<<html>.*>\r?\n?>$/s : qr/^<html>/, "$guest, nginx's own page, body");
}

is(error_log_count($t, qr/\[(?:crit|alert|emerg)\]/), 0, 'no trouble');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

sub calls {
	return error_log_count($t, qr/request begins/);
}

###############################################################################
