#!/usr/bin/perl

# Over reloads the module can be taken out and put back, with another one in its place meanwhile, and beside it
# before and after.

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

my $t = Test::Nginx->new()->has(qw/http proxy/);
plan(skip_all => 'no compiler, or no headers of this nginx') unless other_module();
$t->plan(21);

my $conf = <<'EOF';

%%TEST_GLOBALS%%

LOAD

daemon off;
worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen       127.0.0.1:8080;
        server_name  localhost;

        location / {
            DIRECTIVES
            proxy_pass http://127.0.0.1:8081;
        }
    }
}

EOF

guest($t, 'guest.wat', <<'EOF');
  (func (export "handle_request") (result i64) (call $set_resp &"x-guest" &"here") (i64.const 1))
EOF

configure('wasm');
backend($t);
$t->run();
my ($master) = $t->read_file('nginx.pid') =~ /(\d+)/;

###############################################################################

is(seen(), 'here -', 'at first');

# What is loaded, in the order of the file.
for my $loads ('', 'other', 'wasm other', 'other', 'other wasm', 'wasm', 'other', '', 'wasm other') {
	my $name = $loads || 'neither';
	configure(split / /, $loads);
	ok(reloaded(), "reload with $name loaded");
	is(seen(), ($loads =~ /wasm/ ? 'here' : '-') . ' ' . ($loads =~ /other/ ? 'there' : '-'), "$name at work");
}

like($t->read_file('nginx.pid'), qr/^$master$/, 'the master stays');
is(error_log_count($t, qr/exited on signal/), 0, 'no crash');

###############################################################################

# Headers of the guest and of the other module.
sub seen {
	my $r = curl('/');
	return join ' ', map { header($r, $_) // '-' } qw/ x-guest x-other /;
}

sub configure {
	my (@order) = @_;
	my %load = (wasm => 'load_module ' . module_path() . ';', other => 'load_module ' . $t->testdir() . '/other.so;');
	my %use = (wasm => 'http_wasm guest.wat;', other => 'other_header there;');
	my ($load, $use) = map { my $from = $_; join "\n", map { $from->{$_} } @order } \%load, \%use;

	local $ENV{TEST_NGINX_GLOBALS} = $ENV{TEST_NGINX_GLOBALS} =~ s/load_module[^;]*;//r;
	return $t->write_file_expand('nginx.conf', $conf =~ s/LOAD/$load/r =~ s/DIRECTIVES/$use/r);
}

# Reloads; true once another worker serves and the old ones are gone.
sub reloaded {
	my @old = worker_pids($t);
	$t->reload();
	return wait_until(sub {
		my @new = worker_pids($t);
		return @new == 1 && !grep { my $pid = $_; $pid == $new[0] || kill 0, $pid } @old;
	});
}

# Builds a module with a location configuration and a filter, as a neighbour has them.
sub other_module {
	my ($version) = Test::Nginx::nginx_v() =~ m{nginx/([\d.]+)};
	my ($tree) = grep {
		my $header = "$_/src/core/nginx.h";
		-f "$_/objs/ngx_auto_config.h" && !system("grep -q 'NGINX_VERSION *\"$version\"' $header 2>/dev/null");
	} map { repo() . "/target/$_" } qw/ nginx-debian nginx-1.28 /;
	return 0 unless $tree;

	$t->write_file('other.c', <<'EOF');
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

typedef struct { ngx_str_t value; } other_conf_t;
static ngx_http_output_header_filter_pt next;
extern ngx_module_t ngx_http_other_filter_module;

static ngx_int_t filter(ngx_http_request_t *r) {
    other_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_other_filter_module);
    ngx_table_elt_t *h;
    if (conf->value.len && (h = ngx_list_push(&r->headers_out.headers)) != NULL) {
        ngx_memzero(h, sizeof(*h));
        h->hash = 1;
        ngx_str_set(&h->key, "X-Other");
        h->value = conf->value;
    }
    return next(r);
}
static ngx_int_t init(ngx_conf_t *cf) {
    next = ngx_http_top_header_filter;
    ngx_http_top_header_filter = filter;
    return NGX_OK;
}
static void *create(ngx_conf_t *cf) { return ngx_pcalloc(cf->pool, sizeof(other_conf_t)); }
static char *merge(ngx_conf_t *cf, void *parent, void *child) {
    ngx_conf_merge_str_value(((other_conf_t *) child)->value, ((other_conf_t *) parent)->value, "");
    return NGX_CONF_OK;
}
static ngx_command_t commands[] = {
    { ngx_string("other_header"), NGX_HTTP_LOC_CONF | NGX_CONF_TAKE1, ngx_conf_set_str_slot,
      NGX_HTTP_LOC_CONF_OFFSET, offsetof(other_conf_t, value), NULL },
    ngx_null_command
};
static ngx_http_module_t ctx = { NULL, init, NULL, NULL, NULL, NULL, create, merge };
ngx_module_t ngx_http_other_filter_module = { NGX_MODULE_V1, &ctx, commands, NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NGX_MODULE_V1_PADDING };
ngx_module_t *ngx_modules[] = { &ngx_http_other_filter_module, NULL };
char *ngx_module_names[] = { "ngx_http_other_filter_module", NULL };
char *ngx_module_order[] = { "ngx_http_other_filter_module", "ngx_http_copy_filter_module", NULL };
EOF
	my @include = map { "-I$tree/$_" } qw{ src/core src/event src/event/modules src/event/quic src/os/unix
		src/http src/http/modules src/http/v2 src/http/v3 objs };
	my $dir = $t->testdir();
	return system("gcc -shared -fPIC -w @include -o '$dir/other.so' '$dir/other.c' >'$dir/gcc.log' 2>&1") == 0;
}

###############################################################################
