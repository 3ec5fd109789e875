//! `waypost`: controller and command line.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One TLS provider for the process; an error only means that one is installed already.
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap_or_default();
    waypost::cli::main()
}
