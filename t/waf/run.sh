#!/bin/sh
# Sends the regression tests of the Core Rule Set through the firewall on nginx
# and through Coraza in a Go server, and compares which rules match. With -short
# every tenth.
#
# With -serve it serves instead: bodies of all sizes, WebSockets, a burst, a
# killed worker, new rules, a full disk. Prints figures, and fails when a request
# is lost, refused or changed. With -short fewer sizes, and no full disk.
#
# usage: run.sh [-serve] [-short] NGINX MODULE

set -eu
. "$(dirname "$0")/../lib/go-test.sh"

tests='^TestVerdicts$'
test "${1:-}" != -serve || { tests='^Test(Bodies|Limits|WebSocket|Burst|KilledWorker|NewRules|FullDisk)$'; shift; }
short=
test "${1:-}" != -short || { short=-short; shift; }
test $# -eq 2 || { sed -n 's/^# usage: //p' "$0" >&2; exit 2; }

# shellcheck disable=SC2086 # nothing where it is empty
go_test "$1" "$2" $short -v -run "$tests" -timeout=30m \
    -tags no_fs_access,coraza.disabled_operators.validateSchema,coraza.rule.no_regex_multiline,coraza.rule.case_sensitive_args_keys
