#!/usr/bin/perl

# Ranges of a response whose header is held while a guest waits: the client gets the range it asked for, as a 206 that is
# one, or the whole response, and the next response on the connection where it belongs.

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

my @guests = qw/ sleeps yields spins whole two /;
my @sources = qw/ file sendfile directio threads accel accel-up slice cached direct /;
my @ranges = split / /, '0-4 2- -3 5-9,20-24 0-0,-1 500000- 999999999-';

my $t = Test::Nginx->new()->has(qw/http proxy cache slice/)->plan(@guests * @sources * (@ranges + 3) + 3);

my $locations = '';
for my $guest (@guests) {
	my $guests = $guest eq 'two' ? 'http_wasm sleeps.wat; http_wasm yields.wat;' : "http_wasm $guest.wat;";
	$locations .= <<"EOF";

        location /$guest/ {
            $guests
            location /$guest/file { sendfile off; alias %%TESTDIR%%/file; }
            location /$guest/sendfile { sendfile on; alias %%TESTDIR%%/file; }
            location /$guest/directio { directio 1k; alias %%TESTDIR%%/file; }
            location /$guest/threads { aio threads; alias %%TESTDIR%%/file; }
            location /$guest/accel { proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=/inner/file; }
            location /$guest/accel-up { proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=/inner/up; }
            location /$guest/slice {
                slice 100k;
                proxy_set_header Range \$slice_range;
                proxy_pass http://127.0.0.1:8082/file;
            }
            location /$guest/cached {
                proxy_cache one;
                proxy_cache_key cached;
                proxy_cache_valid 1h;
                proxy_pass http://127.0.0.1:8082/file;
            }
            location /$guest/direct { proxy_buffering off; proxy_pass http://127.0.0.1:8082/file; }
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

    http_wasm_slice 1ms;
    proxy_http_version 1.1;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /inner/file { internal; alias %%TESTDIR%%/file; }
        location /inner/up { internal; proxy_force_ranges on; proxy_pass http://127.0.0.1:8082/file; }
        location /next { alias %%TESTDIR%%/next; }
    }

    server {
        listen       127.0.0.1:8082;

        location /file { root %%TESTDIR%%; }
    }
}

EOF

guest($t, "$_.wat", waits($_) . '(func (export "handle_response") (param i32 i32) (call $wait))') for qw/ sleeps yields spins /;
guest($t, 'whole.wat', waits('sleeps') . <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (call $wait))
EOF

my $file = join '', map { sprintf '%09d ', $_ } 1 .. 60_000;
$t->write_file('file', $file);
$t->write_file('next', 'next');
backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $guest (@guests) {
	# Whatever is kept is there before it is asked for in parts.
	conversation([ "GET /$guest/cached" ]);

	my @cases;
	for my $source (@sources) {
		push @cases, map { [ "$guest, $source, $_", "/$guest/$source", "Range: bytes=$_" ] } @ranges;
		push @cases, [ "$guest, $source, If-Range that is old", "/$guest/$source", 'Range: bytes=0-4', 'If-Range: "old"' ];
		push @cases, [ "$guest, $source, HEAD", "/$guest/$source", 'Range: bytes=0-4' ];
		push @cases, [ "$guest, $source, no range", "/$guest/$source" ];
	}
	my @replies = at_once(map {
		my ($name, $uri, @headers) = @$_;
		[ [ ($name =~ /HEAD/ ? 'HEAD' : 'GET') . " $uri", @headers ], [ 'GET /next' ] ]
	} @cases);

	for my $n (0 .. $#cases) {
		my ($name, $uri, $range) = @{ $cases[$n] };
		my ($reply, @rest) = @{ $replies[$n] };
		my $right = $name =~ /HEAD/ ? $reply->{status} =~ /^20[06]$/ && $reply->{body} eq ''
			: right($reply, $name =~ /If-Range/ ? undef : $range);
		is(($right ? 'right' : wrong($reply)) . ', ' . after($reply, @rest), 'right, next', $name);
	}
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# Whether it is the whole file, or what was asked for of it.
sub right {
	my ($reply, $range) = @_;

	return 0 unless $reply->{whole};
	return $reply->{body} eq $file if $reply->{status} == 200;
	my $size = length $file;
	if ($reply->{status} == 416) {
		return ($range // '') =~ /999999999/ && told($reply) eq '416 page'
			&& header($reply, 'Content-Range') eq "bytes */$size";
	}
	return 0 unless $reply->{status} == 206 && $range;

	my @wanted = map {
		my ($from, $to) = /^(\d*)-(\d*)$/;
		$from eq '' ? [ $size - $to, $size - 1 ] : [ $from, $to eq '' ? $size - 1 : $to ];
	} split /,/, $range =~ s/Range: bytes=//r;
	if (@wanted == 1) {
		my ($from, $to) = @{ $wanted[0] };
		return header($reply, 'Content-Range') eq "bytes $from-$to/$size"
			&& $reply->{body} eq substr $file, $from, $to - $from + 1;
	}
	my ($boundary) = header($reply, 'Content-Type') =~ m{^multipart/byteranges; boundary=(\S+)$} or return 0;
	my $body = $reply->{body};
	for (@wanted) {
		my ($from, $to) = @$_;
		my $part = substr $file, $from, $to - $from + 1;
		$body =~ s{\A\r\n--\Q$boundary\E\r\n(?:Content-Type: [^\r\n]+\r\n)?Content-Range: bytes $from-$to/$size\r\n\r\n\Q$part\E}{}
			or return 0;
	}
	return $body eq "\r\n--$boundary--\r\n";
}

sub wrong {
	my ($reply) = @_;
	return told($reply) . ' as ' . (header($reply, 'Content-Range') // 'no range');
}

###############################################################################
