#!/usr/bin/perl

# Guests that replace, surround or prefix a body that somebody has compressed: what the client gets is compressed when it
# says that it is, and is what the guest made.

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

my @guests = qw/ none header seen replaces wraps prefix empties page packs late two /;
# Upstreams that compress when they may, and one that does whatever it is asked; the same in this nginx; and a file that
# somebody has compressed and put there.
my @sources = qw/ up direct always cached static static-always own accel added-always /;

my $t = Test::Nginx->new()->has(qw/http proxy cache gzip gzip_static/)->plan(@guests * @sources * 2 + 3);

my $locations = '';
for my $guest (@guests) {
	my $guests = join ' ', map { "http_wasm $_.wat;" } $guest eq 'two' ? qw/ seen prefix / : $guest eq 'none' ? () : $guest;
	$locations .= <<"EOF";

        location /$guest/ {
            $guests
            location /$guest/up { proxy_pass http://127.0.0.1:8082/file; }
            location /$guest/direct { proxy_buffering off; proxy_pass http://127.0.0.1:8082/file; }
            location /$guest/always { proxy_pass http://127.0.0.1:8082/always; }
            location /$guest/cached {
                proxy_cache one;
                proxy_cache_key $guest\$http_accept_encoding;
                proxy_cache_valid 1h;
                proxy_ignore_headers Vary;
                proxy_pass http://127.0.0.1:8082/file;
            }
            location /$guest/static { gzip_static on; alias %%TESTDIR%%/html/file; }
            location /$guest/static-always { gzip_static always; alias %%TESTDIR%%/html/file; }
            location /$guest/own { gzip on; gzip_types *; gzip_min_length 0; alias %%TESTDIR%%/html/file; }
            location /$guest/added-always { add_header Content-Encoding gzip; alias %%TESTDIR%%/html/file.gz; }
            location /$guest/accel { proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=/inner; }
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
    gzip_vary on;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /inner { internal; gzip_static on; alias %%TESTDIR%%/html/file; }
        location /next { alias %%TESTDIR%%/html/next; }
    }

    server {
        listen       127.0.0.1:8082;
        location /file { gzip_static on; root %%TESTDIR%%/html; }
        location /always { gzip_static always; alias %%TESTDIR%%/html/file; }
    }
}

EOF

my $plain = 'of the file ' x 50;
my $packed = Compress::Zlib::memGzip('packed by the guest');
my $bytes = join '', map { sprintf '\\%02x', ord } split //, $packed;

my $feature = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
my $response = '(func (export "handle_response") (param i32 i32) (local $n i32)';
my $seen = '(call $set_resp &"x-seen" &"1")';
my $wraps = '(local.set $n (call $read_all (i32.const 1) (i32.const 100)))
	(call $body_resp &"<") (call $body_resp (i32.const 65536) (local.get $n)) (call $body_resp &">")';
guest($t, 'header.wat', "$response $seen)");
guest($t, 'seen.wat', "$feature $response $seen)");
guest($t, 'replaces.wat', "$feature $response $seen (call \$body_resp &\"replaced\"))");
guest($t, 'wraps.wat', "$feature $response $seen $wraps)");
guest($t, 'late.wat', waits('sleeps') . "$feature $response (call \$wait) $seen $wraps)");
guest($t, 'empties.wat', "$feature $response $seen (call \$body_resp &\"\"))");
guest($t, 'page.wat', "$feature $response $seen (call \$set_status_code (i32.const 403)) (call \$body_resp &\"replaced\"))");
guest($t, 'prefix.wat', '(func (export "handle_request") (result i64) (call $body_resp &"prefix, ") (i64.const 1))');
guest($t, 'packs.wat', "$feature $response $seen (call \$set_resp &\"content-encoding\" &\"gzip\") (call \$body_resp &\"$bytes\"))");

$t->write_file('html/file', $plain);
$t->write_file('html/file.gz', Compress::Zlib::memGzip($plain));
$t->write_file('html/next', 'next');
backend($t, 8081);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

my $file = $t->read_file('html/file.gz');
my %made = (
	none => [ $plain ], header => [ $plain ], seen => [ $plain ], replaces => [ 'replaced' ], page => [ 'replaced' ],
	empties => [ '' ], packs => [ 'packed by the guest' ],
	# Where it was asked for, the text; what came packed all the same is not said to be anything.
	wraps => [ "<$plain>", "<$file>" ], late => [ "<$plain>", "<$file>" ], prefix => [ "prefix, $plain", "prefix, $file" ],
	two => [ "prefix, $plain", "prefix, $file" ],
);

my @cases;
for my $guest (@guests) {
	for my $source (@sources) {
		push @cases, map { [ $guest, $source, $_ ] } 'gzip', 'identity';
	}
}
my @replies = at_once(map { my ($guest, $source, $encoding) = @$_;
	[ [ "GET /$guest/$source", "Accept-Encoding: $encoding" ], [ 'GET /next' ] ] } @cases);
for my $n (0 .. $#cases) {
	my ($guest, $source, $encoding) = @{ $cases[$n] };
	my ($reply, @rest) = @{ $replies[$n] };
	is(judged($guest, $source, $encoding, $reply) . ', ' . after($reply, @rest), 'right, next',
		"$guest, $source, client takes $encoding");
}

is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

sub judged {
	my ($guest, $source, $encoding, $reply) = @_;

	# Nothing can go before what came packed though nobody asked for that.
	return 'right' if $guest =~ /prefix|two/ && $source =~ /always/ && told($reply) =~ /^502 page/;
	return told($reply) unless $reply->{whole} && $reply->{status} == ($guest eq 'page' ? 403 : 200);
	my ($says, $body) = (header($reply, 'Content-Encoding'), $reply->{body});
	if (defined $says) {
		return "twice: $says" unless $says eq 'gzip';
		return 'empty, and said to be gzip' unless length $body;
		my $packed = $body;
		$body = Compress::Zlib::memGunzip($packed) // return 'said to be gzip: ' . substr $body, 0, 20;
	} elsif ($guest eq 'packs') {
		return 'not said to be gzip';
	}
	my ($best, @other) = @{ $made{$guest} };
	return 'right' if $body eq $best;
	# Who packs by itself has not been asked for anything else.
	return 'right' if $source =~ /always|static|accel/ && !defined $says && grep { $body eq $_ } @other;
	return 'another body: ' . substr $body, 0, 20;
}

###############################################################################
