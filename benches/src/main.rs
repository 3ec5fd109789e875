//! `waypost-bench`: measures the figures that Waypost promises, each with a command. `make bench-propagation`, `bench-swap` and
//! `bench-proxy` call it. It starts the programs it needs on loopback, ends by itself, and exits 1 if a promise is broken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a measurement that goes wrong ends with a message")]

mod fleet;
mod load;
mod origin;
mod peers;
mod product;
mod propagation;
mod proxy;
mod stats;
mod swap;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "waypost-bench", about = "Measure what Waypost promises")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Time from a write's acknowledgement until it is served, on every store
    Propagation(propagation::Flags),
    /// Swaps under keep-alive load
    Swap(swap::Flags),
    /// Three controllers with 50 proxies, and 500 that lose their controller together
    Fleet(fleet::Flags),
    /// CPU per request compared with nginx and HAProxy, and memory
    Proxy(proxy::Flags),
}

fn main() -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let passed = match Cli::parse().what {
        What::Propagation(flags) => runtime.block_on(propagation::run(flags)),
        What::Swap(flags) => runtime.block_on(swap::run(flags)),
        What::Fleet(flags) => runtime.block_on(fleet::run(flags)),
        What::Proxy(flags) => runtime.block_on(proxy::run(flags)),
    };
    if passed { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
