#!/usr/bin/perl

# post_action: what nginx does behind a response stays behind it. The client gets no byte of that, whatever guests do before
# and meanwhile.

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

my @guests = qw/ none marks asks responds whole /;
my @actions = qw/ file proxied /;

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(3 * @guests * @actions + 1);

my $locations = join '', map { my $action = $_; map { <<"EOF" } @guests } @actions;

        location /$action/$_ {
            @{[ $_ eq 'none' ? '' : "http_wasm $_.wat;" ]}
            post_action /after/$action/$_;
            alias %%TESTDIR%%/file;
        }
        location /after/$action/$_ {
            @{[ $_ eq 'none' ? '' : "http_wasm $_.wat name=after;" ]}
            access_log %%TESTDIR%%/after.log uri;
            @{[ $action eq 'file' ? 'alias %%TESTDIR%%/hidden;' : 'proxy_pass http://127.0.0.1:8081/size/50000?;' ]}
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format uri '$uri';

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS
        location /next { alias %%TESTDIR%%/next; }
    }
}

EOF

my $mark = '(call $set_resp &"x-guest" &"1")';
guest($t, 'marks.wat', "(func (export \"handle_response\") (param i32 i32) $mark)");
guest($t, 'asks.wat', waits('sleeps') . '(func (export "handle_request") (result i64) (call $wait) (i64.const 1))');
guest($t, 'responds.wat', waits('sleeps') . "(func (export \"handle_response\") (param i32 i32) (call \$wait) $mark)");
guest($t, 'whole.wat', <<"EOF");
  (func (export "_initialize") (drop (call \$enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) $mark)
EOF
$t->write_file('file', 'of a file');
$t->write_file('hidden', 'hidden' x 100);
$t->write_file('next', 'next');
backend($t);
$t->run();

###############################################################################

for my $action (@actions) {
	for my $guest (@guests) {
		my ($reply, @rest) = conversation([ "GET /$action/$guest" ], [ 'GET /next' ]);
		is(told($reply), '200 of a file', "$action, $guest: the response");
		is(after($reply, @rest), 'next', "$action, $guest: and no byte behind it");
		ok(wait_until(sub { $t->read_file('after.log') =~ m{^/after/$action/$guest$}m }), "$action, $guest: the action");
	}
}
is(error_log_count($t, qr/\[(?:error|alert|crit|emerg)\]|exited on signal/), 0, 'no error, no crash');

###############################################################################
