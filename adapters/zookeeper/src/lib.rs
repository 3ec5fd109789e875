//! ZooKeeper as a store: a recursive watch that is armed before anything is read, and a walk of the tree.

mod client;
mod source;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use waypost_adapter::{Adapter, AdapterError, Entry, ErrorKind, Expected, Key, PutIf, Revision, Settings, Source, settled};
use zookeeper_client::{Client, Error, Stat};

use crate::client::{Session, bounded, create, entry_of, explain, path_of};
use crate::source::ZooKeeperSource;

/// Maximum bytes of a value: a ZooKeeper server closes the connection of a client that writes more than about 1 MiB.
const MAX_VALUE_BYTES: usize = 1_048_576 - 1_024;

/// An ensemble of ZooKeeper servers.
#[derive(Debug)]
pub struct ZooKeeperAdapter {
    settings: Arc<Settings>,
    session: Session,
}

impl ZooKeeperAdapter {
    /// An adapter. It connects at its first use.
    pub fn new(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        Self { session: Session::new(settings.clone()), settings }
    }

    async fn read(&self, client: &Client, path: &str) -> Result<Option<(Entry, Stat)>, AdapterError> {
        // Any server answers a read, and may lag behind: a `sync` before makes the read consistent.
        bounded(&self.settings, client.sync(path)).await?;
        match bounded_raw(&self.settings, client.get_data(path)).await? {
            Ok((data, stat)) => Ok(Some((entry_of(path, data, &stat), stat))),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(explain(&self.settings, &error)),
        }
    }

    async fn write(&self, client: &Client, path: &str, value: &Bytes) -> Result<Revision, AdapterError> {
        match bounded_raw(&self.settings, client.set_data(path, value, None)).await? {
            Ok(stat) => Ok(Revision(u64::try_from(stat.mzxid).unwrap_or_default())),
            Err(Error::NoNode) => match create(&self.settings, client, path, value).await? {
                Some(revision) => Ok(revision),
                None => bounded(&self.settings, client.set_data(path, value, None)).await.map(|stat| Revision(u64::try_from(stat.mzxid).unwrap_or_default())),
            },
            Err(error) => Err(explain(&self.settings, &error)),
        }
    }

    async fn write_if(&self, client: &Client, path: &str, value: &Bytes, expected: Expected) -> Result<PutIf, AdapterError> {
        let Expected::At(wanted) = expected else {
            return Ok(create(&self.settings, client, path, value).await?.map_or(PutIf::Conflict, PutIf::Written));
        };
        let Some((entry, before)) = self.read(client, path).await? else { return Ok(PutIf::Conflict) };
        if entry.revision != wanted {
            return Ok(PutIf::Conflict);
        }
        match bounded_raw(&self.settings, client.set_data(path, value, Some(before.version))).await? {
            Ok(stat) if stat.czxid != before.czxid => Err(self.made_anew(path)),
            Ok(stat) => Ok(PutIf::Written(Revision(u64::try_from(stat.mzxid).unwrap_or_default()))),
            Err(Error::BadVersion | Error::NoNode) => Ok(PutIf::Conflict),
            Err(error) => Err(explain(&self.settings, &error)),
        }
    }

    /// The error of a write to a node that was deleted and created again. The versions of such a node count from 0 again, so a version
    /// alone does not distinguish it from the one that was read. ZooKeeper cannot compare more; the adapter notices it afterwards, and the
    /// writer has to read again.
    fn made_anew(&self, path: &str) -> AdapterError {
        let endpoint = self.settings.endpoints.join(",");
        AdapterError::new(ErrorKind::UnknownOutcome, endpoint, format!("{path} was deleted and made anew while it was written"), "read it again")
    }

    fn check_size(&self, key: &Key, value: &Bytes) -> Result<(), AdapterError> {
        if value.len() <= MAX_VALUE_BYTES {
            return Ok(());
        }
        let endpoint = self.settings.endpoints.join(",");
        Err(AdapterError::new(
            ErrorKind::Refused,
            endpoint,
            format!("{key}: the value has {} bytes", value.len()),
            format!("write at most {MAX_VALUE_BYTES} bytes"),
        ))
    }

    /// Reads an entry back after a write of unknown outcome, with a new session.
    async fn look_again(&self, key: &Key, client: &Client, error: &AdapterError) -> Result<Option<Entry>, AdapterError> {
        self.session.forget(client);
        self.get(key).await.map_err(|_| error.unknown_outcome())
    }

    async fn remove(&self, client: &Client, path: &str) -> Result<(), AdapterError> {
        match bounded_raw(&self.settings, client.delete(path, None)).await? {
            Ok(()) | Err(Error::NoNode) => Ok(()),
            // The node has children: without a value of its own it is a folder, not an entry.
            Err(Error::NotEmpty) => bounded(&self.settings, client.set_data(path, b"", None)).await.map(drop),
            Err(error) => Err(explain(&self.settings, &error)),
        }
    }
}

/// Runs a call within its time limit; the caller handles the client's own errors.
async fn bounded_raw<T>(settings: &Settings, call: impl Future<Output = Result<T, Error>>) -> Result<Result<T, Error>, AdapterError> {
    client::in_time(settings, call).await
}

#[async_trait]
impl Adapter for ZooKeeperAdapter {
    fn source(&self, root: &str) -> Box<dyn Source> {
        Box::new(ZooKeeperSource::new(self.settings.clone(), root))
    }

    fn only_counts_up(&self) -> bool {
        true
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, AdapterError> {
        let path = path_of(&self.settings, key)?;
        let mut last = None;
        for _ in 0..2 {
            let client = self.session.get().await?;
            match self.read(&client, &path).await {
                Ok(found) => return Ok(found.map(|(entry, _)| entry)),
                Err(error) if error.kind == ErrorKind::Unreachable => {
                    self.session.forget(&client);
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| client::unreachable(&self.settings, "no answer")))
    }

    async fn put(&self, key: &Key, value: Bytes) -> Result<Revision, AdapterError> {
        self.check_size(key, &value)?;
        let path = path_of(&self.settings, key)?;
        let before = self.get(key).await?;
        let client = self.session.get().await?;
        match self.write(&client, &path, &value).await {
            Err(error) if error.kind == ErrorKind::Unreachable => {
                let expected = before.map_or(Expected::Absent, |entry| Expected::At(entry.revision));
                match settled(self.look_again(key, &client, &error).await?.as_ref(), &value, expected) {
                    Some(PutIf::Written(revision)) => Ok(revision),
                    Some(PutIf::Conflict) | None => Err(error.unknown_outcome()),
                }
            }
            other => other,
        }
    }

    async fn put_if(&self, key: &Key, value: Bytes, expected: Expected) -> Result<PutIf, AdapterError> {
        self.check_size(key, &value)?;
        let path = path_of(&self.settings, key)?;
        self.get(key).await?;
        let client = self.session.get().await?;
        match self.write_if(&client, &path, &value, expected).await {
            Err(error) if error.kind == ErrorKind::Unreachable => {
                let found = self.look_again(key, &client, &error).await?;
                settled(found.as_ref(), &value, expected).ok_or_else(|| error.unknown_outcome())
            }
            other => other,
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), AdapterError> {
        let path = path_of(&self.settings, key)?;
        self.get(key).await?;
        let client = self.session.get().await?;
        match self.remove(&client, &path).await {
            Err(error) if error.kind == ErrorKind::Unreachable => match self.look_again(key, &client, &error).await? {
                None => Ok(()),
                Some(_) => Err(error.unknown_outcome()),
            },
            other => other,
        }
    }
}
