//! `waypost-proxy`: the proxy as a program of its own.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use tracing_subscriber::EnvFilter;
use waypost_proxy::cli::Flags;
use waypost_proxy::{RunError, start};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = waypost_settings::with_environment(Flags::command());
    let arguments = match waypost_settings::with_file(std::env::args_os().collect(), &command, &[]) {
        Ok(arguments) => arguments,
        Err(message) => return fail(2, &message),
    };
    let config = match command.try_get_matches_from(arguments).and_then(|matches| Flags::from_arg_matches(&matches)) {
        Ok(flags) => flags.into_config(),
        Err(error) => error.exit(),
    };
    let config = match config {
        Ok(config) => config,
        Err(message) => return fail(2, &message),
    };
    let filter = EnvFilter::try_from_env("WAYPOST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    match start(config) {
        Ok(running) => {
            waypost_proxy::cli::stop_on_signal(&running);
            match running.join() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(1, &error.to_string()),
            }
        }
        Err(error @ RunError::ClearText(_)) => fail(2, &error.to_string()),
        Err(error) => fail(1, &error.to_string()),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("waypost-proxy: {message}");
    ExitCode::from(code)
}
