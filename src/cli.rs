//! The command line: one file per verb.

mod adopt;
mod approve;
mod client;
mod completion;
mod delete;
mod describe;
mod dev;
mod diff;
mod drain;
mod echo;
mod events;
mod export;
mod freeze;
mod get;
mod history;
mod hold;
mod init;
mod lint;
mod outcome;
mod pin;
mod proxies;
mod put;
mod serve;
mod status;
mod step_down;
mod tail;
mod text;
mod tls;
mod token;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use outcome::{Failure, Outcome};

/// Waypost: a load balancer steered from etcd, Consul, ZooKeeper or a directory.
#[derive(Debug, Parser)]
#[command(name = "waypost", version, about, propagate_version = true)]
struct Cli {
    /// Read flags from a TOML file
    #[arg(long, global = true, value_name = "FILE", env = "WAYPOST_CONFIG")]
    config: Option<std::path::PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a controller and a proxy in one process, for a single machine
    Run(Box<serve::RunFlags>),
    /// Run with an example directory and echo endpoints, proxy on 127.0.0.1:8080
    Dev(dev::DevFlags),
    /// Run a controller; `waypost controller step-down` makes the leader hand over
    Controller(serve::ControllerFlags),
    /// Make the leader hand over to another controller: `waypost controller step-down`
    #[command(hide = true)]
    StepDown(hold::HoldFlags),
    /// List entries and their verdicts
    Get(get::GetFlags),
    /// Show one entry: verdict, revision, and on how many proxies it is live
    Describe(describe::DescribeFlags),
    /// Write an entry to the store
    Put(put::PutFlags),
    /// Delete an entry from the store
    Delete(delete::DeleteFlags),
    /// Check files or a store without a controller
    #[command(alias = "validate")]
    Lint(lint::LintFlags),
    /// Wait until an entry is live, accepted or gone
    Wait(wait::WaitFlags),
    /// Write the authors' original bytes to a directory or store
    Export(export::ExportFlags),
    /// Is everything current? Exits 1 if not
    Status(status::StatusFlags),
    /// List the proxies
    #[command(alias = "nodes")]
    Proxies(proxies::ProxiesFlags),
    /// List the configs that were published
    History(history::HistoryFlags),
    /// Show what differs between two configs
    Diff(diff::DiffFlags),
    /// Publish an old config again and pin it, also with the store down
    Rollback(pin::RollbackFlags),
    /// Approve removals that are held: entries that left their store and are still served
    Approve(approve::ApproveFlags),
    /// Allow the proxies of another cluster to follow this one
    Adopt(adopt::AdoptFlags),
    /// Keep a config published, whatever is written
    Pin(pin::PinFlags),
    /// End a pin
    Unpin(hold::HoldFlags),
    /// Keep the config as it is, whatever is written; endpoints still change
    Freeze(hold::HoldFlags),
    /// End a freeze
    Unfreeze(hold::HoldFlags),
    /// Make a token for an operator, or for a proxy or controller that joins
    Token(token::TokenFlags),
    /// Show events
    Events(events::EventsFlags),
    /// Take an endpoint out of service without failing requests
    Drain(drain::DrainFlags),
    /// Follow the requests that a proxy serves
    Tail(tail::TailFlags),
    /// Make an example directory
    Init(init::InitFlags),
    /// Run an HTTP server that echoes requests
    Echo(echo::EchoFlags),
    /// Print a shell completion script
    Completion(completion::CompletionFlags),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let command = waypost_settings::with_environment(Cli::command());
    let arguments = match waypost_settings::with_file(joined_verbs(std::env::args_os().collect()), &command, &["store", "limits", "guard"]) {
        Ok(arguments) => arguments,
        Err(message) => return report(Failure::usage(message)),
    };
    let cli = match command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(failure),
    }
}

/// `controller step-down` is one verb.
fn joined_verbs(mut arguments: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    if arguments.get(1).is_some_and(|verb| verb == "controller") && arguments.get(2).is_some_and(|verb| verb == "step-down") {
        arguments.remove(1);
    }
    arguments
}

fn report(failure: Failure) -> ExitCode {
    if !failure.message.is_empty() {
        eprintln!("waypost: {}", failure.message);
    }
    ExitCode::from(failure.code)
}

fn run(verb: Verb) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Failure::failed)?;
    match verb {
        Verb::Run(flags) => runtime.block_on(serve::run(*flags)),
        Verb::Dev(flags) => runtime.block_on(dev::run(flags)),
        Verb::Controller(flags) => runtime.block_on(serve::controller(flags)),
        Verb::StepDown(flags) => runtime.block_on(step_down::run(flags)),
        Verb::Get(flags) => runtime.block_on(get::run(flags)),
        Verb::Describe(flags) => runtime.block_on(describe::run(flags)),
        Verb::Put(flags) => runtime.block_on(put::run(flags)),
        Verb::Delete(flags) => runtime.block_on(delete::run(flags)),
        Verb::Lint(flags) => runtime.block_on(lint::run(flags)),
        Verb::Wait(flags) => runtime.block_on(wait::run(flags)),
        Verb::Export(flags) => runtime.block_on(export::run(flags)),
        Verb::Status(flags) => runtime.block_on(status::run(flags)),
        Verb::Proxies(flags) => runtime.block_on(proxies::run(flags)),
        Verb::History(flags) => runtime.block_on(history::run(flags)),
        Verb::Diff(flags) => runtime.block_on(diff::run(flags)),
        Verb::Adopt(flags) => runtime.block_on(adopt::run(flags)),
        Verb::Approve(flags) => runtime.block_on(approve::run(flags)),
        Verb::Rollback(flags) => runtime.block_on(pin::rollback(flags)),
        Verb::Pin(flags) => runtime.block_on(pin::pin(flags)),
        Verb::Unpin(flags) => runtime.block_on(pin::unpin(flags)),
        Verb::Freeze(flags) => runtime.block_on(freeze::freeze(flags)),
        Verb::Unfreeze(flags) => runtime.block_on(freeze::unfreeze(flags)),
        Verb::Token(flags) => runtime.block_on(token::run(flags)),
        Verb::Events(flags) => runtime.block_on(events::run(flags)),
        Verb::Drain(flags) => runtime.block_on(drain::run(flags)),
        Verb::Tail(flags) => runtime.block_on(tail::run(flags)),
        Verb::Init(flags) => init::run(&flags),
        Verb::Echo(flags) => runtime.block_on(echo::run(flags)),
        Verb::Completion(flags) => {
            completion::run(&flags, &mut Cli::command());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_every_verb_fit_together() {
        Cli::command().debug_assert();
        // A verb's argument takes precedence over a global one of the same name.
        let taken: Vec<String> = Cli::command()
            .get_subcommands()
            .filter(|verb| verb.get_arguments().any(|argument| argument.get_id() == "config" && argument.get_long() != Some("config")))
            .map(|verb| verb.get_name().to_owned())
            .collect();
        assert_eq!(taken, Vec::<String>::new());
    }
}
