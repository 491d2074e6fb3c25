#!/usr/bin/perl

# Rewritten responses reach every client whole: one that reads slowly, one that is slowed down by limit_rate, one of
# HTTP/1.0, one of HTTP/2; and others are served while a slow one reads.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Bulk;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

use Digest::SHA qw/ sha256_hex /;

my @guests = qw/ header seen wrap prefix /;

my $t = Test::Nginx->new()->has(qw/http proxy http_v2/)->plan(@guests * 14 + 2);

my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');
my $locations = join '', map { my $guest = $_; <<'EOF' =~ s/GUEST/$guest/gr } @guests;

        location /GUEST/ {
            http_wasm GUEST.wat;

            location /GUEST/buffered/ { proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/direct/ { proxy_buffering off; proxy_pass http://127.0.0.1:8081/; }
            location /GUEST/static/ { alias %%TESTDIR%%/; }
            location /GUEST/limited/ { limit_rate 4m; limit_rate_after 100k; proxy_pass http://127.0.0.1:8081/; }
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r =~ s/LISTEN/$listen/r =~ s/ON/$on/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_response_buffer 64k max=16m;
    proxy_http_version 1.1;
    sendfile on;

    server {
        listen       127.0.0.1:8080 sndbuf=16k;
        listen       127.0.0.1:8083LISTEN;
        server_name  localhost;
        ON
        LOCATIONS
    }
}

EOF

guest($t, 'header.wat', <<'EOF');
  (func (export "handle_response") (param i32 i32) (call $set_resp &"x-guest" &"header"))
EOF
my $copy = <<'EOF';
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $r i64)
    (loop $more
      (local.set $r (call $read_body (i32.const 1) (i32.const 65536) (i32.const 65536)))
      WRITE
      (br_if $more (i64.eqz (i64.shr_u (local.get $r) (i64.const 32))))))
EOF
guest($t, 'seen.wat', $copy =~ s/WRITE//r);
guest($t, 'wrap.wat', $copy =~ s/WRITE/(call \$body_resp (i32.const 65536) (i32.wrap_i64 (local.get \$r)))/r);
# Only puts a kilobyte before a body that streams.
guest($t, 'prefix.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (memory.fill (i32.const 65536) (i32.const 45) (i32.const 1024))
    (call $body_resp (i32.const 65536) (i32.const 1024))
    (i64.const 1))
EOF

my $size = 1_000_000;
$t->write_file('file', join '', map { sprintf '%09d ', $_ } 1 .. $size / 10);
bulk_backend($t, 8081);
$t->run();

###############################################################################

my $file = $t->read_file('file');

for my $guest (@guests) {
	my $before = $guest eq 'prefix' ? '-' x 1024 : '';
	my $body = bulk_body($size);
	my $made = digest($before . $body);
	my @slow = (step => 1500, room => 16384);

	for my $uri (qw/ buffered direct limited /) {
		for my $source (qw/ source chunked /) {
			my $r = bulk("/$guest/$uri/$source/$size", @slow);
			is($r->{digest}, $made, "$guest, $uri, $source: slow reader");
		}
	}
	is(bulk("/$guest/static/file", @slow)->{digest}, digest($before . $file), "$guest, file: slow reader");

	for my $source (qw/ source chunked /) {
		my $r = bulk("/$guest/buffered/$source/$size", version => '1.0');
		is($r->{digest}, $made, "$guest, $source: HTTP/1.0 client");
		unlike($r->{head}, qr/^Transfer-Encoding/mi, "$guest, $source: no chunks for HTTP/1.0");
	}
	my $r = curl('--http2-prior-knowledge', 'http://127.0.0.1:' . port(8083) . "/$guest/buffered/source/$size");
	is(digest(content($r)), $made, "$guest: HTTP/2 client");

	# The slow one has a part and does not read on while another gets everything.
	my $s = http("GET /$guest/buffered/source/$size HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", start => 1);
	sysread $s, my $part, 1000;
	is(bulk("/$guest/buffered/source/$size")->{digest}, $made, "$guest: served while another reads slowly");
	$part .= Test::Nginx::http_end($s);
	is(digest(content($part)), $made, "$guest: the other afterwards");
}

is(error_log_count($t, qr/\[(?:error|crit|alert|emerg)\]/), 0, 'no trouble');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

sub digest {
	my ($body) = @_;
	return length($body) . ' ' . sha256_hex($body);
}

###############################################################################
