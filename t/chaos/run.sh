#!/bin/sh
# Lets clients of all sorts loose on guests of all sorts, while nginx is
# reloaded, restarted and upgraded. Fails when a client that stayed did not get
# what is right, when a process dies of a signal, when error_log has anything
# that is critical, and when nginx does not come to rest afterwards.
#
# Flags go before the two paths: -seed S repeats what was chosen (it is printed
# first), -time D (as 90s) says how long it goes on, -clients N how many there
# are at a time, -patience D how long a request may take; -run REGEX has only
# those guests/sources/clients asked that it finds, and with -calm nginx is left
# alone.
#
# With an nginx that was built for AddressSanitizer, what it reports fails the
# run as well.

set -eu
. "$(dirname "$0")/../lib/go-test.sh"
. "$(dirname "$0")/../asan/options.sh"

usage() {
    echo "usage: $0 [-seed S] [-time D] [-clients N] [-patience D] [-run REGEX] [-calm] NGINX MODULE" >&2
    exit 2
}

run=
flags=
patience=20s
while [ $# -gt 2 ]; do
    case $1 in
    -calm) flags="$flags $1"; shift; continue ;;
    -seed | -time | -clients) flags="$flags $1 $2" ;;
    -patience) patience=$2 ;;
    -run) run=$2 ;;
    *) usage ;;
    esac
    shift 2
done
test $# -eq 2 || usage

reports=
if sanitized "$1"; then
    reports=$(absolute "$(dirname "$1")")/chaos
    sanitize "$reports"
    ASAN_OPTIONS=$ASAN_OPTIONS:log_path=$reports/report
    patience=60s
fi

# What malloc returns is never zero by luck.
export MALLOC_PERTURB_="${MALLOC_PERTURB_-165}"

status=0
# shellcheck disable=SC2086 # words are wanted
go_test "$1" "$2" -timeout=24h -args -cells "$run" -patience "$patience" $flags || status=1
test -z "$reports" || reported "$reports" || status=1
exit $status
