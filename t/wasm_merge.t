#!/usr/bin/perl

# Where guests apply: a level with its own replaces the inherited list, `off` empties it.

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

my $t = Test::Nginx->new()->has(qw/http proxy rewrite/)->plan(13);

$t->write_file_expand('nginx.conf', <<'EOF');

%%TEST_GLOBALS%%

daemon off;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    http_wasm tag.wat config=http;

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            proxy_pass http://127.0.0.1:8081;

            location /deep {
                proxy_pass http://127.0.0.1:8081;
            }

            location /deep/off {
                http_wasm off;
                proxy_pass http://127.0.0.1:8081;

                location /deep/off/deeper {
                    proxy_pass http://127.0.0.1:8081;
                }

                location /deep/off/again {
                    http_wasm tag.wat config=again;
                    proxy_pass http://127.0.0.1:8081;
                }
            }
        }

        location /own {
            http_wasm tag.wat config=own;
            proxy_pass http://127.0.0.1:8081;
        }

        location /two {
            http_wasm tag.wat config=one;
            http_wasm tag.wat config=two;
            proxy_pass http://127.0.0.1:8081;
        }

        location /file {
            http_wasm tag.wat config_file=tag.txt;
            proxy_pass http://127.0.0.1:8081;
        }

        location /if {
            http_wasm tag.wat config=if;
            if ($arg_x) {
                set $y 1;
            }
            proxy_pass http://127.0.0.1:8081;
        }

        location /except {
            http_wasm tag.wat config=except;
            limit_except POST {
                allow all;
            }
            proxy_pass http://127.0.0.1:8081;
        }
    }

    server {
        listen       127.0.0.1:8080;
        server_name  server;

        http_wasm tag.wat config=server;

        location / {
            proxy_pass http://127.0.0.1:8081;
        }
    }

    server {
        listen       127.0.0.1:8080;
        server_name  off;

        http_wasm off;

        location / {
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

$t->write_file('tag.txt', 'from-file');
guest($t, 'tag.wat', <<'EOF');
  (func (export "handle_request") (result i64)
    (call $add_resp &"x-tag" (call $config))
    (i64.const 1))
EOF

backend($t);
$t->run();

###############################################################################

is(tags('/'), 'http', 'inherited from http');
is(tags('/deep'), 'http', 'inherited through two locations');
is(tags('/deep/off'), undef, 'off in a nested location');
is(tags('/deep/off/deeper'), undef, 'off is inherited');
is(tags('/deep/off/again'), 'again', 'on again under off');
is(tags('/own'), 'own', 'own guest replaces the inherited');
is(tags('/two'), 'one|two', 'own guests in order');
is(tags('/file'), 'from-file', 'config_file');
is(tags('/if'), 'if', 'beside an if');
is(tags('/if?x=1'), 'if', 'inside an if');
is(tags('/except'), 'except', 'inside limit_except');
is(tags('/', 'server'), 'server', 'server replaces http');
is(tags('/', 'off'), undef, 'off in a server');

###############################################################################

sub tags {
	my ($uri, $host) = @_;
	return header(curl('-H', 'Host: ' . ($host // 'localhost'), $uri), 'x-tag');
}

###############################################################################
