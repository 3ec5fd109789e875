//! Requests to Consul's HTTP API.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::{Certificate, Client, Identity, Method};
use serde::Deserialize;
use waypost_adapter::{AdapterError, Auth, Entry, ErrorKind, Settings};

/// Time limit of every request except blocking queries.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The configured agents or servers. Clones share which of them is in use.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client,
    settings: Arc<Settings>,
    current: Arc<AtomicUsize>,
}

/// An answer with the status 200, 404 or, for a transaction, 409: none of these is an error.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `X-Consul-Index`, at least 1.
    pub(crate) index: u64,
    pub(crate) body: Bytes,
    pub(crate) endpoint: String,
}

/// A key in Consul's JSON.
#[derive(Debug, Deserialize)]
pub(crate) struct Kv<'a> {
    #[serde(rename = "Key", borrow)]
    pub(crate) key: std::borrow::Cow<'a, str>,
    #[serde(rename = "ModifyIndex")]
    pub(crate) modify_index: u64,
    #[serde(rename = "Value", borrow)]
    pub(crate) value: Option<&'a str>,
}

impl Kv<'_> {
    /// The entry with its decoded value.
    pub(crate) fn entry(&self, endpoint: &str) -> Result<Entry, AdapterError> {
        let value = STANDARD.decode(self.value.unwrap_or_default());
        let value = value.map_err(|error| unreachable(endpoint, format!("{}: the value is not base64: {error}", self.key)))?;
        Ok(Entry::new(self.key.as_bytes().to_vec(), value, self.modify_index))
    }
}

/// The part of a transaction's answer that is used: the entries as they are now.
#[derive(Debug, Deserialize)]
pub(crate) struct Written {
    #[serde(rename = "Results")]
    pub(crate) results: Vec<WrittenKv>,
}

/// One result of a transaction.
#[derive(Debug, Deserialize)]
pub(crate) struct WrittenKv {
    #[serde(rename = "KV")]
    pub(crate) kv: WrittenIndex,
}

/// The index at which a key was written.
#[derive(Debug, Deserialize)]
pub(crate) struct WrittenIndex {
    #[serde(rename = "ModifyIndex")]
    pub(crate) modify_index: u64,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, AdapterError> {
        serde_json::from_slice(&self.body).map_err(|error| unreachable(&self.endpoint, format!("the answer is not understood: {error}")))
    }
}

