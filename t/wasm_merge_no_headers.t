#!/usr/bin/perl

# A guest's header in front of a response that has no headers of its own in nginx's list. nginx reads the first element
# of every further part of that list without a look at how many it has: an empty part sends stale memory to the client.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(4);

$t->write_file_expand('nginx.conf', <<'EOC');

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

        location / {
            http_wasm mark.wat;
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOC

guest($t, 'mark.wat', <<'EOC');
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-guest" &"marked")
    (i64.const 1))
EOC

backend($t);
$t->run();

###############################################################################

# A response with headers leaves their traces in the memory that the next request gets.
my ($whole, $traced, %names) = (0, 0);
for my $n (1 .. 10) {
	curl('/headers?X-Trace=' . 'x' x (100 * $n));
	my $r = curl('/size/5');
	$whole++ if $r->{exit} == 0 && content($r) eq '01234';
	$traced++ if join('', map { @$_ } @{ $r->{headers} }) =~ /trace|xxx/i;
	$names{ join ' ', map { lc $_->[0] } @{ $r->{headers} } }++;
}

is($whole, 10, 'replies are whole');
is($traced, 0, 'and have nothing of other requests');
is_deeply(\%names, { 'server date content-type content-length connection x-guest' => 10 }, 'only these headers');
is(header(curl('/headers?X-Own=1'), 'X-Guest'), 'marked', 'with headers of the upstream');

###############################################################################
