//! Consul's KV as a store, over its HTTP API: blocking queries, and a difference to what was told.

mod client;
mod source;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;
use waypost_adapter::{Adapter, AdapterError, Entry, ErrorKind, Expected, Key, PutIf, Revision, Settings, Source, settled};

use crate::client::{Http, Kv};
use crate::source::ConsulSource;

/// A Consul agent or server.
#[derive(Debug)]
pub struct ConsulAdapter {
    http: Http,
}

impl ConsulAdapter {
    /// Nothing is connected before the first use.
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

    /// Writes with the given parameters; says whether Consul took it, or that it is not known.
    async fn write(&self, key: &Key, value: &Bytes, parameter: &[&str]) -> Result<bool, AdapterError> {
        let answer = self.http.once(Method::PUT, &key_path(key)?, parameter, Some(value.clone())).await?;
        Ok(answer.body.trim_ascii() == b"true")
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

    async fn get(&self, key: &Key) -> Result<Option<Entry>, AdapterError> {
        self.read(key).await
    }

    async fn put(&self, key: &Key, value: Bytes) -> Result<Revision, AdapterError> {
        // The read finds an endpoint that answers, so that the write itself is sent once.
        let before = self.read(key).await?;
        let written = self.write(key, &value, &[]).await;
        let expected = before.map_or(Expected::Absent, |entry| Expected::At(entry.revision));
        let found = self.read(key).await;
        match (written, found) {
            (Ok(true), Ok(Some(entry))) => Ok(entry.revision),
            (Ok(true), _) => Ok(Revision(0)),
            (Ok(false), _) => Err(AdapterError::new(ErrorKind::Refused, self.http.current(), format!("{key} was not written"), "look at the agent's log")),
            (Err(error), Ok(found)) if error.kind == ErrorKind::Unreachable => match settled(found.as_ref(), &value, expected) {
                PutIf::Written(revision) => Ok(revision),
                PutIf::Conflict => Err(unknown(&error)),
            },
            (Err(error), Err(_)) if error.kind == ErrorKind::Unreachable => Err(unknown(&error)),
            (Err(error), _) => Err(error),
        }
    }

    async fn put_if(&self, key: &Key, value: Bytes, expected: Expected) -> Result<PutIf, AdapterError> {
        // Finds an endpoint that answers; Consul's check-and-set does the rest, 0 meaning that nothing is there.
        self.read(key).await?;
        let index = match expected {
            Expected::Absent => 0,
            Expected::At(revision) => revision.0,
        };
        let written = self.write(key, &value, &[&format!("cas={index}")]).await;
        match written {
            Ok(false) => Ok(PutIf::Conflict),
            Ok(true) => {
                let found = self.read(key).await?;
                Ok(PutIf::Written(found.filter(|entry| entry.value == value).map_or(Revision(0), |entry| entry.revision)))
            }
            Err(error) if error.kind == ErrorKind::Unreachable => Ok(settled(self.read(key).await.map_err(|_| unknown(&error))?.as_ref(), &value, expected)),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), AdapterError> {
        // Without `recurse`, whose mere presence would delete everything below.
        self.http.everywhere(Method::DELETE, &key_path(key)?, &[], None).await.map(drop)
    }
}

fn unknown(error: &AdapterError) -> AdapterError {
    AdapterError { kind: ErrorKind::UnknownOutcome, message: format!("{}; whether it was written is not known", error.message), ..error.clone() }
}
