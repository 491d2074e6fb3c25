package Test::Nginx::Outside;

# What guests reach out to: a service with moods, one of datagrams, and a name server.

use strict;
use warnings;

use Exporter qw/ import /;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw/ SOL_SOCKET SO_LINGER inet_aton inet_ntoa pack_sockaddr_in unpack_sockaddr_in /;
use Test::Nginx qw/ :DEFAULT /;
use Time::HiRes qw/ sleep time /;

our @EXPORT = qw/ service datagrams names set_names hex4 hex6 tagged sockets_of /;

# An address as the guest c/sockets.c reads it.

sub hex4 { return unpack 'H*', inet_aton($_[0]) }

sub hex6 { return unpack 'H*', Socket::inet_pton(Socket::AF_INET6(), $_[0]) }

# With the family in front: 1 IPv4, 2 IPv6, 3 a path.
sub tagged {
	my ($family, $bytes) = @_;
	return unpack 'H*', pack('v', $family) . $bytes;
}

# Starts a service on a port of the test's or on a path. It answers "GET /WORD" once or, to HTTP/1.1, again and again.
#
#   /peer      the port of the client
#   /size/N    N bytes
#   /drip/N    N bytes, one at a time
#   /stall     nothing
#   /reset     the connection is reset
#   /to/WHERE  a redirect to http://WHERE
#   /last      "hello last", and the connection is closed without a word
#   anything   "hello WORD"
sub service {
	my ($t, $where) = @_;

	my $server = $where =~ m{^/}
		? IO::Socket::UNIX->new(Local => $where, Listen => 511)
		: IO::Socket::INET->new(Proto => 'tcp', LocalAddr => '127.0.0.1:' . port($where), Listen => 511, ReuseAddr => 1);
	die "can't listen on $where: $!\n" unless $server;
	chmod 0777, $where if $where =~ m{^/};
	$t->run_daemon(\&service_daemon, $server);
	close $server;
	return $t;
}

sub service_daemon {
	my ($server) = @_;

	local $SIG{PIPE} = 'IGNORE';
	local $SIG{CHLD} = 'IGNORE';
	while (1) {
		my $s = $server->accept() or next;
		my $pid = fork();
		serve($s), POSIX::_exit(0) if defined $pid && $pid == 0;
		close $s;
	}
}

sub serve {
	my ($s) = @_;
	my $buffer = '';

	while (1) {
		while ($buffer !~ /\r\n\r\n/) {
			sysread $s, $buffer, 65536, length $buffer or return;
		}
		$buffer =~ s{^GET /(\S*) HTTP/(\S+).*?\r\n\r\n}{}s or return;
		my ($word, $stays) = ($1, $2 eq '1.1');
		my ($status, $body) = ('200 OK', "hello $word");

		if ($word eq 'peer') {
			$body = $s->peerport();
		} elsif ($word =~ m{^size/(\d+)}) {
			$body = 'x' x $1;
		} elsif ($word =~ m{^drip/(\d+)}) {
			for (1 .. $1) {
				syswrite $s, 'x' or return;
				sleep(0.02);
			}
			return;
		} elsif ($word eq 'stall') {
			sysread $s, $buffer, 1;
			return;
		} elsif ($word eq 'reset') {
			setsockopt $s, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
			return;
		} elsif ($word =~ m{^to/(.+)}) {
			$status = "302 Found\r\nLocation: http://$1";
		}

		my $reply = "HTTP/1.1 $status\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
		while (length $reply) {
			my $n = syswrite $s, $reply or return;
			substr $reply, 0, $n, '';
		}
		return unless $stays && $word ne 'last';
	}
}

# Starts a service that sends datagrams back in capitals. What begins with "other" is answered from another port.
sub datagrams {
	my ($t, $port) = @_;

	my $s = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1:' . port($port, udp => 1))
		or die "can't bind $port: $!\n";
	$t->run_daemon(sub {
		my $other = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1:0');
		while (1) {
			my $peer = recv($s, my $text, 65536, 0) // next;
			send(($text =~ /^other/ ? $other : $s), uc $text, 0, $peer);
		}
	});
	close $s;
	return $t;
}

# Starts a name server on a port of the test's. What it says is what set_names() said last: addresses by name, in
# lists. It keeps what it was asked in the file "asked".
sub names {
	my ($t, $port, %names) = @_;

	set_names($t, %names);
	my $s = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1:' . port($port, udp => 1))
		or die "can't bind $port: $!\n";
	$t->run_daemon(sub {
		while (1) {
			my $peer = recv($s, my $question, 65536, 0) // next;
			my $answer = answer($t, $question);
			send($s, $answer, 0, $peer) if defined $answer;
		}
	});
	close $s;
	return $t;
}

sub set_names {
	my ($t, %names) = @_;
	# In place at once.
	$t->write_file('names.new', join '', map { "$_ @{ $names{$_} }\n" } sort keys %names);
	rename $t->testdir() . '/names.new', $t->testdir() . '/names' or die "rename: $!\n";
}

sub answer {
	my ($t, $question) = @_;

	my ($id, $rest) = (unpack('n', $question), substr $question, 12);
	my @labels;
	while (my $len = unpack 'C', $rest) {
		push @labels, substr $rest, 1, $len;
		$rest = substr $rest, 1 + $len;
	}
	my $type = unpack 'xn', $rest;
	my $name = join '.', @labels;
	open my $asked, '>>', $t->testdir() . '/asked' or die "asked: $!\n";
	print $asked "$name\n";
	close $asked;

	my ($line) = grep { /^\Q$name\E / } split /\n/, $t->read_file('names');
	my (undef, @addresses) = split / /, $line // '';
	return if grep { $_ eq 'silence' } @addresses;
	my @records = map {
		/:/ ? ($type == 28 ? "\xc0\x0c" . pack('nnNn', 28, 1, 0, 16) . pack('H*', hex6($_)) : ())
			: ($type == 1 ? "\xc0\x0c" . pack('nnNn', 1, 1, 0, 4) . inet_aton($_) : ())
	} @addresses;
	# Three is "no such name".
	my $flags = 0x8180 | (defined $line ? 0 : 3);
	my $asks = substr $question, 12, length(join '', map { '.' . $_ } @labels) + 1 + 4;
	return pack('n6', $id, $flags, 1, scalar @records, 0, 0) . $asks . join '', @records;
}

# The sockets that a process has open, listening ones and those to nginx's own processes included.
sub sockets_of {
	my ($pid) = @_;
	return scalar grep { (readlink($_) // '') =~ /^socket:/ } glob "/proc/$pid/fd/*";
}

1;
