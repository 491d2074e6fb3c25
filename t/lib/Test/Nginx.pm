package Test::Nginx;

# Starts one nginx per test on free ports in a directory of its own, and speaks raw HTTP to it.
#
# The interface is that of nginx's own test suite (nginx-tests), so a test in t/ also runs there unchanged.
# Every wait is bounded, and whatever was started is stopped when the test ends, however it ends.

use strict;
use warnings;

use Cwd qw/ abs_path /;
use Exporter qw/ import /;
use Fcntl qw/ :flock /;
use File::Basename qw/ basename dirname /;
use File::Glob qw/ bsd_glob /;
use File::Path qw/ make_path /;
use File::Temp;
use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use POSIX qw/ :sys_wait_h /;
use Scalar::Util qw/ weaken /;
use Socket qw/ SOCK_STREAM SOCK_DGRAM /;
use Test::More qw//;
use Time::HiRes qw/ sleep time /;

our @EXPORT = qw/ http http_get http_head log_in log_out port /;
our @EXPORT_OK = qw/ http_start http_end http_content http_gzip_request http_gzip_like /;
our %EXPORT_TAGS = (gzip => [ qw/ http_gzip_request http_gzip_like / ]);

our $NGINX = $ENV{TEST_NGINX_BINARY} // '/usr/sbin/nginx';

# Seconds: one request; any wait for a process, a file or a socket; a start, which compiles the configured guests.
# TEST_NGINX_PATIENCE times as long for an nginx that is known to be slow.
my $PATIENCE = $ENV{TEST_NGINX_PATIENCE} || 1;
my $REQUEST_TIMEOUT = 8 * $PATIENCE;
my $WAIT_TIMEOUT = 10 * $PATIENCE;
my $START_TIMEOUT = 180 * $PATIENCE;

my @live;       # objects whose processes are still to be stopped
my %ports;      # port asked for in the test -> [ free port, lock held on it ]

# Where an nginx built with a sanitizer is to report, one file per process: its stderr is not always a file that is read.
my $reports = $ENV{TEST_NGINX_REPORTS};
if (defined $reports) {
	$reports .= '/' . basename($0);
	$ENV{ASAN_OPTIONS} = join ':', grep { length } $ENV{ASAN_OPTIONS} // '', "log_path=$reports";
}

# What a running nginx hands to its successor is not for ours.
delete $ENV{NGINX};

# A signal ends the test through END, so that nothing started is left behind.
$SIG{$_} = sub { die "caught SIG$_[0]\n" } for qw/ HUP INT TERM /;
$SIG{PIPE} = 'IGNORE';

END {
	my $status = $?;
	for my $t (grep { defined } @live) {
		$t->finish();
	}
	$? = $status;
}

###############################################################################
# The server

sub new {
	my ($class) = @_;

	-x $NGINX or Test::More::BAIL_OUT("nginx '$NGINX' is not executable, set TEST_NGINX_BINARY");

	my $self = bless {
		owner => $$,
		daemons => [],
		dir => File::Temp->newdir('nginx-test-XXXXXXXXXX', TMPDIR => 1, CLEANUP => !$ENV{TEST_NGINX_LEAVE}),
	}, $class;
	chmod 0700, $self->{dir}->dirname();
	Test::More::note('test directory ' . $self->testdir()) if $ENV{TEST_NGINX_LEAVE};

	push @live, $self;
	weaken($live[-1]);

	return $self;
}

sub DESTROY {
	my ($self) = @_;
	$self->finish();
}

# Stops everything, then makes the two automatic tests. Once per object, in the process that made it.
sub finish {
	my ($self) = @_;

	return if $self->{owner} != $$ || $self->{finished}++;
	local $@;
	local $?;

	eval { $self->stop(); 1 } or Test::More::diag($@);
	$self->stop_daemons();

	my $log = -f $self->testdir() . '/error.log' ? $self->read_file('error.log') : '';
	if ($self->{planned}) {
		# Line by line: in one match perl looks for an alert at the end of a long log once from each line.
		my @lines = split /\n/, $log;
		my $alerts = join "\n", grep { /\[alert\]/ } @lines;
		my $sanitizer = join "\n", grep { /Sanitizer|runtime error:/ && !/WARNING: ptrace/ } @lines, split /\n/, $self->reports();
		# Not by $TODO: it is looked for in a caller, which END does not have.
		my $builder = Test::More->builder();
		$builder->todo_start('alerts') if $self->{todo_alerts};
		Test::More::is($alerts, '', 'no alerts');
		$builder->todo_end() if $self->{todo_alerts};
		Test::More::is($sanitizer, '', 'no sanitizer errors');
	}

	if ($ENV{TEST_NGINX_CATLOG}) {
		print "# $_\n" for split /\n/, $log;
	}
	return;
}

