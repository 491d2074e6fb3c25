#!/bin/sh
# cargo's RUSTC_WORKSPACE_WRAPPER for the module under AddressSanitizer: the
# module is instrumented, build.rs is not, and the crates it depends on are
# those of any other build. RUSTC_BOOTSTRAP: a flag of nightly for the Rust that
# everything else is built with.

case " $* " in
*' --crate-type cdylib '*)
    export RUSTC_BOOTSTRAP=1
    exec "$@" -Zsanitizer=address -Cforce-frame-pointers=yes
    ;;
esac
exec "$@"
