#!/usr/bin/perl

# FastCGI, SCGI: a guest changes request headers after an application has answered with X-Accel-Redirect, on the way to
# another. Lines of one name are joined as they are on the first way.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my %protocols = (fastcgi => 8081, scgi => 8082);
my @ways = qw/ direct redirected guests twice /;

my $t = Test::Nginx->new()->has(qw/http fastcgi scgi/)->plan(5 * @ways * keys(%protocols) + 3);

my $locations = join '', map { <<"EOF" } sort keys %protocols;

        # The application has it redirected to where the arguments say.
        location /$_/direct { http_wasm change.wat; ${_}_pass 127.0.0.1:$protocols{$_}; }
        location /$_/redirected { ${_}_param REDIRECT /$_/direct; ${_}_pass 127.0.0.1:$protocols{$_}; }
        location /$_/guests { http_wasm pass.wat; ${_}_param REDIRECT /$_/direct; ${_}_pass 127.0.0.1:$protocols{$_}; }
        location /$_/twice { ${_}_param REDIRECT /$_/redirected; ${_}_pass 127.0.0.1:$protocols{$_}; }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations =~ s{127\.0\.0\.1:(808\d)}{'127.0.0.1:' . port($1)}ger/er);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
LOCATIONS
        location /none { return 204; }
    }
}

EOF

guest($t, 'pass.wat', '(func (export "handle_response") (param i32 i32) (call $set_resp &"x-guest" &"1"))');
guest($t, 'change.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $add_req &"cookie" &"b=2")
    (call $add_req &"x-many" &"2")
    (call $add_req &"x-forwarded-for" &"2")
    (call $add_req &"x-new" &"1") (call $add_req &"x-new" &"2")
    (call $set_req &"x-set" &"new")
    (i64.const 1))
EOF

for my $protocol (sort keys %protocols) {
	$t->run_daemon(\&responder, $protocol, port($protocols{$protocol}));
	$t->waitforsocket('127.0.0.1:' . port($protocols{$protocol}));
}
$t->run();
wait_until(sub { worker_pids($t) == 1 });
my ($worker) = worker_pids($t);

###############################################################################

# nginx joins several lines of one header since 1.23.0.
my $joined = $t->has_version('1.23.0');
my %expected = (
	HTTP_COOKIE => $joined ? 'a=1; b=2' : 'a=1|b=2',
	HTTP_X_MANY => $joined ? '1, 2' : '1|2',
	HTTP_X_FORWARDED_FOR => $joined ? '1, 2' : '1|2',
	HTTP_X_NEW => $joined ? '1, 2' : '1|2',
	HTTP_X_SET => 'new',
);

for my $protocol (sort keys %protocols) {
	for my $way (@ways) {
		my $r = curl('-H', 'Cookie: a=1', '-H', 'X-Many: 1', '-H', 'X-Forwarded-For: 1', '-H', 'X-Set: old', "/$protocol/$way");
		my ($text, %seen) = content($r);
		push @{ $seen{$1} }, $2 while $text =~ /^(\w+)=(.*)$/mg;
		is(join('|', @{ $seen{$_} || [] }), $expected{$_}, "$protocol, $way, $_") for sort keys %expected;
	}
}

is(status(http_get('/none')), 204, 'serves on');
is(join(' ', worker_pids($t)), $worker, 'by one worker');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

# Answers each request with its parameters, a line each, or with a redirect.
sub responder {
	my ($protocol, $port) = @_;

	my $server = IO::Socket::INET->new(
		Proto => 'tcp', LocalAddr => "127.0.0.1:$port", Listen => 5, ReuseAddr => 1
	) or die "can't listen: $!\n";

	while (my $client = $server->accept()) {
		my @params = $protocol eq 'scgi' ? scgi_params($client) : fastcgi_params($client);
		my %params = @params;
		my $text = "Status: 200 OK\r\nContent-Type: text/plain\r\n";
		$text .= "X-Accel-Redirect: $params{REDIRECT}\r\n" if $params{REDIRECT};
		$text .= "\r\n";
		while (my ($name, $value) = splice @params, 0, 2) {
			$text .= "$name=$value\n";
		}
		$text = join '', pack('CCnnCx', 1, 6, 1, length $text, 0), $text, pack('CCnnCx', 1, 6, 1, 0, 0),
			pack('CCnnCx', 1, 3, 1, 8, 0), pack('NCx3', 0, 0) if $protocol eq 'fastcgi';
		print $client $text;
		close $client;
	}
}

sub scgi_params {
	my ($client) = @_;

	my ($length, $text, $c) = (0, '');
	$length .= $c while read($client, $c, 1) && $c ne ':';
	read $client, $text, $length + 1;
	return split /\0/, substr($text, 0, $length - 1), -1;
}

sub fastcgi_params {
	my ($client) = @_;

	my $text = '';
	while (8 == read $client, my $header, 8) {
		my (undef, $type, undef, $length, $padding) = unpack 'CCnnC', $header;
		read $client, my $content, $length + $padding;
		$text .= substr $content, 0, $length if $type == 4;
		last if $type == 5 && $length == 0;
	}
	my @params;
	while (length $text) {
		my @length = map {
			unpack('C', $text) & 0x80 ? unpack('N', substr $text, 0, 4, '') & 0x7fffffff : unpack('C', substr $text, 0, 1, '')
		} 1 .. 2;
		push @params, map { substr $text, 0, $_, '' } @length;
	}
	return @params;
}

###############################################################################