# What a sanitizer has reported in this test.
sub reports {
	my ($self) = @_;

	my $text = '';
	for my $path (defined $reports ? bsd_glob("$reports.*") : ()) {
		open my $fh, '<:raw', $path or die "Can't open $path: $!\n";
		local $/;
		$text .= <$fh> // '';
	}
	return $text;
}

sub testdir {
	my ($self) = @_;
	return $self->{dir}->dirname();
}

sub plan {
	my ($self, $tests) = @_;
	Test::More::plan(tests => $tests + 2);
	$self->{planned} = 1;
	return $self;
}

sub todo_alerts {
	my ($self) = @_;
	$self->{todo_alerts} = 1;
	return $self;
}

sub run {
	my ($self, $conf) = @_;

	$self->write_file_expand('nginx.conf', $conf) if defined $conf;
	my $error = $self->start();
	return $self unless defined $error;

	Test::More::diag($error);
	die "Can't start nginx\n";
}

# As run(), but a configuration that this nginx refuses skips the test.
sub try_run {
	my ($self, $message) = @_;

	my $error = $self->start();
	return $self unless defined $error;

	Test::More::note($error);
	Test::More::plan(skip_all => $message);
	return;
}

# Returns what went wrong, or undef when the server listens: the pid file is written after the sockets are open.
sub start {
	my ($self) = @_;
	my $dir = $self->testdir();

	unlink "$dir/nginx.pid";
	my $pid = fork() // die "fork: $!\n";
	if ($pid == 0) {
		setpgrp(0, 0);
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$dir/start.log";
		open STDERR, '>&', \*STDOUT;
		no warnings 'exec';
		exec { $NGINX } ($NGINX, '-p', "$dir/", '-c', 'nginx.conf', '-e', 'error.log');
		POSIX::_exit(127);
	}
	$self->{pid} = $pid;

	my $ended;
	wait_until(sub {
		$ended = waitpid($pid, WNOHANG) == $pid;
		return $ended || -s "$dir/nginx.pid";
	}, $START_TIMEOUT) and !$ended and return;

	my $reason = $ended ? "nginx exited with status $?" : "no pid file in $START_TIMEOUT s";
	kill 'KILL', -$pid;
	waitpid($pid, 0) unless $ended;
	delete $self->{pid};
	return join "\n", $reason, -f "$dir/start.log" ? $self->read_file('start.log') : ();
}

# A graceful stop; a server that does not follow is killed with its workers, and the log says so.
sub stop {
	my ($self) = @_;
	my $pid = delete $self->{pid} or return $self;

	my $gone = 0;
	for my $signal (qw/ QUIT TERM KILL /) {
		kill $signal, $signal eq 'KILL' ? -$pid : $pid;
		$gone = wait_until(sub { waitpid($pid, WNOHANG) != 0 });
		last if $gone;
		Test::More::diag("nginx did not stop on SIG$signal");
	}
	# Workers outlive a master that was killed or that crashed.
	kill 'KILL', -$pid;
	return $self;
}

sub reload {
	my ($self) = @_;
	kill 'HUP', $self->{pid} or die "no nginx to reload\n";
	return $self;
}

sub dump_config {
	my ($self) = @_;
	my $dir = $self->testdir();
	# What was configured is left to the system at the end.
	local $ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // '', 'detect_leaks=0';
	return scalar qx{'$NGINX' -T -p '$dir/' -c nginx.conf -e error.log 2>&1};
}

