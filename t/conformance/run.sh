#!/bin/sh
# Runs the conformance suite against one nginx and a module built for it, and
# against the reference host. Succeeds when the module passes every case and
# RESULTS.md says what the reference host does.
#
# --write writes RESULTS.md anew. --only PART runs the cases whose id contains
# PART, on the module alone, and shows their logs.

set -eu
. "$(dirname "$0")/../lib/go-test.sh"

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

go_test "$1" "$2" -timeout=10m $verbose -args -only "$only" $write
