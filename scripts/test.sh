#!/usr/bin/env bash
# All tests, and a closing line that counts them. `WAYPOST_TEST="cargo test arguments"` narrows it down.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The programs first: the whole-product tests start them.
cargo build --workspace --locked || exit 1
# shellcheck disable=SC2086
cargo test --workspace --locked --no-fail-fast ${WAYPOST_TEST:-} 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
passed=$(awk '/^test result:/ {sum += $4} END {print sum + 0}' "$log")
failed=$(awk '/^test result:/ {sum += $6} END {print sum + 0}' "$log")
if [ "$failed" -gt 0 ] || [ "$status" -ne 0 ]; then
  grep -E '^test .* FAILED$' "$log"
fi
# A fleet of 50 proxies on three controllers, 500 of which lose their controller together: with optimisation, or the compiler
# would be measured. `make bench-fleet` storms for ten minutes.
if [ -z "${WAYPOST_TEST:-}" ]; then
  if cargo build --profile fleet --locked --quiet -p waypost -p waypost-proxy -p waypost-bench && "$CARGO_TARGET_DIR/fleet/waypost-bench" fleet; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1)) status=1
    echo "test a fleet keeps its promises ... FAILED"
  fi
fi
echo "$passed passed, $failed failed"
exit "$status"