sub run_daemon {
	my ($self, $daemon, @args) = @_;

	my $pid = fork() // die "fork: $!\n";
	if ($pid == 0) {
		setpgrp(0, 0);
		$SIG{$_} = 'DEFAULT' for qw/ HUP INT TERM ALRM CHLD /;
		if (ref $daemon eq 'CODE') {
			eval { $daemon->(@args); 1 } or print STDERR "# daemon: $@";
			POSIX::_exit(0);
		}
		no warnings 'exec';
		exec { $daemon } ($daemon, @args);
		POSIX::_exit(127);
	}
	push @{ $self->{daemons} }, $pid;
	return $self;
}

sub stop_daemons {
	my ($self) = @_;

	while (defined(my $pid = shift @{ $self->{daemons} })) {
		kill 'TERM', $pid;
		wait_until(sub { waitpid($pid, WNOHANG) != 0 }, 5);
		kill 'KILL', -$pid;
	}
	return $self;
}

###############################################################################
# What the server can do

sub nginx_v {
	our %nginx_v;
	return $nginx_v{$NGINX} //= qx{'$NGINX' -V 2>&1};
}

my %optional = map { $_ => 1 } qw/
	http_ssl http_v2 http_v3 http_realip http_addition http_xslt http_image_filter http_geoip http_sub
	http_dav http_flv http_mp4 http_gunzip http_gzip_static http_auth_request http_random_index
	http_secure_link http_degradation http_slice http_stub_status http_perl mail_ssl stream_ssl
	stream_ssl_preread stream_realip stream_geoip
/;

# Names as nginx's suite has them: "proxy" and "http_ssl" are modules, "socket_ssl" is Perl's.
sub has_module {
	my ($self, $feature) = @_;
	my $v = nginx_v();

	return $v !~ /--without-http(?![\w-])/ if $feature eq 'http';
	return $v =~ /--with-$feature(?![\w-])/ if $feature eq 'mail' || $feature eq 'stream';
	return $v =~ /--with-debug/ if $feature eq 'debug';
	return $v !~ /--without-http-cache/ if $feature eq 'cache';
	return $v !~ /--without-pcre/ && $v !~ /--without-http_rewrite_module/ if $feature eq 'rewrite';
	$feature = "http_$feature" if $feature eq 'upstream_zone' || $feature !~ /^(?:http|mail|stream)_/;
	return $v =~ /--with-${feature}_module/ if $optional{$feature};
	return $v !~ /--without-${feature}_module/;
}

sub has_feature {
	my ($self, $feature) = @_;
	my $v = nginx_v();

	return eval { require IO::Socket::SSL; 1 } if $feature eq 'socket_ssl';
	return eval { require IO::Socket::SSL; IO::Socket::SSL->can_client_sni() } if $feature eq 'socket_ssl_sni';
	return eval { require IO::Socket::SSL; IO::Socket::SSL->can_alpn() } if $feature eq 'socket_ssl_alpn';
	return eval { require Crypt::Misc; 1 } if $feature eq 'cryptx';
	return $^O ne 'MSWin32' && $^O eq $1 if $feature =~ /^os:(\w+)$/;
	return $v =~ /(?:built|running) with OpenSSL ([\d.]+)/ && version_at_least($1, $2) if $feature =~ /^(openssl):([\d.]+)/;
	return $v =~ /built with \Q$feature\E/i if $feature =~ /^(?:LibreSSL|BoringSSL)$/i;
	return $self->has_module($feature);
}

sub has {
	my ($self, @features) = @_;

	for my $feature (@features) {
		Test::More::plan(skip_all => "no $feature available") unless $self->has_feature($feature);
	}
	return $self;
}

sub has_version {
	my ($self, $wanted) = @_;
	return nginx_v() =~ m{nginx/([\d.]+)} && version_at_least($1, $wanted);
}

sub has_daemon {
	my ($self, $name) = @_;

	my $found = grep { -x "$_/$name" } split /:/, $ENV{PATH};
	Test::More::plan(skip_all => "$name not found") unless $found || -x $name;
	return $self;
}

