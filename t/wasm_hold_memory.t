#!/usr/bin/perl

# Filters that read bodies in memory (gzip, gunzip, sub_filter, SSI, charset), and bodies in files: what arrives while a
# guest waits with the header held is as whole as what arrives afterwards.

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

my @guests = qw/ sleeps yields spins whole two /;
my @sources = qw/ file sendfile directio threads spilled memory direct cached accel half half-direct half-fcgi half-cached /;
my %filters = (
	none => '',
	gzip => 'gzip on; gzip_types *; gzip_proxied any; gzip_comp_level 1;',
	gunzip => 'gzip_static always; gunzip on;',
	sub => 'sub_filter 000000500 -replaced; sub_filter_types *;',
	ssi => 'ssi on; ssi_types *;',
	charset => 'charset utf-8; source_charset koi8-r; charset_types *;',
);
my @filters = sort keys %filters;

my $t = Test::Nginx->new()->has(qw/http proxy fastcgi cache gzip gunzip gzip_static sub ssi charset/);
# Each twice: from a cache that is empty, and from one that is not.
$t->plan(@guests * @filters * (@sources + 1) + 3);

my $locations = '';
for my $guest (@guests) {
	my $guests = $guest eq 'two' ? 'http_wasm sleeps.wat; http_wasm yields.wat;' : "http_wasm $guest.wat;";
	$locations .= join '', map { my ($file, $port) = $_ eq 'gunzip' ? ('packed', 8084) : ('file', 8083); <<"EOF" } @filters;

        location /$guest/$_/ {
            $guests
            $filters{$_}
            location /$guest/$_/file { sendfile off; alias %%TESTDIR%%/html/$file; }
            location /$guest/$_/sendfile { sendfile on; alias %%TESTDIR%%/html/$file; }
            location /$guest/$_/directio { directio 1k; alias %%TESTDIR%%/html/$file; }
            location /$guest/$_/threads { aio threads; sendfile on; alias %%TESTDIR%%/html/$file; }
            location /$guest/$_/spilled {
                proxy_buffers 4 4k;
                proxy_buffer_size 4k;
                proxy_busy_buffers_size 8k;
                sendfile on;
                proxy_pass http://127.0.0.1:8082/$file;
            }
            location /$guest/$_/memory { proxy_max_temp_file_size 0; proxy_pass http://127.0.0.1:8082/$file; }
            location /$guest/$_/direct { proxy_buffering off; proxy_pass http://127.0.0.1:8082/$file; }
            location /$guest/$_/cached {
                proxy_cache one;
                proxy_cache_key \$uri;
                proxy_cache_valid 1h;
                sendfile on;
                proxy_pass http://127.0.0.1:8082/$file;
            }
            # The rest comes when the client has a part.
            location /$guest/$_/half { sendfile on; proxy_buffers 4 4k; proxy_pass http://127.0.0.1:$port; }
            location /$guest/$_/half-direct { proxy_buffering off; proxy_pass http://127.0.0.1:$port; }
            location /$guest/$_/half-fcgi { sendfile on; fastcgi_buffers 4 4k; fastcgi_pass 127.0.0.1:$port; }
            location /$guest/$_/half-cached {
                proxy_cache one;
                proxy_cache_key \$uri;
                proxy_cache_valid 1h;
                sendfile on;
                proxy_pass http://127.0.0.1:$port;
            }
            location /$guest/$_/accel { sendfile on; proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=/inner/$_; }
        }
EOF
}
my $inner = join '', map { my $file = $_ eq 'gunzip' ? 'packed' : 'file'; <<"EOF" } @filters;

        location /inner/$_ { internal; sendfile on; $filters{$_} alias %%TESTDIR%%/html/$file; }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations$inner/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_slice 1ms;
    proxy_http_version 1.1;
    fastcgi_param REQUEST_URI $request_uri;
    proxy_cache_path %%TESTDIR%%/cache keys_zone=one:1m;
    default_type text/plain;

    charset_map koi8-r utf-8 {
        C1 D0B0;
    }

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /next { alias %%TESTDIR%%/html/next; }
    }

    server {
        listen       127.0.0.1:8082;

        location / { root %%TESTDIR%%/html; }
        location /packed { gzip_static always; root %%TESTDIR%%/html; }
    }
}

EOF

guest($t, "$_.wat", waits($_) . '(func (export "handle_response") (param i32 i32) (call $wait))') for qw/ sleeps yields spins /;
guest($t, 'whole.wat', waits('sleeps') . <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (call $wait))
EOF

my $file = join '', map { sprintf '%09d ', $_ } 1 .. 60_000;
$t->write_file('html/file', $file);
my $packed = Compress::Zlib::memGzip($file);
$t->write_file('html/packed.gz', $packed);
$t->write_file('html/next', 'next');
backend($t);
halves($t, 8083, unpack '(a300000)*', $file);
halves($t, 8084, (map { substr $packed, $_->[0], $_->[1] } [ 0, 60_000 ], [ 60_000, length $packed ]), 'Content-Encoding: gzip');
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my $n = 0;

for my $guest (@guests) {
	for my $filter (@filters) {
		my $ask = sub {
			my ($source) = @_;
			my ($port, $id, $gone) = ($filter eq 'gunzip' ? 8084 : 8083, $n++);
			my $uri = "/$guest/$filter/$source" . ($source !~ /half/ ? '' : $guest eq 'whole' ? "/all-$id" : "/half-$id");
			return [ [ "GET $uri", $filter eq 'gzip' ? 'Accept-Encoding: gzip' : () ], [ 'GET /next' ],
				{ more => sub { second_half($port, $id) if $uri =~ /half-\d/ && !$gone++ } } ];
		};
		my @replies = (at_once(map { $ask->($_) } @sources), at_once($ask->('cached')));
		for my $source (@sources, 'cached before') {
			my $replies = shift @replies;
			is(judged($replies->[0], $filter) . ', ' . after(@$replies), 'right, next', "$guest, $filter, $source");
		}
	}
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

sub judged {
	my ($reply, $filter) = @_;

	return told($reply) unless $reply->{whole} && $reply->{status} == 200;
	my $body = $reply->{body};
	if ($filter eq 'gzip') {
		return 'not packed' unless (header($reply, 'Content-Encoding') // '') eq 'gzip';
		$body = Compress::Zlib::memGunzip($body) // '';
	}
	my $expected = $filter eq 'sub' ? $file =~ s/000000500/-replaced/r : $file;
	return $body eq $expected ? 'right' : length($body) . ' bytes of ' . length $expected;
}

###############################################################################
