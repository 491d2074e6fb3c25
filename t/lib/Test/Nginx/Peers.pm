package Test::Nginx::Peers;

# Clients and upstreams by hand, which stop in the middle and go away in every way there is: with a FIN, with a RST,
# with an RST_STREAM of HTTP/2. And what a worker has open, to see that nothing is left of them.

use strict;
use warnings;

use Exporter qw/ import /;
use IO::Select;
use IO::Socket::INET;
use Test::More ();
use Socket qw/ SOL_SOCKET SO_LINGER SO_RCVBUF /;
use Test::Nginx qw/ :DEFAULT /;

our @EXPORT = qw/ upstream arrives arrives_at answer reset_socket open_files temporary_files h2_connect h2_start h2_data h2_reset received /;

my $TIMEOUT = 8 * ($ENV{TEST_NGINX_PATIENCE} || 1);

# A listening socket on the port that the test calls $port.
sub upstream {
	my ($port, %extra) = @_;
	return IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => '127.0.0.1', LocalPort => port($port), Listen => $extra{backlog} // 64, Reuse => 1,
	) // die "can't listen: $!\n";
}

# The connection over which the next request reaches the upstream, its head read unless it is left $unread; nothing when
# none comes in time.
sub arrives {
	my ($upstream, $unread) = @_;
	IO::Select->new($upstream)->can_read($TIMEOUT) or return;
	my $c = $upstream->accept() or return;
	$c->autoflush(1);
	return $unread || received($c, qr/\r\n\r\n/) ? $c : undef;
}

# As arrives(), for a request to this URI: a test of its own says whether it is.
sub arrives_at {
	my ($upstream, $uri) = @_;
	my $c = arrives($upstream, 1) or return;
	Test::More::like(received($c, qr/\r\n\r\n/) // '', qr/^GET \Q$uri\E /, "$uri arrives");
	return $c;
}

# The shortest answer.
sub answer {
	my ($c) = @_;
	print $c "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
	close $c;
	return;
}

# Reads until the pattern is there; what has been read, or nothing when it does not come.
sub received {
	my ($s, $pattern) = @_;
	my $text = '';
	my $end = time() + $TIMEOUT;
	while ($text !~ $pattern) {
		IO::Select->new($s)->can_read($end - time()) or return;
		sysread $s, $text, 4096, length $text or return;
	}
	return $text;
}

# Closes with a RST.
sub reset_socket {
	my ($s) = @_;
	setsockopt $s, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
	close $s;
	return;
}

# What a process has open, without the numbers that differ from socket to socket.
sub open_files {
	my ($pid) = @_;
	return join ' ', sort map { (readlink($_) // 'gone') =~ s/\[\d+\]//r } glob "/proc/$pid/fd/*";
}

# Files in nginx's directories for temporary ones.
sub temporary_files {
	my ($t) = @_;
	my @files;
	my @dirs = glob $t->testdir() . '/*_temp';
	while (defined(my $dir = shift @dirs)) {
		for my $path (glob "$dir/*") {
			-d $path ? push @dirs, $path : push @files, $path;
		}
	}
	return @files;
}

###############################################################################
# HTTP/2, as much as it takes to begin a request and to break it off

# A connection on which no request has begun.
sub h2_connect {
	my ($port) = @_;
	my $s = IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port($port),
		Sockopts => [ [ SO_RCVBUF, 16384 ] ]) // die "can't connect: $!\n";
	syswrite $s, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . frame(4, 0, 0, '');
	return $s;
}

sub h2_start {
	my ($port, $method, $uri, %headers) = @_;

	my $s = h2_connect($port);
	my $block = '';
	my @fields = (':method', $method, ':scheme', 'http', ':path', $uri, ':authority', 'localhost',
		map { ($_, $headers{$_}) } sort keys %headers);
	while (my ($name, $value) = splice @fields, 0, 2) {
		# Literal, not indexed, name and value as they are.
		$block .= pack 'C C/a C/a', 0, $name, $value;
	}
	# END_HEADERS, and END_STREAM when no body comes.
	syswrite $s, frame(1, $method eq 'POST' ? 4 : 5, 1, $block);
	return $s;
}

sub h2_data {
	my ($s, $data) = @_;
	return syswrite $s, frame(0, 0, 1, $data);
}

# RST_STREAM, CANCEL; the connection stays.
sub h2_reset {
	my ($s) = @_;
	return syswrite $s, frame(3, 0, 1, pack 'N', 8);
}

sub frame {
	my ($type, $flags, $stream, $payload) = @_;
	return substr(pack('N', length $payload), 1) . pack('C C N', $type, $flags, $stream) . $payload;
}

1;