sub version_at_least {
	my ($have, $wanted) = map { [ split /\./ ] } @_;

	for my $i (0 .. 2) {
		my $order = ($have->[$i] // 0) <=> ($wanted->[$i] // 0);
		return $order > 0 if $order;
	}
	return 1;
}

###############################################################################
# Files

sub write_file {
	my ($self, $name, $content) = @_;

	my $path = $self->testdir() . "/$name";
	make_path(dirname($path));
	open my $fh, '>:raw', $path or die "Can't create $path: $!\n";
	print $fh $content;
	close $fh or die "Can't write $path: $!\n";
	return $self;
}

sub write_file_expand {
	my ($self, $name, $content) = @_;

	$content =~ s/%%TEST_GLOBALS%%/$self->globals()/eg;
	$content =~ s/%%TEST_GLOBALS_HTTP%%/$self->globals_http()/eg;
	$content =~ s/%%TEST_GLOBALS_STREAM%%/$ENV{TEST_NGINX_GLOBALS_STREAM} || ''/eg;
	$content =~ s/%%TESTDIR%%/$self->testdir()/eg;
	$content =~ s/127\.0\.0\.1:(8\d\d\d)/'127.0.0.1:' . port($1)/eg;
	$content =~ s/%%PORT_(\d+)_UDP%%/port($1, udp => 1)/eg;
	$content =~ s/%%PORT_(\d+)%%/port($1)/eg;
	return $self->write_file($name, $content);
}

sub read_file {
	my ($self, $name) = @_;

	my $path = $self->testdir() . "/$name";
	open my $fh, '<:raw', $path or die "Can't open $path: $!\n";
	local $/;
	return scalar(<$fh>) // '';
}

sub globals {
	my ($self) = @_;
	my $dir = $self->testdir();

	my $modules = $ENV{TEST_NGINX_MODULES} // dirname(abs_path($NGINX));
	my @load = map { "load_module $modules/ngx_${_}_module.so;" }
		grep { -f "$modules/ngx_${_}_module.so" }
		nginx_v() =~ /--with-(mail|stream|(?:http|mail|stream)_\w+(?=_module))(?:_module)?=dynamic/g;

	return join "\n", "pid $dir/nginx.pid;", "error_log $dir/error.log debug;", @load,
		$ENV{TEST_NGINX_GLOBALS} // '';
}

sub globals_http {
	my ($self) = @_;
	my $dir = $self->testdir();

	return join "\n", "root $dir;", "access_log $dir/access.log;",
		(map { "${_}_temp_path $dir/${_}_temp;" } qw/ client_body proxy fastcgi uwsgi scgi /),
		$ENV{TEST_NGINX_GLOBALS_HTTP} // '';
}

###############################################################################
# Ports and waiting

# A port free for TCP (and UDP on request) that no other test takes while this one runs: a lock file
# per port keeps tests that run at the same time apart, wherever their TMPDIR is.
sub port {
	my ($wanted, %extra) = @_;
	my $key = $wanted . ($extra{udp} ? '/udp' : '');
	return $ports{$key}[0] if $ports{$key};

	my $locks = "/tmp/nginx-test-ports-$>";
	mkdir $locks, 0700;

	for (1 .. 1000) {
		my $port = 10000 + int(rand(20000));
		open my $lock, '>>', "$locks/$port" or die "Can't open $locks/$port: $!\n";
		next unless flock($lock, LOCK_EX | LOCK_NB);
		next unless IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port,
			$extra{udp} ? (Proto => 'udp') : (Proto => 'tcp', Listen => 1, ReuseAddr => 1));
		$ports{$key} = [ $port, $lock ];
		return $port;
	}
	die "no free port found\n";
}

