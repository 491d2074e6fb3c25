package Test::Nginx::Messages;

# Clients that take every byte at its word: what a connection brings is cut into replies as HTTP has it, and whatever
# is missing, too much or in the wrong place is told. Guests that wait. A backend that sends half of its response and
# waits for a word. HTTP/2 by hand, with windows of any size.

use strict;
use warnings;

use Digest::SHA qw/ sha256_hex /;
use Exporter qw/ import /;
use IO::Select;
use IO::Socket::INET;
use POSIX qw//;
use Socket qw/ SOL_SOCKET SO_RCVBUF /;
use Test::Nginx qw/ :DEFAULT /;
use Test::Nginx::Wasm qw/ header patience /;
use Time::HiRes qw/ time /;

our @EXPORT = qw/
	at_once conversation told after digest waits halves second_half
	h2_client h2_request h2_replies h2_window frame literal
/;

my $TIMEOUT = patience(8);

###############################################################################
# Guests

# A function $wait for a guest: "sleeps" for 20 ms, "yields" gives up its turn some times, "spins" takes longer than
# a slice of a millisecond.
sub waits {
	my ($how) = @_;

	return <<'TEXT' if $how eq 'sleeps';
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (data (i32.const 16) "\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\2d\31\01")
  (func $wait (if (call $poll (i32.const 8) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable)))
TEXT
	return <<'TEXT' if $how eq 'yields';
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (func $wait (drop (call $yield)) (drop (call $yield)) (drop (call $yield)))
TEXT
	return <<'TEXT' if $how eq 'spins';
  (func $wait (local $n i32)
    (loop $again
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10000000)))))
TEXT
	die "no way to wait: $how\n";
}

###############################################################################
# HTTP/1

# Has several conversations at once, each over a connection of its own: a list of requests, sent in one piece, and the
# options port, room (of the client's socket), ready (a function: nothing is read before it returns true), more (a
# function that gets what came so far, and the socket, and may act on it).
#
# A request is a list as well: "METHOD /uri", header lines, a reference to a body; the last one of a conversation closes
# the connection. The result of each conversation is the list of its replies: one for each request (status 0 where none
# came), and one more of status -1 for bytes that belong to none.
sub at_once {
	my (@conversations) = @_;

	my @states = map {
		my @requests = @$_;
		my %extra = ref $requests[-1] eq 'HASH' ? %{ pop @requests } : ();
		my $s = IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port($extra{port} // 8080),
			$extra{room} ? (Sockopts => [ [ SO_RCVBUF, $extra{room} ] ]) : ()) // die "can't connect: $!\n";
		my $text = '';
		for my $n (0 .. $#requests) {
			my ($line, @headers) = @{ $requests[$n] };
			my $body = ref $headers[-1] ? ${ pop @headers } : undef;
			push @headers, 'Content-Length: ' . length $body if defined $body;
			push @headers, 'Connection: close' if $n == $#requests;
			$text .= join "\r\n", "$line HTTP/1.1", 'Host: localhost', @headers, '', $body // '';
		}
		log_out($text);
		syswrite $s, $text;
		{ socket => $s, extra => \%extra, text => '', methods => [ map { $_->[0] =~ /^(\S+)/ } @requests ] };
	} @conversations;

	my $end = time() + $TIMEOUT;
	my %left = map { $_ => $_ } 0 .. $#states;
	while (%left && time() < $end) {
		my @readable = grep { my $ready = $states[$_]{extra}{ready}; !$ready || $ready->() } keys %left;
		my $select = IO::Select->new(map { $states[$_]{socket} } @readable);
		my %can = map { $_ => 1 } $select->can_read(0.05);
		for my $n (@readable) {
			my $state = $states[$n];
			next unless $can{ $state->{socket} };
			delete $left{$n} unless sysread $state->{socket}, $state->{text}, 65536, length $state->{text};
			$state->{extra}{more}->($state->{text}, $state->{socket}) if $state->{extra}{more} && exists $left{$n};
		}
		select undef, undef, undef, 0.01 unless @readable;
	}

	return map {
		log_in($states[$_]{text});
		my $replies = messages($states[$_]{text}, !exists $left{$_}, @{ $states[$_]{methods} });
		close $states[$_]{socket};
		$replies;
	} 0 .. $#states;
}

# One conversation: its replies.
sub conversation {
	my ($replies) = at_once([ @_ ]);
	return @$replies;
}

