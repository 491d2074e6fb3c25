#!/usr/bin/perl

# $wasm_... in a subrequest says what it says in the request of the client, and changes nothing of its exchange, whether
# the response is being collected or a guest waits with it.

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

# Where the variable is, and what the part says that is included.
my %places = (
	log => [ 'access_log %%TESTDIR%%/wasm.log wasm; return 200 part;', 'part' ],
	header => [ 'proxy_set_header X-Guest $wasm_guest; proxy_pass http://127.0.0.1:8082;', 'guest=NAME' ],
	upstream => [ 'proxy_pass http://127.0.0.1:8082/?$wasm_guest$wasm_outcome;', 'guest=' ],
	set => [ 'set $guest $wasm_guest; return 200 "[$guest]";', '[NAME]' ],
	if => [ 'if ($wasm_guest = NAME) { return 200 yes; } return 200 no;', 'yes' ],
	map => [ 'return 200 "[$mapped]";', '[mapped]' ],
	ssi => [ 'ssi on; alias %%TESTDIR%%/inner.html;', '[NAME]' ],
	others => [ 'set $others "$wasm_log$wasm_log_plan$wasm_request_time$wasm_response_time$wasm_template"; return 200 others;', 'others' ],
);
my @places = sort keys %places;
my @guests = qw/ whole wait /;

my $t = Test::Nginx->new()->has(qw/http proxy ssi addition mirror auth_request map rewrite/)
	->plan(@guests * (4 * @places + 7) + 3);

my $locations = '';
for my $name (@guests) {
	for my $place (@places) {
		$locations .= <<'EOF' =~ s/CONF/$places{$place}[0]/r =~ s/PLACE/$place/gr =~ s/NAME/$name/gr;

        location /NAME/PLACE.html { http_wasm NAME.wat; ssi on; alias %%TESTDIR%%/NAME-PLACE.html; }
        location /NAME/added-PLACE { http_wasm NAME.wat; alias %%TESTDIR%%/before; add_after_body /PLACE/NAME; }
        location /PLACE/NAME { log_subrequest on; access_log %%TESTDIR%%/sub.log sub; CONF }
EOF
	}
	$locations .= <<'EOF' =~ s/NAME/$name/gr;

        location /NAME/auth {
            http_wasm NAME.wat;
            auth_request /auth/NAME;
            auth_request_set $user $wasm_guest;
            add_header X-User $user;
            proxy_pass http://127.0.0.1:8081;
        }
        location /auth/NAME { log_subrequest on; access_log %%TESTDIR%%/sub.log sub; access_log %%TESTDIR%%/wasm.log wasm; return 204; }
        location /NAME/mirrored { http_wasm NAME.wat; mirror /mirror/NAME; proxy_pass http://127.0.0.1:8083; }
        location /mirror/NAME {
            log_subrequest on;
            access_log %%TESTDIR%%/sub.log sub;
            access_log %%TESTDIR%%/wasm.log wasm;
            proxy_set_header X-Guest $wasm_guest;
            proxy_pass http://127.0.0.1:8084;
        }
EOF
}

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    default_type text/html;
    log_format sub '$uri';
    log_format wasm '$uri $wasm_guest $wasm_outcome';
    log_format main '$request_uri|$status|$wasm_guest|$wasm_outcome';
    access_log %%TESTDIR%%/main.log main;
    map $wasm_guest $mapped {
        whole    mapped;
        wait     mapped;
        default  unmapped;
    }
    http_wasm_dir gate /gate;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location /none { return 204; }
LOCATIONS
    }

    server {
        listen       127.0.0.1:8082;
        access_log   off;
        return       200 'guest=$http_x_guest';
    }
}

EOF

guest($t, 'whole.wat', <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_request") (result i64) (call $log (i32.const 0) &"seen plan=7") (i64.const 1))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 4096)))
    (call $set_resp &"x-late" &"1")
    (call $body_resp &"<") (call $body_resp (i32.const 65536) (local.get $n)) (call $body_resp &">"))