# Calls $ready until it returns true, for at most $seconds.
sub wait_until {
	my ($ready, $seconds) = @_;

	my $end = time() + ($seconds // $WAIT_TIMEOUT);
	do {
		my $result = $ready->();
		return $result if $result;
		sleep(0.01);
	} while (time() < $end);
	return;
}

sub waitforfile {
	my ($self, $path, $pid) = @_;
	return wait_until(sub { -e $path || ($pid && waitpid($pid, WNOHANG) != 0) }) && -e $path;
}

sub waitforsocket {
	my ($self, $peer) = @_;
	return wait_until(sub { IO::Socket::INET->new(Proto => 'tcp', PeerAddr => $peer, Timeout => 1) });
}

###############################################################################
# Client

sub http_get {
	my ($uri, %extra) = @_;
	return http("GET $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", %extra);
}

sub http_head {
	my ($uri, %extra) = @_;
	return http("HEAD $uri HTTP/1.0\r\nHost: localhost\r\n\r\n", %extra);
}

# Options: start (return the socket after sending), socket (use this one), body (sent after the request),
# sleep (between the two, seconds), aborted (close instead of reading), PeerAddr, SSL and SSL_*.
sub http {
	my ($request, %extra) = @_;

	my $s = http_start($request, %extra);
	return $s if $extra{start} || !defined $s;
	return http_end($s);
}

sub http_start {
	my ($request, %extra) = @_;
	my $s;

	return within(sub {
		$s = $extra{socket} // connect_to(%extra);
		log_out($request);
		write_all($s, $request);
		sleep($extra{sleep}) if $extra{sleep};
		if ($extra{aborted}) {
			$s->close();
			return;
		}
		if (defined $extra{body}) {
			log_out($extra{body});
			write_all($s, $extra{body});
		}
		return $s;
	});
}

sub http_end {
	my ($s) = @_;

	my $reply = within(sub {
		my $text = '';
		while (1) {
			my $n = $s->sysread($text, 65536, length $text);
			next if !defined $n && $!{EINTR};
			return $text unless $n;
		}
	});
	log_in($reply);
	return $reply;
}

sub connect_to {
	my (%extra) = @_;

	my $peer = $extra{PeerAddr} // '127.0.0.1:' . port($extra{SSL} ? 8443 : 8080);
	return IO::Socket::INET->new(Proto => 'tcp', PeerAddr => $peer) // die "can't connect to $peer: $!\n"
		unless $extra{SSL};

	require IO::Socket::SSL;
	return IO::Socket::SSL->new(
		Proto => 'tcp', PeerAddr => $peer,
		SSL_verify_mode => IO::Socket::SSL::SSL_VERIFY_NONE(),
		map { $_ => $extra{$_} } grep { /^SSL_/ } keys %extra,
	) // die "can't connect to $peer: $! " . IO::Socket::SSL::errstr() . "\n";
}

sub write_all {
	my ($s, $text) = @_;

	my $offset = 0;
	while ($offset < length $text) {
		my $n = $s->syswrite($text, length($text) - $offset, $offset);
		next if !defined $n && $!{EINTR};
		return unless $n;       # the server has closed: what it said is still to be read
		$offset += $n;
	}
	return;
}

# Runs $code under the alarm. A request that hangs or fails returns undef, and the log says why.
sub within {
	my ($code) = @_;

	my $result = eval {
		local $SIG{ALRM} = sub { die "timeout\n" };
		local $SIG{PIPE} = 'IGNORE';
		alarm($REQUEST_TIMEOUT);
		my $got = $code->();
		alarm(0);
		$got;
	};
	alarm(0);
	if ($@) {
		die $@ if $@ =~ /^caught SIG/;
		log_in("died: $@");
	}
	return $result;
}

# The body of a reply, de-chunked when it came in chunks; a broken chunk ends it.
sub http_content {
	my ($reply) = @_;

	return unless defined $reply && $reply =~ /\r?\n\r?\n/;
	my ($head, $body) = split /\r?\n\r?\n/, $reply, 2;
	return $body unless $head =~ /^Transfer-Encoding:\s*chunked\s*$/mi;

	my $content = '';
	while ($body =~ s/^([0-9a-f]+)[^\r\n]*\r\n//i) {
		my $length = hex $1;
		last if $length == 0 || length($body) < $length;
		$content .= substr $body, 0, $length, '';
		$body =~ s/^\r\n//;
	}
	return $content;
}

sub http_gzip_request {
	my ($uri, %extra) = @_;
	return http("GET $uri HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n", %extra);
}

sub http_gzip_like {
	my ($reply, $pattern, $name) = @_;

	require Compress::Zlib;
	return Test::More::like(Compress::Zlib::memGunzip(my $packed = http_content($reply)) // '', $pattern, $name);
}

sub log_out { log_lines('>> ', @_) }
sub log_in { log_lines('<< ', @_) }

sub log_lines {
	my ($prefix, $text) = @_;

	return unless $ENV{TEST_NGINX_VERBOSE} && defined $text;
	for my $line (split /\n/, $text) {
		$line =~ s/([^\x20-\x7e])/sprintf('\\x%02x', ord $1)/eg;
		Test::More::note($prefix . $line);
	}
	return;
}

1;
