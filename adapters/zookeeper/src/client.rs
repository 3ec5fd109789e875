//! Sessions with an ensemble. A lost session is replaced by a new one, because the crate does not arm persistent watches again after a
//! reconnect.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use waypost_adapter::{AdapterError, Auth, Entry, ErrorKind, Key, Revision, Settings};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Error, Permission, Stat, TlsOptions};

/// Time limit of every call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The session for reads and writes.
pub(crate) struct Session {
    settings: Arc<Settings>,
    client: Mutex<Option<Client>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, client: Mutex::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session; a new one is opened if there is none or it has ended. Concurrent callers open sessions independently of each other.
    pub(crate) async fn get(&self) -> Result<Client, AdapterError> {
        let current = self.lock().clone().filter(|client| !client.state().is_terminated());
        if let Some(client) = current {
            return Ok(client);
        }
        let opened = connect(&self.settings).await?;
        Ok(self.lock().insert(opened).clone())
    }

    /// Drops a failed session, unless it was replaced before; the next use opens another one.
    pub(crate) fn forget(&self, failed: &Client) {
        self.lock().take_if(|client| client.session_id() == failed.session_id());
    }
}

/// Opens a session with any server of the ensemble.
pub(crate) async fn connect(settings: &Settings) -> Result<Client, AdapterError> {
    let mut connector = Client::connector().with_session_timeout(SESSION_TIMEOUT).with_connection_timeout(CONNECT_TIMEOUT).with_fail_eagerly();
    if let Auth::Password { user, password } = &settings.auth {
        connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
    }
    let cluster = settings.endpoints.join(",");
    let opening = async {
        match &settings.tls {
            None => connector.connect(&cluster).await,
            Some(tls) => {
                let mut options = TlsOptions::new();
                if let Some(ca) = &tls.ca {
                    options = options.with_pem_ca(ca)?;
                }
                if let Some((certificate, key)) = &tls.identity {
                    options = options.with_pem_identity(certificate, key)?;
                }
                connector.with_tls(options).secure_connect(&cluster).await
            }
        }
    };
    // The crate spends up to its connection time-out on each server before it tries the next.
    let limit = CONNECT_TIMEOUT * u32::try_from(settings.endpoints.len().max(1)).unwrap_or(1) + Duration::from_secs(1);
    match tokio::time::timeout(limit, opening).await {
        Ok(result) => result.map_err(|error| explain(settings, &error)),
        Err(_) => Err(unreachable(settings, "no session in time")),
    }
}

/// Runs a call within its time limit.
pub(crate) async fn in_time<T>(settings: &Settings, call: impl Future<Output = T>) -> Result<T, AdapterError> {
    tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(|_| unreachable(settings, format!("no answer within {CALL_TIMEOUT:?}")))
}

/// Like [`in_time`], with the client's own errors converted.
pub(crate) async fn bounded<T>(settings: &Settings, call: impl Future<Output = Result<T, Error>>) -> Result<T, AdapterError> {
    in_time(settings, call).await?.map_err(|error| explain(settings, &error))
}

pub(crate) fn unreachable(settings: &Settings, message: impl Into<String>) -> AdapterError {
    AdapterError::new(ErrorKind::Unreachable, settings.endpoints.join(","), message, "check that ZooKeeper runs there and has a quorum")
}

/// The meaning of an error of the client.
pub(crate) fn explain(settings: &Settings, error: &Error) -> AdapterError {
    let endpoint = settings.endpoints.join(",");
    match error {
        Error::NoAuth | Error::AuthFailed => AdapterError::new(
            ErrorKind::Denied,
            endpoint,
            error.to_string(),
            "give user:password of a digest identity that the ACLs let read below the root, and write below the status root",
        ),
        Error::BadArguments(_) => AdapterError::new(ErrorKind::Refused, endpoint, error.to_string(), "look at the key's name, and at the certificates"),
        Error::InvalidAcl | Error::QuotaExceeded => {
            AdapterError::new(ErrorKind::Refused, endpoint, error.to_string(), "look at the quota and ACLs of the root")
        }
        Error::NoHosts => unreachable(settings, "no server of the ensemble could be reached"),
        _ => unreachable(settings, error.to_string()),
    }
}

/// The path of a key.
pub(crate) fn path_of(settings: &Settings, key: &Key) -> Result<String, AdapterError> {
    let ok = |text: &&str| !text.is_empty() && text.split('/').all(|part| !part.is_empty() && part != "." && part != "..") && !text.contains(char::is_control);
    match std::str::from_utf8(key.bytes()).ok().filter(ok) {
        Some(text) => Ok(format!("/{text}")),
        None => {
            Err(AdapterError::new(ErrorKind::Refused, settings.endpoints.join(","), format!("{key} is not a path"), "use letters, digits, '.', '_' and '-'"))
        }
    }
}

/// The entry of a node.
pub(crate) fn entry_of(path: &str, data: Vec<u8>, stat: &Stat) -> Entry {
    Entry::new(path.trim_start_matches('/').as_bytes().to_vec(), data, u64::try_from(stat.mzxid).unwrap_or_default())
}

/// Creates a node and its parents; `None` if it exists already. With credentials, only this identity may write the node and everybody may
/// read it; without credentials, everybody may do both.
pub(crate) async fn create(settings: &Settings, client: &Client, path: &str, value: &Bytes) -> Result<Option<Revision>, AdapterError> {
    let acls = match settings.auth {
        Auth::None => vec![Acl::new(Permission::ALL, AuthId::new("world", "anyone"))],
        _ => vec![Acl::new(Permission::ALL, AuthId::new("auth", "")), Acl::new(Permission::READ, AuthId::new("world", "anyone"))],
    };
    let options = CreateMode::Persistent.with_acls(Acls::new(&acls));
    for _ in 0..2 {
        match in_time(settings, client.create(path, value, &options)).await? {
            Ok((stat, _)) => return Ok(Some(Revision(u64::try_from(stat.czxid).unwrap_or_default()))),
            Err(Error::NodeExists) => return Ok(None),
            Err(Error::NoNode) => {
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                bounded(settings, client.mkdir(parent, &options)).await?;
            }
            Err(error) => return Err(explain(settings, &error)),
        }
    }
    Err(unreachable(settings, format!("the parents of {path} are deleted while it is created")))
}
