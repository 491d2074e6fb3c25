#!/bin/sh
# Builds the guests that are not WAT into target/guests, each only when its sources are newer than what is there.
#
# Needs Go, Rust, clang with wasm-ld, and Node.js with npm.

set -eu

src=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$src/../.." && pwd)
# shellcheck source=build/guests.sh
. "$root/build/guests.sh"

require() {
    command -v "$1" >/dev/null || { echo "$0: $1 is not installed: $2" >&2; exit 1; }
}

for guest in answer fetch prefix state; do
    result=$out/go-$guest.wasm
    if stale "$result" "$src/build.sh" "$src/go/go.mod" "$src/go/go.sum" "$src/go/httpwasm" "$src/go/$guest"; then
        require go 'the guests in Go need Go 1.24 or later'
        # The tag has names resolved by the host.
        GOOS=wasip1 GOARCH=wasm go -C "$src/go" build -buildmode=c-shared -tags getaddrinfo -buildvcs=false -trimpath \
            -ldflags='-s -w' -o "$work/go-$guest.wasm" "./$guest"
        place "$work/go-$guest.wasm" "$result"
    fi
done

for guest in bodies headers; do
    result=$out/rust-$guest.wasm
    if stale "$result" "$src/build.sh" "$src/rust/Cargo.toml" "$src/rust/Cargo.lock" "$src/rust/$guest"; then
        require cargo 'the guests in Rust need the Rust toolchain of the module'
        target=wasm32-wasip1
        # Asked of the compiler: a toolchain without rustup may have the target too.
        if ! test -d "$(rustc --print target-libdir --target $target)"; then
            require rustup "Rust's target $target is missing, and rustup would install it"
            rustup target add $target
        fi
        (cd "$src/rust" &&
            CARGO_TARGET_DIR="$work" cargo build --quiet --locked --release --target $target --package $guest)
        place "$work/$target/release/$guest.wasm" "$result"
    fi
done

for guest in crash sockets teapot; do
    result=$out/c-$guest.wasm
    if stale "$result" "$src/build.sh" "$src/c"; then
        require clang 'the guests in C need clang and lld'
        require wasm-ld 'the guests in C need lld'
        # With debug information only for the one whose backtraces are looked at.
        options=
        test $guest != crash || options="-g -ffile-prefix-map=$src/c=c"
        # Copies of structures are instructions: there is no libc to take memcpy from.
        test $guest != sockets || options=-mbulk-memory
        # In two steps: where binaryen is installed clang runs its wasm-opt when it links, which drops debug information.
        # shellcheck disable=SC2086 # Several options, or none.
        clang --target=wasm32 -std=c11 -O2 -Wall -Wextra -Werror $options -c -o "$work/c-$guest.o" "$src/c/$guest.c"
        wasm-ld --no-entry -o "$work/c-$guest.wasm" "$work/c-$guest.o"
        place "$work/c-$guest.wasm" "$result"
    fi
done

result=$out/as-key.wasm
if stale "$result" "$src/build.sh" "$src/assemblyscript"; then
    require npm 'the guest in AssemblyScript needs Node.js 18 or later with npm'
    mkdir -p "$work/assemblyscript"
    cp "$src/assemblyscript/package.json" "$src/assemblyscript/package-lock.json" "$src/assemblyscript/key.ts" \
        "$work/assemblyscript"
    (cd "$work/assemblyscript" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    # Without --use the guest imports env.abort, which no http-wasm host has.
    (cd "$work/assemblyscript" &&
        node node_modules/assemblyscript/bin/asc.js key.ts --use abort= --optimize --noColors -o as-key.wasm)
    place "$work/assemblyscript/as-key.wasm" "$result"
fi
