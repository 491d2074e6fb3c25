#!/bin/sh
# Runs tests with an nginx and a module that were built for AddressSanitizer.
# Succeeds when the tests do and no process has reported anything: a wrong
# access to memory at once, memory nobody can reach any more when it ends.
# Before that, faults committed on purpose have to be reported.
#
# GLOBALS are further directives for every configuration. PROVE is the command
# that runs the tests.

set -eu

test $# -ge 4 || { echo "usage: $0 NGINX MODULE GLOBALS TEST..." >&2; exit 2; }
nginx=$1
module=$2
globals=$3
shift 3

for file in "$nginx" "$module"; do
    test -f "$file" || { echo "$0: no $file" >&2; exit 1; }
done
here=$(cd "$(dirname "$0")" && pwd)
objs=$(cd "$(dirname "$nginx")" && pwd)
module=$(cd "$(dirname "$module")" && pwd)/$(basename "$module")
reports=$objs/reports
. "$here/options.sh"
sanitize "$reports"
mkdir "$reports/detector"

# nginx hands its successor only the variables it is told of.
globals="$globals env ASAN_OPTIONS; env LSAN_OPTIONS;"
export TEST_NGINX_BINARY="$objs/$(basename "$nginx")"

TEST_NGINX_REPORTS=$reports/detector \
    TEST_NGINX_GLOBALS=$globals \
    prove "$here/detector.t"

status=0
# shellcheck disable=SC2086 # words are wanted
TEST_NGINX_REPORTS=$reports TEST_NGINX_GLOBALS="load_module $module; $globals" \
    ${PROVE:-prove} -I "$here/../lib" "$@" || status=1

# Not every process belongs to a test that looks.
reported "$reports" || status=1
exit $status
