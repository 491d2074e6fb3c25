package Test::Nginx::Bulk;

# Bodies of any size that nobody holds: a client and a backend that make them up as they send and keep only the
# length and the SHA-256 digest of what they receive.

use strict;
use warnings;

use Digest::SHA;
use Exporter qw/ import /;
use IO::Socket::INET;
use POSIX qw//;
use Socket qw/ SOL_SOCKET SO_RCVBUF /;
use Test::Nginx qw/ :DEFAULT /;

our @EXPORT = qw/ bulk_backend bulk bulk_body bulk_digest peak_memory /;

my $TIMEOUT = 60 * ($ENV{TEST_NGINX_PATIENCE} || 1);

# What bodies are made of: their bytes repeat after a length that no buffer size divides.
my $BLOCK = do {
	my $block = '';
	for (my $n = 0; length $block < 65521; $n++) {
		$block .= Digest::SHA::sha512("block $n");
	}
	substr($block, 0, 65521) x 4;
};

# Calls $take with one piece after another of a body of $length bytes.
sub pieces {
	my ($length, $take) = @_;

	while ($length > 0) {
		my $piece = $length < length $BLOCK ? substr($BLOCK, 0, $length) : $BLOCK;
		$take->($piece) or return 0;
		$length -= length $piece;
	}
	return 1;
}

# "LENGTH DIGEST" of the body of that length.
sub bulk_digest {
	my ($length) = @_;
	our %digest;

	return $digest{$length} //= do {
		my $sha = Digest::SHA->new(256);
		pieces($length, sub { $sha->add($_[0]) });
		"$length " . $sha->hexdigest();
	};
}

# The body of that length, for a test that wants it after all.
sub bulk_body {
	my ($length) = @_;
	my $body = '';
	pieces($length, sub { $body .= $_[0]; 1 });
	return $body;
}

sub send_all {
	my ($s, $text) = @_;

	for (my $at = 0; $at < length $text;) {
		my $n = syswrite $s, $text, length($text) - $at, $at;
		next if !defined $n && $!{EINTR};
		return 0 unless $n;
		$at += $n;
	}
	return 1;
}

sub send_body {
	my ($s, $length, $chunked) = @_;

	return pieces($length, sub { send_all($s, $_[0]) }) unless $chunked;
	return pieces($length, sub { send_all($s, sprintf("%x\r\n", length $_[0]) . "$_[0]\r\n") })
		&& send_all($s, "0\r\n\r\n");
}

