#!/bin/sh
# Sends the same random requests to the module and to the reference host and
# compares what comes of them. Succeeds when every difference is one of those
# listed in deviations.go, and each of these was seen.
#
# Flags go before the two paths: -seed N repeats a run, -count N and -time D
# (as 10m) bound it.

set -eu
. "$(dirname "$0")/../lib/go-test.sh"

usage() {
    echo "usage: $0 [-seed N] [-count N] [-time D] NGINX MODULE" >&2
    exit 2
}

flags=
while [ $# -gt 2 ]; do
    case $1 in
    -seed | -count | -time) flags="$flags $1 $2" ;;
    *) usage ;;
    esac
    shift 2
done
test $# -eq 2 || usage

# The time is bounded by -time; the timeout of go test is for what hangs.
# shellcheck disable=SC2086 # words are wanted
go_test "$1" "$2" -timeout=24h -args $flags
