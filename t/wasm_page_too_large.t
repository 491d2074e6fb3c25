#!/usr/bin/perl

# http_wasm_response_buffer smaller than the error page that is to tell of it, with guests that are to see the page: the
# client gets one page, the log tells of each failure once, and nothing goes round in circles.

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
	whole => [ qw/ whole / ], sleeps => [ qw/ sleeps / ], two => [ qw/ whole sleeps / ],
	around => [ qw/ header whole / ], inside => [ qw/ whole header / ], traps => [ qw/ whole traps / ],
	'traps-whole' => [ qw/ whole traps-whole / ],
);
my @chains = sort keys %chains;
my @sources = qw/ file up direct chunked missing /;
my @pages = qw/ own file up guarded /;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(@chains * @sources * @pages + 5);

my $locations = '';
for my $chain (@chains) {
	my $guests = join ' ', map { "http_wasm $_.wat;" } @{ $chains{$chain} };
	$locations .= join '', map { <<"EOF" } @pages;

        location /$chain/$_/ {
            $guests
            @{[ $_ eq 'own' ? '' : "error_page 404 500 502 /page/$chain/$_;" ]}
            location /$chain/$_/file { alias %%TESTDIR%%/file; }
            location /$chain/$_/up { proxy_pass http://127.0.0.1:8081/size/5000; }
            location /$chain/$_/direct { proxy_buffering off; proxy_pass http://127.0.0.1:8081/size/5000; }
            location /$chain/$_/chunked { proxy_pass http://127.0.0.1:8081/chunked/5000; }
            location /$chain/$_/missing { alias %%TESTDIR%%/missing; }
        }
EOF
	$locations .= <<"EOF";

        location /page/$chain/guarded { $guests alias %%TESTDIR%%/page; }
        location /page/$chain/file { alias %%TESTDIR%%/page; }
        location /page/$chain/up { proxy_pass http://127.0.0.1:8081/size/6000; }
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

    # So that pages are larger, and each failure is logged.
    http_wasm_response_buffer 100 max=100;
    http_wasm_breaker off;
    proxy_http_version 1.1;
    log_not_found off;
    error_log %%TESTDIR%%/info.log info;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS
        location /next { alias %%TESTDIR%%/next; }
    }
}

EOF

my $feature = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
my $seen = '(call $set_resp &"x-seen" (call $dec (call $get_status_code)))';
guest($t, 'whole.wat', "$feature (func (export \"handle_response\") (param i32 i32) $seen)");
guest($t, 'header.wat', "(func (export \"handle_response\") (param i32 i32) $seen)");
guest($t, 'sleeps.wat', waits('sleeps') . "$feature (func (export \"handle_response\") (param i32 i32) (call \$wait) $seen)");
guest($t, 'traps.wat', '(func (export "handle_response") (param i32 i32) unreachable)');
guest($t, 'traps-whole.wat', "$feature (func (export \"handle_response\") (param i32 i32) unreachable)");

my $page = '0123456789' x 600;
$t->write_file('page', $page);
$t->write_file('file', 'file' x 1000);
$t->write_file('next', 'next');
backend($t);
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $chain (@chains) {
	my @cases;
	for my $kind (@pages) {
		push @cases, map { [ "$chain, page $kind, $_", "/$chain/$kind/$_", $kind ] } @sources;
	}
	my @replies = at_once(map { [ [ "GET $_->[1]" ], [ 'GET /next' ], { ready => \&not_in_circles } ] } @cases);
	for my $n (0 .. $#cases) {
		my ($name, undef, $kind) = @{ $cases[$n] };
		my $told = told($replies[$n][0]) . ', ' . after(@{ $replies[$n] });
		# The page of the operator's, or nginx's where that cannot be seen either.
		my $page = $kind eq 'own' ? 'page' : '(?:page|' . digest($page) . ')';
		my $status = $name =~ /^traps/ ? '50[02]' : $name =~ /missing/ ? '(?:404|502)' : '502';
		like($told, qr/^$status $page, next$/, $name);
	}
}

# One line for each failure of a chain at most, and one for a page.
cmp_ok(grep({ /\[error\]/ } split /\n/, $t->read_file('info.log')), '<=', 3 * @chains * @sources * @pages, 'lines in the log');
is(told(conversation([ 'GET /next' ])), '200 next', 'worker serves on');
is(join(' ', worker_pids($t)), $worker, 'same worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]/), 0, 'nothing worse than an error');

###############################################################################

# Ends a worker that fills the log, before it fills the disk.
sub not_in_circles {
	kill 'KILL', worker_pids($t) if -s $t->testdir() . '/error.log' > 100_000_000;
	return 1;
}

###############################################################################