# Cuts what a connection brought into replies to requests with these methods.
sub messages {
	my ($text, $closed, @methods) = @_;

	my @replies;
	for my $method (@methods) {
		my $reply = { status => 0, headers => [], body => '', whole => 0, closed => $closed };
		push @replies, $reply;
		while ($text =~ s{\A(HTTP/1\.[01] (\d{3})\b[^\r\n]*)\r\n((?:[^\r\n]+\r\n)*)\r\n}{}) {
			(my $lines, @$reply{qw/ line status /}) = ($3, $1, $2);
			$reply->{headers} = [ map { [ split /:\s*/, $_, 2 ] } split /\r\n/, $lines ];
			last if $reply->{status} >= 200 || $reply->{status} == 101;
		}
		next unless $reply->{status};

		if ($reply->{status} == 101) {
			($reply->{body}, $text) = ($text, '');
			$reply->{whole} = 1;
		} elsif ($method eq 'HEAD' || $reply->{status} == 204 || $reply->{status} == 304) {
			$reply->{whole} = 1;
		} elsif ((header($reply, 'Transfer-Encoding') // '') eq 'chunked') {
			while ($text =~ s/\A([0-9a-f]+)\r\n//i) {
				my $size = hex $1;
				if (!$size) {
					$reply->{whole} = $text =~ s/\A((?:[^\r\n]+\r\n)*)\r\n//;
					$reply->{trailers} = $1;
					last;
				}
				$reply->{body} .= substr $text, 0, $size, '';
				$text =~ s/\A\r\n// or last;
			}
		} elsif (defined(my $length = header($reply, 'Content-Length'))) {
			$reply->{whole} = $length =~ /^\d+$/ && length $text >= $length;
			$reply->{body} = substr $text, 0, $reply->{whole} ? $length : length $text, '';
		} else {
			($reply->{body}, $text) = ($text, '');
			$reply->{whole} = $closed;
		}
	}
	push @replies, { status => -1, headers => [], body => $text, whole => 0 } if length $text;
	return \@replies;
}

# A reply in a few words: its status, and "page" for nginx's own page about that status, "empty", the body if it is
# short, or its digest; "broken" when the reply is not whole.
sub told {
	my ($reply) = @_;

	my ($status, $body) = @$reply{qw/ status body /};
	return 'nothing' unless $status;
	return 'out of step: ' . substr($body, 0, 60) if $status < 0;
	return "$status broken" unless $reply->{whole};
	return "$status empty" unless length $body;
	return "$status page" if $body =~ m{\A<html>\r\n<head><title>$status [^<]*</title></head>\r\n(.*)</html>\r\n\z}s
		&& $1 !~ /<html>/;
	return length $body <= 80 ? "$status $body" : "$status " . digest($body);
}

# How a conversation went on after its first reply, where a page with the text "next" was asked for next: "next" if
# that came, or if nothing came because the connection was closed behind that first one, which said so or is an error.
sub after {
	my ($first, @rest) = @_;

	my $rest = join ', ', map { told($_) } @rest;
	my $closes = lc(header($first, 'Connection') // '') eq 'close';
	return 'next' if $rest eq '200 next' && !$closes;
	return 'next' if $rest eq 'nothing' && $rest[0]{closed} && ($closes || $first->{status} >= 400);
	return ($closes ? 'closed, ' : '') . $rest;
}

sub digest {
	my ($body) = @_;
	return length($body) . ' ' . substr sha256_hex($body), 0, 16;
}

###############################################################################
# A backend

# Starts a server of HTTP and of FastCGI on the port that the test calls $port. For a URI with half-N in it, it sends the
# first part of a body, and the second one when second_half() tells it to; for one with all-N, both. Header lines may
# follow.
sub halves {
	my ($t, $port, $first, $second, @headers) = @_;

	$t->run_daemon(\&halves_daemon, port($port), $first, $second, @headers);
	$t->waitforsocket('127.0.0.1:' . port($port)) or die "backend does not listen\n";
	return $t;
}

# Has the second part sent of the response to half-N, and waits until it is on its way.
sub second_half {
	my ($port, $n) = @_;
	my $s = IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port($port)) // die "can't connect: $!\n";
	print $s "half-$n\n";
	IO::Select->new($s)->can_read($TIMEOUT) or return;
	return scalar <$s>;
}

sub halves_daemon {
	my ($port, $first, $second, @headers) = @_;

	local $SIG{PIPE} = 'IGNORE';
	local $SIG{CHLD} = 'IGNORE';
	my $server = IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 511, ReuseAddr => 1
	) or die "can't listen: $!\n";
	my $select = IO::Select->new($server);
	my (%buffer, %waiting);

	my $head = join "\r\n", 'Content-Type: text/plain', @headers, '';
	my $ends = sub {
		my ($s, $fcgi) = @_;
		# Others are served while somebody does not read.
		my $pid = fork() // die "fork: $!\n";
		if ($pid == 0) {
			print $s $fcgi ? join '', (map { record(6, $_) } unpack('(a8000)*', $second), ''), record(3, "\0" x 8) : $second;
			POSIX::_exit(0);
		}
		$select->remove($s);
		close $s;
	};
	while (1) {
		for my $s ($select->can_read()) {
			if ($s == $server) {
				my $client = $server->accept() or next;
				$client->autoflush(1);
				$select->add($client);
				$buffer{$client} = '';
				next;
			}
			my $open = sysread $s, $buffer{$s}, 65536, length $buffer{$s};
			if ($open && $buffer{$s} =~ /\A(half-\d+)\n/) {
				my $waiting = delete $waiting{$1};
				$ends->(@$waiting) if $waiting && $waiting->[0]->opened();
				print $s "sent\n";
				$open = 0;
			} elsif ($open && $buffer{$s} =~ /(?:\r\n\r\n|\x01\x05\x00\x01\x00\x00..)\z/s) {
				my $fcgi = $buffer{$s} =~ /\A\x01/;
				my ($part) = $buffer{$s} =~ /(half-\d+|all-\d+)/;
				print $s $fcgi ? join '', map { record(6, $_) } "$head\r\n", unpack '(a8000)*', $first
					: "HTTP/1.1 200 OK\r\n${head}Connection: close\r\nContent-Length: " . length("$first$second") . "\r\n\r\n$first";
				if ($part =~ /half/) {
					$waiting{$part} = [ $s, $fcgi ];
				} else {
					$ends->($s, $fcgi);
				}
			}
			next if $open;
			$select->remove($s);
			delete $buffer{$s};
			close $s;
		}
	}
}