EOF

# Waits with the header of the response until there is the file "open".
guest($t, 'wait.wat', <<'EOF');
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"seen plan=7") (call $body_resp &"<") (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 2000000))
    (loop $again
      (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
      (br_if $again (call $stat (i32.const 3) (i32.const 0) &"open" (i32.const 256))))
    (call $set_resp &"x-late" &"1"))
EOF

mkdir $t->testdir() . '/gate';
for my $name (@guests) {
	$t->write_file("$name-$_.html", qq{a-<!--#include virtual="/$_/$name" -->-<!--#include virtual="/$_/$name" -->}) for @places;
}
$t->write_file('inner.html', '[<!--#echo var="wasm_guest" -->]');
$t->write_file('before', 'before ');
$t->write_file($_, '') for qw/ sub.log main.log /;
backend($t);
my ($main, $mirror) = map { upstream($_) } 8083, 8084;
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

for my $name (@guests) {
	my $end = $name eq 'whole' ? '>' : '';

	for my $place (@places) {
		my $part = $places{$place}[1] =~ s/NAME/$name/r;
		my $r = answered("/$name/$place.html", $name);
		is(seen($r), "200 1 <a-$part-$part$end", "$name: SSI, $place");
		is(logged("/$name/$place.html"), "200|$name|passed", "$name: SSI, $place: logged");
		$r = answered("/$name/added-$place", $name);
		is(seen($r), "200 1 <before $part$end", "$name: addition, $place");
		is(logged("/$name/added-$place"), "200|$name|passed", "$name: addition, $place: logged");
	}

	my $r = answered("/$name/auth", $name);
	like(seen($r), qr/^200 1 <GET .*$end\z/s, "$name: auth_request");
	ok(defined header($r, 'x-user'), "$name: auth_request, a header of it");
	is(logged("/$name/auth"), "200|$name|passed", "$name: auth_request: logged");

	# The mirror is done in the middle of the response.
	my $before = lines('sub.log');
	my $s = http("GET /$name/mirrored HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	my ($first, $second) = map { arrives($_, 1) } $main, $mirror;
	like(received($second, qr/\r\n\r\n/) // '', qr/^X-Guest: $name\r$/m, "$name: mirror, a header to it");
	ok(defined received($first, qr/\r\n\r\n/), "$name: mirror, the request itself");
	print $first "HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n01234";
	http_get('/none');
	answer($second);
	wait_until(sub { lines('sub.log') > $before });
	print $first '56789';
	close $first;
	$r = opened($name, $s);
	is(seen($r), "200 1 <0123456789$end", "$name: mirror");
	is(logged("/$name/mirrored"), "200|$name|passed", "$name: mirror: logged");
}

is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');
is(error_log_count($t, qr/\[(?:crit|emerg)\]/), 0, 'no other complaint');

###############################################################################

# The answer to a request, whose guest waits until subrequests have begun: they do in the turn of nginx's event loop in
# which the request is read, and a complete exchange afterwards shows that it is over.
sub answered {
	my ($uri, $name) = @_;

	my $s = http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", start => 1);
	http_get('/none') if $name eq 'wait';
	return opened($name, $s);
}

sub opened {
	my ($name, $s) = @_;

	$t->write_file('gate/open', '') if $name eq 'wait';
	my $r = http_end($s);
	unlink $t->testdir() . '/gate/open';
	return $r;
}

sub seen {
	my ($r) = @_;
	return status($r) . ' ' . (header($r, 'x-late') // 'no') . ' ' . (content($r) // '');
}

sub lines {
	my ($name) = @_;
	return $t->read_file($name) =~ tr/\n//;
}

sub logged {
	my ($uri) = @_;
	return wait_until(sub { $t->read_file('main.log') =~ /^\Q$uri\E\|(.*)$/m ? $1 : undef }) // '';
}

###############################################################################
