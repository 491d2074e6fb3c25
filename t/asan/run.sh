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
command -v llvm-symbolizer >/dev/null || { echo "$0: llvm-symbolizer is not installed" >&2; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
objs=$(cd "$(dirname "$nginx")" && pwd)
module=$(cd "$(dirname "$module")" && pwd)/$(basename "$module")
reports=$objs/reports
rm -rf "$reports"
mkdir -p "$reports/detector"

# A process dies of its first report, which is an alert in its master's log.
# What malloc returns is never zero by luck. What was freed is kept until it
# comes to 32 MB, with as much again for what stands beside it in the heap.
options=abort_on_error=1:detect_leaks=1:detect_stack_use_after_return=1
options=$options:strict_string_checks=1:max_malloc_fill_size=1048576:malloc_fill_byte=165
options=$options:quarantine_size_mb=32
export ASAN_OPTIONS="$options"
export TEST_NGINX_KEPT_MEMORY=65536
export LSAN_OPTIONS="suppressions=$here/leaks.supp:print_suppressions=0"

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

# Not every process belongs to a test that looks. The two lines left out are of
# a child that LeakSanitizer wants to wait for when nginx, which waits for any
# child, has already done so.
noise='WARNING: ptrace appears to be blocked|Child exited with signal 42'
for report in "$reports"/*; do
    test -f "$report" || continue
    grep -qvE "$noise" "$report" || continue
    status=1
    printf '\n%s\n' "$report"
    head -n 40 "$report"
done
exit $status
