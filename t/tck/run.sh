#!/bin/sh
# Runs the official http-wasm TCK, in both of its versions and over HTTP/1.1
# and HTTP/2, against one nginx and a module built for it.

set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 NGINX MODULE" >&2
    exit 2
fi

if ! command -v go >/dev/null; then
    echo "$0: go is not installed; the TCK is written in Go" >&2
    exit 1
fi

tck=$(cd "$(dirname "$0")" && pwd)
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
trap 'exit 1' HUP INT TERM

# What the checks below rely on is checked first.
go -C "$tck/harness" test ./...
# Not go run, so that the two paths stay relative to where the caller is.
go -C "$tck/harness" build -buildvcs=false -o "$bin/tck" ./cmd/tck
"$bin/tck" "$tck" "$1" "$2"
