#!/usr/bin/perl

# Guests over reloads: changed, broken, removed, back again; and a server of one process.

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

my $t = Test::Nginx->new()->has(qw/http proxy/)->plan(12);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;
MAIN

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            DIRECTIVE
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

sub configure {
	my ($t, %parts) = @_;
	my $text = $conf =~ s/(MAIN|DIRECTIVE)/$parts{$1} \/\/ ''/egr;
	if ($parts{unloaded}) {
		local $ENV{TEST_NGINX_GLOBALS} = $ENV{TEST_NGINX_GLOBALS} =~ s/load_module[^;]*;//r;
		return $t->write_file_expand('nginx.conf', $text);
	}
	return $t->write_file_expand('nginx.conf', $text);
}

sub version {
	my ($t, $version) = @_;
	guest($t, 'guest.wat', <<EOF);
  (func (export "handle_request") (result i64)
    (call \$set_resp &"x-version" &"$version")
    (i64.const 1))
EOF
}

# Reloads, and returns once other workers serve and the old ones are gone.
sub reloaded {
	my ($t) = @_;
	my @old = worker_pids($t);
	$t->reload();
	return wait_until(sub {
		my @new = worker_pids($t);
		return @new && !grep { my $pid = $_; grep { $_ == $pid } @new or kill 0, $pid } @old;
	});
}

version($t, 1);
configure($t, DIRECTIVE => 'http_wasm guest.wat;');
backend($t);
$t->run();

###############################################################################

is(header(curl('/'), 'x-version'), 1, 'first');

version($t, 2);
ok(reloaded($t), 'reload');
is(header(curl('/'), 'x-version'), 2, 'changed guest');

my @workers = worker_pids($t);
guest($t, 'guest.wat', '  (func (export "_initialize") unreachable)');
$t->reload();
error_log_like($t, qr/\[emerg\].*guest\.wat/, 'broken guest is refused');
is(header(curl('/'), 'x-version'), 2, 'the old one stays');
is_deeply([ worker_pids($t) ], \@workers, 'with its workers');

version($t, 3);
my $reloads = grep { reloaded($t) } 1 .. 10;
is($reloads, 10, 'ten reloads');
is(header(curl('/'), 'x-version'), 3, 'last one');

configure($t, unloaded => 1);
reloaded($t);
is(header(curl('/'), 'x-version'), undef, 'module taken out');
configure($t, DIRECTIVE => 'http_wasm guest.wat;');
reloaded($t);
is(header(curl('/'), 'x-version'), 3, 'and put in again');

is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

$t->stop();
configure($t, MAIN => 'master_process off;', DIRECTIVE => 'http_wasm guest.wat;');
$t->run();
is(header(curl('/'), 'x-version'), 3, 'one process');

###############################################################################
