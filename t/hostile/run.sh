#!/bin/sh
# Lets hostile guests attack a worker that serves others, and prints what became
# of both. Fails when an outcome is not the expected one; no time is judged.
#
# Flags go before the two paths: -rounds N and -window D (as 400ms) say how long
# each guest attacks, -limit D how long an endless one may run, -only PART which
# ones do, -write FILE where the table goes.

set -eu
. "$(dirname "$0")/../lib/go-test.sh"

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
    -write) write=$(absolute "$2") ;;
    *) usage ;;
    esac
    shift 2
done
test $# -eq 2 || usage

# shellcheck disable=SC2086 # words are wanted
go_test "$1" "$2" -timeout=30m -args -only "$only" -write "$write" $flags
