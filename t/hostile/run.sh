#!/bin/sh
# Lets hostile guests attack a worker that serves others, and prints what became
# of both. Fails when an outcome is not the expected one; no time is judged.
#
# Flags go before the two paths: -rounds N and -window D (as 400ms) say how long
# each guest attacks, -limit D how long an endless one may run, -only PART which
# ones do, -write FILE where the table goes.

set -eu

usage() {
    echo "usage: $0 [-rounds N] [-window D] [-limit D] [-only PART] [-write FILE] NGINX MODULE" >&2
    exit 2
}

only=
write=
flags=
while [ $# -gt 2 ]; do
    case $1 in
    -rounds | -window | -limit) flags="$flags $1 $2" ;;
    -only) only=$2 ;;
    -write) write=$(cd "$(dirname "$2")" && pwd)/$(basename "$2") ;;
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

# shellcheck disable=SC2086 # words are wanted
TEST_NGINX_BINARY=$nginx TEST_NGINX_MODULE=$module \
    go -C "$(dirname "$0")" test -count=1 -timeout=30m -args -only "$only" -write "$write" $flags
