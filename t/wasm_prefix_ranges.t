#!/usr/bin/perl

# A guest that writes before the next handler runs puts its text before the body, and a range of that body is no longer
# the range: the client gets all of it, or the range of what it is now.

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

my %chains = (
	prefix => 'http_wasm prefix.wat;', late => 'http_wasm late.wat;', whole => 'http_wasm whole.wat;',
	inner => 'http_wasm seen.wat; http_wasm prefix.wat;', outer => 'http_wasm prefix.wat; http_wasm seen.wat;',
);
my @chains = sort keys %chains;
my @sources = qw/ file up direct cached slice accel always /;
my @ranges = split / /, '0-4 2- -3 5-9,20-24 0-0,-1 99999-';

my $t = Test::Nginx->new()->has(qw/http proxy cache slice/)->plan(@chains * @sources * (@ranges + 3) + @chains * 2 + 3);

my $locations = '';
for my $chain (@chains) {
	$locations .= <<"EOF";

        location /$chain/ {
            $chains{$chain}
            location /$chain/file { alias %%TESTDIR%%/file; }
            location /$chain/up { proxy_pass http://127.0.0.1:8082/file; }
            location /$chain/direct { proxy_buffering off; proxy_pass http://127.0.0.1:8082/file; }
            location /$chain/always { proxy_force_ranges on; proxy_pass http://127.0.0.1:8082/file; }
            location /$chain/cached {
                proxy_cache one;
                proxy_cache_key key;
                proxy_cache_valid 1h;
                proxy_pass http://127.0.0.1:8082/file;
            }
            location /$chain/slice {
                slice 1k;
                proxy_set_header Range \$slice_range;
                proxy_pass http://127.0.0.1:8082/file;
            }
            # Answers a part though nobody has asked it to.
            location /$chain/part { proxy_pass http://127.0.0.1:8083; }
            location /$chain/accel { proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=/deep/file; }
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

    proxy_http_version 1.1;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /deep/file { internal; alias %%TESTDIR%%/file; }
        location /next { alias %%TESTDIR%%/next; }
    }

    server {
        listen       127.0.0.1:8082;
        location / { root %%TESTDIR%%; }
    }
}

EOF

my $request = '(func (export "handle_request") (result i64) (call $body_resp &"prefix, ") (i64.const 1))';
my $response = '(func (export "handle_response") (param i32 i32)';
my $seen = '(call $set_resp &"x-seen" &"1")';
guest($t, 'prefix.wat', $request);
guest($t, 'late.wat', waits('sleeps') . "$request $response (call \$wait) $seen)");
my $feature = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
guest($t, 'whole.wat', "$feature $request $response $seen)");
guest($t, 'seen.wat', "$response $seen)");

my $file = join '', map { sprintf '%04d ', $_ } 1 .. 1000;
my $made = "prefix, $file";
$t->write_file('file', $file);
$t->write_file('next', 'next');
backend($t, 8081);
$t->run_daemon(\&answers_part, port(8083));
$t->waitforsocket('127.0.0.1:' . port(8083)) or die "backend does not listen\n";
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $chain (@chains) {
	my @cases;
	for my $source (@sources) {
		push @cases, map { [ "$chain, $source, $_", 'GET', "/$chain/$source", "Range: bytes=$_" ] } @ranges;
		push @cases, [ "$chain, $source, If-Range that is old", 'GET', "/$chain/$source", 'Range: bytes=0-4', 'If-Range: "old"' ];
		push @cases, [ "$chain, $source, HEAD", 'HEAD', "/$chain/$source", 'Range: bytes=0-4' ];
		push @cases, [ "$chain, $source, no range", 'GET', "/$chain/$source" ];
	}
	my @replies = at_once(map { my (undef, $method, $uri, @headers) = @$_;
		[ [ "$method $uri", @headers ], [ 'GET /next' ] ] } @cases);
	for my $n (0 .. $#cases) {
		my ($name, $method, undef, @headers) = @{ $cases[$n] };
		my ($reply, @rest) = @{ $replies[$n] };
		my $right = $method eq 'HEAD' ? head_is_right($reply)
			: right($reply, @headers == 1 ? $headers[0] =~ s/Range: bytes=//r : undef);
		is(($right ? 'right' : told($reply) . ' as ' . (header($reply, 'Content-Range') // 'no range')) . ', '
			. after($reply, @rest), 'right, next', $name);
	}

	my ($reply, $next) = conversation([ "GET /$chain/part" ], [ 'GET /next' ]);
	my ($from, $to) = (header($reply, 'Content-Range') // '') =~ m{bytes (\d+)-(\d+)/};
	ok($reply->{whole} && (!defined $from || $to - $from + 1 == length $reply->{body}), "$chain, a part unasked: is what it says")
		or diag(told($reply) . ' as ' . (header($reply, 'Content-Range') // 'no range'));
	is(after($reply, $next), 'next', "$chain, a part unasked: next request");
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# Whether it is all of the body, or what was asked for of it.
sub right {
	my ($reply, $range) = @_;

	return 0 unless $reply->{whole};
	return $reply->{body} eq $made && !defined header($reply, 'Content-Range') if $reply->{status} == 200;
	return 0 unless defined $range;
	my $size = length $made;
	return $range eq '99999-' && header($reply, 'Content-Range') eq "bytes */$size" if $reply->{status} == 416;
	return 0 unless $reply->{status} == 206 && $range !~ /,/;
	my ($from, $to) = $range =~ /^(\d*)-(\d*)$/;
	($from, $to) = $from eq '' ? ($size - $to, $size - 1) : ($from, $to eq '' ? $size - 1 : $to);
	return header($reply, 'Content-Range') eq "bytes $from-$to/$size" && $reply->{body} eq substr $made, $from, $to - $from + 1;
}

sub head_is_right {
	my ($reply) = @_;
	my $length = header($reply, 'Content-Length');
	return $reply->{whole} && ($reply->{status} == 200 ? !defined $length || $length == length $made
		: $reply->{status} == 206 && $length == 5 && header($reply, 'Content-Range') eq 'bytes 0-4/' . length $made);
}

sub answers_part {
	my ($port) = @_;
	my $server = IO::Socket::INET->new(Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 5, ReuseAddr => 1)
		or die "can't listen: $!\n";

	while (my $s = $server->accept()) {
		while (my $line = <$s>) {
			last if $line eq "\r\n";
		}
		print $s "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Length: 4\r\n",
			"Content-Range: bytes 0-3/5000\r\n\r\n0001";
		close $s;
	}
	return;
}

###############################################################################
