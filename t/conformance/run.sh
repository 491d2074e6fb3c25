#!/bin/sh
# Runs the conformance suite against one nginx and a module built for it, and
# against the reference host. Succeeds when the module passes every case and
# RESULTS.md says what the reference host does.
#
# --write writes RESULTS.md anew. --only PART runs the cases whose id contains
# PART, on the module alone, and shows their logs.

set -eu

usage() {
    echo "usage: $0 [--write | --only PART] NGINX MODULE" >&2
    exit 2
}

write=
only=
verbose=
case ${1-} in
--write)
    write=-write
    shift
    ;;
--only)
    test $# -eq 4 || usage
    only=$2
    verbose=-v
    shift 2
    ;;
esac
test $# -eq 2 || usage

for tool in go wat2wasm; do
    command -v $tool >/dev/null || { echo "$0: $tool is not installed" >&2; exit 1; }
done

# go test runs elsewhere: what the caller named is made absolute.
nginx=$(command -v "$1") || { echo "$0: no nginx $1" >&2; exit 1; }
nginx=$(cd "$(dirname "$nginx")" && pwd)/$(basename "$nginx")
test -f "$2" || { echo "$0: no module $2" >&2; exit 1; }
module=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")

TEST_NGINX_BINARY=$nginx TEST_NGINX_MODULE=$module \
    go -C "$(dirname "$0")" test -count=1 -timeout=10m $verbose -args -only "$only" $write
