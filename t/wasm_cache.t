#!/usr/bin/perl

# A guest is compiled once: the running configuration's guests are not compiled or started again by the next one, and
# compiled guests are kept on disk, in files that are used only if nobody else can have written to them. sha256= says
# which file is meant.

###############################################################################

use warnings;
use strict;

use Digest::SHA qw/ sha256_hex /;
use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http/)->plan(53);
my $dir = $t->testdir();

my $conf = <<'EOF';

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%
    %%CACHE%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /a { http_wasm a.wat config=1; empty_gif; }
        location /b { http_wasm a.wat config=2; empty_gif; }
        location /c { http_wasm b.wat; empty_gif; }
        %%MORE%%
    }
}

EOF

# Says how it was configured.
my $a = <<'EOF';
  (func (export "_initialize") (call $log (i32.const 1) &"started"))
  (func (export "handle_request") (result i64)
    (call $set_resp &"x-version" &"1")
    (drop (call $get_config (i32.const 65536) (i32.const 10)))
    (call $set_resp &"x-config" (i32.const 65536) (i32.const 1))
    (i64.const 1))
EOF
guest($t, 'a.wat', $a);
guest($t, 'b.wat', '(func (export "_initialize") (i32.store (i32.const 65536) (i32.const 7)))');

# The server, without files.
write_conf('http_wasm_cache_path off;');
$t->run();

is_deeply([ map { header(http_get($_), 'x-config') } qw{ /a /b } ], [ 1, 2 ], 'two configurations');
is(compiled('a.wat'), 1, 'compiled once');
is(compiled('b.wat'), 1, 'and another');
is(started() - served(), 2, 'started once with each');

###############################################################################

# Reloads: what is new is compiled, what is the same is not even started.

reload();
is_deeply([ map { header(http_get($_), 'x-config') } qw{ /a /b } ], [ 1, 2 ], 'after a reload');
is(compiled('[ab].wat'), 2, 'nothing compiled again');
is(started() - served(), 2, 'nothing started again but instances for requests');

write_conf('http_wasm_cache_path off;', 'location /d { http_wasm a.wat config=3; empty_gif; }');
reload();
is(header(http_get('/d'), 'x-config'), 3, 'a third configuration');
is(compiled('[ab].wat'), 2, 'of a module that is there');

(my $b = $a) =~ s/&"1"/&"2"/;
guest($t, 'a.wat', $b);
reload();
is(header(http_get('/a'), 'x-version'), 2, 'another file of the same name');
is(compiled('a.wat'), 2, 'is another guest');

write_conf('http_wasm_cache_path off;', 'location /bad { http_wasm none.wat; empty_gif; }');
kill 'HUP', $t->read_file('nginx.pid') =~ /(\d+)/;
error_log_like($t, qr/none\.wat.*No such file/, 'a configuration that cannot be');
is(header(http_get('/a'), 'x-version'), 2, 'changes nothing');
write_conf('http_wasm_cache_path off;');
reload();
is(header(http_get('/a'), 'x-version'), 2, 'and the next one');
is(compiled('[ab].wat'), 3, 'compiles nothing again');

###############################################################################

# Files.

my $cache = "$dir/cache";
write_conf('http_wasm_cache_path cache;');

sub again {
	my ($name, @expected) = @_;
	my ($output, $exit) = nginx_test($t, $t->read_file('nginx.conf'));
	is($exit, 0, "$name: accepted") or diag($output);
	my ($compiled, $warning) = @expected;
	is(scalar(() = $output =~ /compiled in \d+ ms/g), $compiled, "$name: compiled");
	like($output, $warning, "$name: said") if $warning;
	return $output;
}

again('nothing there', 2);
is(sprintf('%04o', (stat $cache)[2] & 07777), '0700', 'mode of the directory');
my @files = glob "$cache/*";
is(@files, 2, 'files');
is_deeply([ map { sprintf '%04o', (stat $_)[2] & 07777 } @files ], [ ('0600') x 2 ], 'modes of the files');
my ($mine) = grep { m{/@{[ sha256_hex($t->read_file('a.wat')) ]}-\w+\.cwasm$} } @files;
ok($mine, 'named after what was compiled') or diag("@files");

again('all there', 0);

