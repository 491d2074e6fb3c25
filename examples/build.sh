#!/bin/sh
# Builds the examples into target/guests, as example-NAME.wasm, each only when its sources are newer than what is there.
#
# build.sh        leaves out those whose toolchain is not there, and says so
# build.sh --all  fails if one is not there

set -eu

src=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$src/.." && pwd)
# shellcheck source=build/guests.sh
. "$root/build/guests.sh"

all=
test "${1-}" != --all || all=1
# What every example depends on.
common="$src/build.sh $root/build/guests.sh"

# leave_out NAME REASON
leave_out() {
    test -z "$all" || { echo "$0: examples/$1 cannot be built: $2" >&2; exit 1; }
    echo "left out examples/$1: $2"
}

# is_stale NAME MORE SOURCES...: whether the guest has to be built.
is_stale() {
    name=$1
    shift
    # shellcheck disable=SC2086 # Two paths.
    stale "$out/example-$name.wasm" $common "$src/$name" "$@"
}

for name in jwt redact; do
    is_stale $name || continue
    target=wasm32-wasip1
    if ! command -v cargo >/dev/null; then
        leave_out $name 'Rust with cargo is not installed'
    # Asked of the compiler: a toolchain without rustup may have the target too.
    elif ! test -d "$(rustc --print target-libdir --target $target)" &&
        ! { test -n "$all" && command -v rustup >/dev/null && rustup target add $target; }; then
        leave_out $name "Rust's target is not installed: rustup target add $target"
    else
        (cd "$src/$name" && CARGO_TARGET_DIR="$work" cargo build --quiet --locked --release --target $target)
        place "$work/$target/release/$name.wasm" "$out/example-$name.wasm"
    fi
done

for name in basic-auth security-headers; do
    is_stale $name "$root/tests/guests/c/http_wasm.h" || continue
    if ! command -v clang >/dev/null || ! clang --print-targets | grep -qw wasm32; then
        leave_out $name 'clang for wasm32 is not installed'
    elif ! command -v wasm-ld >/dev/null; then
        leave_out $name 'wasm-ld is not installed, which comes with lld'
    else
        clang --target=wasm32 -std=c11 -O2 -mbulk-memory -Wall -Wextra -Werror -I"$root/tests/guests/c" \
            -c -o "$work/example-$name.o" "$src/$name/$name.c"
        wasm-ld --no-entry -o "$work/example-$name.wasm" "$work/example-$name.o"
        place "$work/example-$name.wasm" "$out/example-$name.wasm"
    fi
done

# Everything in Go also depends on the package that the guests of the tests use.
for name in forward-auth json rate-limit; do
    is_stale $name "$root/tests/guests/go/go.mod" "$root/tests/guests/go/httpwasm" || continue
    have=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
    if ! printf '%s\n' 1.24 "${have:-0}" | sort -V -C; then
        leave_out $name "Go 1.24 or later is not installed, but ${have:-none}"
    else
        # The tag has names resolved by the host.
        GOOS=wasip1 GOARCH=wasm go -C "$src/$name" build -buildmode=c-shared -tags getaddrinfo -buildvcs=false -trimpath \
            -ldflags='-s -w' -o "$work/example-$name.wasm" .
        place "$work/example-$name.wasm" "$out/example-$name.wasm"
    fi
done

name=ab-split
if is_stale $name; then
    if ! command -v npm >/dev/null; then
        leave_out $name 'Node.js with npm is not installed'
    else
        mkdir -p "$work/$name"
        cp "$src/$name/package.json" "$src/$name/package-lock.json" "$src/$name/$name.ts" "$work/$name"
        (cd "$work/$name" &&
            npm ci --silent --no-audit --no-fund --ignore-scripts &&
            # Without --use the guest imports env.abort, which no http-wasm host has. The start function is not the
            # start section: only an export runs after the memory is there.
            node node_modules/assemblyscript/bin/asc.js $name.ts --use abort= --exportStart _initialize --optimize \
                --noColors -o $name.wasm)
        place "$work/$name/$name.wasm" "$out/example-$name.wasm"
    fi
fi

# nginx reads the text as it is.
name=request-id
if stale "$out/example-$name.wat" "$src/build.sh" "$src/$name"; then
    place "$src/$name/$name.wat" "$out/example-$name.wat"
fi
