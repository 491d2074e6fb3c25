#!/usr/bin/perl

# http_wasm_status: its three formats, read by those they are made for.

###############################################################################

use warnings;
use strict;

use Test::More;

BEGIN { use FindBin; chdir($FindBin::Bin); }

use lib 'lib';
use JSON::PP;
use Test::Nginx;
use Test::Nginx::Wasm;

###############################################################################

select STDERR; $| = 1;
select STDOUT; $| = 1;

my $t = Test::Nginx->new()->has(qw/http rewrite/)->plan(42);

my $conf = <<'EOF';

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

        location /a { http_wasm guest.wat name=a; empty_gif; }
        location /b { http_wasm guest.wat name=b config=1; empty_gif; }
        location /c { http_wasm guest.wat name=b config=2; empty_gif; }
        location /trap { http_wasm trap.wat name=trap; empty_gif; }

        location /status { http_wasm_status; }
        location = /metrics { set $args format=prometheus; http_wasm_status; }
    }
}

EOF

$t->write_file_expand('nginx.conf', $conf);

guest($t, 'guest.wat', '(func (export "handle_request") (result i64) (i64.const 1))');
guest($t, 'trap.wat', '(func (export "handle_request") (result i64) unreachable)');

# Prometheus' own parser.
$t->write_file('parse.py', <<'EOF');
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
families = parse(sys.stdin.read())
print(json.dumps([dict(name=f.name, type=f.type, help=f.documentation, samples=[
    dict(name=s.name, labels=s.labels, value=s.value) for s in f.samples]) for f in families]))
EOF

$t->run();

###############################################################################

curl('/a') for 1 .. 3;
curl('/b') for 1 .. 2;
curl('/c');
curl('/trap');

my $r = curl('/status?format=json');
is(status($r), 200, 'JSON');
is(header($r, 'Content-Type'), 'application/json', 'its type');
is(header($r, 'Cache-Control'), 'no-store', 'not kept by anybody');
my $json = decode_json(content($r));
is(join(' ', map { $_->{name} } @{ $json->{guests} }), 'a b b trap', 'guests, twice with another configuration');

$r = curl('/status?format=prometheus');
is(status($r), 200, 'Prometheus');
is(header($r, 'Content-Type'), 'text/plain; version=0.0.4; charset=utf-8', 'its type');
my ($families, $samples) = parsed(content($r));

for my $guest ([ a => 3 ], [ b => 3 ], [ trap => 1 ]) {
	my ($name, $count) = @$guest;
	is(sample('http_wasm_requests_total', guest => $name), $count, "$name: requests");
	is(sample('http_wasm_handle_request_seconds_count', guest => $name), $count, "$name: histogram");
	is(sample('http_wasm_handle_request_seconds_bucket', guest => $name, le => '+Inf'), $count, "$name: all in it");
}
is(sample('http_wasm_failures_total', guest => 'trap', cause => 'trap'), 1, 'a trap by its cause');
is(sample('http_wasm_failures_total', guest => 'trap', cause => 'timeout'), 0, 'others are there from the start');
is(sample('http_wasm_outcomes_total', guest => 'a', outcome => 'passed'), 3, 'outcomes');
is(sample('http_wasm_workers'), 1, 'workers');
my ($guest) = grep { $_->{name} eq 'a' } @{ $json->{guests} };
is(sample('http_wasm_instance_memory_bytes', guest => 'a'), $guest->{memory_bytes}, 'as JSON has it');
is(sample('http_wasm_guest_info', guest => 'a', path => $guest->{path}, sha256 => $guest->{sha256}), 1, 'digest');
my $sum = sample('http_wasm_handle_request_seconds_sum', guest => 'a');
cmp_ok(abs($sum - $guest->{handle_request}{sum_seconds}), '<', 1e-12, 'sum of times');

my @buckets = map { $_->{value} } grep { $_->{name} eq 'http_wasm_handle_request_seconds_bucket' && $_->{labels}{guest} eq 'a' } @$samples;
is_deeply(\@buckets, [ sort { $a <=> $b } @buckets ], 'buckets are cumulative');

is(join(' ', grep { !/^http_wasm_[a-z_]+$/ } map { $_->{name} } @$families), '', 'names begin with http_wasm_');
is(join(' ', map { $_->{name} } grep { !$_->{help} } @$families), '', 'each has a help text');
is(join(' ', map { $_->{name} } grep { $_->{type} !~ /^(counter|gauge|histogram)$/ } @$families), '', 'and a type');
my %series;
$series{ $_->{name} . JSON::PP->new->canonical->encode($_->{labels}) }++ for @$samples;
is(scalar(grep { $_ > 1 } values %series), 0, 'no series twice');

like(content(curl('/metrics')), qr/^http_wasm_requests_total\{guest="a"\} 3$/m, 'at a place of its own');

###############################################################################

$r = curl('/status');
is(status($r), 200, 'page');
is(header($r, 'Content-Type'), 'text/html; charset=utf-8', 'its type');
is(() = content($r) =~ /<article>/g, 4, 'a card for each guest');
like(content($r), qr{<h2>trap <span class="bad">1 of 1 failed</span></h2>}, 'says what is wrong');

$r = curl('-I', '/status');
is(status($r), 200, 'HEAD');
is(content($r), '', 'without a body');

is(status(curl('/status?format=xml')), 400, 'a format that there is not');
is(status(curl('-d', 'x', '/status')), 405, 'POST');
is(status(curl('-X', 'DELETE', '/status')), 405, 'DELETE');
is(status(curl('/status?format=html&x')), 200, 'the next request');

###############################################################################

(my $none = $conf) =~ s/http_wasm guest.wat[^;]*;|http_wasm trap.wat[^;]*;//g;
$t->write_file_expand('nginx.conf', $none);
$t->reload();
ok(wait_until(sub { content(curl('/status')) =~ /no guests/ }), 'a configuration without guests');
($families) = parsed(content(curl('/status?format=prometheus')));
ok(scalar @$families, 'still has something for Prometheus');

(my $twice = $conf) =~ s/http_wasm_status;/http_wasm_status; http_wasm_status;/;
like(scalar nginx_test($t, $twice), qr/\[emerg\].*"http_wasm_status" directive is duplicate, or .* in .*test.conf:\d+/, 'duplicate');
(my $server = $conf) =~ s/(location \/status)/http_wasm_status; $1/;
like(scalar nginx_test($t, $server), qr/"http_wasm_status" directive is not allowed here/, 'in a server');

###############################################################################

sub parsed {
	my ($text) = @_;
	$t->write_file('metrics.txt', $text);
	my $dir = $t->testdir();
	my $parsed = `/usr/bin/python3 $dir/parse.py < $dir/metrics.txt` || die "not parsed:\n$text";
	my $families = decode_json($parsed);
	return ($families, [ map { @{ $_->{samples} } } @$families ]);
}

# The value of the one sample with these labels.
sub sample {
	my ($name, %labels) = @_;
	my $json = JSON::PP->new->canonical;
	my @found = grep { $_->{name} eq $name && $json->encode($_->{labels}) eq $json->encode(\%labels) } @$samples;
	return @found == 1 ? $found[0]{value} : scalar(@found) . ' samples';
}

###############################################################################
