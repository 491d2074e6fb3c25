# How an nginx that was built for AddressSanitizer is run; sourced.

# sanitized NGINX: whether it is one.
sanitized() {
    grep -q __asan_init "$1"
}

# sanitize REPORTS: from here on, with an empty directory for reports.
sanitize() {
    command -v llvm-symbolizer >/dev/null || { echo "$0: llvm-symbolizer is not installed" >&2; exit 1; }
    rm -rf "$1"
    mkdir -p "$1"

    # A process dies of its first report, which is an alert in its master's log.
    # What malloc returns is never zero by luck. What was freed is kept until it
    # comes to 32 MB, with as much again for what stands beside it in the heap.
    options=abort_on_error=1:detect_leaks=1:detect_stack_use_after_return=1
    options=$options:strict_string_checks=1:max_malloc_fill_size=1048576:malloc_fill_byte=165
    options=$options:quarantine_size_mb=32
    export ASAN_OPTIONS="$options"
    export TEST_NGINX_KEPT_MEMORY=65536
    LSAN_OPTIONS="suppressions=$(cd "$(dirname "$0")/../asan" && pwd)/leaks.supp:print_suppressions=0"
    export LSAN_OPTIONS
}

# reported REPORTS: prints what there is, and fails if there is anything. The
# two lines left out are of a child that LeakSanitizer wants to wait for when
# nginx, which waits for any child, has already done so.
reported() {
    noise='WARNING: ptrace appears to be blocked|Child exited with signal 42'
    none=0
    for report in "$1"/*; do
        test -f "$report" || continue
        grep -qvE "$noise" "$report" || continue
        none=1
        printf '\n%s\n' "$report"
        head -n 40 "$report"
    done
    return $none
}
