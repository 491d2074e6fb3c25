# For suites in Go that test one nginx with a module built for it; sourced. What
# they need is there, and is handed on in the environment, with absolute paths:
# go test runs elsewhere.

# need TOOL...
need() {
    for tool; do
        command -v "$tool" >/dev/null || { echo "$0: $tool is not installed" >&2; exit 1; }
    done
}

absolute() {
    echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
}

# go_test NGINX MODULE FLAG...: go test with these flags, in the folder of the script.
go_test() {
    need go wat2wasm
    nginx=$(command -v "$1") || { echo "$0: no nginx $1" >&2; exit 1; }
    test -f "$2" || { echo "$0: no module $2" >&2; exit 1; }
    TEST_NGINX_BINARY=$(absolute "$nginx") TEST_NGINX_MODULE=$(absolute "$2")
    export TEST_NGINX_BINARY TEST_NGINX_MODULE
    shift 2
    go -C "$(dirname "$0")" test -count=1 "$@"
}
