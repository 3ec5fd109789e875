//! `waypost wait KEY…`

use std::time::Duration;

use clap::Args;

use super::client::{ANSWER_TIMEOUT, ControllerFlag, Format, OutputFlag};
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use crate::api::{For, WaitAnswer, WaitOutcome};

#[derive(Debug, Args)]
pub(super) struct WaitFlags {
    /// routes/shop, or route shop, or the full key; several are waited for in turn
    #[arg(required = true)]
    key: Vec<String>,
    /// What to wait for
    #[arg(long = "for", value_enum, default_value = "live")]
    what: For,
    /// Wait at most this long
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    timeout: String,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

/// Time by which an answer may come later than its time limit.
const WAIT_GRACE: Duration = Duration::from_secs(5);

/// Waits for one entry.
pub(super) struct WaitFor {
    pub(super) key: String,
    pub(super) what: For,
    pub(super) timeout: String,
    pub(super) output: Format,
}

pub(super) async fn run(flags: WaitFlags) -> Outcome {
    for key in waypost_model::key::join_typed(&flags.key) {
        wait_for(&flags.controller, &WaitFor { key, what: flags.what, timeout: flags.timeout.clone(), output: flags.output.output }).await?;
    }
    Ok(())
}

/// Waits, and prints how it ended: exit 0, 3 with the verdict, or 1 with the proxies that lag.
pub(super) async fn wait_for(controller: &ControllerFlag, wanted: &WaitFor) -> Outcome {
    let what = match wanted.what {
        For::Live => "live",
        For::Accepted => "accepted",
        For::Gone => "gone",
    };
    let query = [("key", wanted.key.clone()), ("for", what.to_owned()), ("timeout", wanted.timeout.clone())];
    // The controller ends the wait; this limit ends it if the controller does not answer at all.
    let limit = waypost_model::duration::Duration::try_from(wanted.timeout.clone()).map_or(ANSWER_TIMEOUT, |limit| limit.get() + WAIT_GRACE);
    let answer: WaitAnswer = controller.get_within(limit, "/v1/wait", &query).await?;
    let printed = machine(wanted.output, &answer)?;
    if !printed && answer.outcome != WaitOutcome::Timeout {
        say!("{}", answer.message);
    }
    match answer.outcome {
        WaitOutcome::Done => Ok(()),
        WaitOutcome::Rejected => Err(Failure { code: 3, message: String::new() }),
        WaitOutcome::Timeout => Err(Failure::failed(if printed { String::new() } else { answer.message })),
    }
}
