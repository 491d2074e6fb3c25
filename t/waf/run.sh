#!/bin/sh
# Sends the regression tests of the Core Rule Set through the firewall on nginx
# and through Coraza in a Go server, and compares which rules match. With -short
# every tenth.
#
# usage: run.sh [-short] NGINX MODULE

set -eu
. "$(dirname "$0")/../lib/go-test.sh"

short=
test "${1:-}" != -short || { short=-short; shift; }
test $# -eq 2 || { sed -n 's/^# usage: //p' "$0" >&2; exit 2; }

# shellcheck disable=SC2086 # nothing where it is empty
go_test "$1" "$2" $short -v -run '^TestVerdicts$' -timeout=30m \
    -tags no_fs_access,coraza.disabled_operators.validateSchema,coraza.rule.no_regex_multiline,coraza.rule.case_sensitive_args_keys
