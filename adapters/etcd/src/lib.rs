//! etcd as a store: a paged listing at one revision, then a watch from that revision.

mod client;
mod source;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Client, Compare, CompareOp, KvClient, Txn, TxnOp};
use waypost_adapter::{Adapter, AdapterError, Entry, ErrorKind, Expected, Key, PutIf, Revision, Settings, Source, settled};

use crate::client::{Connections, bounded, entry_of};
use crate::source::EtcdSource;

/// A cluster of etcd.
#[derive(Debug)]
pub struct EtcdAdapter {
    connections: Connections,
}

impl EtcdAdapter {
    /// An adapter. It connects at its first use.
    pub fn new(settings: Settings) -> Self {
        Self { connections: Connections::new(settings) }
    }

    /// Reads a key, trying every endpoint once; also returns the client that answered.
    async fn read(&self, key: &Key) -> Result<(Option<Entry>, KvClient, String), AdapterError> {
        let mut last = None;
        for _ in 0..=self.connections.count() {
            let (endpoint, client) = self.connections.get().await;
            match read_once(&endpoint, client, key).await {
                Ok((entry, kv)) => return Ok((entry, kv, endpoint)),
                Err(error) if error.kind == ErrorKind::Unreachable => {
                    self.connections.failed(&endpoint);
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| AdapterError::new(ErrorKind::Settings, "etcd", "no endpoint is given", "write etcd://HOST:PORT/ROOT")))
    }

    /// Reads an entry back after a write of unknown outcome.
    async fn look_again(&self, key: &Key, endpoint: &str, error: &AdapterError) -> Result<Option<Entry>, AdapterError> {
        self.connections.failed(endpoint);
        self.get(key).await.map_err(|_| error.unknown_outcome())
    }
}

async fn read_once(endpoint: &str, client: Result<Client, AdapterError>, key: &Key) -> Result<(Option<Entry>, KvClient), AdapterError> {
    let mut kv = client?.kv_client();
    let mut response = bounded(endpoint, kv.get(key.bytes(), None)).await?;
    Ok((response.take_kvs().pop().map(entry_of), kv))
}

#[async_trait]
impl Adapter for EtcdAdapter {
    fn source(&self, root: &str) -> Box<dyn Source> {
        Box::new(EtcdSource::new(self.connections.settings().clone(), root))
    }

    fn only_counts_up(&self) -> bool {
        true
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, AdapterError> {
        self.read(key).await.map(|(entry, _, _)| entry)
    }

    async fn put(&self, key: &Key, value: Bytes) -> Result<Revision, AdapterError> {
        // The read selects an endpoint that answers, so that the write is sent only once.
        let (before, mut kv, endpoint) = self.read(key).await?;
        match bounded(&endpoint, kv.put(key.bytes(), value.to_vec(), None)).await {
            Ok(response) => Ok(revision(response.header().map_or(0, etcd_client::ResponseHeader::revision))),
            Err(error) if error.kind == ErrorKind::Unreachable => {
                let expected = before.map_or(Expected::Absent, |entry| Expected::At(entry.revision));
                match settled(self.look_again(key, &endpoint, &error).await?.as_ref(), &value, expected) {
                    Some(PutIf::Written(revision)) => Ok(revision),
                    Some(PutIf::Conflict) | None => Err(error.unknown_outcome()),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn put_if(&self, key: &Key, value: Bytes, expected: Expected) -> Result<PutIf, AdapterError> {
        let (_, mut kv, endpoint) = self.read(key).await?;
        let wanted = match expected {
            Expected::Absent => 0,
            Expected::At(revision) => i64::try_from(revision.0).unwrap_or(i64::MAX),
        };
        let put = TxnOp::put(key.bytes(), value.to_vec(), None);
        let txn = Txn::new().when([Compare::mod_revision(key.bytes(), CompareOp::Equal, wanted)]).and_then([put]);
        match bounded(&endpoint, kv.txn(txn)).await {
            Ok(response) if response.succeeded() => Ok(PutIf::Written(revision(response.header().map_or(0, etcd_client::ResponseHeader::revision)))),
            Ok(_) => Ok(PutIf::Conflict),
            Err(error) if error.kind == ErrorKind::Unreachable => {
                let found = self.look_again(key, &endpoint, &error).await?;
                settled(found.as_ref(), &value, expected).ok_or_else(|| error.unknown_outcome())
            }
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), AdapterError> {
        let (_, mut kv, endpoint) = self.read(key).await?;
        match bounded(&endpoint, kv.delete(key.bytes(), None)).await {
            Err(error) if error.kind == ErrorKind::Unreachable => match self.look_again(key, &endpoint, &error).await? {
                None => Ok(()),
                Some(_) => Err(error.unknown_outcome()),
            },
            other => other.map(drop),
        }
    }
}

fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}
