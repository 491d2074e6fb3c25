#!/usr/bin/perl

# Guests and the ways a request takes through locations: if, nested, internal and named ones, error_page back into
# the same one, X-Accel-Redirect into an internal one, limit_except, auth_request, mirror, satisfy any.

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

my $t = Test::Nginx->new()->has(qw/http proxy rewrite access auth_basic auth_request mirror/)->plan(2 * 34 + 2);

my $locations = join '', map { my $guest = $_; <<'EOF' =~ s/GUEST/$guest/gr } qw/ header wrap /;

        location /GUEST {
            http_wasm GUEST.wat;
            proxy_pass http://127.0.0.1:8081;
            auth_basic_user_file %%TESTDIR%%/htpasswd;

            location /GUEST/nested {
                proxy_pass http://127.0.0.1:8081/status/201;

                location ~ \.off$ {
                    http_wasm off;
                    proxy_pass http://127.0.0.1:8081;
                }
            }

            location /GUEST/if {
                proxy_pass http://127.0.0.1:8081/size/3;
                set $copy $http_x_guest;
                if ($arg_to) {
                    proxy_pass http://127.0.0.1:8082;
                }
                if ($arg_deny) {
                    return 403;
                }
            }

            location /GUEST/again {
                error_page 404 /GUEST/again/page;
                alias %%TESTDIR%%/html;
            }

            location /GUEST/round {
                error_page 404 /GUEST/round/and/round;
                recursive_error_pages on;
                alias %%TESTDIR%%/html;
            }

            location /GUEST/internal {
                internal;
                alias %%TESTDIR%%/html/page;
            }

            location /GUEST/accel { proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=/GUEST/internal; }
            location /GUEST/at { proxy_pass http://127.0.0.1:8081/headers?X-Accel-Redirect=@named; }
            location /GUEST/named { try_files /nowhere @named; }
            location /GUEST/allowed { auth_request /auth/200; proxy_pass http://127.0.0.1:8081/size/3; }
            location /GUEST/forbidden { auth_request /auth/403; proxy_pass http://127.0.0.1:8081/size/3; }
            location /GUEST/mirror { mirror /copy; proxy_pass http://127.0.0.1:8081/raw; }
            location /GUEST/deny { satisfy any; deny all; auth_basic closed; proxy_pass http://127.0.0.1:8081/size/3; }
            location /GUEST/allow { satisfy any; allow all; auth_basic closed; proxy_pass http://127.0.0.1:8081/size/3; }

            location /GUEST/except {
                limit_except GET { deny all; }
                proxy_pass http://127.0.0.1:8081/size/3;
            }
        }
EOF

$t->write_file_expand('nginx.conf', <<'EOF' =~ s/LOCATIONS/$locations/r);

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;
        LOCATIONS

        location @named { return 200 named; }
        location /auth/ {
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass http://127.0.0.1:8081/status/;
        }

        location /copy { internal; proxy_pass http://127.0.0.1:8082; }
    }

    server {
        listen       127.0.0.1:8082;
        access_log   %%TESTDIR%%/other.log;
        location / { return 200 other; }
    }
}

EOF

my $request = <<'EOF';
  (func (export "handle_request") (result i64)
    (call $log (i32.const 0) &"request begins")
    (drop (call $read_body (i32.const 0) (i32.const 65536) (i32.const 3)))
    (i64.const 1))
EOF
guest($t, 'header.wat', $request . <<'EOF');
  (func (export "handle_response") (param i32 i32)
    (call $log (i32.const 0) &"response begins")
    (call $add_resp &"x-status" (call $dec (call $get_status_code))))
EOF
guest($t, 'wrap.wat', $request . <<'EOF');
  (func (export "_initialize") (drop (call $enable_features (i32.const 2))))
  (func (export "handle_response") (param i32 i32) (local $n i32)
    (call $log (i32.const 0) &"response begins")
    (call $add_resp &"x-status" (call $dec (call $get_status_code)))
    (local.set $n (call $read_all (i32.const 1) (i32.const 1000)))
    (call $body_resp &"<")
    (call $body_resp (i32.const 65536) (local.get $n))
    (call $body_resp &">"))
EOF

$t->write_file('htpasswd', "a:{PLAIN}b\n");
$t->write_file('html/page', 'a page');
backend($t);
$t->run();

###############################################################################

my @body = ('--data-binary', 'x' x 20_000);

for my $guest (qw/ header wrap /) {
	my $made = sub { my ($text) = @_; return $guest eq 'wrap' ? qr/^<$text>$/s : qr/^$text$/s };

	passes('nested locations', "$guest/nested", 201, $made->("status 201\n"));
	passes('nested location with http_wasm off', "$guest/nested/x.off", 200, qr/^GET .*/s, calls => 0);
	passes('if not taken', "$guest/if", 200, $made->('012'));
	passes('if with a proxy_pass', "$guest/if?to=1", 200, $made->('other'));
	passes('if with a return', "$guest/if?deny=1", 403, qr/^<html>.*/s, calls => 0);
	passes('error_page back into the location', "$guest/again/nothing", 404, $made->('a page'));
	passes('error_page round and round', "$guest/round/nothing", 500, qr/<html>.*500/s);
	passes('internal location', "$guest/internal", 404, qr/^<html>.*/s, calls => 0);
	passes('X-Accel-Redirect into an internal location', "$guest/accel", 200, $made->('a page'));
	passes('X-Accel-Redirect into a named location', "$guest/at", 200, $made->('named'));
	passes('named location', "$guest/named", 200, $made->('named'));
	passes('auth_request allows', "$guest/allowed", 200, $made->('012'), args => \@body);
	passes('auth_request denies', "$guest/forbidden", 403, $made->('<html>.*</html>\s*'), args => \@body);
	passes('mirror', "$guest/mirror", 200, $made->('x{20000}'), args => \@body);
	passes('satisfy any, deny', "$guest/deny", 401, $made->('<html>.*</html>\s*'));
	passes('satisfy any, password', "$guest/deny", 200, $made->('012'), args => [ '-u', 'a:b', @body ]);
	passes('satisfy any, address', "$guest/allow", 200, $made->('012'), args => \@body);
}

$t->stop();
is(() = $t->read_file('other.log') =~ m{"POST /copy HTTP/1.0" 200}g, 2, 'mirrored twice');
is(error_log_count($t, qr/\[(?:crit|alert|emerg)\]/), 0, 'no trouble');

###############################################################################

# The answer, and how often the guest was called on either side.
sub passes {
	my ($name, $uri, $status, $body, %extra) = @_;

	our ($requests, $responses) = (calls('request'), calls('response'));
	my $r = curl(@{ $extra{args} // [] }, "/$uri");
	ok(status($r) == $status && $r->{body} =~ $body, "$uri, $name")
		or diag(status($r) . ' ' . substr $r->{body}, 0, 300);
	my $calls = $extra{calls} // 1;
	is(join('/', calls('request') - $requests, calls('response') - $responses), "$calls/$calls", "$uri, $name, calls");
}

sub calls {
	my ($side) = @_;
	return error_log_count($t, qr/$side begins/);
}

###############################################################################
