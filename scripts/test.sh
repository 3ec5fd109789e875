#!/usr/bin/env bash
# Runs all tests, and prints their number at the end. `WAYPOST_TEST="cargo test arguments"` selects some of them.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The programs are built first, because the whole-product tests start them.
cargo build --workspace --locked || exit 1
# shellcheck disable=SC2086
cargo test --workspace --locked --no-fail-fast ${WAYPOST_TEST:-} 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
passed=$(awk '/^test result:/ {sum += $4} END {print sum + 0}' "$log")
failed=$(awk '/^test result:/ {sum += $6} END {print sum + 0}' "$log")
if [ "$failed" -gt 0 ] || [ "$status" -ne 0 ]; then
  grep -E '^test .* FAILED$' "$log"
fi
# A fleet of 50 proxies on three controllers, then 500 followers that lose their controller together. Built with optimisation,
# because a debug build would be too slow to measure. `make bench-fleet` runs its storm for ten minutes.
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
