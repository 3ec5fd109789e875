//! Connections to etcd: one client per endpoint, because the crate neither checks nor moves a live stream.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, KeyValue, TlsOptions};
use waypost_adapter::{AdapterError, Auth, Entry, ErrorKind, Settings};

/// Time limit of every call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// The endpoint in use; after a failure the next one.
pub(crate) struct Connections {
    settings: Settings,
    current: Mutex<(usize, Option<Client>)>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Connections {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, current: Mutex::new((0, None)) }
    }

    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn count(&self) -> usize {
        self.settings.endpoints.len()
    }

    fn lock(&self) -> MutexGuard<'_, (usize, Option<Client>)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endpoint(&self, number: usize) -> String {
        self.settings.endpoints.get(number % self.count().max(1)).cloned().unwrap_or_default()
    }

    /// The endpoint in use and a client for it, which is connected if it was not. Concurrent callers connect independently of each other.
    pub(crate) async fn get(&self) -> (String, Result<Client, AdapterError>) {
        let (number, client) = self.lock().clone();
        let endpoint = self.endpoint(number);
        if let Some(client) = client {
            return (endpoint, Ok(client));
        }
        let connected = connect(&self.settings, &endpoint).await;
        let mut current = self.lock();
        if let (Ok(client), true) = (&connected, current.0 == number) {
            current.1 = Some(client.clone());
        }
        (endpoint, connected)
    }

    /// Switches to the next endpoint after this one failed, unless another task has switched before.
    pub(crate) fn failed(&self, endpoint: &str) {
        let mut current = self.lock();
        if self.endpoint(current.0) == endpoint {
            *current = (current.0 + 1, None);
        }
    }
}

/// Connects to one endpoint.
pub(crate) async fn connect(settings: &Settings, endpoint: &str) -> Result<Client, AdapterError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let Auth::Password { user, password } = &settings.auth {
        options = options.with_user(user.clone(), password.clone()).with_auto_token_refresh(true);
    }
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    if let Some(tls) = &settings.tls {
        let mut wanted = TlsOptions::new().timeout(CONNECT_TIMEOUT);
        if let Some(ca) = &tls.ca {
            wanted = wanted.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &tls.identity {
            wanted = wanted.identity(Identity::from_pem(certificate, key));
        }
        options = options.with_tls(wanted);
    }
    bounded(endpoint, Client::connect([format!("{scheme}://{endpoint}")], Some(options))).await
}

/// Runs a call within its time limit.
pub(crate) async fn bounded<T>(endpoint: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T, AdapterError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result.map_err(|error| explain(endpoint, &error)),
        Err(_) => Err(unreachable(endpoint, format!("no answer within {CALL_TIMEOUT:?}"))),
    }
}

pub(crate) fn unreachable(endpoint: &str, message: impl Into<String>) -> AdapterError {
    AdapterError::new(ErrorKind::Unreachable, endpoint, message, "check that etcd runs there and has a leader")
}

pub(crate) fn denied(endpoint: &str, message: impl Into<String>) -> AdapterError {
    AdapterError::new(ErrorKind::Denied, endpoint, message, "check the user and password, and grant its role read on the prefix of the root")
}

/// The meaning of an error of the client. The codes of broken connections vary, so every error that is not known to be final counts as a
/// broken connection.
pub(crate) fn explain(endpoint: &str, error: &Error) -> AdapterError {
    let Error::GRpcStatus(status) = error else {
        let cause = match error {
            Error::TransportError(inner) => {
                let mut causes = std::iter::successors(std::error::Error::source(inner), |cause| cause.source());
                causes.by_ref().last().map_or_else(|| inner.to_string(), ToString::to_string)
            }
            other => other.to_string(),
        };
        return unreachable(endpoint, cause);
    };
    let message = status.message().to_owned();
    match status.code() as i32 {
        7 | 16 => denied(endpoint, message),
        3 if message.contains("authentication failed") || message.contains("user name is empty") => denied(endpoint, message),
        9 if message.contains("authentication is not enabled") => {
            AdapterError::new(ErrorKind::Settings, endpoint, message, "take the user and password away, or enable authentication in etcd")
        }
        3 if message.contains("too large") => {
            AdapterError::new(ErrorKind::Refused, endpoint, message, "write a smaller value, or raise --max-request-bytes of etcd")
        }
        8 => AdapterError::new(ErrorKind::Refused, endpoint, message, "free space in etcd: compact, defragment, then `etcdctl alarm disarm`"),
        _ => unreachable(endpoint, if message.is_empty() { format!("{:?}", status.code()) } else { message }),
    }
}

/// The entry of a key and its value.
pub(crate) fn entry_of(kv: KeyValue) -> Entry {
    let revision = u64::try_from(kv.mod_revision()).unwrap_or_default();
    let (key, value) = kv.into_key_value();
    Entry::new(key, value, revision)
}
