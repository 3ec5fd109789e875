//! The flags of a controller's certificate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use waypost_proxy::cli::{TlsFlags, host_name, joining_token};
use waypost_trust::{Files, Joining};

use super::outcome::Failure;
use super::text::say;
use crate::trust::{From, Settings, Token, TokenRequest, Trust, now};

/// Lifetime of the first token with which programs join.
const FIRST_TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);

/// The flags that protect the API.
#[derive(Debug, Clone, Args)]
pub(super) struct ApiTlsFlags {
    /// Serve the API as plain HTTP beyond loopback
    #[arg(long, conflicts_with = "tls", env = "WAYPOST_INSECURE")]
    pub(super) insecure: bool,
    /// Use TLS, certificates and tokens for the API on loopback, too; beyond loopback they are always used
    #[arg(long, env = "WAYPOST_TLS")]
    tls: bool,
    /// File with the token with which this controller joins another one (--peer), once; or set WAYPOST_JOIN
    #[arg(long, value_name = "FILE", conflicts_with = "tls_cert", env = "WAYPOST_JOIN_FILE")]
    join_file: Option<PathBuf>,
    /// Lifetime of certificates; they are renewed after two thirds of it
    #[arg(long, value_name = "DURATION", default_value = "168h", value_parser = life, env = "WAYPOST_CERT_TTL")]
    cert_ttl: Duration,
    /// Time for which one of the keys that proxies share encrypts, before the next one does
    #[arg(long, value_name = "DURATION", default_value = "12h", value_parser = rotation, env = "WAYPOST_KEY_ROTATION")]
    pub(super) key_rotation: Duration,
    #[command(flatten)]
    files: TlsFlags,
    /// File with the secret that signs tokens, the same on all controllers, for use with --tls-cert: 32 bytes or more in base64
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "WAYPOST_TOKEN_SECRET_FILE")]
    token_secret_file: Option<PathBuf>,
}

/// Parses the lifetime of certificates: long enough to renew them.
fn life(text: &str) -> Result<Duration, String> {
    let life = waypost_proxy::cli::duration(text)?;
    let range = Duration::from_secs(5)..=Duration::from_secs(366 * 86_400);
    if range.contains(&life) { Ok(life) } else { Err("a certificate is good for 5s to 8784h (a year)".to_owned()) }
}

/// Parses the time of a key: long enough that proxies receive the next one before it is used.
fn rotation(text: &str) -> Result<Duration, String> {
    let rotation = waypost_proxy::cli::duration(text)?;
    let range = Duration::from_secs(10)..=Duration::from_secs(30 * 86_400);
    if range.contains(&rotation) { Ok(rotation) } else { Err("a shared key seals for 10s to 720h".to_owned()) }
}

impl ApiTlsFlags {
    /// Whether the API at this address is to use TLS.
    pub(super) fn wanted(&self, api: SocketAddr) -> bool {
        self.tls || self.files.tls_cert.is_some() || !api.ip().is_loopback() && !self.insecure
    }

    /// The scheme of the API at this address.
    pub(super) fn scheme(&self, api: SocketAddr) -> &'static str {
        if self.wanted(api) { "https" } else { "http" }
    }

    /// The files of the certificates, if they come from files.
    pub(super) fn files(&self) -> Option<Files> {
        self.files.clone().files()
    }

    /// Refuses flags that contradict each other, before anything is bound or written.
    pub(super) fn check(&self, place: &Place<'_>) -> Result<(), Failure> {
        if self.wanted(place.api) { place.hosts().map(drop) } else { Ok(()) }
    }

    /// The controller's certificate, if the API is to use TLS.
    pub(super) async fn open(&self, place: &Place<'_>) -> Result<Option<Arc<Trust>>, Failure> {
        if !self.wanted(place.api) {
            return Ok(None);
        }
        let from = match (self.files(), joining_token(self.join_file.as_deref()).map_err(Failure::usage)?) {
            (Some(files), _) => From::Files(files, self.token_secret_file.clone()),
            (None, Some(token)) => From::Joining(Token(token), place.peers.to_vec()),
            (None, None) => From::Own { others: !place.peers.is_empty() },
        };
        let settings = Settings { name: place.name.to_owned(), hosts: place.hosts()?, folder: place.state.join("trust"), life: self.cert_ttl, from };
        let trust = Trust::open(settings).await.map_err(Failure::failed)?;
        if trust.is_new {
            print_join_command(&trust, place)?;
        }
        Ok(Some(Arc::new(trust)))
    }
}

/// The name and addresses of a controller.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Its state directory.
    pub(super) state: &'a Path,
    /// The address that its API listens on.
    pub(super) api: SocketAddr,
    /// The URL at which others reach it.
    pub(super) advertise: &'a str,
    /// The URLs of other controllers.
    pub(super) peers: &'a [url::Url],
}

impl Place<'_> {
    /// The host names in its certificate, under which clients reach it.
    fn hosts(&self) -> Result<Vec<String>, Failure> {
        let url: url::Url =
            self.advertise.parse().map_err(|error| Failure::usage(format!("--advertise {}: {error}; write https://HOST:PORT", self.advertise)))?;
        if url.scheme() != "https" {
            return Err(Failure::usage(format!("--advertise {} is plain HTTP, and the API uses TLS; write https://", self.advertise)));
        }
        let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        hosts.extend(url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned()));
        hosts.extend((!self.api.ip().is_unspecified()).then(|| self.api.ip().to_string()));
        hosts.push(host_name());
        hosts.sort();
        hosts.dedup();
        Ok(hosts)
    }
}

/// The default URL at which others reach an API that listens on this address.
pub(super) fn advertised(scheme: &str, api: SocketAddr) -> String {
    if api.ip().is_unspecified() { format!("{scheme}://{}:{}", host_name(), api.port()) } else { format!("{scheme}://{api}") }
}

/// Prints the first join command. This is the only time that a secret is printed.
fn print_join_command(trust: &Trust, place: &Place<'_>) -> Result<(), Failure> {
    let request = TokenRequest { join: Some(Joining::Proxy), seconds: FIRST_TOKEN_LIFETIME.as_secs(), ..TokenRequest::default() };
    let token = trust.signer.make(&request, now()).map_err(Failure::failed)?.token;
    say!("This is the first controller: it has made the cluster's authority, in {}.", place.state.join("trust").display());
    say!("For an hour, a proxy joins with");
    say!("  WAYPOST_JOIN={token} waypost-proxy --controller {} --state DIR", place.advertise);
    say!("Later, and for other controllers and for people: waypost token --state {} --help", place.state.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_an_address_that_they_can_reach() {
        assert_eq!(advertised("https", ([10, 0, 0, 1], 7400).into()), "https://10.0.0.1:7400");
        assert_eq!(advertised("http", ([0, 0, 0, 0], 7400).into()), format!("http://{}:7400", host_name()));
    }
}
