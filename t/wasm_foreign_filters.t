#!/usr/bin/perl

# Filters that are loaded as modules and put a page in place of a response when they have seen its header or its body:
# image_filter, and ModSecurity where it is installed. Before and behind the guests the client gets that page, or what
# it gets without guests, and the worker comes to an end with it.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use Test::Nginx;
use Test::Nginx::Messages;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http proxy empty_gif/);

my @modules = qw/ image_filter modsecurity /;
my ($dir) = Test::Nginx::nginx_v() =~ /--modules-path=(\S+)/;
my %path;
for my $name (@modules) {
	($path{$name}) = grep { -f } map { "$_/ngx_http_${name}_module.so" } grep { defined } $ENV{TEST_NGINX_MODULES}, $dir;
}
@modules = grep { defined $path{$_} } @modules;
plan(skip_all => 'neither image_filter nor ModSecurity is installed') unless @modules;

my @guests = qw/ none header sleeps whole late wraps /;
my %cases = (
	image_filter => [ qw/ text picture text-up / ],
	modsecurity => [ qw/ clean header request body body-direct / ],
);
# What a guest does not hold is sent before ModSecurity has seen the body, which it is sorry for in the log.
sub cases {
	my ($guest) = @_;
	my @cases = map { my $name = $_; map { [ $name, $_ ] } @{ $cases{$name} } } @modules;
	return grep { $_->[1] !~ /body/ || $guest =~ /whole|late|wraps/ } @cases;
}
my $cases = map { cases($_) } @guests;

my %directives = (image_filter => 'image_filter test;', modsecurity => <<'EOF');
modsecurity on;
            modsecurity_rules '
                SecRuleEngine On
                SecAuditEngine Off
                SecResponseBodyAccess On
                SecResponseBodyMimeType text/plain text/html
                SecRule REQUEST_URI "@contains request" "id:1,phase:1,deny,status:403"
                SecRule RESPONSE_HEADERS:X-Bad "@streq 1" "id:2,phase:3,deny,status:403"
                SecRule RESPONSE_BODY "@contains forbidden" "id:3,phase:4,deny,status:403"
            ';
EOF

my $locations = '';
for my $guest (@guests) {
	my $guests = $guest eq 'none' ? '' : "http_wasm $guest.wat;";
	$locations .= join '', map { my $name = $_; <<"EOF" } @modules;

        location /$guest/$name/ {
            $guests
            $directives{$name}
            location /$guest/$name/text { alias %%TESTDIR%%/file; }
            location /$guest/$name/clean { alias %%TESTDIR%%/file; }
            location /$guest/$name/request { alias %%TESTDIR%%/file; }
            location /$guest/$name/picture { empty_gif; }
            location /$guest/$name/text-up { proxy_pass http://127.0.0.1:8081/size/50; }
            location /$guest/$name/header { proxy_pass http://127.0.0.1:8081/headers?X-Bad=1; }
            location /$guest/$name/body { proxy_pass http://127.0.0.1:8081/forbidden; }
            location /$guest/$name/body-direct { proxy_buffering off; proxy_pass http://127.0.0.1:8081/forbidden; }
        }
EOF
}

my $seen = '(call $set_resp &"x-seen" (call $dec (call $get_status_code)))';
my $feature = '(func (export "_initialize") (drop (call $enable_features (i32.const 2))))';
guest($t, 'header.wat', "(func (export \"handle_response\") (param i32 i32) $seen)");
guest($t, 'sleeps.wat', waits('sleeps') . "(func (export \"handle_response\") (param i32 i32) (call \$wait) $seen)");
guest($t, 'whole.wat', "$feature (func (export \"handle_response\") (param i32 i32) $seen)");
guest($t, 'late.wat', waits('sleeps') . "$feature (func (export \"handle_response\") (param i32 i32) (call \$wait) $seen)");
guest($t, 'wraps.wat', <<"EOF");
$feature (func (export "handle_response") (param i32 i32) (local \$n i32)
    $seen (local.set \$n (call \$read_all (i32.const 1) (i32.const 100)))
    (call \$body_resp &"<") (call \$body_resp (i32.const 65536) (local.get \$n)) (call \$body_resp &">"))
EOF
$t->write_file('file', 'of the file');
$t->write_file('next', 'next');
backend($t);

sub configure {
	my ($order) = @_;
	my $globals = $t->globals() =~ s/load_module \S*ngx_http_image_filter_module\.so;//gr;
	my $load = join "\n", map { "load_module $path{$_};" } @modules;
	$t->write_file_expand('nginx.conf', <<"EOF");

@{[ $order eq 'before' ? "$load\n$globals" : "$globals\n$load" ]}

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_http_version 1.1;
    default_type text/plain;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        $locations
        location /next { alias %%TESTDIR%%/next; }
    }
}
EOF
	return;
}

configure('before');
my $refused = $t->start();
plan(skip_all => 'the modules are for another nginx') if defined $refused;
$t->stop();
$t->plan(2 * ($cases + 3));

###############################################################################

for my $order (qw/ before behind /) {
	configure($order);
	unlink $t->testdir() . '/error.log';
	$t->run();
	wait_until(sub { worker_pids($t) == 1 });
	my ($worker) = worker_pids($t);

	my %plain;
	for my $guest (@guests) {
		my @uris = cases($guest);
		my @replies = at_once(map { [ [ "GET /$guest/$_->[0]/$_->[1]" ], [ 'GET /next' ] ] } @uris);
		for my $n (0 .. $#uris) {
			my ($name, $case) = @{ $uris[$n] };
			my ($reply, @rest) = @{ $replies[$n] };
			my $told = told($reply) . ', ' . after($reply, @rest);
			my $plain = $case =~ /body/ ? '' : ($plain{"$name $case"} //= $told);

			# The page may have gone through the guest, or the guest's response may be what the filter dislikes.
			my $page = $case =~ /text/ ? 415 : $case =~ /header|body|request/ ? 403 : 0;
			my $right = $told eq $plain || $page && $told eq "$page page, next";
			# ModSecurity behind the guests ends the connection: it has seen the header leave.
			$right ||= $told eq 'nothing, nothing' && $reply->{closed} if $case =~ /body/ && $order eq 'before';
			# Before them it refuses the body of its own page, too, until a header has left: that goes alone.
			$right ||= $told eq ($guest eq 'wraps' ? '403 <>, next' : '403 empty, next') if $case =~ /body/ && $order eq 'behind';
			if ($guest eq 'wraps' && $reply->{whole}) {
				$right ||= $page && $reply->{body} =~ m{\A<<html>.*</html>\r\n>\z}s && $reply->{status} == $page;
				$right ||= $case eq 'picture' && $reply->{status} == 415;
				$right ||= $case =~ /clean|picture/ && $reply->{status} == 200 && $reply->{body} =~ /\A<(?:of the file|GIF89a.*)>\z/s;
			}
			ok($right, "$name $order, $guest, $case") or diag($told);
		}
		# A worker that turns round and round does not end by itself.
		kill 'KILL', worker_pids($t) unless status(http_get('/next')) == 200;
	}
	is(told(conversation([ 'GET /next' ])), '200 next', "$order, others are served");
	is(join(' ', worker_pids($t)), $worker, "$order, same worker");
	is(error_log_count($t, qr/\[(?:crit|emerg)\]|exited on signal/), 0, "$order, no crash");
	$t->stop();
}

###############################################################################
