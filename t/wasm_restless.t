#!/usr/bin/perl

# What a module built with the feature "restless" is for: calls of a guest give up their turn to others, in
# handle_request and in handle_response, except where nobody would call them again.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT http_end /;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

plan(skip_all => 'needs a module built with the feature "restless"') unless restless();

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(4);

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

        location /request { http_wasm request.wat name=request; empty_gif; }
        location /response { http_wasm response.wat name=response; empty_gif; }
        location /late { http_wasm response.wat name=late; proxy_pass http://127.0.0.1:8081; }
    }
}

EOF

# Many calls of the host, between two lines of the log.
my $work = <<'EOF';
  (func $work (local $n i32)
    (call $log (i32.const 0) &"begins")
    (loop $again
      (drop (call $get_method (i32.const 0) (i32.const 16)))
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100))))
    (call $log (i32.const 0) &"ends"))
EOF
guest($t, 'request.wat', $work . '(func (export "handle_request") (result i64) (call $work) (i64.const 1))');
guest($t, 'response.wat', $work . '(func (export "handle_response") (param i32 i32) (call $work))');

my $upstream = upstream(8081);
$t->run();

###############################################################################

for my $phase ('request', 'response') {
	my @s = map { connection() } 1 .. 2;
	print $_ "GET /$phase HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" for @s;
	http_end($_) for @s;
	is(logged($phase), 'begins begins ends ends', "$phase: two at the same time");
}

# When the request is over, so is a call that does not return.
my $s = connection();
print $s "GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n";
my $up = arrives($upstream);
close $s;
error_log_like($t, qr/guest "late": ends/, 'late: called to its end');
is(logged('late'), 'begins ends', 'late: once');

###############################################################################

sub logged {
	my ($guest) = @_;
	return join ' ', $t->read_file('error.log') =~ /guest "$guest": (\w+)/g;
}

###############################################################################
