#!/usr/bin/env bash
# The programs of an earlier state of this repository, built once: released.sh COMMIT prints the directory with `waypost` and
# `waypost-proxy`. Dependencies that are the same are reused from the present debug build.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
commit=$1
dest="$WAYPOST_CACHE/released/$commit"
mkdir -p "$dest"
# Only one run at a time.
exec 9>"$dest/lock"
flock 9
if ! { [ -x "$dest/waypost" ] && [ -x "$dest/waypost-proxy" ]; }; then
  git cat-file -e "$commit^{commit}" 2>/dev/null || { say "commit $commit is not in this clone; fetch the whole history: git fetch --unshallow"; exit 1; }
  say "building the programs of $commit (once)"
  work=$(mktemp -d "$dest/build.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/source" "$work/target"
  git archive "$commit" | tar x -C "$work/source"
  # Links, not copies: Cargo replaces files and does not write into them.
  if [ -d "$CARGO_TARGET_DIR/debug/deps" ]; then
    mkdir "$work/target/debug"
    for part in deps build .fingerprint; do cp -al "$CARGO_TARGET_DIR/debug/$part" "$work/target/debug/"; done
    # Waypost's own packages are not reused: their older sources would count as built already, by the newer build.
    rm -rf "$work"/target/debug/.fingerprint/waypost*
  fi
  CARGO_TARGET_DIR="$work/target" cargo build --quiet --locked --manifest-path "$work/source/Cargo.toml" -p waypost -p waypost-proxy >&2
  cp "$work/target/debug/waypost" "$work/target/debug/waypost-proxy" "$dest/"
fi
echo "$dest"
