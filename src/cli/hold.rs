//! Common parts of the verbs that pin the config: the request, and the name of the operator.

use clap::Args;

use super::client::{ControllerFlag, OutputFlag};
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use crate::api::{Action, PinAnswer, PinRequest};

/// The common flags of these verbs.
#[derive(Debug, Args)]
pub(super) struct HoldFlags {
    /// Your name for the audit [default: user@host]
    #[arg(long, value_name = "NAME")]
    pub(super) by: Option<String>,
    #[command(flatten)]
    pub(super) controller: ControllerFlag,
    #[command(flatten)]
    pub(super) output: OutputFlag,
}

impl HoldFlags {
    /// Sends the request and prints what was done.
    pub(super) async fn ask(self, action: Action) -> Outcome {
        let by = who(self.by);
        let answer: PinAnswer = self.controller.post("/v1/hold", &PinRequest { action, by }).await?;
        if !machine(self.output.output, &answer)? {
            say!("{}", answer.message);
        }
        Ok(())
    }
}

/// The operator's name: as given, otherwise user and host.
pub(super) fn who(given: Option<String>) -> String {
    given.unwrap_or_else(|| format!("{}@{}", std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned()), waypost_proxy::cli::host_name()))
}

/// Parses the number of a config: `C12` or `12`.
pub(super) fn number(typed: &str) -> Result<u64, String> {
    typed.trim_start_matches(['C', 'c']).parse().map_err(|_| format!("{typed:?} is not a config; write it as in `waypost history`, such as C12"))
}

/// A duration in seconds, at least one.
pub(super) fn seconds(limit: Option<std::time::Duration>) -> Result<Option<u64>, Failure> {
    match limit {
        Some(limit) if limit.as_secs() == 0 => Err(Failure::usage("--for is less than a second; write for example 2h")),
        other => Ok(other.map(|limit| limit.as_secs())),
    }
}
