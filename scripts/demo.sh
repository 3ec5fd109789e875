#!/usr/bin/env bash
# The tour: demo.sh [file|etcd|consul|zookeeper]. Builds, runs `waypost dev`, one more proxy and two echo endpoints,
# and shows the main features while requests flow. Ends by itself; exits 1 if a request failed. Only loopback is used.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
store=${1:-file}
case "$store" in
  file) ;;
  etcd|consul|zookeeper) scripts/servers.sh "$store" ;;
  *) say "unknown store $store: one of file, etcd, consul, zookeeper"; exit 2 ;;
esac
say "building (the first time takes some minutes)"
# Builds only the adapter of the chosen store, unless everything is built already: a first build takes half the time.
features=(--no-default-features --features "$store")
[ ! -x "$CARGO_TARGET_DIR/debug/waypost" ] || features=()
cargo build --locked --quiet --package waypost --package waypost-proxy "${features[@]}"
bin="$CARGO_TARGET_DIR/debug"
waypost() { "$bin/waypost" "$@"; }

# port NAME USUAL: the usual port, or a free one above it if another process has that.
is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || (exec 3<>"/dev/tcp/127.0.0.2/$1") 2>/dev/null; }
port() {
  local found=$2
  while is_taken "$found"; do found=$((found + 100)); done
  [ "$found" = "$2" ] || say "port $2 is taken; the demo takes $found instead"
  printf -v "$1" '%s' "$found"
}
port web 8080; port secure 8443; port api 7400; port admin 7410; port edge 7411; port one 9001; port two 9002; port three 9003
export WAYPOST_CONTROLLER=http://127.0.0.1:$api
dir=$(mktemp -d)
jobs=()
start() { # start NAME COMMAND...: in the background, with its output in a file
  local name=$1; shift
  "$@" >"$dir/$name.log" 2>&1 &
  jobs+=($!)
  last=$!
}
finish() {
  for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap finish EXIT
await() { # await WHAT COMMAND...: at most 60 s
  local what=$1 n=0; shift
  until "$@" >/dev/null 2>&1; do
    n=$((n + 1)); [ $n -lt 1200 ] || { say "$what: in vain"; tail -n 20 "$dir"/*.log >&2; exit 1; }
    sleep 0.05
  done
}
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '  $ %s\n' "$*"; }

# --- The store, and how a user of it writes.
case "$store" in
  file)
    url="file://$dir/waypost"
    mkdir "$dir/waypost"
    put() { show "echo '$2' > waypost/$1"; mkdir -p "$(dirname "$dir/waypost/$1")"; printf '%s\n' "$2" >"$dir/waypost/$1"; }
    del() { show "rm waypost/$1"; rm "$dir/waypost/$1"; }
    ;;
  consul)
    url=consul://127.0.0.1:8500/waypost
    start consul "$SERVERS/consul/consul" agent -dev -data-dir "$dir/consul" -bind 127.0.0.1 -grpc-port -1 -grpc-tls-port -1 -dns-port -1 -log-level error
    await consul "$SERVERS/consul/consul" kv put waypost-demo 1
    put() { show "consul kv put waypost/$1 '$2'"; "$SERVERS/consul/consul" kv put "waypost/$1" "$2" >/dev/null; }
    del() { show "consul kv delete waypost/$1"; "$SERVERS/consul/consul" kv delete "waypost/$1" >/dev/null; }
    ;;
  etcd)
    url=etcd://127.0.0.1:2379/waypost
    start etcd "$SERVERS/etcd/etcd" --data-dir "$dir/etcd" --log-level error
    await etcd "$SERVERS/etcd/etcdctl" endpoint health
    put() { show "etcdctl put waypost/$1 '$2'"; "$SERVERS/etcd/etcdctl" put "waypost/$1" "$2" >/dev/null; }
    del() { show "etcdctl del waypost/$1"; "$SERVERS/etcd/etcdctl" del "waypost/$1" >/dev/null; }
    ;;
  zookeeper)
    url=zookeeper://127.0.0.1:2181/waypost
    printf 'dataDir=%s\nclientPort=2181\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n' "$dir/zookeeper" >"$dir/zoo.cfg"
    start zookeeper java -cp "$SERVERS/zookeeper/lib/*" org.apache.zookeeper.server.quorum.QuorumPeerMain "$dir/zoo.cfg"
    await zookeeper waypost lint --store "$url"
    put() { show "waypost put $1 '$2' --store $url"; waypost put "$1" "$2" --store "$url" --force >/dev/null; }
    del() { show "waypost delete $1 --store $url"; waypost delete "$1" --store "$url" >/dev/null; }
    ;;
esac

dev() { start dev "$bin/waypost" dev --store "$url" --state "$dir/state" --api "127.0.0.1:$api" --admin "127.0.0.1:$admin"; dev_job=$last; await "waypost dev" curl -sf http://127.0.0.1:$api/livez; }

step "1. waypost dev watches $url; one more proxy joins it, on 127.0.0.2"
for endpoint in "$one:a" "$two:b" "$three:c"; do start "echo-${endpoint#*:}" "$bin/waypost" echo --listen "127.0.0.1:${endpoint%:*}" --name "${endpoint#*:}"; done
dev
show waypost-proxy --controller http://127.0.0.1:$api --bind 127.0.0.2 --state ...
start proxy "$bin/waypost-proxy" --controller http://127.0.0.1:$api --state "$dir/proxy" --admin 127.0.0.1:$edge --name edge --bind 127.0.0.2 --drain-delay 0s
await "the second proxy" sh -c "curl -sf http://127.0.0.1:$api/v1/proxies | grep -q edge"

step "2. A listener, a route, two endpoints: three kinds of key"
put listeners/web "{\"address\":\"127.0.0.1:$web\"}"
put endpoints/hello/a "127.0.0.1:$one"
put endpoints/hello/b "127.0.0.1:$two"
put routes/hello '{"rules":[{"backendRefs":[{"name":"hello"}]}]}'
waypost wait listeners/web
waypost wait routes/hello
waypost wait endpoints/hello/b
show curl http://127.0.0.2:$web/
curl -s http://127.0.0.2:$web/ | head -n 3

# From here to the end, 200 requests a second go through the second proxy.
stdbuf -oL curl --rate 200/s -s -o /dev/null -w '%{http_code}\n' "http://127.0.0.2:$web/demo/[1-1000000]" >"$dir/requests" 2>/dev/null &
load=$!
jobs+=("$load")
requests() { wc -l <"$dir/requests"; }
failures() { grep -cv '^200$' "$dir/requests" || true; }
await "requests" test -s "$dir/requests"

step "3. A new route: live within milliseconds"
put routes/shop '{"hostnames":["shop.example.com"],"rules":[{"backendRefs":[{"name":"hello"}]}]}'
waypost wait routes/shop

step "4. HTTPS, with a certificate to try"
show waypost init --tls example
waypost init --tls "$dir/example" >/dev/null
put certificates/hello "{\"files\":{\"cert\":\"$dir/example-tls/hello.crt\",\"key\":\"$dir/example-tls/hello.key\"}}"
put listeners/secure "{\"address\":\"127.0.0.1:$secure\",\"protocol\":\"HTTPS\",\"tls\":{\"certificates\":[\"hello\"]}}"
waypost wait listeners/secure
show curl --cacert example-tls/hello.crt "https://localhost:$secure/"
curl -s --cacert "$dir/example-tls/hello.crt" --resolve "localhost:$secure:127.0.0.2" "https://localhost:$secure/" | head -n 3

step "5. An endpoint comes, drains, and goes"
put endpoints/hello/c "127.0.0.1:$three"
waypost wait endpoints/hello/c
show waypost drain endpoints/hello/c
waypost drain endpoints/hello/c --store "$url"
del endpoints/hello/c
waypost wait endpoints/hello/c --for gone

step "6. A broken key gets a verdict; what it was still serves"
put routes/shop '{"hostname":["shop.example.com"],"rules":[{"backendRefs":[{"name":"hello"}]}]}'
show waypost wait routes/shop
waypost wait routes/shop || true
show waypost describe route shop
waypost describe route shop | sed 's/^/  /'
printf '  curl -H "host: shop.example.com" answers %s\n' "$(curl -s -o /dev/null -w '%{http_code}' -H 'host: shop.example.com' http://127.0.0.2:$web/)"

step "7. The controller is killed; the proxy serves on"
show "kill -9 $dev_job"
kill -9 "$dev_job"; wait "$dev_job" 2>/dev/null || true
before=$(requests)
await "a thousand requests without a controller" sh -c "[ \$(wc -l <'$dir/requests') -gt $((before + 1000)) ]"
echo "  $(($(requests) - before)) requests without a controller, $(failures) failed"
dev
put routes/back '{"hostnames":["back.example.com"],"rules":[{"backendRefs":[{"name":"hello"}]}]}'
await "the proxy to be back" sh -c "curl -sf http://127.0.0.1:$api/v1/proxies | grep -q edge"
waypost wait routes/back

step "8. In one screen"
show waypost status
waypost status | sed 's/^/  /' || true

kill "$load" 2>/dev/null || true
wait "$load" 2>/dev/null || true
# curl may have been stopped in the middle of a line.
total=$(grep -c '^...$' "$dir/requests") failed=$(grep '^...$' "$dir/requests" | grep -cv '^200$' || true)
step "$total requests, $failed failed."
[ "$failed" = 0 ] && [ "$total" -gt 0 ]
