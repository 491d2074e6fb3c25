package Test::Nginx::Load;

# Clients in processes of their own that send one request after the other over connections that they keep, for as long as
# they are let, and count what becomes of each.
#
# A request is served when its whole answer came and is the right one. It is sent again when nginx closed the connection
# between two requests: a connection that has served one ends, or cannot be written to, before the first byte of an answer.
# That is how nginx takes leave of a client that keeps its connection, and RFC 9112, 9.3.1 has the client try again; that
# no worker took such a request in is for the test to check, by the numbers of the requests. Any other request is lost: no
# connection, a new connection that ends without an answer, an answer that ends in the middle, a wrong one, none in time.

use strict;
use warnings;

use Exporter qw/ import /;
use IO::Select;
use IO::Socket::INET;
use Test::Nginx qw/ :DEFAULT /;
use Time::HiRes qw/ time /;

our @EXPORT = qw/ load_start load_stop load_served /;

my $TIMEOUT = 10;

# Starts as many clients as there are entries in @$uris; each is sent "?CLIENT-NUMBER" behind its URI, and $right->($body)
# says whether an answer's body is right.
sub load_start {
	my ($t, $name, $uris, $right) = @_;
	my $port = port(8080);
	my $dir = $t->testdir();

	unlink "$dir/$name.stop";
	for my $client (0 .. $#$uris) {
		$t->write_file("$name.$client.served", '');
		$t->run_daemon(\&client, $port, "$dir/$name", $client, $uris->[$client], $right);
	}
	return { t => $t, path => "$dir/$name", clients => scalar @$uris };
}

# Requests served so far, of the client that has the fewest.
sub load_served {
	my ($load) = @_;
	my ($least) = sort { $a <=> $b } map { (-s "$load->{path}.$_.served") || 0 } 0 .. $load->{clients} - 1;
	return $least;
}

# Ends it: served, sent again, and what was lost and why.
sub load_stop {
	my ($load) = @_;
	open my $stop, '>', "$load->{path}.stop" or die "can't write: $!\n";
	my %all = (served => 0, again => 0, lost => []);
	for my $client (0 .. $load->{clients} - 1) {
		my $end = time() + 2 * $TIMEOUT;
		select undef, undef, undef, 0.01 until -e "$load->{path}.$client.end" || time() > $end;
		open my $fh, '<', "$load->{path}.$client.end" or push(@{ $all{lost} }, "client $client does not end"), next;
		my ($again, @lost) = map { chomp; $_ } <$fh>;
		$all{served} += (-s "$load->{path}.$client.served") || 0;
		$all{again} += $again;
		push @{ $all{lost} }, @lost;
		unlink "$load->{path}.$client.end";
	}
	return %all;
}

sub client {
	my ($port, $path, $client, $uri, $right) = @_;
	local $SIG{PIPE} = 'IGNORE';
	open my $served, '>', "$path.$client.served" or die "can't write: $!\n";
	$served->autoflush(1);
	my ($s, $kept, $again, @lost) = (undef, 0, 0);

	for (my $n = 1; !-e "$path.stop"; $n++) {
		if (!$s) {
			$kept = 0;
			$s = IO::Socket::INET->new(Proto => 'tcp', PeerAddr => "127.0.0.1:$port");
			if (!$s) {
				push @lost, "$client-$n: no connection: $!";
				select undef, undef, undef, 0.05;
				next;
			}
		}
		my ($what, $head, $body) = exchange($s, "GET $uri?$client-$n HTTP/1.1\r\nHost: localhost\r\n\r\n");
		if ($what eq 'whole' && $head =~ m{^HTTP/1.1 200 } && $right->($body)) {
			# A byte for each.
			print $served '.';
			$kept = 1;
			undef $s if $head =~ /^Connection:\s*close/mi;
			next;
		}
		if ($what eq 'nothing' && $kept) {
			$again++;
			$n--;
		} else {
			my ($status) = ($head // '') =~ /^(\S+ \d+)/;
			push @lost, "$client-$n: $what " . ($status // '');
		}
		undef $s;
	}
	open my $end, '>', "$path.$client.new" or die "can't write: $!\n";
	print $end join "\n", $again, @lost;
	close $end;
	rename "$path.$client.new", "$path.$client.end";
	return;
}

# How much of an answer came: nothing, a part, whole; its head and body.
sub exchange {
	my ($s, $request) = @_;
	my ($text, $end) = ('', time() + $TIMEOUT);

	syswrite $s, $request;
	while (1) {
		if (my ($head, $body) = $text =~ /^(.*?\r\n)\r\n(.*)/s) {
			my ($length) = $head =~ /^Content-Length: (\d+)/mi;
			return 'whole', $head, $body if defined $length && length $body >= $length;
		}
		IO::Select->new($s)->can_read($end - time()) or return 'none in time';
		sysread $s, $text, 65536, length $text or return length $text ? 'a part' : 'nothing', $text;
	}
}

1;
