//! The client of the controller's API, and of stores with the caller's own credentials.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use waypost_trust::{Claims, joining_client};

use super::outcome::Failure;
use crate::api::{ErrorBody, LEADER_FAILURE_HEADER, StatusInfo};
use crate::stores;
use crate::stores::{Store, StoreFlags};

/// Time limit for an answer from memory or from a file of the history.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Whether the warning was printed that the leader did not answer; each verb prints it once.
static LEADER_FAILURE_WARNING: std::sync::Once = std::sync::Once::new();

/// The controller's address and how it is authenticated.
#[derive(Debug, Clone, Args)]
pub(super) struct ControllerFlag {
    /// The controller's API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7400", env = "WAYPOST_CONTROLLER", value_parser = web_url)]
    controller: url::Url,
    /// File with the token that authenticates you to a controller with https; or set WAYPOST_TOKEN
    #[arg(long, value_name = "FILE", env = "WAYPOST_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// File with the authorities that the controller's certificate is checked against (PEM) [default: the one that the token names]
    #[arg(long, value_name = "FILE", env = "WAYPOST_CA")]
    ca: Option<PathBuf>,
}

/// The output format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Text for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// The flag of the output format.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputFlag {
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(super) output: Format,
}

/// The store to write to.
#[derive(Debug, Clone, Args)]
pub(super) struct StoreFlag {
    /// URL of the store to use [default: the controller's first store]
    #[arg(long, value_name = "URL", env = "WAYPOST_STORE")]
    pub(super) store: Option<String>,
    #[command(flatten)]
    pub(super) credentials: CredentialFlags,
}

/// The credentials for a store.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct CredentialFlags {
    /// File with the store's token, or USER:PASSWORD
    #[arg(long, value_name = "FILE", env = "WAYPOST_STORE_TOKEN_FILE")]
    store_token_file: Option<std::path::PathBuf>,
    /// File with the authorities that the store's certificate is checked against (PEM)
    #[arg(long, value_name = "FILE", env = "WAYPOST_STORE_CA")]
    store_ca: Option<std::path::PathBuf>,
    /// File with the client certificate for the store (PEM)
    #[arg(long, value_name = "FILE", env = "WAYPOST_STORE_CERT")]
    store_cert: Option<std::path::PathBuf>,
    /// File with the key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", env = "WAYPOST_STORE_KEY")]
    store_key: Option<std::path::PathBuf>,
    /// Datacenter of the store (Consul)
    #[arg(long, value_name = "NAME", env = "WAYPOST_STORE_DATACENTER")]
    store_datacenter: Option<String>,
    /// Namespace of the store (Consul Enterprise)
    #[arg(long, value_name = "NAME", env = "WAYPOST_STORE_NAMESPACE")]
    store_namespace: Option<String>,
    /// Interval of complete listings of the store, which find changes that a watch has lost [default: 60s]
    #[arg(long, value_name = "DURATION", env = "WAYPOST_STORE_AUDIT", value_parser = audit)]
    store_audit: Option<waypost_model::duration::Duration>,
}

fn audit(text: &str) -> Result<waypost_model::duration::Duration, String> {
    waypost_model::duration::Duration::try_from(text.to_owned())
}

impl CredentialFlags {
    /// Whether any of them is secret.
    pub(super) const fn any(&self) -> bool {
        self.store_token_file.is_some() || self.store_cert.is_some() || self.store_key.is_some()
    }

    /// A store's settings with these credentials.
    pub(super) fn with(&self, url: &str) -> StoreFlags {
        StoreFlags {
            url: url.to_owned(),
            token_file: self.store_token_file.clone(),
            ca: self.store_ca.clone(),
            cert: self.store_cert.clone(),
            key: self.store_key.clone(),
            datacenter: self.store_datacenter.clone(),
            namespace: self.store_namespace.clone(),
            audit: self.store_audit,
        }
    }
}