impl Http {
    pub(crate) fn new(settings: Settings) -> Result<Self, AdapterError> {
        // reqwest uses the process-wide provider; an error only means that one is installed already.
        rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap_or_default();
        let wrong = |what: &str, error: reqwest::Error| AdapterError::new(ErrorKind::Settings, "consul", format!("{what}: {error}"), "give PEM files");
        let mut builder = Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy().redirect(reqwest::redirect::Policy::none()).pool_max_idle_per_host(4);
        match settings.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
            Some(ca) => builder = builder.tls_certs_only(Certificate::from_pem_bundle(ca.as_bytes()).map_err(|error| wrong("the CA", error))?),
            // Clear text needs no authorities, and must work on a machine without any.
            None if settings.tls.is_none() => builder = builder.tls_certs_only(Vec::<Certificate>::new()),
            None => {}
        }
        if let Some((certificate, key)) = settings.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
            builder = builder.identity(Identity::from_pem(format!("{certificate}\n{key}").as_bytes()).map_err(|error| wrong("the certificate", error))?);
        }
        let client = builder.build().map_err(|error| wrong("the client", error))?;
        Ok(Self { client, settings: Arc::new(settings), current: Arc::default() })
    }

    /// The pause until the next audit.
    pub(crate) fn audit_pause(&self) -> std::time::Duration {
        self.settings.audit_pause(fastrand::f64())
    }

    /// The endpoint in use.
    pub(crate) fn current(&self) -> String {
        let count = self.settings.endpoints.len().max(1);
        self.settings.endpoints.get(self.current.load(Ordering::Relaxed) % count).cloned().unwrap_or_default()
    }

    /// Switches to the next endpoint after this one failed, unless another task has switched before.
    pub(crate) fn failed(&self, endpoint: &str) {
        let index = self.current.load(Ordering::Relaxed);
        if self.current() == endpoint {
            self.current.compare_exchange(index, index + 1, Ordering::Relaxed, Ordering::Relaxed).unwrap_or_default();
        }
    }

    /// Sends one request to the endpoint in use.
    pub(crate) async fn once(&self, method: Method, path: &str, parameters: &[&str], body: Option<Bytes>) -> Result<Answer, AdapterError> {
        self.request(method, path, parameters, body, CALL_TIMEOUT).await
    }

    /// Sends a request that may be repeated to one endpoint after the other, until one answers.
    pub(crate) async fn everywhere(&self, method: Method, path: &str, parameters: &[&str], body: Option<Bytes>) -> Result<Answer, AdapterError> {
        let mut tries = self.settings.endpoints.len().max(1);
        loop {
            tries -= 1;
            match self.once(method.clone(), path, parameters, body.clone()).await {
                Err(error) if error.kind == ErrorKind::Unreachable => {
                    self.failed(&error.endpoint);
                    if tries == 0 {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// Sends one request with its own time limit.
    pub(crate) async fn request(&self, method: Method, path: &str, parameters: &[&str], body: Option<Bytes>, limit: Duration) -> Result<Answer, AdapterError> {
        let endpoint = self.current();
        let scheme = if self.settings.tls.is_some() { "https" } else { "http" };
        let named = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name}={}", encode(value)));
        // The query is built by hand: a flag such as `recurse` counts as soon as it is present, even as `recurse=false`.
        let extra = [named("dc", &self.settings.datacenter), named("ns", &self.settings.namespace)];
        let query: Vec<String> = parameters.iter().map(|parameter| (*parameter).to_owned()).chain(extra.into_iter().flatten()).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let mut request = self.client.request(method, format!("{scheme}://{endpoint}{path}{query}")).timeout(limit);
        if let Auth::Token(token) = &self.settings.auth {
            request = request.header("x-consul-token", token);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(|error| broken(&endpoint, error))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let index = header("x-consul-index").and_then(|index| index.parse::<u64>().ok()).unwrap_or(0).max(1);
        let (leader, filtered) = (header("x-consul-knownleader"), header("x-consul-results-filtered-by-acls"));
        let body = response.bytes().await.map_err(|error| broken(&endpoint, error))?;
        if leader.as_deref() == Some("false") {
            return Err(unreachable(&endpoint, "the servers have no leader"));
        }
        if filtered.as_deref() == Some("true") {
            return Err(denied(&endpoint, "the token may not read all keys below the root"));
        }
        match status {
            200 | 404 | 409 => Ok(Answer { status, index, body, endpoint }),
            _ => Err(refused(&endpoint, status, &String::from_utf8_lossy(&body))),
        }
    }
}

pub(crate) fn unreachable(endpoint: &str, message: impl Into<String>) -> AdapterError {
    AdapterError::new(ErrorKind::Unreachable, endpoint, message, "check that Consul runs there and has a leader")
}

pub(crate) fn denied(endpoint: &str, message: impl Into<String>) -> AdapterError {
    AdapterError::new(ErrorKind::Denied, endpoint, message, "give a token whose policy has key_prefix read on the root, by CONSUL_HTTP_TOKEN or tokenFile")
}

fn refused(endpoint: &str, status: u16, body: &str) -> AdapterError {
    let text = format!("{status}: {}", body.trim());
    match status {
        401 | 403 => denied(endpoint, text),
        413 => {
            AdapterError::new(ErrorKind::Refused, endpoint, text, "write a smaller value; Consul takes 512 KiB, in a conditional write three quarters of that")
        }
        400 => AdapterError::new(ErrorKind::Refused, endpoint, text, "look at the key's name"),
        500 if body.contains("Permission denied") || body.contains("ACL not found") => denied(endpoint, text),
        _ => unreachable(endpoint, text),
    }
}

fn broken(endpoint: &str, error: reqwest::Error) -> AdapterError {
    let late = error.is_timeout();
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    unreachable(endpoint, if late { format!("no answer in time: {cause}") } else { cause.to_string() })
}

/// Percent-encodes all characters except the unreserved ones and `/`.
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}