chmod 0640, $mine;
again('others may read a file', 1, qr/cwasm" of the cache.* is not used: uid \d+ owns it, with mode 0640; expected uid/);
again('written anew', 0);

my $code = $t->read_file("cache/" . $mine =~ s{.*/}{}r);
damage(substr($code, 0, -1) . chr(ord(substr $code, -1) ^ 1));
again('a bit has changed', 1, qr/is damaged: its digest is/);
damage(substr($code, 0, 1000));
again('cut short', 1, qr/is damaged: it has 1000 bytes/);
my ($other) = grep { $_ ne $mine } @files;
damage(do { local (@ARGV, $/) = $other; <> });
again('another guest', 1, qr/is not used: is another guest/);

rename $mine, "$dir/elsewhere" or die;
symlink "$dir/elsewhere", $mine or die;
again('a link', 1, qr/is not used: Too many levels of symbolic links/);

chmod 0750, $cache;
again('others may look into the directory', 2, qr/\[warn\].*cache" of the cache.* is not used: uid \d+ owns it, with mode 07/);

###############################################################################

# Which file is meant.

for my $case (
	[ sha256_hex($t->read_file('a.wat')), 0, qr/successful/ ],
	[ uc sha256_hex($t->read_file('a.wat')), 0, qr/successful/ ],
	[ '0' x 64, 1, qr/a\.wat": has the SHA-256 digest [0-9a-f]{64}, expected 0{64} in \S+:\d+$/m ],
	[ 'abc', 1, qr/invalid "sha256=abc": expected 64 hexadecimal digits in \S+:\d+$/m ],
) {
	my ($digest, $refused, $text) = @$case;
	write_conf('http_wasm_cache_path off;', "location /e { http_wasm a.wat sha256=$digest; empty_gif; }");
	my ($output, $exit) = nginx_test($t, $t->read_file('nginx.conf'));
	ok(!!$exit == !!$refused && $output =~ $text, "sha256=$digest") or diag($output);
}

# Also where the same guest is there already, without a digest.
write_conf('http_wasm_cache_path off;', "location /e { http_wasm a.wat config=1 sha256=@{[ '0' x 64 ]}; empty_gif; }");
like(nginx_test($t, $t->read_file('nginx.conf')), qr/\[emerg\].*a\.wat": has the SHA-256 digest/, 'a second line of it');

###############################################################################

# A compiled guest instead of a guest.

chmod 0700, $cache;
write_conf('http_wasm_cache_path cache;');
again('trusted again', 0);
my ($file) = grep { m{/@{[ sha256_hex($t->read_file('a.wat')) ]}-} } glob "$cache/*";
$t->write_file('a.cwasm', do { local (@ARGV, $/) = $file; <> });

for my $case (
	[ 0644, 0, qr/successful/ ],
	[ 0664, 1, qr/a\.cwasm": is compiled code that uid \d+ owns, with mode 0664; expected.* in \S+:\d+$/m ],
) {
	my ($mode, $refused, $text) = @$case;
	write_conf('http_wasm_cache_path off;', 'location /f { http_wasm a.cwasm name=f config=4; empty_gif; }');
	chmod $mode, "$dir/a.cwasm";
	my ($output, $exit) = nginx_test($t, $t->read_file('nginx.conf'));
	ok(!!$exit == !!$refused && $output =~ $text, sprintf 'mode %04o', $mode) or diag($output);
}
chmod 0644, "$dir/a.cwasm";
reload();
is(header(http_get('/f'), 'x-version'), 2, 'serves');

###############################################################################

sub write_conf {
	my ($cache_path, $more) = @_;
	(my $text = $conf) =~ s/%%CACHE%%/$cache_path/;
	$text =~ s/%%MORE%%/$more \/\/ ''/e;
	$t->write_file_expand('nginx.conf', $text);
}

sub reload {
	my ($old) = worker_pids($t);
	$t->reload();
	wait_until(sub {
		my ($new) = worker_pids($t);
		return $new && $new != $old;
	}) or die "no reload\n";
}

sub compiled {
	my ($name) = @_;
	return error_log_count($t, qr/\/$name": compiled in \d+ ms/);
}

sub started {
	return error_log_count($t, qr/guest "a": started/);
}

# Instances that a worker has started.
sub served {
	my $workers = join '|', $t->read_file('error.log') =~ /start worker process (\d+)/g;
	return error_log_count($t, qr/ (?:$workers)#\d+: .*guest "a": started/);
}

sub damage {
	my ($bytes) = @_;
	open my $fh, '>', $mine or die "$mine: $!\n";
	binmode $fh;
	print $fh $bytes;
	close $fh;
}

###############################################################################
