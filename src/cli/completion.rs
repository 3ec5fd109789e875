//! `waypost completion SHELL`

use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(super) struct CompletionFlags {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(flags: &CompletionFlags, command: &mut Command) {
    clap_complete::generate(flags.shell, command, "waypost", &mut std::io::stdout());
}
