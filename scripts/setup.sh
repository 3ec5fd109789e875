#!/usr/bin/env bash
# Installs what a build needs on a bare Debian 12 machine. Idempotent; prints what it installs.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# protoc: etcd-client compiles etcd's protocol at build time. lld: links in a third of the time.
need_packages build-essential ca-certificates curl git protobuf-compiler libprotobuf-dev lld jq openssl

if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH="$HOME/.cargo/bin:$PATH"; fi
if ! command -v cargo >/dev/null; then
  say "installing rustup (the pinned toolchain comes with the first build)"
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain none
fi
