#!/usr/bin/perl

# brotli, loaded before and behind this module: what guests get of a body, and whether nginx warns.

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

my $t = Test::Nginx->new()->has(qw/http/);

my ($dir) = Test::Nginx::nginx_v() =~ /--modules-path=(\S+)/;
my ($brotli) = grep { -f } map { "$_/ngx_http_brotli_filter_module.so" } grep { defined } $ENV{TEST_NGINX_MODULES}, $dir;
plan(skip_all => 'brotli is not installed') unless $brotli;

guest($t, 'sees.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-size" (call $dec (call $read_all (i32.const 1) (i32.const 1000)))))
EOF
$t->write_file('file', 'text ' x 2000);

sub configure {
	my ($order, $guest) = @_;
	my $globals = $t->globals();
	my $load = "load_module $brotli;";
	$t->write_file_expand('nginx.conf', <<"EOF");

@{[ $order eq 'before' ? "$load\n$globals" : "$globals\n$load" ]}

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    brotli on;
    brotli_types *;
    brotli_min_length 0;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        location /file { $guest root %%TESTDIR%%; }
    }
}

EOF
	return;
}

configure('before', '');
my $refused = $t->start();
plan(skip_all => 'brotli is for another nginx') if defined $refused;
$t->stop();
$t->plan(9);

###############################################################################

my $warning = qr/\[warn\].*ngx_http_brotli_filter_module does not encode the responses that guests read or write/;

for my $order (qw/before behind/) {
	unlink $t->testdir() . '/error.log';
	configure($order, '');
	$t->run();
	is(error_log_count($t, $warning), 0, "$order, no guest: no warning");
	$t->stop();

	unlink $t->testdir() . '/error.log';
	configure($order, 'http_wasm sees.wat;');
	$t->run();
	is(error_log_count($t, $warning), $order eq 'before' ? 0 : 1, "$order: warning");
	my $r = curl('-H', "Accept-Encoding: br", "/file");
	is(header($r, 'content-encoding'), $order eq 'before' ? 'br' : undef, "$order: encoded");
	is(header($r, 'x-size'), 10_000, "$order: the guest gets the body as it is");
	$t->stop();
}
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse');

###############################################################################
