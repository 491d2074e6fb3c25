#!/usr/bin/perl

# What error_log says of the place where a guest failed: file and line where the module carries debug information, and
# one line for each function whatever its name is.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(8);

$t->write_file_expand('nginx.conf', <<"EOF");

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /crash { http_wasm @{[ built('c-crash.wasm') ]}; }
        location /names { http_wasm names.wat; }
    }
}

EOF

guest($t, 'names.wat', <<'EOF');
  (func $"boom\0a  1: 0x10 - forged!frame" unreachable)
  (func (export "handle_request") (result i64) (call $"boom\0a  1: 0x10 - forged!frame") (i64.const 1))
EOF

$t->run();

###############################################################################

my $source = guest_file('c/crash.c');
open my $file, '<', $source or die "$source: $!\n";
my %line;
while (<$file>) {
	$line{divide} = $. if m{value / divisor};
	$line{scale} = $. if /return divide/;
	$line{handle_request} = $. if /return scale/;
}
close $file;

is(status(curl('/crash')), 500, 'traps');
my @frames = frames('c-crash');
is(@frames, 2, 'two frames');
like($frames[0], qr!^0: 0x[0-9a-f]+ - \S*\!divide at \S*c/crash\.c:$line{divide}$!, 'file and line');
like($frames[1], qr!^1: 0x[0-9a-f]+ - \S*\!scale at \S*c/crash\.c:$line{scale}, inlined in handle_request at \S*c/crash\.c:$line{handle_request}$!,
	'of functions that were inlined, too');
is(status(curl('/names')), 500, 'traps');
@frames = frames('names');
is(@frames, 2, 'a line break in a name makes no frame');
like($frames[0], qr/!boom\?  1: 0x10 - forged!frame$/, 'it is not one');
is(error_log_count($t, qr/^\s+1: /), 0, 'nor a line');

###############################################################################

sub frames {
	my ($guest) = @_;
	return map { / \[error\] .*guest "\Q$guest\E":   (\d+: .*?)(?:,? while|, client)/ ? $1 : () }
		split /\n/, $t->read_file('error.log');
}

###############################################################################
