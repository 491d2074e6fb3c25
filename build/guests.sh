# What the scripts that build guests have in common. They set `root`, the repository.
# shellcheck shell=sh

# What a developer's machine says about other builds is not meant for these.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET CARGO_BUILD_RUSTFLAGS GOFLAGS CFLAGS CPPFLAGS LDFLAGS

out=$root/target/guests
# What the tools keep between builds.
work=$root/target/guests-build

mkdir -p "$out" "$work"

# stale RESULT SOURCE...: whether RESULT is missing or older than anything in the sources.
stale() {
    result=$1
    shift
    test ! -f "$result" || test -n "$(find "$@" -newer "$result" -print -quit)"
}

# place FILE RESULT: by a rename, so that nginx never finds half a guest.
place() {
    cp "$1" "$2.new"
    mv -f "$2.new" "$2"
    echo "built target/guests/${2##*/}"
}
