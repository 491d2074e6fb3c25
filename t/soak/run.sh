#!/bin/sh
# Sends mixed requests through guests of all sorts, then goes on while the
# configuration is reloaded. Prints what worker and master take, and fails when
# one request is lost or when they grow beyond the bounds in soak_test.go.
#
# With -status it sends requests of all outcomes to four workers instead, kills
# one of them, and fails when the status counts anything else than the clients.
#
# Flags go before the two paths: -requests N and -reloads N say how many,
# -clients N how many at once, -seed N repeats a mix; -shots DIR has pictures of
# the status page taken.

set -eu
. "$(dirname "$0")/../lib/go-test.sh"

usage() {
    echo "usage: $0 [-status] [-requests N] [-reloads N] [-clients N] [-seed N] [-shots DIR] NGINX MODULE" >&2
    exit 2
}

test=TestSoak
test "${1:-}" != -status || { test=TestStatus; shift; }
flags=
while [ $# -gt 2 ]; do
    case $1 in
    -shots) need chromium-headless-shell; mkdir -p "$2"; flags="$flags $1 $(cd "$2" && pwd)" ;;
    -requests | -reloads | -clients | -seed) flags="$flags $1 $2" ;;
    *) usage ;;
    esac
    shift 2
done
test $# -eq 2 || usage
for guest in go-state go-prefix go-answer rust-bodies; do
    test -f "$(dirname "$0")/../../target/guests/$guest.wasm" || { echo "$0: $guest is not built: make guests" >&2; exit 1; }
done

# shellcheck disable=SC2086 # words are wanted
go_test "$1" "$2" -run "^$test\$" -timeout=6h -args $flags
