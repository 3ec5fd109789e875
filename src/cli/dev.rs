//! `waypost dev`: everything on one machine, with an example that answers.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _};

use super::outcome::{Failure, Outcome};
use super::serve::{CommonFlags, init_log, run_both};
use super::text::say;
use super::{echo, init};

#[derive(Debug, Args)]
pub(super) struct DevFlags {
    /// The directory to watch; a new example if it is empty or not there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Watch this store instead of a directory
    #[arg(long, value_name = "URL", conflicts_with = "dir")]
    store: Option<String>,
    /// Address of the API [default: 127.0.0.1:7400, or another port where that is taken]
    #[arg(long, value_name = "ADDR")]
    api: Option<String>,
    /// Address of the proxy's admin surface [default: 127.0.0.1:7410, or another port where that is taken]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// State directory [default: a new one in the temporary directory]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// The flags of `waypost run`, parsed as on the command line so that the defaults are defined in one place.
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
    let mut ports = Ports::default();
    let web = ports.take(8_080, "the proxy");
    let api = flags.api.unwrap_or_else(|| loopback(ports.take(7_400, "the API")));
    let admin = flags.admin.unwrap_or_else(|| loopback(ports.take(7_410, "the admin surface")));
    let mut is_example = false;
    let store = match flags.store {
        Some(url) => url,
        None => {
            let dir = flags.dir.unwrap_or_else(|| temporary.join("waypost"));
            if std::fs::read_dir(&dir).is_ok_and(|mut items| items.next().is_some()) {
                say!("The keys in {} are watched.", dir.display());
            } else {
                let (a, b) = (ports.take(9_001, "endpoint a"), ports.take(9_002, "endpoint b"));
                init::write(&dir, &[(8_080, web), (9_001, a), (9_002, b)])?;
                say!("An example is in {}: change a file there and ask again.", dir.display());
                start_echoes([("a", a), ("b", b)]);
                is_example = true;
            }
            let dir = std::path::absolute(&dir).map_err(Failure::failed)?;
            format!("file://{}", dir.display())
        }
    };
    if is_example {
        say!("The proxy is on http://127.0.0.1:{web}/, the API on http://{api}/. Ctrl-C ends it.");
    } else {
        say!("The proxy is where listeners/NAME says, or on http://127.0.0.1:{web}/ if there is none; the API on http://{api}/. Ctrl-C ends it.");
    }
    let (state, listen) = (state.display().to_string(), loopback(web));
    let arguments = [
        "dev",
        "--store",
        &store,
        "--state",
        &state,
        "--api",
        &api,
        "--admin",
        &admin,
        "--name",
        "dev",
        "--listen",
        &listen,
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

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Ports of this run.
#[derive(Default)]
struct Ports {
    used: Vec<u16>,
}

impl Ports {
    /// The usual port, or a free one if another process has it.
    fn take(&mut self, usual: u16, what: &str) -> u16 {
        let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let any = || std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).map_or(usual, |address| address.port());
        let port = if is_free(usual) { usual } else { (0..16).map(|_| any()).find(|port| !self.used.contains(port)).unwrap_or(usual) };
        if port != usual {
            say!("Port {usual} of 127.0.0.1 is taken; {what} is on {port} instead.");
        }
        self.used.push(port);
        port
    }
}

/// The endpoints of the example.
fn start_echoes(endpoints: [(&'static str, u16); 2]) {
    for (name, port) in endpoints {
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
