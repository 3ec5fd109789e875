//! `waypost dev`: everything on one machine, with an example that answers.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _};

use super::serve::{CommonFlags, run_both};
use super::text::say;
use super::{Failure, Outcome, echo, init, init_log};

#[derive(Debug, Args)]
pub(super) struct DevFlags {
    /// The directory to watch; a new example if it is empty or not there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Watch this store instead of a directory
    #[arg(long, value_name = "URL", conflicts_with = "dir")]
    store: Option<String>,
    /// Address of the API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    api: String,
    /// Address of the proxy's admin surface
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7410")]
    admin: String,
    /// State directory [default: a new one in the temporary directory]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// The flags of a run, parsed as on the command line so that defaults stand in one place.
#[derive(Debug, clap::Parser)]
struct Inner {
    #[command(flatten)]
    common: CommonFlags,
    #[command(flatten)]
    serving: waypost_proxy::cli::ServingFlags,
}

pub(super) async fn run(flags: DevFlags) -> Outcome {
    init_log();
    let temporary = std::env::temp_dir().join(format!("waypost-dev-{}", std::process::id()));
    let state = flags.state.unwrap_or_else(|| temporary.join("state"));
    let store = match flags.store {
        Some(url) => url,
        None => {
            let dir = flags.dir.unwrap_or_else(|| temporary.join("waypost"));
            if std::fs::read_dir(&dir).is_ok_and(|mut items| items.next().is_some()) {
                say!("The keys in {} are watched.", dir.display());
            } else {
                init::write(&dir)?;
                say!("An example is in {}: change a file there and ask again.", dir.display());
            }
            start_echoes();
            let dir = std::path::absolute(&dir).map_err(Failure::failed)?;
            format!("file://{}", dir.display())
        }
    };
    say!("The proxy is on http://127.0.0.1:8080/, the API on http://{}/. Ctrl-C ends it.", flags.api);
    let state = state.display().to_string();
    let arguments = [
        "dev",
        "--store",
        &store,
        "--state",
        &state,
        "--api",
        &flags.api,
        "--admin",
        &flags.admin,
        "--name",
        "dev",
        "--listen",
        "127.0.0.1:8080",
        "--version-header",
        "--drain-delay",
        "0s",
        "--drain-deadline",
        "2s",
    ];
    let matches = Inner::command().try_get_matches_from(arguments).map_err(Failure::usage)?;
    let inner = Inner::from_arg_matches(&matches).map_err(Failure::usage)?;
    let outcome = run_both(inner.common, inner.serving).await;
    if temporary.exists()
        && let Err(error) = std::fs::remove_dir_all(&temporary)
    {
        tracing::debug!(%error, "{} stays behind", temporary.display());
    }
    outcome
}

/// The endpoints of the example. An address that is taken is left to whoever has it.
fn start_echoes() {
    for (name, port) in [("a", 9_001), ("b", 9_002)] {
        tokio::spawn(async move {
            match echo::bind(([127, 0, 0, 1], port).into()).await {
                Ok(listener) => echo::serve(listener, name.to_owned()).await,
                Err(failure) => {
                    say!("Endpoint {name} of the example does not run: {failure}");
                    Ok(())
                }
            }
        });
    }
}
