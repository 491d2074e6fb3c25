#!/usr/bin/perl

# WebDAV stores a body that a guest has read before: whole, and with nothing left of it elsewhere.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Messages;
use Test::Nginx::Peers;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my @guests = qw/ none reads buffers waits /;
my @sizes = (0, 10, 20_000, 100_000);

# Guests that write the body, of as many kB as the URI says: over a client's of ten bytes that they read or do not, or
# that they put behind a method of their own.
my @writers = qw/ writes rewrites overrides /;
my @written = (0, 1, 20, 100);

my $t = Test::Nginx->new()->has(qw/http dav proxy/)->plan(@guests * @sizes * 2 + @writers * @written * 2 + @written + 8);

my $locations = join '', map { <<"EOF" } @guests, @writers;

        location /$_/ {
            @{[ $_ eq 'none' ? '' : "http_wasm $_.wat;" ]}
            dav_methods PUT DELETE;
            create_full_put_path on;
            root %%TESTDIR%%/dav;
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

    client_max_body_size 1m;
    log_format body '$uri [$request_body]';

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location /file/ {
            http_wasm writes.wat;
            client_body_in_file_only clean;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-File $request_body_file;
            proxy_pass http://127.0.0.1:8081;
        }

        location /kept/ {
            http_wasm writes.wat;
            client_body_in_file_only on;
            proxy_pass http://127.0.0.1:8081;
        }

        location /echo/ {
            http_wasm writes.wat;
            access_log %%TESTDIR%%/body.log body;
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

mkdir $t->testdir() . '/dav';
my $read = '(func (export "handle_request") (result i64) (drop (call $read_all (i32.const 0) (i32.const 4096))) (i64.const 1))';
guest($t, 'reads.wat', $read);
guest($t, 'waits.wat', waits('sleeps') . $read =~ s/\(drop/(call \$wait) (drop/r);
guest($t, 'buffers.wat', '(func (export "_initialize") (drop (call $enable_features (i32.const 1))))');

# The last two or three digits of the URI are kilobytes.
my $write = <<'WAT';
  (func $digit (param $at i32) (result i32) (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
  (func $kilobytes (result i32) (local $end i32)
    (local.set $end (call $get_uri (i32.const 0) (i32.const 1024)))
    (i32.add (i32.add
      (i32.mul (call $digit (i32.sub (local.get $end) (i32.const 3))) (i32.const 100))
      (i32.mul (call $digit (i32.sub (local.get $end) (i32.const 2))) (i32.const 10)))
      (call $digit (i32.sub (local.get $end) (i32.const 1)))))
  (func $write (local $n i32)
    (memory.fill (i32.const 65536) (i32.const 119) (i32.const 1024))
    (local.set $n (call $kilobytes))
    (call $body_req (i32.const 0) (i32.const 0))
    (block $done (loop $again
      (br_if $done (i32.eqz (local.get $n)))
      (call $body_req (i32.const 65536) (i32.const 1024))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br $again))))
WAT
my $reads = '(drop (call $read_all (i32.const 0) (i32.const 4096)))';
guest($t, 'writes.wat', $write . '(func (export "handle_request") (result i64) (call $write) (i64.const 1))');
guest($t, 'rewrites.wat', "$write (func (export \"handle_request\") (result i64) $reads (call \$write) (i64.const 1))");
guest($t, 'overrides.wat', <<"WAT");
  $write
  (func (export "handle_request") (result i64)
    $reads
    (call \$set_method &"PUT")
    (if (call \$kilobytes) (then (call \$write)))
    (i64.const 1))
WAT
backend($t);
$t->run();

###############################################################################

for my $guest (@guests) {
	for my $size (@sizes) {
		my $body = substr 'a body of some length ' x 20_000, 0, $size;
		my $r = http("PUT /$guest/$size HTTP/1.0\r\nHost: localhost\r\nContent-Length: $size\r\n\r\n$body");
		like($r, qr/^HTTP\/1.1 201 /, "$guest, $size bytes: created");
		ok($t->read_file("dav/$guest/$size") eq $body, "$guest, $size bytes: stored whole");
	}
}

for my $guest (@writers) {
	for my $kilobytes (@written) {
		my $name = sprintf '%03d', $kilobytes;
		my $method = $guest eq 'overrides' ? 'POST' : 'PUT';
		my $r = http("$method /$guest/$name HTTP/1.0\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n0123456789");
		like($r, qr/^HTTP\/1.1 201 /, "$guest, $kilobytes kB: created");
		my $body = $guest eq 'overrides' && !$kilobytes ? '0123456789' : 'w' x ($kilobytes * 1024);
		ok($t->read_file("dav/$guest/$name") eq $body, "$guest, $kilobytes kB: stored whole");
	}
}

# $request_body has all of it or, as of a client's body that is in a file, nothing.
for my $kilobytes (@written) {
	my $uri = sprintf '/echo/%03d', $kilobytes;
	curl('-d', 'small', $uri);
	my $line = wait_until(sub { (grep { /^$uri / } split /\n/, $t->read_file('body.log'))[0] });
	my ($seen) = $line =~ /\[(.*)\]$/;
	ok($seen eq ($kilobytes == 1 ? 'w' x 1024 : '-'), "\$request_body, $kilobytes kB") or diag(length $seen);
}

# client_body_in_file_only: the file has a name, and is there for as long as the directive says.
like(content(curl('-d', 'small', '/file/001')), qr{^x-file: \S+/client_body_temp/\S+\r?$}mi, 'client_body_in_file_only');
ok(wait_until(sub { !temporary_files($t) }), 'clean');
curl('-d', 'small', '/kept/001');
my @kept = temporary_files($t);
is(join(' ', map { -s } @kept), 1024, "on: the guest's body, and not the client's");
is(sprintf('%04o', (stat $kept[0])[2] & 07777), '0600', 'for its owner alone');
unlink @kept;
curl('-X', 'PUT', '-d', 'small', '/kept/001');
is(join(' ', map { -s } temporary_files($t)), 1024, 'on, PUT');
unlink temporary_files($t);

is(status(http("DELETE /reads/10 HTTP/1.0\r\nHost: localhost\r\n\r\n")), 204, 'deleted');
ok(wait_until(sub { !temporary_files($t) }), 'no file is left');
is(error_log_count($t, qr/\[(?:alert|crit|emerg)\]|exited on signal/), 0, 'no alert, no crash');

###############################################################################
