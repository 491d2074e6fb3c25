#!/usr/bin/perl

# perf is told where the functions of guests are: in the file that the log names, and only where that is asked for.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(9);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_profile perfmap;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / { http_wasm named.wat; empty_gif; }
        location /unchecked { http_wasm named.wat name=unchecked; http_wasm_slice off; empty_gif; }
        location /from { http_wasm begun.wat; http_wasm_isolation request; empty_gif; }
    }
}

EOF

guest($t, 'named.wat', <<'EOF');
  (func $the_function (export "handle_request") (result i64) (i64.const 1))
EOF
guest($t, 'begun.wat', <<'EOF');
  (global $begun (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $begun (i32.const 1)))
  (func $other_function (export "handle_request") (result i64) (i64.const 1))
EOF

$t->write_file_expand('nginx.conf', $conf);
$t->run();

my ($map) = $t->read_file('error.log') =~ m!\[notice\].*http_wasm: perf finds the functions of guests in "(/tmp/perf-\d+\.map)"!;
ok($map, 'the log says where the functions are');
my @lines = split /\n/, read_map();
ok(scalar(@lines), 'they are there');
is(scalar(grep { !/\A(?:0x)?[0-9a-f]+ [0-9a-f]+ \S/ } @lines), 0, 'an address, a length and a name each');
is(scalar(grep { /the_function/ } @lines), 2, 'a function of a guest, for each engine that it was compiled for');
is(scalar(grep { /other_function/ } @lines), 1, 'one of a guest that begins with a snapshot, and where that is');
like(http_get('/'), qr/200 OK/, 'which serves');

my $before = () = glob '/tmp/perf-*.map';
like(scalar nginx_test($t, $conf), qr/test is successful/, 'a test of the configuration');
is(scalar(() = glob '/tmp/perf-*.map'), $before, 'writes none');
like(scalar nginx_test($t, $conf =~ s/perfmap/jitdump/r),
	qr/\[emerg\].*"http_wasm_profile" directive.*invalid value "jitdump": expected "perfmap" or "off"|invalid value "jitdump": expected "perfmap" or "off".*test\.conf:/s,
	'something else');

$t->stop();
unlink $map if $map;

###############################################################################

sub read_map {
	open my $file, '<', $map // return '' or return '';
	local $/;
	return <$file>;
}

###############################################################################
