#!/bin/sh
# RUSTC_WRAPPER for the fuzz targets: what is fuzzed is compiled with the counters that libFuzzer goes
# by, its dependencies as everywhere else, so that they need not be built twice. Flags of stable Rust,
# the same as cargo-fuzz gives to everything.
case "$CARGO_PKG_NAME $*" in
*"--crate-name build_script_"*) ;;
ngx-http-wasm-handler*)
    set -- "$@" -C codegen-units=1 -C passes=sancov-module \
        -C llvm-args=-sanitizer-coverage-level=4 \
        -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
        -C llvm-args=-sanitizer-coverage-pc-table \
        -C llvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$@"
