#!/usr/bin/perl

# Start functions at the time of the configuration have the rights that guests have in workers, not those of the master:
# what the user of the directive "user" may not read stays unread.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(4);
my $dir = $t->testdir();

# Starts when opening f.txt in its first directory gives that error number.
sub opens {
	my ($error) = @_;
	return <<"EOF";
  (import "wasi_snapshot_preview1" "path_open" (func \$open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (start \$start)
  (func \$start
    (if (i32.ne (call \$open (i32.const 3) (i32.const 0) &"f.txt" (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0)
      (i32.const 0)) (i32.const $error)) (then unreachable)))
EOF
}
guest($t, 'reads.wat', opens(0));
guest($t, 'denied.wat', opens(2));

chmod 0755, $dir;
for my $name (qw/ lent closed /) {
	mkdir "$dir/$name" or die "mkdir: $!";
	$t->write_file("$name/f.txt", 'text');
}
# Workers of a master that is not root have its rights; then nobody at all may open these.
chmod 0, "$dir/closed";
my $user = $> == 0 ? 'user nobody nogroup;' : '';
my $output;

is(loads('reads', 'lent', $user), 0, 'a file that everybody may read') or diag($output);

chmod 0, "$dir/lent/f.txt";
is(loads('denied', 'lent', $user), 0, 'a file that workers may not read') or diag($output);
is(loads('denied', 'lent', ''), 0, 'nor the user that nginx was built with') or diag($output);

is(loads('denied', 'closed', $user), 0, 'a directory that workers may not look into') or diag($output);

chmod 0755, "$dir/closed";

###############################################################################

# The exit status of nginx -t.
sub loads {
	my ($guest, $lent, $main) = @_;

	my $module = module_path();
	($output, my $exit) = nginx_test($t, <<"EOF");
load_module $module;
pid $dir/test.pid;
$main
events {
}
http {
    %%TEST_GLOBALS_HTTP%%
    server {
        listen 127.0.0.1:8080;
        http_wasm $guest.wat;
        http_wasm_dir $lent /lent;
    }
}
EOF
	return $exit;
}

###############################################################################
