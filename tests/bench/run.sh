#!/bin/sh
# Builds what the benchmark needs beside the module and the firewall, and runs it. Everything goes into target/bench.
#
# usage: run.sh NGINX MODULE NGINX_TREE [FLAG...]    NGINX_TREE: configured sources, for the native module

set -eu

test $# -ge 3 || { sed -n '4s/^# //p' "$0" >&2; exit 2; }
nginx=$1 module=$2 tree=$3
shift 3

src=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$src/../.." && pwd)
out=$root/target/bench
guests=$out/guests
mkdir -p "$guests"

# The firewalls alone need no other guests.
only=
case " $* " in *' -only waf '*) only=waf ;; esac

for tool in taskset go $(test $only || echo wrk cargo wat2wasm); do
    command -v $tool >/dev/null || { echo "$0: $tool is not installed: make deps-bench" >&2; exit 1; }
done

build_guests() {
    # Our module reads the text form; the reference host does not.
    for wat in "$src"/guests/*.wat; do
        name=$(basename "$wat" .wat)
        cp "$wat" "$guests/"
        wat2wasm -o "$guests/$name.wasm" "$wat"
    done

    GOOS=wasip1 GOARCH=wasm go -C "$src/guests/go" build -buildmode=c-shared -buildvcs=false -trimpath -ldflags='-s -w' \
        -o "$guests/go.wasm" .

    GOOS=wasip1 GOARCH=wasm go -C "$src/guests/go" build -buildmode=c-shared -buildvcs=false -trimpath -ldflags='-s -w' \
        -o "$guests/large.wasm" ./large

    target=wasm32-wasip1
    test -d "$(rustc --print target-libdir --target $target)" || rustup target add $target
    # In the folder of the workspace: its settings are not those of the module.
    (cd "$src/guests/rust" && CARGO_TARGET_DIR=$out/build cargo build --quiet --locked --release --target $target)
    cp "$out/build/$target/release/bench-guest.wasm" "$guests/rust.wasm"

    (cd "$src/native" && NGINX_SOURCE_DIR=$tree NGINX_BUILD_DIR=$tree/objs CARGO_TARGET_DIR=$out/build \
        cargo build --quiet --locked --release)
    cp "$out/build/release/libngx_http_bench_native_module.so" "$out/native.so"
}

test $only || build_guests

# Coraza is built as it is for the guest.
go -C "$src" build -tags "${WAF_TAGS:-}" -o "$out/bench" .
exec "$out/bench" -nginx "$nginx" -module "$module" -native "$out/native.so" -guests "$guests" -dir "$out" \
    -waf "$root/target/guests/waf.wasm" -waf-config "$root/examples/waf/waf.json" "$@"
