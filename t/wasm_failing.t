#!/usr/bin/perl

# A guest that fails at its first call of the host, at its second, and so on, wherever that is: the client gets
# nginx's page, whole, or a connection that ends before the header; the next request is right, and no worker dies.
# For a module built with the feature "restless".

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx qw/ :DEFAULT /;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

plan(skip_all => 'needs a module built with the feature "restless"') unless restless();

# Guests, outermost first.
my %guests = (
	head => [ 'head' ], whole => [ 'whole' ], prefix => [ 'prefix' ], reader => [ 'reader' ], answers => [ 'answers' ],
	prints => [ 'prints' ], chain => [ 'head', 'whole' ], around => [ 'whole', 'answers' ],
	three => [ 'whole', 'prefix', 'head' ], open => [ 'whole' ],
);
my @guests = sort keys %guests;

my %sources = (
	file => 'alias %%TESTDIR%%/html/file;',
	up => 'proxy_pass http://127.0.0.1:8081/size/20000?;',
	direct => 'proxy_buffering off; proxy_pass http://127.0.0.1:8081/size/20000?;',
	chunked => 'proxy_pass http://127.0.0.1:8081/chunked/20000?;',
	empty => 'proxy_pass http://127.0.0.1:8081/status/204?;',
	gzip => 'gzip on; gzip_types *; proxy_pass http://127.0.0.1:8081/size/20000?;',
	ssi => 'ssi on; ssi_types *; alias %%TESTDIR%%/html/ssi;',
	after => 'add_after_body /plain; addition_types *; alias %%TESTDIR%%/html/file;',
	page => 'error_page 500 /page; proxy_pass http://127.0.0.1:8081/size/20000?;',
	limited => 'limit_rate 1m; proxy_pass http://127.0.0.1:8081/size/20000?;',
);
my @sources = sort keys %sources;

# Ways to ask: method, further header lines, body.
my %ways = (
	GET => [ 'GET' ], HEAD => [ 'HEAD' ], POST => [ 'POST', 'Content-Length: 3000', 'x' x 3000 ],
	gzip => [ 'GET', 'Accept-Encoding: gzip' ], range => [ 'GET', 'Range: bytes=0-9' ], h2 => [ 'HTTP/2' ],
);
# In all of these ways where it matters.
my %asked = map { my $source = $_; $source => [ $source =~ /file|up|empty/ ? sort keys %ways : 'GET' ] } @sources;
$asked{gzip} = [ 'GET', 'gzip' ];

my $t = Test::Nginx->new()->has(qw/http proxy rewrite gzip ssi addition http_v2/)->plan(3 * @guests + 4);
my ($listen, $on) = $t->has_version('1.25.1') ? ('', 'http2 on;') : (' http2', '');

my $locations = '';
for my $guest ('none', @guests) {
	my $lines = join ' ', map { "http_wasm $_.wat;" } @{ $guests{$guest} // [] };
	$lines .= ' http_wasm_on_error open;' if $guest eq 'open';
	$locations .= "\n        location /$guest/ {\n            $lines\n"
		. join('', map { "            location /$guest/$_ { $sources{$_} }\n" } @sources) . "        }\n";
}

guest($t, 'head.wat', <<'EOG');
  (func (export "handle_request") (result i64)
    (call $set_req &"x-seen" &"1") (call $set_resp &"x-early" &"1") (call $log (i32.const 0) &"request") (i64.const 1))
  (func (export "handle_response") (param i32 i32)
    (call $set_resp &"x-status" (call $dec (call $get_status_code))) (call $del_resp &"x-early")
    (call $log (i32.const 0) &"response"))
EOG
guest($t, 'whole.wat', <<'EOG');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 1) (i32.const 7000)))
    (call $body_resp &"<") (call $body_resp (i32.const 65536) (local.get $n)) (call $body_resp &">")
    (call $set_resp &"x-whole" &"1"))
