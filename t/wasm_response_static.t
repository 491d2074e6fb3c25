#!/usr/bin/perl

# Static files through a guest that looks at the header, one that reads the body and one that rewrites it: sendfile,
# threads, empty and large files, ranges, conditions, HEAD, directories.

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
my @places = ('sendfile off', 'sendfile on', 'aio threads', 'output_buffers 1 512', 'postpone_output 0');

my $t = Test::Nginx->new()->has(qw/http rewrite autoindex/)->plan(@guests * (@places * 3 + 21) + 1);

my $locations = '';
for my $guest (@guests) {
	for my $n (0 .. $#places) {
		$locations .= "location /$guest/$n/ { http_wasm $guest.wat; $places[$n]; alias %%TESTDIR%%/html/; }\n";
	}
	$locations .= "location /$guest/list/ { http_wasm $guest.wat; autoindex on; alias %%TESTDIR%%/html/; }\n"
		. "location /$guest/try/ { http_wasm $guest.wat; root %%TESTDIR%%/html; try_files /nowhere /small =404; }\n"
		. "location /$guest/error/ { http_wasm $guest.wat; error_page 404 =200 /small; }\n";
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        root         %%TESTDIR%%/html;

        LOCATIONS
    }
}

EOF

guest($t, 'header.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-status" (call $dec (call $get_status_code))))
EOF
my $feature = '  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
guest($t, 'seen.wat', $feature . <<'EOF');
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-status" (call $dec (call $get_status_code)))
    (call $set_resp &"x-read" (call $dec (call $read_all (i32.const 1) (i32.const 1000)))))
EOF
guest($t, 'wrap.wat', $feature . <<'EOF');
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (call $set_resp &"x-status" (call $dec (call $get_status_code)))
    (local.set $n (call $read_all (i32.const 1) (i32.const 1000)))
    (call $set_resp &"x-read" (call $dec (local.get $n)))
    (call $body_resp &"<")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &">"))
EOF

my %file = (empty => '', small => 'a static file', large => join '', map { "$_ " } 0 .. 29_999);
$t->write_file("html/$_", $file{$_}) for keys %file;
$t->write_file('html/sub/index.html', 'the index');
$t->run();

###############################################################################

for my $guest (@guests) {
	my $made = sub { $guest eq 'wrap' ? "<$_[0]>" : $_[0] };

	for my $n (0 .. $#places) {
		for my $name (qw/ empty small large /) {
			my $r = curl("/$guest/$n/$name");
			my $body = $made->($file{$name});
			ok(status($r) == 200 && content($r) eq $body && header($r, 'content-length') == length $body
				&& (header($r, 'x-read') // length $file{$name}) == length $file{$name},
				"$guest, $name file, $places[$n]");
		}
	}

	# What speaks of the body goes with the body.
	my $kept = $guest eq 'wrap' ? 0 : 1;
	my $r = curl("/$guest/0/small");
	my ($etag) = header(curl('/small'), 'etag');
	is(header($r, 'etag'), $kept ? $etag : undef, "$guest, ETag " . ($kept ? 'kept' : 'dropped'));
	is(defined header($r, 'last-modified'), !!$kept, "$guest, Last-Modified " . ($kept ? 'kept' : 'dropped'));

	# Ranges are of the file, so only where the body stays the file.
	# Behind a guest that waits there are none.
	my $ranges = $guest eq 'header' && !restless();
	is(header($r, 'accept-ranges'), $ranges ? 'bytes' : undef, "$guest, Accept-Ranges");
	for my $n (0, 1) {
		$r = curl('-r', '2-5', "/$guest/$n/small");
		is(status($r), $ranges ? 206 : 200, "$guest, Range, $places[$n]");
		is(content($r), $ranges ? 'stat' : $made->('a static file'), "$guest, Range, $places[$n]: body");
		is(header($r, 'content-range'), $ranges ? 'bytes 2-5/13' : undef, "$guest, Range, $places[$n]: Content-Range");
		is(status(curl('-r', '99-', "/$guest/$n/small")), $ranges ? 416 : 200, "$guest, Range behind the end, $places[$n]");
	}

	$r = curl('-H', "If-None-Match: $etag", "/$guest/1/small");
	is(status($r) . header($r, 'x-status') . content($r), 304304, "$guest, If-None-Match");
	$r = curl('-H', 'If-None-Match: "other"', "/$guest/1/small");
	is(status($r) . content($r), 200 . $made->('a static file'), "$guest, If-None-Match of another");

	$r = curl('-I', "/$guest/1/small");
	is($r->{exit}, 0, "$guest, HEAD static");
	is(header($r, 'content-length'), $kept ? 13 : undef, "$guest, HEAD static, length");
	$r = curl('-I', "/$guest/1/empty");
	is($r->{exit}, 0, "$guest, HEAD of an empty file");

	$r = curl("/$guest/list/");
	like(content($r), $kept ? qr/^<html>.*large.*small.*<\/html>\s*$/s : qr/^<<html>.*large.*small.*<\/html>\s*>$/s, "$guest, autoindex");
	$r = curl("/$guest/0/sub");
	like(status($r) . header($r, 'location'), qr!^301http://[^/]+/$guest/0/sub/$!, "$guest, 301 with a Location of a path");
	is(content(curl("/$guest/0/sub/")), $made->('the index'), "$guest, index");

	is(content(curl("/$guest/try/x")), $made->('a static file'), "$guest, try_files");
	$r = curl("/$guest/error/x");
	is(status($r) . content($r), 200 . $made->('a static file'), "$guest, error_page to another location");
}

is(error_log_count($t, qr/\[(?:crit|alert|emerg)\]/), 0, 'no trouble');

###############################################################################
