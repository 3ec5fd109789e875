#!/usr/bin/env bash
# The real servers of the tests: etcd 3.7.3, Consul 1.22.5 and ZooKeeper 3.9.5, built from their
# published modules, and Debian's etcd 3.4 and ZooKeeper 3.8. Idempotent; a second run does nothing.
# Usage: servers.sh [etcd|consul|zookeeper|old]...   (default: all)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"

ETCD=3.7.3 CONSUL=1.22.5 ZOOKEEPER=3.9.5

# Go modules pin their toolchain; any Go from 1.21 on fetches the right one by itself.
need_go() {
  command -v go >/dev/null && go version | grep -qE 'go1\.(2[1-9]|[3-9][0-9])' && return 0
  local found="$SERVERS/go/bin"
  if [ ! -x "$found/go" ]; then
    need_packages golang-go
    say "fetching a newer Go toolchain as a Go module"
    local mod
    mod=$(cd "$(mktemp -d)" && go mod init tools >/dev/null 2>&1 && go mod download -json golang.org/toolchain@v0.0.1-go1.26.1.linux-amd64 | jq -r .Dir)
    rm -rf "$SERVERS/go"; cp -r "$mod" "$SERVERS/go"; chmod -R u+w "$SERVERS/go"
    chmod +x "$found"/* "$SERVERS"/go/pkg/tool/*/*
  fi
  PATH="$found:$PATH"; export PATH
}

# build_go NAME VERSION MODULE_DIR PKG=BIN...
build_go() {
  local name=$1 version=$2; shift 2
  local stamp="$SERVERS/$name/$version"
  [ -e "$stamp" ] && return 0
  need_go
  say "building $name $version (once; Consul takes about five minutes on two cores)"
  local tmp; tmp=$(mktemp -d); cp -r "$here/servers/$name/." "$tmp/"
  mkdir -p "$SERVERS/$name"
  local spec
  for spec in "$@"; do
    (cd "$tmp" && GOFLAGS=-mod=mod CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$SERVERS/$name/${spec#*=}" "${spec%%=*}")
  done
  rm -rf "$tmp"
  touch "$stamp"
}

etcd() { build_go etcd "$ETCD" go.etcd.io/etcd/server/v3=etcd go.etcd.io/etcd/etcdctl/v3=etcdctl go.etcd.io/etcd/etcdutl/v3=etcdutl; }
consul() { build_go consul "$CONSUL" github.com/hashicorp/consul=consul; }

zookeeper() {
  local stamp="$SERVERS/zookeeper/$ZOOKEEPER"
  [ -e "$stamp" ] && return 0
  need_java
  command -v mvn >/dev/null || need_packages maven
  say "fetching ZooKeeper $ZOOKEEPER"
  mkdir -p "$SERVERS/zookeeper"
  mvn -q -B -f "$here/servers/zookeeper/pom.xml" dependency:copy-dependencies -DoutputDirectory="$SERVERS/zookeeper/lib" -DprojectBuildDirectory="$(mktemp -d)" >/dev/null
  touch "$stamp"
}

need_java() { command -v java >/dev/null || need_packages default-jre-headless; }

# Debian's older releases, unpacked and not installed: no service is started on this machine.
old() {
  need_java
  if [ ! -x "$SERVERS/etcd-old/usr/bin/etcd" ]; then
    say "unpacking Debian's etcd"
    unpack_package etcd-server "$SERVERS/etcd-old"
  fi
  if [ ! -e "$SERVERS/zookeeper-old/ready" ]; then
    need_packages libzookeeper-java libslf4j-java
    say "linking Debian's ZooKeeper"
    mkdir -p "$SERVERS/zookeeper-old"
    touch "$SERVERS/zookeeper-old/ready"
  fi
}

if [ $# -eq 0 ]; then set -- etcd consul zookeeper old; fi
for s in "$@"; do
  case "$s" in
    etcd|consul|zookeeper|old) "$s" ;;
    file) ;;
    *) say "unknown server $s: one of etcd, consul, zookeeper, old"; exit 2 ;;
  esac
done