EOG
guest($t, 'prefix.wat', <<'EOG');
  (func (export "handle_request") (result i64)
    (call $body_resp &"before ") (call $body_resp &"it ") (call $set_resp &"x-early" &"1") (i64.const 1))
EOG
guest($t, 'reader.wat', <<'EOG');
  (func (export "_initialize") (drop (call $enable_features (i32.const 1))))
  (func (export "handle_request") (result i64) (local $n i32)
    (local.set $n (call $read_all (i32.const 0) (i32.const 1000)))
    (call $body_req &"changed ") (call $body_req (i32.const 65536) (local.get $n)) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (local.set $n (call $read_all (i32.const 0) (i32.const 1000)))
    (call $set_resp &"x-length" (call $dec (local.get $n))))
EOG
guest($t, 'answers.wat', <<'EOG');
  (func (export "handle_request") (result i64)
    (call $set_status_code (i32.const 203)) (call $set_resp &"x-own" &"1") (call $add_resp &"x-own" &"2")
    (call $body_resp &"its ") (call $body_resp &"own") (i64.const 0))
EOG
guest($t, 'prints.wat', <<'EOG');
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (data (i32.const 16) "\20\00\00\00\05\00\00\00") (data (i32.const 32) "line\0a")
  (func $wasi
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 64)))
    (drop (call $random (i32.const 64) (i32.const 16)))
    (drop (call $yield)) (drop (memory.grow (i32.const 1))))
  (func (export "handle_request") (result i64) (call $wasi) (i64.const 1))
  (func (export "handle_response") (param i32 i32) (call $wasi) (call $set_resp &"x-own" &"1"))
EOG

my $file = substr '0123456789' x 2000, 0, 20_000;
$t->write_file('html/file', $file);
$t->write_file('html/ssi', '(<!--# include virtual="/plain" -->)' x 3);
$t->write_file('html/plain', 'plain');
$t->write_file('html/page', "the operator's");
$t->write_file_expand('nginx.conf', conf(0));
backend($t);
$t->run();
my $worker = served_by(0);

###############################################################################

# Without a failure.
my %good = answers('none', @guests);
my $plain_page = unnamed(content(http_get('/failed')));
# nginx answers POST for a file with an error. A guest that changes no body leaves it as it is.
my @odd = grep {
	$good{$_} !~ /^(?:20|405)/ || /^(?:head|prints|reader),/ && !is_without_guest($_, $good{$_})
} sort keys %good;
is(join("\n", map { "$_: " . short($good{$_}) } @odd), '', 'every answer is right without a failure');

my (%wrong, %failures, @died);
my $failed = 1;
my $k = 0;
while ($failed && ++$k < 40) {
	$t->write_file_expand('nginx.conf', conf($k));
	$t->reload();
	my $now = served_by($worker);
	my %now = answers(@guests);
	$worker = served_by(0);
	push @died, $k if $worker != $now;

	$failed = 0;
	for my $case (sort keys %now) {
		my ($guest) = split /,/, $case;
		next if $now{$case} eq $good{$case};
		if (is_failure($case, $now{$case})) {
			$failures{$guest}{$k}++;
			$failed++;
			next;
		}
		push @{ $wrong{$guest} }, "call $k, $case: " . short($now{$case}) . ' where it was ' . short($good{$case});
	}
}
cmp_ok($k, '>', 5, 'several calls of each guest failed');
is("@died", '', 'by workers that lived');