# Reads a head, then digests the body behind it: head, "LENGTH DIGEST" and whether the body came to its end.
# Options: step (bytes per read), body (bool: a message without a length has one, up to the end of the connection).
sub receive {
	my ($s, %extra) = @_;
	my ($text, $step) = ('', $extra{step} // 262144);
	my $more = sub {
		while (1) {
			my $n = sysread $s, $text, $step, length $text;
			return $n if defined $n || !$!{EINTR};
		}
	};

	while ($text !~ /\r\n\r\n/) {
		$more->() or return;
	}
	my $head = substr $text, 0, index($text, "\r\n\r\n") + 4, '';
	my ($sha, $length) = (Digest::SHA->new(256), 0);
	my $take = sub {
		my ($left) = @_;
		while ($left > 0) {
			length $text or $more->() or return 0;
			my $piece = substr $text, 0, $left, '';
			$sha->add($piece);
			$length += length $piece;
			$left -= length $piece;
		}
		return 1;
	};

	my $whole = 1;
	if ($extra{head} || $head =~ m{^HTTP/\S+ (?:1\d\d|204|304)}) {
		# no body
	} elsif ($head =~ /^Transfer-Encoding:\s*chunked/mi) {
		while (1) {
			if ($text !~ s/^([0-9a-f]+)[^\r\n]*\r\n//i) {
				$more->() or $whole = 0, last;
				next;
			}
			my $size = hex $1 or last;
			$whole = $take->($size) or last;
			while (length $text < 2) {
				$more->() or last;
			}
			substr $text, 0, 2, '';
		}
	} elsif ($head =~ /^Content-Length:\s*(\d+)/mi) {
		$whole = $take->($1);
	} elsif ($extra{body}) {
		1 while $take->(1 << 30);
	}
	return ($head, "$length " . $sha->hexdigest(), $whole);
}

# Sends a request and returns what came: status, head, digest ("LENGTH DIGEST"), whole. Options: method, length and
# chunked of the body to send, version, headers (lines), step and room (bytes per read, in the socket's buffer).
sub bulk {
	my ($uri, %extra) = @_;

	my $version = $extra{version} // '1.1';
	my @head = (($extra{method} // (defined $extra{length} ? 'POST' : 'GET')) . " $uri HTTP/$version",
		'Host: localhost', 'Connection: close', @{ $extra{headers} // [] });
	push @head, $extra{chunked} ? 'Transfer-Encoding: chunked' : "Content-Length: $extra{length}"
		if defined $extra{length};

	my ($head, $digest, $whole) = eval {
		local $SIG{ALRM} = sub { die "timeout\n" };
		local $SIG{PIPE} = 'IGNORE';
		alarm($TIMEOUT);
		my $s = IO::Socket::INET->new(Proto => 'tcp', PeerAddr => '127.0.0.1:' . port(8080),
			$extra{room} ? (Sockopts => [ [ SO_RCVBUF, $extra{room} ] ]) : ()) or die "can't connect: $!\n";
		send_all($s, join "\r\n", @head, '', '');
		send_body($s, $extra{length}, $extra{chunked}) if defined $extra{length};
		my @got = receive($s, body => 1, step => $extra{step}, head => ($extra{method} // '') eq 'HEAD');
		alarm(0);
		@got;
	};
	log_in($@ ? "died: $@" : $head);
	alarm(0);
	my ($status) = ($head // '') =~ m{^HTTP/\S+ (\d+)};
	return { status => $status // 0, head => $head // '', digest => $digest // '', whole => $whole };
}

# Starts an HTTP/1.1 server on the port that the test calls $port. It answers a request with the line
# "LENGTH DIGEST" of its body, and /source/N with a body of N bytes; /chunked/N in chunks.
sub bulk_backend {
	my ($t, $port) = @_;

	$t->run_daemon(\&serve, port($port));
	$t->waitforsocket('127.0.0.1:' . port($port)) or die "backend does not listen\n";
	return $t;
}

sub serve {
	my ($port) = @_;

	local $SIG{PIPE} = 'IGNORE';
	local $SIG{CHLD} = 'IGNORE';
	my $server = IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 511, ReuseAddr => 1
	) or die "can't listen on $port: $!\n";

	while (my $s = $server->accept()) {
		my $pid = fork() // die "fork: $!\n";
		if ($pid == 0) {
			close $server;
			answer($s);
			POSIX::_exit(0);
		}
	}
}

sub answer {
	my ($s) = @_;

	my ($head, $digest, $whole) = receive($s);
	return unless $whole;
	my ($uri) = $head =~ /^\S+ (\S+)/;
	my $reply = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/octet-stream\r\n";
	if ($uri =~ m{^/source/(\d+)}) {
		send_all($s, $reply . "Content-Length: $1\r\n\r\n") && send_body($s, $1);
	} elsif ($uri =~ m{^/chunked/(\d+)}) {
		send_all($s, $reply . "Transfer-Encoding: chunked\r\n\r\n") && send_body($s, $1, 1);
	} else {
		$digest .= "\n";
		send_all($s, $reply . 'Content-Length: ' . length($digest) . "\r\n\r\n$digest");
	}
	return;
}

# The most memory that a process has had, in MiB; so far, or since $reset.
sub peak_memory {
	my ($pid, %extra) = @_;

	if ($extra{reset}) {
		open my $refs, '>', "/proc/$pid/clear_refs" or return;
		print $refs "5\n";
		close $refs or return;
	}
	open my $status, '<', "/proc/$pid/status" or return;
	my ($peak) = join('', <$status>) =~ /^VmHWM:\s*(\d+) kB/m;
	return $peak / 1024;
}

1;
