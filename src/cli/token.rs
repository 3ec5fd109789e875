//! `waypost token`: tokens for operators, and for programs that join.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use waypost_trust::{Joining, Role, TrustError, shared_secret};

use super::client::{ControllerFlag, OutputFlag};
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use crate::api::{TokenAnswer, TokenRequest};
use crate::trust::{Signer, now};

const OPERATOR_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
const JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);

#[derive(Debug, Args)]
pub(super) struct TokenFlags {
    /// Role of an operator: read (see everything), write (also approve removals), operate (everything)
    #[arg(long, env = "WAYPOST_TOKEN_ROLE", value_parser = role, value_name = "ROLE", required_unless_present = "join", conflicts_with = "join")]
    role: Option<Role>,
    /// Kind of program that joins with the token: proxy or controller
    #[arg(long, env = "WAYPOST_TOKEN_JOIN", value_parser = joining, value_name = "PROGRAM")]
    join: Option<Joining>,
    /// The operator's name for the audit; or the only name under which a program may join, also if that name is taken
    #[arg(long, env = "WAYPOST_TOKEN_NAME", value_name = "NAME", required_unless_present = "join")]
    name: Option<String>,
    /// Lifetime of the token [default: 720h for operators, 1h for programs]
    #[arg(long, env = "WAYPOST_TOKEN_TTL", value_name = "DURATION", value_parser = waypost_proxy::cli::duration)]
    ttl: Option<Duration>,
    /// Make the token on the controller's machine: its --state directory
    #[arg(long, value_name = "DIR", env = "WAYPOST_TOKEN_STATE")]
    state: Option<PathBuf>,
    /// Make the token with the secret that controllers with --tls-cert share: their --token-secret-file
    #[arg(long, value_name = "FILE", env = "WAYPOST_TOKEN_SECRET_FILE")]
    token_secret_file: Option<PathBuf>,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

fn role(text: &str) -> Result<Role, String> {
    [Role::Read, Role::Write, Role::Operate].into_iter().find(|role| role.to_string() == text).ok_or_else(|| "write read, write or operate".to_owned())
}

fn joining(text: &str) -> Result<Joining, String> {
    [Joining::Proxy, Joining::Controller].into_iter().find(|joining| joining.to_string() == text).ok_or_else(|| "write proxy or controller".to_owned())
}

/// Makes a token without a controller.
fn local(signer: Result<Signer, TrustError>, request: &TokenRequest) -> Result<TokenAnswer, Failure> {
    signer.map_err(Failure::failed)?.make(request, now()).map_err(Failure::usage)
}

pub(super) async fn run(flags: TokenFlags) -> Outcome {
    let usual = if flags.join.is_some() { JOIN_TOKEN_LIFETIME } else { OPERATOR_TOKEN_LIFETIME };
    let request = TokenRequest { role: flags.role, join: flags.join, name: flags.name, seconds: flags.ttl.unwrap_or(usual).as_secs() };
    let answer: TokenAnswer = match (flags.state, flags.token_secret_file) {
        (_, Some(file)) => local(shared_secret(&file).map(Signer::beside_files), &request)?,
        (Some(state), None) => local(Signer::on_disk(&state), &request)?,
        (None, None) => flags.controller.post("/v1/tokens", &request).await?,
    };
    if !machine(flags.output.output, &answer)? {
        say!("{}", answer.token);
    }
    Ok(())
}
