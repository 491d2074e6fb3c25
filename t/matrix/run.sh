#!/bin/sh
# Asks for responses from everywhere, in all ways there are to ask, through
# guests of all sorts. Every answer has to be that of the same nginx where there
# is no guest, with what the guest changes; a difference is allowed only for a
# reason that expect_test.go lists.
#
# Flags go before the two paths: -sample N takes so many cells only, which -seed
# S chooses; -run REGEX those whose name it finds (guests/source/client);
# -parallel N is how many are asked at a time, -details N how many failures are
# shown whole, -patience D (as 15s) how long one may take. With -list all that
# failed are printed, and -restless is for a module whose guests always wait.

set -eu
. "$(dirname "$0")/../lib/go-test.sh"

usage() {
    echo "usage: $0 [-sample N] [-seed S] [-run REGEX] [-parallel N] [-details N] [-patience D] [-list] [-restless] NGINX MODULE" >&2
    exit 2
}

run=
flags=
while [ $# -gt 2 ]; do
    case $1 in
    -list | -restless) flags="$flags $1"; shift; continue ;;
    -sample | -seed | -parallel | -details | -patience) flags="$flags $1 $2" ;;
    -run) run=$2 ;;
    *) usage ;;
    esac
    shift 2
done
test $# -eq 2 || usage

# shellcheck disable=SC2086 # words are wanted
go_test "$1" "$2" -timeout=2h -args -cells "$run" $flags