sub record {
	my ($type, $content) = @_;
	return pack('CCnnCx', 1, $type, 1, length $content, 0) . $content;
}

###############################################################################
# HTTP/2

# A connection on which each stream may send that many bytes at first, and the connection as many as anyone wants.
sub h2_client {
	my ($port, $window) = @_;

	my $s = IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port($port)) // die "can't connect: $!\n";
	my $h2 = { socket => $s, text => '', last => -1, streams => {} };
	syswrite $s, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . frame(4, 0, 0, pack 'nN', 4, $window // 65535)
		. frame(8, 0, 0, pack 'N', 1 << 30);
	return $h2;
}

# Begins a request, and returns its stream.
sub h2_request {
	my ($h2, $method, $uri, %headers) = @_;

	my $stream = $h2->{last} += 2;
	$h2->{streams}{$stream} = { status => 0, headers => [], body => '', whole => 0 };
	syswrite $h2->{socket}, frame(1, 5, $stream, literal(':method' => $method, ':scheme' => 'http', ':path' => $uri,
		':authority' => 'localhost', map { ($_, $headers{$_}) } sort keys %headers));
	return $stream;
}

# Lets each of the streams send that many bytes more.
sub h2_window {
	my ($h2, $bytes, @streams) = @_;
	syswrite $h2->{socket}, join '', map { frame(8, 0, $_, pack 'N', $bytes) } @streams;
	return;
}

# Reads until the streams are over, or until the function, called for the replies to them, returns true. Returns these
# replies; of their headers only the status is read.
sub h2_replies {
	my ($h2, $streams, $until) = @_;

	my @replies = map { $h2->{streams}{$_} } @$streams;
	my $end = time() + $TIMEOUT;
	while (grep { !$_->{over} } @replies) {
		last if $until && $until->(@replies);
		while ($h2->{text} =~ /\A(...)(.)(.)(....)/s && length $h2->{text} >= 9 + unpack 'N', "\0$1") {
			my ($length, $type, $flags, $stream) = (unpack('N', "\0$1"), ord $2, ord $3, unpack 'N', $4);
			my $payload = substr $h2->{text}, 9, $length;
			substr $h2->{text}, 0, 9 + $length, '';
			syswrite $h2->{socket}, frame(4, 1, 0, '') if $type == 4 && !($flags & 1);
			syswrite $h2->{socket}, frame(6, 1, 0, $payload) if $type == 6 && !($flags & 1);
			my $reply = $h2->{streams}{$stream} or next;
			$reply->{status} ||= h2_status($payload) if $type == 1;
			$reply->{body} .= $payload if $type == 0;
			$reply->{over} = $reply->{whole} = 1 if $type <= 1 && $flags & 1;
			$reply->{over} = $reply->{reset} = 1 if $type == 3;
		}
		last unless grep { !$_->{over} } @replies;
		last if $until && $until->(@replies);
		IO::Select->new($h2->{socket})->can_read($end - time()) or last;
		sysread $h2->{socket}, $h2->{text}, 65536, length $h2->{text} or last;
	}
	return @replies;
}

# The status in a block of headers as nginx writes it: it comes first, behind a change of the table's size.
sub h2_status {
	my ($block) = @_;
	$block =~ s/\A[\x20-\x3f]//;
	return $1 if $block =~ /\A[\x08\x48]\x03(\d{3})/;
	my $index = ord($block) & 0x7f;
	return { 8 => 200, 9 => 204, 10 => 206, 11 => 304, 12 => 400, 13 => 404, 14 => 500 }->{$index} // 0;
}

sub frame {
	my ($type, $flags, $stream, $payload) = @_;
	return substr(pack('N', length $payload), 1) . pack('C C N', $type, $flags, $stream) . $payload;
}

# Fields as literals, not indexed, as they are; short ones.
sub literal {
	my (@fields) = @_;
	my $block = '';
	while (my ($name, $value) = splice @fields, 0, 2) {
		$block .= pack 'C C/a C/a', 0, $name, $value;
	}
	return $block;
}

1;
