#!/usr/bin/perl

# The status page in a browser: with and without JavaScript, and on a phone.

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

my $t = Test::Nginx->new()->has(qw/http/)->plan(17);

$t->write_file_expand('nginx.conf', <<'EOF');

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

        # The page counts those who look at it.
        location /status { http_wasm guest.wat name=looks; http_wasm_status; }

        location /a { http_wasm guest.wat name=a-guest-with-a-very-long-name-that-does-not-fit-on-a-phone; empty_gif; }
        location /trap { http_wasm trap.wat name=trap; empty_gif; }

        location /frame.html { default_type text/html; alias %%TESTDIR%%/frame.html; }
    }
}

EOF

guest($t, 'guest.wat', '(func (export "handle_request") (result i64) (i64.const 1))');
guest($t, 'trap.wat', '(func (export "handle_request") (result i64) unreachable)');

# Shows the page in a window of a phone's width, without scripts if asked to, and what a script found in it.
$t->write_file('frame.html', <<'EOF');
<!doctype html>
<script>
const frame = document.createElement("iframe");
if (location.search == "?noscript") frame.sandbox = "allow-same-origin";
Object.assign(frame, { src: "/status", width: 320, height: 700, style: "border: 0" });
frame.onload = () => {
  const page = frame.contentDocument;
  const root = page.documentElement;
  const wide = [...page.querySelectorAll("main *")].filter((it) => it.getBoundingClientRect().right > root.clientWidth + 1);
  const refresh = page.querySelector("noscript meta[http-equiv=refresh]") ? "refreshes" : "stays";
  const found = `window ${root.clientWidth} page ${root.scrollWidth} outside ${wide.length} ${refresh}`;
  const main = document.importNode(page.querySelector("main"), true);
  frame.remove();
  document.body.append(main, found);
};
document.documentElement.append(document.createElement("body"));
document.body.append(frame);
</script>
EOF

$t->run();

###############################################################################

curl('/a') for 1 .. 3;
curl('/trap') for 1 .. 2;

my $page = browse('/frame.html?noscript', '--virtual-time-budget=1000');
is(figure($page, 'looks', 'Requests'), 1, 'without JavaScript: one request');
is(figure($page, 'a-guest', 'Requests'), 3, 'figures');
is(figure($page, 'trap', 'Failed: trap'), 2, 'failures');
like($page, qr{<h2>trap <span class="bad">2 of 2 failed</span></h2>}, 'at a glance');
like($page, qr{<p class="all">3 guests in 1 worker:\s+6 requests, 1 in flight, 0 waiting,\s+2 failed</p>}, 'all of them');
my @labels = $page =~ /role="img" aria-label="([^"]*)"/g;
is(join('; ', @labels[0, 1]), 'How long calls took: 3 of handle_request, 3 of handle_response; '
	. 'The last 15 minutes: 3 requests, 0 failures', 'pictures');
my @shapes = $page =~ /<title>(?:\d+:\d\d ago: \d+ requests, trap (\d+)\b|[^<]*)/g;
is_deeply([ grep { defined } @shapes ], [2], 'a column for failures');
unlike($page, qr/(?:width|height|y|x)="-/, 'nothing reaches out of them');
like($page, qr/ refreshes</, 'refreshed by the browser');

$page = browse('/status', '--virtual-time-budget=9000');
cmp_ok(figure($page, 'looks', 'Requests'), '>=', 3, 'with JavaScript: goes on asking');
is(figure($page, 'a-guest', 'Requests'), 3, 'nobody else is asked');
is(() = $page =~ /<main>/g, 1, 'what is there is replaced');
unlike($page, qr/<body class="stale">/, 'and fresh');

$page = browse('/frame.html', '--virtual-time-budget=1000');
my ($window, $width, $outside) = $page =~ /window (\d+) page (\d+) outside (\d+) stays/;
is($window, 320, 'on a phone');
is($width, $window, 'nothing to scroll sideways');
is($outside, 0, 'nothing is cut off');

# For whoever wants to look at it.
my $shot = repo() . '/target/status.png';
unlink $shot;
browse('/status', "--screenshot=$shot", '--window-size=1200,900');
ok(-s $shot, 'a picture in target/status.png');

###############################################################################

# The page as the browser has it after its scripts have run.
sub browse {
	my ($uri, @options) = @_;

	my $dir = $t->testdir() . '/browser';
	my @command = (qw/timeout 60 chromium-headless-shell --headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars/,
		"--user-data-dir=$dir", @options, '--dump-dom', 'http://127.0.0.1:' . port(8080) . $uri);
	local $ENV{MALLOC_PERTURB_};
	local $ENV{HOME} = $dir;
	open my $pipe, '-|', "exec 2>$dir.log; exec @{[ join ' ', map { quotemeta } @command ]}" or die "browser: $!\n";
	my $page = do { local $/; <$pipe> } // '';
	close $pipe;
	return $page;
}

# A figure on the card of a guest.
sub figure {
	my ($page, $guest, $figure) = @_;
	my ($card) = $page =~ m{<article>\s*<h2>\Q$guest\E(.*?)</article>}s or return;
	return $card =~ m{<dt>\Q$figure\E</dt><dd[^>]*>(\d+)</dd>} ? $1 : undef;
}

###############################################################################
