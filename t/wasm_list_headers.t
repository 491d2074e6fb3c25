#!/usr/bin/perl

# Response headers that nginx keeps as lists of lines, Cache-Control and Link: what guests do to them is what nginx's
# variables and gzip_proxied see.

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

# What the guest does before and after the next handler, what the upstream says, and what the client and nginx see.
my $cc = '&"Cache-Control"';
my @cases = (
	[ 'nothing', '', '', [ 'a', 'b' ], [ 'a', 'b' ] ],
	[ 'set', '', "(call \$set_resp $cc &\"g\")", [ 'a', 'b' ], [ 'g' ] ],
	[ 'set-none', '', "(call \$set_resp $cc &\"g\")", [], [ 'g' ] ],
	[ 'add', '', "(call \$add_resp $cc &\"g\") (call \$add_resp $cc &\"h\")", [ 'a' ], [ 'a', 'g', 'h' ] ],
	[ 'add-none', '', "(call \$add_resp $cc &\"g\") (call \$add_resp $cc &\"h\")", [], [ 'g', 'h' ] ],
	[ 'remove', '', "(call \$del_resp $cc)", [ 'a', 'b' ], [] ],
	[ 'remove-add', '', "(call \$del_resp $cc) (call \$add_resp $cc &\"g\")", [ 'a' ], [ 'g' ] ],
	[ 'early', "(call \$add_resp $cc &\"g\")", '', [ 'a' ], [ 'g', 'a' ] ],
	[ 'early-none', "(call \$set_resp $cc &\"g\")", '', [], [ 'g' ] ],
	[ 'early-late', "(call \$add_resp $cc &\"g\")", "(call \$add_resp $cc &\"h\")", [ 'a' ], [ 'g', 'a', 'h' ] ],
	[ 'undone', '', "(call \$del_resp $cc) (call \$add_resp $cc &\"g\") unreachable", [ 'a', 'b' ], [ 'a', 'b' ] ],
	[ 'undone-none', '', "(call \$add_resp $cc &\"g\") unreachable", [], [] ],
);

my $t = Test::Nginx->new()->has(qw/http proxy gzip/)->plan(4 * @cases + 10);

my $locations = '';
for my $case (@cases) {
	my ($name, $before, $after) = @$case;
	guest($t, "$name.wat", <<"WAT");
  (func (export "handle_request") (result i64) $before (i64.const 1))
  (func (export "handle_response") (param i32 i32) $after nop)
WAT
	guest($t, "link-$name.wat", <<"WAT" =~ s/Cache-Control/Link/gr);
  (func (export "handle_request") (result i64) $before (i64.const 1))
  (func (export "handle_response") (param i32 i32) $after nop)
WAT
	$locations .= <<"EOF";
        location /$name/ {
            http_wasm $name.wat;
            http_wasm link-$name.wat;
            http_wasm_on_error open;
            proxy_pass http://127.0.0.1:8081/;
        }
EOF
}

guest($t, 'forbids.wat', qq{(func (export "handle_response") (param i32 i32) (call \$set_resp $cc &"no-cache"))});
guest($t, 'permits.wat', qq{(func (export "handle_response") (param i32 i32) (call \$set_resp $cc &"public"))});
guest($t, 'removes.wat', qq{(func (export "handle_response") (param i32 i32) (call \$del_resp $cc))});

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format seen '$uri [$sent_http_cache_control] [$sent_http_link]';
    access_log %%TESTDIR%%/seen.log seen;

    gzip on;
    gzip_types *;
    gzip_min_length 0;
    gzip_proxied no-cache;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

LOCATIONS
        location /expires/early/ { http_wasm early.wat; expires 1h; proxy_pass http://127.0.0.1:8081/; }
        location /expires/set/ { http_wasm set.wat; expires 1h; proxy_pass http://127.0.0.1:8081/; }

        location /gzip/none/ { proxy_pass http://127.0.0.1:8081/; }
        location /gzip/forbids/ { http_wasm forbids.wat; proxy_pass http://127.0.0.1:8081/; }
        location /gzip/permits/ { http_wasm permits.wat; proxy_pass http://127.0.0.1:8081/; }
        location /gzip/removes/ { http_wasm removes.wat; proxy_pass http://127.0.0.1:8081/; }
    }
}

EOF

backend($t);
$t->run();

###############################################################################

for my $case (@cases) {
	my ($name, undef, undef, $upstream, $seen) = @$case;

	my $fields = join '&', map { ("Cache-Control=$_", "Link=$_") } @$upstream;
	my $r = curl("/$name/headers?$fields");
	is(status($r), 200, "$name: answered");
	is(lines_of($r, 'cache-control'), join('|', @$seen), "$name: Cache-Control");
	is(lines_of($r, 'link'), join('|', @$seen), "$name: Link");
	my $list = @$seen ? join(', ', @$seen) : '-';
	like(wait_until(sub { ($t->read_file('seen.log') =~ m{^/$name/headers (.*)$}m)[0] }), qr/^\[\Q$list\E\] \[\Q$list\E\]$/,
		"$name: variables");
}

# gzip_proxied no-cache: for a proxy what it may cache is not compressed, unless nothing is said of that.
for my $guest (qw/none forbids permits removes/) {
	for my $upstream ('no-cache', 'public') {
		my $r = curl('-H', 'Via: 1.1 proxy', '-H', 'Accept-Encoding: gzip',
			"/gzip/$guest/headers?Cache-Control=$upstream&Content-Type=text/plain");
		my $is_compressed = { none => $upstream eq 'no-cache', forbids => 1, permits => 0, removes => 1 }->{$guest};
		is(header($r, 'content-encoding') // 'none', $is_compressed ? 'gzip' : 'none', "gzip_proxied, $guest, $upstream");
	}
}

# nginx takes what the next handler says, adds its own, and guests have the last word.
for my $case ([ 'early', 'g|max-age=3600' ], [ 'set', 'g' ]) {
	my ($name, $seen) = @$case;
	is(lines_of(curl("/expires/$name/headers?Cache-Control=a"), 'cache-control'), $seen, "expires, $name");
}

###############################################################################

sub lines_of {
	my ($r, $name) = @_;
	return join '|', map { $_->[1] } grep { lc $_->[0] eq $name } @{ $r->{headers} };
}

###############################################################################