impl ControllerFlag {
    /// Sends a GET request and decodes the JSON answer; `query` holds the parameters.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        self.get_within(ANSWER_TIMEOUT, path, query).await
    }

    /// The same with a time limit of the caller's.
    pub(super) async fn get_within<T: DeserializeOwned>(&self, limit: Duration, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        let request = self.request(Method::GET, path)?.query(query).timeout(limit);
        self.answer(request).await
    }

    /// Sends a POST request and decodes the JSON answer.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let request = self.request(Method::POST, path)?.json(body).timeout(ANSWER_TIMEOUT);
        self.answer(request).await
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Failure> {
        let url = self.controller.join(path).map_err(Failure::usage)?;
        let token = self.token()?;
        let client = if self.controller.scheme() == "https" { self.client(token.as_deref())? } else { client().map_err(Failure::failed)? };
        let request = client.request(method, url);
        // In clear text, anybody on the path could read the token.
        Ok(match token.filter(|_| self.controller.scheme() == "https") {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    fn token(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.token_file else { return Ok(std::env::var("WAYPOST_TOKEN").ok().filter(|token| !token.is_empty())) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("{}: {error}; --token-file names the file with the token", path.display())))?;
        Ok(Some(text.trim().to_owned()))
    }

    /// A client that checks the controller's certificate against an authority: that of a file, or the one that the token names.
    fn client(&self, token: Option<&str>) -> Result<Client, Failure> {
        if let Some(path) = &self.ca {
            let named =
                |error: &dyn fmt::Display| Failure::usage(format!("{}: {error}; --ca names a PEM file with the controller's authority", path.display()));
            let pem = std::fs::read(path).map_err(|error| named(&error))?;
            let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| named(&error))?;
            return Client::builder().no_proxy().tls_certs_only(all).build().map_err(|error| named(&error));
        }
        let authority = match token.map(Claims::peek).transpose().map_err(Failure::usage)? {
            Some(Claims::Operator { authority: Some(authority), .. }) => authority,
            Some(Claims::Join { .. }) => return Err(Failure::usage("the token lets a program join, and nothing else; make one with `waypost token --role`")),
            _ => {
                let message = "the controller's authority is not known; name its certificate with --ca (on the controller's machine: STATE/trust/ca.pem), or give a token that names it with --token-file or WAYPOST_TOKEN";
                return Err(Failure::usage(message));
            }
        };
        let tls = joining_client(&authority).map_err(Failure::failed)?;
        Client::builder().no_proxy().tls_backend_preconfigured(tls).build().map_err(Failure::failed)
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request).await?;
        let text = response.bytes().await.map_err(|error| self.not_reached(&error))?;
        serde_json::from_slice(&text)
            .map_err(|error| Failure::failed(format!("the answer of {} is not understood: {error}; is it the same release?", self.controller)))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.not_reached(&error))?;
        if response.status().is_success() {
            let leader_failure = response.headers().get(LEADER_FAILURE_HEADER).and_then(|why| why.to_str().ok());
            // `waypost status` prints this itself.
            if let Some(why) = leader_failure.filter(|_| response.url().path() != "/v1/status") {
                LEADER_FAILURE_WARNING.call_once(|| eprintln!("waypost: {why}; this is what {} knows", self.controller));
            }
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        let message = serde_json::from_str::<ErrorBody>(&text).map_or(text, |body| body.error);
        let failed = [StatusCode::CONFLICT, StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        if failed.contains(&status) {
            return Err(Failure::failed(message));
        }
        Err(if status.is_client_error() { Failure::usage(message) } else { Failure::failed(format!("{}: {message}", self.controller)) })
    }

    fn not_reached(&self, error: &reqwest::Error) -> Failure {
        Failure::unreachable(format!(
            "the controller at {} cannot be reached: {}; start one with `waypost run`, or name it with --controller",
            self.controller,
            waypost_trust::cause(error)
        ))
    }
}

/// Parses the URL of an API.
pub(super) fn web_url(typed: &str) -> Result<url::Url, String> {
    let url = url::Url::parse(typed).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    url.ok_or_else(|| format!("{typed:?} is not a URL; write http://HOST:PORT"))
}

/// A client without TLS, for loopback and trusted networks.
pub(super) fn client() -> reqwest::Result<Client> {
    Client::builder().no_proxy().tls_certs_only(Vec::<reqwest::Certificate>::new()).build()
}

impl StoreFlag {
    /// Opens the store that was named, else the controller's first.
    pub(super) async fn open(&self, controller: &ControllerFlag) -> Result<Store, Failure> {
        let url = match &self.store {
            Some(url) => url.clone(),
            None => {
                let status: StatusInfo = controller.get("/v1/status", &[]).await?;
                let first = status.sources.into_iter().next();
                first.map(|source| source.url).ok_or_else(|| Failure::failed("the controller has no store; name one with --store"))?
            }
        };
        stores::open(&self.credentials.with(&url)).map_err(Failure::usage)
    }
}

/// Joins a key that was typed as one word or two: `routes/shop`, or `route shop`.
pub(super) fn joined(words: &[String]) -> String {
    waypost_model::key::join_typed(words).join("/")
}

/// The failure for an error of a store.
pub(super) fn store_failure(error: &waypost_adapter::AdapterError) -> Failure {
    use waypost_adapter::ErrorKind;
    match error.kind {
        ErrorKind::Unreachable => Failure::unreachable(error),
        ErrorKind::Settings => Failure::usage(error),
        ErrorKind::Denied | ErrorKind::Refused | ErrorKind::UnknownOutcome => Failure::failed(error),
    }
}
