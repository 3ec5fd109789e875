# Shared by the scripts of this folder. Source it; do not run it.
# Everything built or downloaded lives outside the checkout, so that a second clone is fast.
WAYPOST_CACHE="${WAYPOST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/waypost}"
SERVERS="$WAYPOST_CACHE/servers"
export WAYPOST_CACHE SERVERS
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$WAYPOST_CACHE/target}"
mkdir -p "$SERVERS"

say() { printf '%s\n' "waypost: $*" >&2; }

# Runs a command as root: directly, or with sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# need_packages PKG...: installs the Debian packages that are missing, and prints their names.
need_packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || { say "please install: ${missing[*]}"; return 1; }
  say "installing Debian packages: ${missing[*]}"
  [ -n "${WAYPOST_APT_UPDATED:-}" ] || as_root apt-get update -qq
  export WAYPOST_APT_UPDATED=1
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# need_programs PKG...: the same for packages whose services must not start with their installation: only their programs are
# needed, with other configurations. Packages that were installed before, and their services, stay unchanged.
need_programs() {
  local policy=/usr/sbin/policy-rc.d made=""
  if ! [ -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod +x "$policy" && made=1
  fi
  need_packages "$@" || { [ -z "$made" ] || as_root rm -f "$policy"; return 1; }
  [ -z "$made" ] || as_root rm -f "$policy"
}

# unpack_package PKG DIR: a Debian package's files in DIR, without installing it (no service is started).
unpack_package() {
  local pkg=$1 dir=$2 tmp
  tmp=$(mktemp -d)
  chmod 755 "$tmp"
  (cd "$tmp" && apt-get download -qq "$pkg" >/dev/null 2>&1 || { as_root apt-get update -qq && apt-get download -qq "$pkg" >/dev/null; })
  rm -rf "$dir"
  mkdir -p "$dir"
  dpkg-deb -x "$tmp"/*.deb "$dir"
  rm -rf "$tmp"
}
