package Test::Nginx::Wasm;

# What the tests of the http-wasm module share: guests written in WAT, a backend that echoes, clients.
# Uses only the public interface of Test::Nginx, so that it works with nginx's own test library too.

use strict;
use warnings;

use Cwd qw/ abs_path /;
use Digest::SHA qw/ sha256_hex /;
use Exporter qw/ import /;
use File::Basename qw/ dirname /;
use IO::Select;
use IO::Socket::INET;
use Test::More qw//;
use Test::Nginx qw/ :DEFAULT /;
use Time::HiRes qw/ sleep time /;

our @EXPORT = qw/
	guest guest_file built module_path repo
	backend curl status header content replies read_reply connection
	nginx_test error_log_like error_log_count worker_pids wait_until
	patience kept_memory restless
/;

my $TIMEOUT = patience(8);

# What a machine is set to is not for the tests: curl would ask a proxy for 127.0.0.1, and workers could not look into
# directories that a narrow umask closes.
delete @ENV{ map { ($_, uc) } qw/ http_proxy https_proxy all_proxy / };
umask 022;

###############################################################################
# Guests

# The functions of the http_handler ABI, as every guest made by guest() imports them.
my $IMPORTS = join "\n", map {
	my ($name, $params, $result) = split /:/;
	qq{  (import "http_handler" "$name" (func \$$name}
		. ($params ? ' (param' . ' i32' x $params . ')' : '') . ($result ? " (result $result)" : '') . '))';
} qw/
	enable_features:1:i32 get_config:2:i32 log:3: log_enabled:1:i32
	get_method:2:i32 set_method:2: get_uri:2:i32 set_uri:2:
	get_protocol_version:2:i32 get_source_addr:2:i32
	get_header_names:3:i64 get_header_values:5:i64 set_header_value:5: add_header_value:5: remove_header:3:
	read_body:3:i64 write_body:3: get_status_code:0:i32 set_status_code:1:
	get_template:2:i32 set_template:2:
/;

# Short forms over them. Texts come as two results, pointer and length: $dec a number in decimal (the last eight
# stay valid), $config the configuration. $read_all reads a body of that kind in steps to 65536, gives its length.
my $HELPERS = <<'EOF';
  (memory (export "memory") 4)
  (func $set_req (param i32 i32 i32 i32)
    (call $set_header_value (i32.const 0) (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func $add_req (param i32 i32 i32 i32)
    (call $add_header_value (i32.const 0) (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func $del_req (param i32 i32) (call $remove_header (i32.const 0) (local.get 0) (local.get 1)))
  (func $set_resp (param i32 i32 i32 i32)
    (call $set_header_value (i32.const 1) (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func $add_resp (param i32 i32 i32 i32)
    (call $add_header_value (i32.const 1) (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func $del_resp (param i32 i32) (call $remove_header (i32.const 1) (local.get 0) (local.get 1)))
  (func $body_req (param i32 i32) (call $write_body (i32.const 0) (local.get 0) (local.get 1)))
  (func $body_resp (param i32 i32) (call $write_body (i32.const 1) (local.get 0) (local.get 1)))
  (global $dec_slot (mut i32) (i32.const 0))
  (func $dec (param $n i32) (result i32 i32) (local $p i32) (local $end i32)
    (global.set $dec_slot (i32.and (i32.add (global.get $dec_slot) (i32.const 1)) (i32.const 7)))
    (local.set $end (i32.add (i32.const 4112) (i32.mul (global.get $dec_slot) (i32.const 16))))
    (local.set $p (local.get $end))
    (loop $digit
      (local.set $p (i32.sub (local.get $p) (i32.const 1)))
      (i32.store8 (local.get $p) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
      (br_if $digit (local.get $n)))
    (local.get $p) (i32.sub (local.get $end) (local.get $p)))
  (func $config (result i32 i32)
    (i32.const 2048) (call $get_config (i32.const 2048) (i32.const 2048)))
  (func $read_all (param $kind i32) (param $step i32) (result i32) (local $r i64) (local $n i32)
    (loop $more
      (local.set $r
        (call $read_body (local.get $kind) (i32.add (i32.const 65536) (local.get $n)) (local.get $step)))
      (local.set $n (i32.add (local.get $n) (i32.wrap_i64 (local.get $r))))
      (br_if $more (i64.eqz (i64.shr_u (local.get $r) (i64.const 32)))))
    (local.get $n))
EOF

# Writes a guest into the test directory and returns its name.
#
# A text that starts with "(module" is taken as it is. Anything else is the inside of a module that gets, around it,
# the imports of the ABI under their own names ($get_uri, ...), four pages of memory, the short forms above, and a
# handle_request (go on) and handle_response (do nothing) where the text exports none. In it, &"text" stands for two
# operands, pointer and length of that text. Free for the guest: 0-2047 and 65536-262143.
sub guest {
	my ($t, $name, $text) = @_;
	$t->write_file($name, $text =~ /^\s*\(module/ ? $text : wat($text));
	return $name;
}

sub wat {
	my ($text) = @_;

	my ($next, $data) = (8192, '');
	$text =~ s{&"((?:[^"\\]|\\.)*)"}{
		my $string = $1;
		(my $plain = $string) =~ s/\\(?:[0-9a-fA-F]{2}|.)/./g;
		my $length = do { use bytes; length $plain };
		my $at = $next;
		$next += $length;
		$data .= qq{  (data (i32.const $at) "$string")\n};
		"(i32.const $at) (i32.const $length)";
	}ge;
	die "guest texts do not fit\n" if $next > 65536;

	# Imports of the guest's own go before all functions.
	my $own = '';
	$own .= $1 while $text =~ s/^(\s*\(import .*\n)//m;

	$text .= qq{  (func (export "handle_request") (result i64) (i64.const 1))\n} unless $text =~ /"handle_request"/;
	# Not empty: the module would not call it.
	$text .= qq{  (func (export "handle_response") (param i32 i32) nop)\n} unless $text =~ /"handle_response"/;
	return "(module\n$IMPORTS\n$own$HELPERS$text$data)\n";
}

sub repo {
	return abs_path(dirname(__FILE__) . '/../../../..');
}

# The path of a guest in tests/guests.
sub guest_file {
	my ($name) = @_;
	my $path = repo() . "/tests/guests/$name";
	-f $path or die "no guest $path\n";
	return $path;
}

# The path of a guest that `make guests` builds.
sub built {
	my ($name) = @_;
	my $path = repo() . "/target/guests/$name";
	-f $path or die "$path is not built: make guests\n";
	return $path;
}

# The module under test, as the environment loads it.
sub module_path {
	my ($path) = ($ENV{TEST_NGINX_GLOBALS} // '') =~ /load_module\s+([^;]+);/;
	return $path // die "TEST_NGINX_GLOBALS loads no module\n";
}

###############################################################################
# Backend

# Starts an HTTP/1.1 server on the port that the test calls $port, and waits until it listens.
#
# It echoes the request: first line, headers as they came, an empty line, "body LENGTH SHA256". By path:
#   /raw            the request's body alone
#   /status/N       status N and the body "status N"
#   /headers?A=b&C  these response headers (percent-decoded)
#   /size/N         N bytes "0123456789..."
#   /chunked        "one", "two", "three" in chunks; /chunked/N as /size/N, in chunks of 1000 bytes
#   /gzip           a compressed "packed by the backend"
#   /cut            a hundred bytes promised, ten sent; /cut-chunked likewise without the last chunk
#   /barrier/N      as the echo, once N requests wait for it
#   /hold           "first" as a chunk, and no more for as long as the client waits
#   /upgrade        101, and then every byte back
sub backend {
	my ($t, $port) = @_;
	$port //= 8081;

	$t->run_daemon(\&backend_daemon, port($port));
	$t->waitforsocket('127.0.0.1:' . port($port)) or die "backend does not listen\n";
	return $t;
}

sub backend_daemon {
	my ($port) = @_;

	my $server = IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 511, ReuseAddr => 1
	) or die "can't listen on $port: $!\n";
	local $SIG{PIPE} = 'IGNORE';

	my $select = IO::Select->new($server);
	my (%buffer, %raw, @waiting);

	while (1) {
		for my $s ($select->can_read()) {
			if ($s == $server) {
				my $client = $server->accept() or next;
				$select->add($client);
				$buffer{$client} = '';
				next;
			}

			my $open = sysread $s, $buffer{$s}, 65536, length $buffer{$s};
			if ($open && $raw{$s}) {
				syswrite $s, $buffer{$s};
				$buffer{$s} = '';
			}
			while ($open && (my $request = take_request(\$buffer{$s}))) {
				if ($request->{uri} =~ m{^/barrier/(\d+)}) {
					push @waiting, [ $s, $request ];
					next if @waiting < $1;
					respond(@$_) for splice @waiting;
					next;
				}
				$raw{$s} = 1 if $request->{uri} eq '/upgrade';
				$open = respond($s, $request);
			}
			unless ($open) {
				$select->remove($s);
				delete $buffer{$s};
				delete $raw{$s};
				close $s;
			}
		}
	}
}

# Takes one whole request off the buffer, or nothing.
sub take_request {
	my ($buffer) = @_;

	return unless $$buffer =~ /^(.*?\r\n)\r\n/s;
	my ($head, $body, $used) = ($1, '', length($1) + 2);

	if ($head =~ /^Transfer-Encoding:\s*chunked/mi) {
		while (1) {
			pos($$buffer) = $used;
			return unless $$buffer =~ /\G([0-9a-f]+)[^\r\n]*\r\n/gci;
			my $size = hex $1;
			my $start = pos $$buffer;
			return if length($$buffer) < $start + $size + 2;
			$body .= substr $$buffer, $start, $size;
			$used = $start + $size + 2;
			last unless $size;
		}
	} elsif ($head =~ /^Content-Length:\s*(\d+)/mi) {
		return if length($$buffer) < $used + $1;
		$body = substr $$buffer, $used, $1;
		$used += $1;
	}
	substr $$buffer, 0, $used, '';

	my ($line, @headers) = split /\r\n/, $head;
	my ($method, $uri, $version) = split / /, $line;
	my $close = $head =~ /^Connection:\s*close/mi
		|| ($version // '') eq 'HTTP/1.0' && $head !~ /^Connection:\s*keep-alive/mi;
	return { method => $method, uri => $uri, line => $line, headers => \@headers, body => $body, close => $close };
}

# Answers, and says whether the connection stays open.
sub respond {
	my ($s, $request) = @_;
	my ($status, $body, @headers) = (200, '', 'Content-Type: text/plain');
	my ($path, $query) = split /\?/, $request->{uri}, 2;
	my ($chunked, $cut);

	if ($path eq '/raw') {
		$body = $request->{body};
	} elsif ($path =~ m{^/status/(\d+)}) {
		($status, $body) = ($1, "status $1\n");
	} elsif ($path eq '/headers') {
		$body = "headers\n";
		for my $pair (split /&/, $query // '') {
			my ($name, $value) = map { s/%([0-9a-fA-F]{2})/chr hex $1/ger } split(/=/, $pair, 2), '';
			@headers = grep { !/^\Q$name\E:/i } @headers if lc $name eq 'content-type';
			push @headers, "$name: $value";
		}
	} elsif ($path =~ m{^/size/(\d+)}) {
		$body = substr '0123456789' x ($1 / 10 + 1), 0, $1;
	} elsif ($path =~ m{^/chunked/(\d+)}) {
		$chunked = [ unpack '(a1000)*', substr '0123456789' x ($1 / 10 + 1), 0, $1 ];
	} elsif ($path eq '/chunked') {
		$chunked = [ qw/ one two three / ];
	} elsif ($path eq '/gzip') {
		require Compress::Zlib;
		$body = Compress::Zlib::memGzip("packed by the backend\n");
		push @headers, 'Content-Encoding: gzip';
	} elsif ($path eq '/hold') {
		syswrite $s, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
		return 1;
	} elsif ($path eq '/upgrade') {
		syswrite $s, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
		return 1;
	} elsif ($path eq '/cut') {
		($body, $cut) = ('x' x 100, 10);
	} elsif ($path eq '/cut-chunked') {
		($chunked, $cut) = ([ qw/ one two / ], 1);
	} else {
		$body = join "\n", $request->{line}, @{ $request->{headers} }, '',
			sprintf("body %d %s\n", length $request->{body}, sha256_hex($request->{body}));
	}

	my $no_body = $request->{method} eq 'HEAD' || $status == 204 || $status == 304;
	if ($chunked) {
		push @headers, 'Transfer-Encoding: chunked';
		$body = join '', map { sprintf "%x\r\n%s\r\n", length, $_ } @$chunked;
		$body .= "0\r\n\r\n" unless $cut;
	} elsif ($status != 204 && $status != 304) {
		push @headers, 'Content-Length: ' . length $body;
		$body = substr $body, 0, $cut if $cut;
	}
	push @headers, 'Connection: ' . ($request->{close} ? 'close' : 'keep-alive');

	my $reply = join("\r\n", "HTTP/1.1 $status Backend", @headers, '', '') . ($no_body ? '' : $body);
	while (length $reply) {
		my $n = syswrite $s, $reply or return 0;
		substr $reply, 0, $n, '';
	}
	return !$cut && !$request->{close};
}

###############################################################################
# Clients

# Runs curl on a path of the test's server or on a URL, and returns the reply: status (0 when there is none),
# proto, headers as pairs, body, and curl's exit code.
sub curl {
	my (@args) = @_;

	$_ = 'http://127.0.0.1:' . port(8080) . $_ for grep { m{^/} } $args[-1];
	open my $pipe, '-|', 'curl', '-s', '-i', '--noproxy', '*', '--max-time', $TIMEOUT, @args or die "curl: $!\n";
	my $text = do { local $/; binmode $pipe; <$pipe> } // '';
	close $pipe;
	my $exit = $? >> 8;
	log_in($text);

	my ($head, $proto, $status) = ('', '', 0);
	while ($text =~ s{^((HTTP/\S+) (\d+).*?)\r\n\r\n}{}s) {
		($head, $proto, $status) = ($1, $2, $3);
		last if $status >= 200;
	}
	my @headers = map { [ split /:\s*/, $_, 2 ] } grep { /:/ } split /\r\n/, $head;
	return { status => $status, proto => $proto, headers => \@headers, body => $text, exit => $exit };
}

# Status, header and body of a reply, be it curl's or text. Several lines of one header are joined by "|".

sub status {
	my ($reply) = @_;
	return $reply->{status} if ref $reply;
	return ($reply // '') =~ m{^HTTP/\S+ (\d+)} ? $1 : 0;
}

sub header {
	my ($reply, $name) = @_;

	my @headers = ref $reply ? @{ $reply->{headers} }
		: map { [ split /:\s*/, $_, 2 ] } split /\r\n/, (split /\r\n\r\n/, $reply // '', 2)[0] // '';
	my @values = map { $_->[1] // '' } grep { lc $_->[0] eq lc $name } @headers;
	return @values ? join('|', @values) : undef;
}

sub content {
	my ($reply) = @_;
	return ref $reply ? $reply->{body} : scalar Test::Nginx::http_content($reply);
}

# A connection to the test's server.
sub connection {
	my ($peer) = @_;
	return IO::Socket::INET->new(Proto => 'tcp', PeerAddr => $peer // '127.0.0.1:' . port(8080))
		// die "can't connect: $!\n";
}

# Reads one whole reply off a connection that stays open; undef when none comes. Option head: it has no body.
sub read_reply {
	my ($s, %extra) = @_;

	my $reply = eval {
		local $SIG{ALRM} = sub { die "timeout\n" };
		alarm($TIMEOUT);
		my $text = read_one($s, %extra);
		alarm(0);
		$text;
	};
	alarm(0);
	log_in($@ ? "died: $@" : $reply);
	return $reply;
}

my %unread;     # bytes of the following reply, by connection

sub read_one {
	my ($s, %extra) = @_;
	my $text = delete $unread{$s} // '';
	my $more = sub { sysread $s, $text, 65536, length $text };

	while ($text !~ /\r\n\r\n/) {
		$more->() or return length $text ? $text : undef;
	}
	# There is no telling where bytes end that belong to no reply.
	return $text unless $text =~ m{^HTTP/};
	my $end = index($text, "\r\n\r\n") + 4;
	my $head = substr $text, 0, $end;

	if ($extra{head} || $head =~ m{^HTTP/\S+ (?:1\d\d|204|304)}) {
		# no body
	} elsif ($head =~ /^Transfer-Encoding:\s*chunked/mi) {
		for (my $last = 0; !$last;) {
			pos($text) = $end;
			unless ($text =~ /\G([0-9a-f]+)\r\n/gci) {
				$more->() or return $text;
				next;
			}
			$last = hex $1 == 0;
			$end = pos($text) + hex($1) + 2;
			while (length $text < $end) {
				$more->() or return $text;
			}
		}
	} elsif ($head =~ /^Content-Length:\s*(\d+)/mi) {
		$end += $1;
		while (length $text < $end) {
			$more->() or return $text;
		}
	} else {
		1 while $more->();
		$end = length $text;
	}
	$unread{$s} = substr $text, $end if length $text > $end;
	return substr $text, 0, $end;
}

# Sends all of the text at once and reads that many replies.
sub replies {
	my ($text, $count) = @_;

	my $s = connection();
	log_out($text);
	syswrite $s, $text;
	my @replies = map { read_reply($s) } 1 .. $count;
	delete $unread{$s};
	return @replies;
}

###############################################################################
# The server

# `nginx -t` on this configuration: what it printed and its exit code; what it printed in scalar context.
sub nginx_test {
	my ($t, $conf) = @_;
	my $dir = $t->testdir();
	my $nginx = $Test::Nginx::NGINX;

	$t->write_file_expand('test.conf', $conf);
	# What was configured is left to the system at the end.
	local $ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // '', 'detect_leaks=0';
	my $output = qx{timeout 150 '$nginx' -t -p '$dir/' -c test.conf -e stderr 2>&1};
	# After a second, which may pass on a busy machine, it says what it is doing.
	$output =~ s/^.*: compiling and starting\n//mg;
	return wantarray ? ($output, $? >> 8) : $output;
}

# A time that is long enough for nginx to do something else, on an nginx that may be known to be slow.
sub patience {
	my ($time) = @_;
	return $time * ($ENV{TEST_NGINX_PATIENCE} || 1);
}

# Whether guests of the module under test wait wherever they can (its feature "restless"): so that what a test says of
# a call that does not wait cannot be seen.
sub restless {
	return $ENV{TEST_NGINX_RESTLESS};
}

# What a process keeps of the memory it has freed, in kB, and may grow by: nothing to speak of without a sanitizer,
# which keeps it to see whether it is used again.
sub kept_memory {
	return $ENV{TEST_NGINX_KEPT_MEMORY} || 0;
}

# Calls $ready until it returns true, for a bounded time, or for at most $seconds.
sub wait_until {
	my ($ready, $seconds) = @_;

	my $end = time() + ($seconds // $TIMEOUT);
	do {
		my $result = $ready->();
		return $result if $result;
		sleep(0.01);
	} while (time() < $end);
	return;
}

# Waits for a line in error.log.
sub error_log_like {
	my ($t, $pattern, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found = wait_until(sub { error_log_count($t, $pattern) });
	Test::More::ok($found, $name) or Test::More::diag("no line of error.log matches $pattern");
	return $found;
}

# The lines of error.log that match, those of level debug left out.
sub error_log_count {
	my ($t, $pattern) = @_;
	return scalar grep { !/ \[debug\] / && $_ =~ $pattern } split /\n/, $t->read_file('error.log');
}

# The workers that serve, sorted; those that shut down are not among them.
sub worker_pids {
	my ($t) = @_;

	my ($master) = $t->read_file('nginx.pid') =~ /(\d+)/;
	my @pids;
	for my $stat (glob '/proc/[0-9]*/stat') {
		open my $fh, '<', $stat or next;
		my ($pid, $parent) = (<$fh> // '') =~ /^(\d+) \(.*\) \S (\d+)/ or next;
		next unless $parent == $master;
		open my $cmd, '<', "/proc/$pid/cmdline" or next;
		push @pids, $pid if (<$cmd> // '') =~ /worker process(?! is shutting down)/;
	}
	@pids = sort { $a <=> $b } @pids;
	return @pids;
}

1;
