#!/bin/sh
# Sends the same random requests to the module and to the reference host and
# compares what comes of them. Succeeds when every difference is one of those
# listed in deviations.go, and each of these was seen.
#
# Flags go before the two paths: -seed N repeats a run, -count N and -time D
# (as 10m) bound it.

set -eu

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

for tool in go wat2wasm; do
    command -v $tool >/dev/null || { echo "$0: $tool is not installed" >&2; exit 1; }
done

# go test runs elsewhere: what the caller named is made absolute.
nginx=$(command -v "$1") || { echo "$0: no nginx $1" >&2; exit 1; }
nginx=$(cd "$(dirname "$nginx")" && pwd)/$(basename "$nginx")
test -f "$2" || { echo "$0: no module $2" >&2; exit 1; }
module=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")

# The time is bounded by -time; the timeout of go test is for what hangs.
# shellcheck disable=SC2086 # words are wanted
TEST_NGINX_BINARY=$nginx TEST_NGINX_MODULE=$module \
    go -C "$(dirname "$0")" test -count=1 -timeout=24h -args $flags