for my $guest (@guests) {
	my @k = sort { $a <=> $b } keys %{ $failures{$guest} // {} };
	is(join("\n", @{ $wrong{$guest} // [] }), '', "$guest: whole answers and whole pages");
	is("@k", join(' ', 1 .. @k), "$guest: each of its calls failed");
	cmp_ok(scalar @k, '>', 2, "$guest: and that in several places");
}
is(error_log_count($t, qr/exited on signal|panicked/), 0, 'no crash');

###############################################################################

sub conf {
	my ($k) = @_;
	my $env = $k ? "env HTTP_WASM_TEST_TRAP_AT=$k;" : '';
	return <<"EOC";

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;
$env

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm_breaker off;
    keepalive_requests 100000;
    proxy_http_version 1.1;

    server {
        listen       127.0.0.1:8080;
        listen       127.0.0.1:8083$listen;
        $on
        server_name  localhost;
        $locations

        location /plain { alias %%TESTDIR%%/html/plain; }
        location /page { alias %%TESTDIR%%/html/page; }
        location /failed { return 500; }
    }
}

EOC
}

# Waits for a worker that is not that one.
sub served_by {
	my ($old) = @_;
	my @now;
	wait_until(sub { @now = worker_pids($t); @now == 1 && $now[0] != $old });
	return $now[0] // 0;
}

# What each request is answered with.
sub answers {
	my %answers;
	for my $guest (@_) {
		for my $source (@sources) {
			$answers{"$guest,$source,$_"} = answer("/$guest/$source", @{ $ways{$_} }) for @{ $asked{$source} };
		}
	}
	return %answers;
}

# The status and the body, or what is wrong with the connection.
sub answer {
	my ($uri, $method, $line, $body) = @_;
	if ($method eq 'HTTP/2') {
		my $r = curl('--http2-prior-knowledge', 'http://127.0.0.1:' . port(8083) . $uri);
		return status($r) ? status($r) . ' ' . ($r->{exit} ? "cut, $r->{exit}" : content($r)) : 'closed';
	}
	my $request = "$method $uri HTTP/1.1\r\nHost: localhost\r\n" . ($line ? "$line\r\n" : '') . "\r\n" . ($body // '');
	my $next = "GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n";

	my $s = connection();
	log_out($request);
	syswrite $s, $request;
	my $reply = read_reply($s, head => $method eq 'HEAD');
	# What is not kept ends now.
	my $kept = defined $reply && $reply !~ /^Connection: close/mi;
	syswrite $s, $next if $kept;
	my $after = read_reply($s);
	return 'then ' . short($after // 'nothing') unless $kept ? status($after) == 200 && content($after) eq 'plain' : !defined $after;
	return 'closed' unless defined $reply;

	my $content = $method eq 'HEAD' ? '' : content($reply) // 'no body';
	if ((header($reply, 'content-encoding') // '') eq 'gzip') {
		require Compress::Zlib;
		$content = Compress::Zlib::memGunzip($content) // 'not whole';
	}
	return status($reply) . " $content";
}

# Whether an answer is what becomes of a guest that fails.
sub is_failure {
	my ($case, $answer) = @_;
	my ($guest, $source, $way) = split /,/, $case;

	# A guest that may fail leaves nothing of itself.
	return is_without_guest($case, $answer) if $guest eq 'open';
	return 1 if $answer eq 'closed';
	my @pages = $way eq 'HEAD' ? '' : $source eq 'page' ? ("the operator's") : ($plain_page);
	# The guest around it has wrapped the page, or has failed, too: there is no second redirect then.
	push @pages, "<$pages[0]>", $plain_page if @{ $guests{$guest} } > 1;
	return scalar grep { unnamed($answer) eq "500 $_" } @pages;
}

# Whether an answer is what nginx gives without the guest. Nobody is asked for a range where a guest may want the whole,
# and who waits with the header gets the whole.
sub is_without_guest {
	my ($case, $answer) = @_;
	my (undef, $source, $way) = split /,/, $case;
	return scalar grep { $answer eq $good{"none,$source,$_"} } $way, $way eq 'range' ? 'GET' : ();
}

# A page that may or may not say which nginx made it.
sub unnamed {
	return $_[0] =~ s{<center>nginx/[\d.]+</center>}{<center>nginx</center>}r;
}

sub short {
	my ($text) = @_;
	$text =~ s/[\r\n]+/ /g;
	return length $text > 80 ? substr($text, 0, 40) . ' ... ' . substr($text, -30) . ' (' . length($text) . ')' : $text;
}

###############################################################################
