#!/usr/bin/perl

# The thread that measures guests' time: each worker that has called a guest has one, which shares no descriptors with
# nginx's. With a second user of its table the kernel counts references at each call, and a copy that is not closed would
# keep connections open.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(5);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / { http_wasm pass.wat; empty_gif; }
        location /none { empty_gif; }
    }
}

EOF

guest($t, 'pass.wat', '');
$t->run();

###############################################################################

like(http_get('/none'), qr/200 OK/, 'no guest');
my ($worker) = worker_pids($t);
is(scalar(my @threads = threads()), 1, 'no thread for who calls no guests');

like(http_get('/'), qr/200 OK/, 'a guest');
is_deeply([ map { files($_) } grep { $_ != $worker } threads() ], [0], 'a thread without descriptors');
cmp_ok(files($worker), '>', 3, "nginx's are open");

###############################################################################

sub threads {
	return map { m{/(\d+)$} } glob "/proc/$worker/task/*";
}

# The thread closes them when it begins, which may be after the request that started it.
sub files {
	my ($thread) = @_;
	my $count = sub { my @files = glob "/proc/$worker/task/$thread/fd/*"; return scalar @files };
	wait_until(sub { !$count->() }) if $thread != $worker;
	return $count->();
}

###############################################################################
