//! Consul's KV as a store, over its HTTP API: blocking queries, whose answers are compared with the entries delivered before.

mod client;
mod source;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Method;
use serde_json::json;
use waypost_adapter::{Adapter, AdapterError, Entry, ErrorKind, Expected, Key, PutIf, Revision, Settings, Source, settled};

use crate::client::{Http, Kv};
use crate::source::ConsulSource;

/// A Consul agent or server.
#[derive(Debug)]
pub struct ConsulAdapter {
    http: Http,
}

impl ConsulAdapter {
    /// An adapter. It connects at its first use.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn new(settings: Settings) -> Result<Self, AdapterError> {
        Http::new(settings).map(|http| Self { http })
    }

    async fn read(&self, key: &Key) -> Result<Option<Entry>, AdapterError> {
        let answer = self.http.everywhere(Method::GET, &key_path(key)?, &["consistent"], None).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        let found: Vec<Kv<'_>> = answer.json()?;
        found.into_iter().next().map(|kv| kv.entry(&answer.endpoint)).transpose()
    }

    /// Writes an entry; returns whether Consul accepted it.
    async fn write(&self, key: &Key, value: &Bytes) -> Result<bool, AdapterError> {
        let answer = self.http.once(Method::PUT, &key_path(key)?, &[], Some(value.clone())).await?;
        Ok(answer.body.trim_ascii() == b"true")
    }

    /// Checks and sets in a transaction, because its answer has the new index. After a plain conditional write the index would have to be
    /// read back, and another client may have written by then.
    async fn write_if(&self, key: &Key, value: &Bytes, index: u64) -> Result<PutIf, AdapterError> {
        key_path(key)?;
        let operation = json!([{ "KV": { "Verb": "cas", "Key": key.to_string(), "Value": STANDARD.encode(value), "Index": index } }]);
        let answer = self.http.once(Method::PUT, "/v1/txn", &[], Some(Bytes::from(operation.to_string()))).await?;
        if answer.status == 409 {
            let message = String::from_utf8_lossy(&answer.body).into_owned();
            return if message.contains("Permission denied") { Err(client::denied(&answer.endpoint, message)) } else { Ok(PutIf::Conflict) };
        }
        let written: client::Written = answer.json().map_err(|error| error.unknown_outcome())?;
        let revision = written.results.first().map(|result| Revision(result.kv.modify_index));
        revision.map(PutIf::Written).ok_or_else(|| client::unreachable(&answer.endpoint, "the transaction's answer names no index").unknown_outcome())
    }

    /// Reads an entry back after a write of unknown outcome.
    async fn look_again(&self, key: &Key, error: &AdapterError) -> Result<Option<Entry>, AdapterError> {
        self.http.failed(&error.endpoint);
        self.read(key).await.map_err(|_| error.unknown_outcome())
    }
}

/// The path of a key, encoded part by part.
fn key_path(key: &Key) -> Result<String, AdapterError> {
    let bad = |why: &str| AdapterError::new(ErrorKind::Refused, "consul", format!("{key}: {why}"), "use letters, digits, '.', '_' and '-'");
    let text = std::str::from_utf8(key.bytes()).map_err(|_| bad("Consul's keys are text"))?;
    if text.starts_with('/') || text.is_empty() {
        return Err(bad("Consul's keys do not begin with '/'"));
    }
    Ok(format!("/v1/kv/{}", client::encode(text)))
}

#[async_trait]
impl Adapter for ConsulAdapter {
    fn source(&self, root: &str) -> Box<dyn Source> {
        Box::new(ConsulSource::new(self.http.clone(), root))
    }

    fn only_counts_up(&self) -> bool {
        // The index of a prefix goes back when its last key goes.
        false
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, AdapterError> {
        self.read(key).await
    }

    async fn put(&self, key: &Key, value: Bytes) -> Result<Revision, AdapterError> {
        // The read selects an endpoint that answers, so that the write is sent only once.
        let before = self.read(key).await?;
        match self.write(key, &value).await {
            Ok(true) => Ok(self.read(key).await.ok().flatten().map_or(Revision(0), |entry| entry.revision)),
            Ok(false) => Err(AdapterError::new(ErrorKind::Refused, self.http.current(), format!("{key} was not written"), "look at the agent's log")),
            Err(error) if error.kind == ErrorKind::Unreachable => {
                let expected = before.map_or(Expected::Absent, |entry| Expected::At(entry.revision));
                match settled(self.look_again(key, &error).await?.as_ref(), &value, expected) {
                    Some(PutIf::Written(revision)) => Ok(revision),
                    Some(PutIf::Conflict) | None => Err(error.unknown_outcome()),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn put_if(&self, key: &Key, value: Bytes, expected: Expected) -> Result<PutIf, AdapterError> {
        // The read selects an endpoint that answers. For Consul's check-and-set, index 0 means that the key must not exist.
        self.read(key).await?;
        let index = match expected {
            Expected::Absent => 0,
            Expected::At(revision) => revision.0,
        };
        match self.write_if(key, &value, index).await {
            Err(error) if error.kind == ErrorKind::Unreachable => {
                let found = self.look_again(key, &error).await?;
                settled(found.as_ref(), &value, expected).ok_or_else(|| error.unknown_outcome())
            }
            other => other,
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), AdapterError> {
        // The read selects an endpoint that answers. `recurse` is left out: even `recurse=false` would delete everything below.
        self.read(key).await?;
        match self.http.once(Method::DELETE, &key_path(key)?, &[], None).await {
            Err(error) if error.kind == ErrorKind::Unreachable => match self.look_again(key, &error).await? {
                None => Ok(()),
                Some(_) => Err(error.unknown_outcome()),
            },
            other => other.map(drop),
        }
    }
}
