# The two commands of the README are `make demo` and `make test`; the rest is for those who work on Waypost.
# Everything that is built or downloaded goes to $(WAYPOST_CACHE), so that a second clone is fast.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
export WAYPOST_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/waypost
export CARGO_TARGET_DIR ?= $(WAYPOST_CACHE)/target
export PATH := $(HOME)/.cargo/bin:$(PATH)
STORE ?= file

.PHONY: chaos cost help lies night outage outcomes setup servers tools build check test demo bench-fleet bench-propagation bench-swap bench-proxy profile races simulate key-reference

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

setup: ## what a build needs on a bare machine
	@scripts/setup.sh

servers: setup ## the real etcd, Consul and ZooKeeper
	@scripts/servers.sh

tools: setup
	@if ! [ -x "$(WAYPOST_CACHE)/tools/bin/cargo-deny" ]; then echo "waypost: installing cargo-deny (once)" >&2; cargo install cargo-deny --version 0.20.2 --locked --quiet --root "$(WAYPOST_CACHE)/tools"; fi
	@if ! [ -x "$(WAYPOST_CACHE)/tools/bin/cargo-machete" ]; then echo "waypost: installing cargo-machete (once)" >&2; cargo install cargo-machete --version 0.9.2 --locked --quiet --root "$(WAYPOST_CACHE)/tools"; fi

build: setup ## debug build of everything
	cargo build --workspace --locked

check: tools ## fmt, clippy, rustdoc, cargo-deny, unused dependencies, the architecture, the key reference
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
	"$(WAYPOST_CACHE)/tools/bin/cargo-deny" --offline check --hide-inclusion-graph bans licenses sources
	scripts/advisories.sh
	"$(WAYPOST_CACHE)/tools/bin/cargo-machete" --skip-target-dir
	cargo build --workspace --locked --quiet
	scripts/key-reference.sh | diff -u docs/keys.md - || { echo 'docs/keys.md is out of date: run make key-reference' >&2; exit 1; }
	cargo test --locked --quiet --test it -- architecture

test: servers ## unit, conformance and whole-product tests against real servers
	@scripts/test.sh

demo: setup ## a tour: STORE=file|etcd|consul|zookeeper
	@scripts/demo.sh $(STORE)

chaos: servers ## 100 seeded runs of random writes and faults: STORE=file|etcd|consul|zookeeper, RUNS=n, SEED=n
	cargo build --workspace --locked
	WAYPOST_CHAOS_STORE=$(STORE) WAYPOST_CHAOS_RUNS=$(or $(RUNS),100) WAYPOST_CHAOS_SEED=$(or $(SEED),1) cargo test --locked --test it -- chaos:: --nocapture --test-threads 1

lies: servers ## watches that lose, repeat, delay and go back, between each store and its adapter: RUNS=n seeds (100)
	cargo build --workspace --locked
	WAYPOST_CHAOS_RUNS=$(or $(RUNS),100) WAYPOST_CHAOS_SEED=$(or $(SEED),1) cargo test --locked --test it -- that_lies --nocapture

outage: servers ## store and controller dead under load: DURATION=n seconds (1800)
	cargo build --workspace --locked
	WAYPOST_OUTAGE_SECONDS=$(or $(DURATION),1800) cargo test --locked --test it -- outage:: --nocapture --test-threads 1

night: servers ## everything deleted on each store, and every check red, under load: DURATION=n seconds (60)
	cargo build --workspace --locked
	WAYPOST_NIGHT_SECONDS=$(or $(DURATION),60) cargo test --locked --test it -- night:: every_check_is_red --nocapture --test-threads 1

bench-propagation: servers ## write acknowledged to served, on every store
	@scripts/bench.sh propagation

bench-swap: setup ## 1,000 swaps under load
	@scripts/bench.sh swap

bench-proxy: setup ## CPU per request beside nginx and HAProxy, memory
	@scripts/bench.sh proxy

bench-fleet: servers ## three controllers on etcd, 50 proxies, 350 changes/s: DURATION=n seconds (600); 500 that lose their controller
	@scripts/bench.sh fleet --storm $(or $(DURATION),600)

races: servers ## leaders killed, frozen and cut off: RUNS=n races for each store (30); as root
	cargo build --workspace --locked
	WAYPOST_RACES=$(or $(RUNS),30) cargo test --locked --test it -- races:: --nocapture --test-threads 4

outcomes: servers ## one endpoint of three that fails at once, one of eleven that is slow: a minute and more
	cargo build --workspace --locked
	WAYPOST_LONG_OUTCOMES=1 cargo test --locked --test it -- outcomes:: --nocapture --test-threads 1

simulate: setup ## the simulations of the election and of the control plane: SEEDS=n (10000), FIRST=n
	WAYPOST_FIRST_SEED=$(or $(FIRST),0) WAYPOST_SEEDS=$(or $(SEEDS),10000) cargo test --profile fleet --locked -p waypost --lib -- sim:: election:: --nocapture

profile: setup ## where the proxy's CPU time goes
	@scripts/bench.sh profile

cost: setup ## what one entry at the limits costs: time and memory of a controller, and of a proxy with its worst lookup
	cargo test --profile fleet --locked -p waypost-model --test cost -- --nocapture
	cargo test --profile fleet --locked -p waypost-proxy --test cost -- --nocapture
	cargo test --profile fleet --locked -p waypost --lib -- cost --nocapture --test-threads 1

key-reference: build ## write docs/keys.md from the schema
	scripts/key-reference.sh > docs/keys.md
