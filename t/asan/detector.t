#!/usr/bin/perl

# Faults that nginx commits on request: they are found, so those of the module would be, too.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use File::Glob qw/ :bsd_glob /;

use lib '../lib';
use Test::Nginx;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

# What is reported, and where the memory was touched or allocated.
my %faults = (
	'overrun-in-c' => qr/ERROR: AddressSanitizer: heap-buffer-overflow.*?#0 \S+ in ngx_http_detector_handler/s,
	'overrun-in-rust' => qr/ERROR: AddressSanitizer: heap-buffer-overflow.*?#0 \S+ in detector_overrun_in_rust/s,
	'use-after-free' => qr/ERROR: AddressSanitizer: heap-use-after-free.*?#0 \S+ in ngx_http_detector_handler/s,
	'leak' => qr/ERROR: LeakSanitizer: detected memory leaks.*?#1 \S+ in ngx_alloc\b/s,
);

# A plan of Test::More: the automatic tests of Test::Nginx would fail, as they should.
plan(tests => 2 * keys(%faults) + 2);

for my $fault ('none', sort keys %faults) {
	my $t = Test::Nginx->new();

	$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / { detector; }
    }
}

EOF

	$t->run();
	my $reply = http_get("/$fault") // '';
	$t->stop();

	my $report = $t->reports();
	unlink glob "$ENV{TEST_NGINX_REPORTS}/*";

	if ($fault eq 'none') {
		like($reply, qr/ 204 /, 'no fault: an answer');
		is($report, '', 'no fault: no report');
		next;
	}
	like($report, $faults{$fault}, "$fault: reported");
	like($t->read_file('error.log'), qr/\[alert\].*exited on signal 6/, "$fault: the process dies of it");
}

###############################################################################
