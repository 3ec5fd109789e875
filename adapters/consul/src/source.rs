//! Watches Consul's KV. Every answer has the whole tree; it is compared with the entries delivered before. Deletions are delivered only
//! after a consistent read confirms them.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use tokio::time::Instant;
use waypost_adapter::{AdapterError, Change, Entry, Event, Key, Revision, Source};

use crate::client::{Answer, Http, Kv};

/// Maximum wait of a blocking query; Consul adds up to a sixteenth. It is short, because a query that waits for an index which a restored
/// snapshot took away is not woken.
const QUERY_WAIT: Duration = Duration::from_secs(3);
/// Time limit of a blocking query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(6);
/// Maximum answers per second during a storm of changes, and maximum at once: each answer has the whole tree.
const ANSWERS_PER_SECOND: f64 = 100.0;
const ANSWER_BURST: f64 = 200.0;

/// A live view of one prefix.
#[derive(Debug)]
pub(crate) struct ConsulSource {
    http: Http,
    root: String,
    /// The index to wait from; `None` before the first listing.
    index: Option<u64>,
    /// The modification indexes of the delivered entries, by key.
    reported: HashMap<String, u64>,
    next_list: Instant,
    tokens: (f64, Instant),
}

impl ConsulSource {
    pub(crate) fn new(http: Http, root: &str) -> Self {
        let now = Instant::now();
        Self { http, root: root.to_owned(), index: None, reported: HashMap::new(), next_list: now, tokens: (ANSWER_BURST, now) }
    }

    /// Reads everything with a consistent read, which only a leader with a quorum answers.
    async fn consistent(&self) -> Result<Answer, AdapterError> {
        let answer = self.http.once(Method::GET, &self.path(), &["recurse", "consistent"], None).await?;
        if answer.status == 404 {
            // Either the folder is empty, or this token may not read it; only a request for the folder's own key tells the two apart.
            self.http.once(Method::GET, &self.path(), &[], None).await?;
        }
        Ok(answer)
    }

    fn path(&self) -> String {
        format!("/v1/kv/{}/", crate::client::encode(&self.root))
    }

    async fn step(&mut self) -> Result<Option<Event>, AdapterError> {
        let Some(index) = self.index else { return self.reset(0).await.map(Some) };
        if Instant::now() >= self.next_list {
            return self.audit().await;
        }
        self.pace().await;
        let parameters = ["recurse".to_owned(), format!("index={index}"), format!("wait={}s", QUERY_WAIT.as_secs())];
        let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
        let answer = self.http.request(Method::GET, &self.path(), &parameters, None, QUERY_TIMEOUT).await?;
        if answer.index < index {
            // The servers were restored from a snapshot, or the index was garbage collected: list again.
            self.index = None;
            return Ok(None);
        }
        // An empty answer after a non-empty one is examined even at the same index: the token may have lost its permission.
        let vanished = answer.status == 404 && !self.reported.is_empty();
        if answer.index == index && !vanished {
            return Ok(Some(Event::Idle { at: Revision(index) }));
        }
        let (changes, backwards) = self.differences(&answer)?;
        if backwards {
            // During an election an answer may be empty or incomplete; only a consistent read is trusted here.
            return self.confirm().await;
        }
        self.index = Some(answer.index);
        self.event_of(changes, answer.index)
    }

    /// Reads everything with a consistent read, and delivers the differences.
    async fn confirm(&mut self) -> Result<Option<Event>, AdapterError> {
        let answer = self.consistent().await?;
        if self.index.is_some_and(|index| answer.index < index) {
            self.index = None;
            return Ok(None);
        }
        self.index = Some(answer.index);
        let (changes, _) = self.differences(&answer)?;
        self.event_of(changes, answer.index)
    }

    fn event_of(&mut self, changes: Vec<Change>, index: u64) -> Result<Option<Event>, AdapterError> {
        let at = Revision(index);
        for change in &changes {
            match change {
                Change::Put(entry) => drop(self.reported.insert(entry.key.to_string(), entry.revision.0)),
                Change::Delete(key) => drop(self.reported.remove(&key.to_string())),
            }
        }
        Ok(Some(if changes.is_empty() { Event::Idle { at } } else { Event::Changes { changes, at } }))
    }

    async fn reset(&mut self, drift: usize) -> Result<Event, AdapterError> {
        let answer = self.consistent().await?;
        let entries = entries(&answer)?;
        self.reported = entries.iter().map(|entry| (entry.key.to_string(), entry.revision.0)).collect();
        self.index = Some(answer.index);
        self.next_list = Instant::now() + self.http.audit_pause();
        Ok(Event::Reset { entries, at: Revision(answer.index), drift })
    }

    /// Compares the delivered entries with a consistent read.
    async fn audit(&mut self) -> Result<Option<Event>, AdapterError> {
        self.next_list = Instant::now() + self.http.audit_pause();
        let answer = self.consistent().await?;
        let before = self.index.unwrap_or_default();
        if answer.index > before {
            // The listing is newer than the delivered entries: the next answer has the difference.
            return Ok(None);
        }
        let (changes, _) = self.differences(&answer)?;
        if changes.is_empty() {
            return Ok(Some(Event::Idle { at: Revision(before) }));
        }
        self.reset(changes.len()).await.map(Some)
    }

    /// The differences to the delivered entries, and whether any entry was deleted or has a lower index.
    fn differences(&self, answer: &Answer) -> Result<(Vec<Change>, bool), AdapterError> {
        let found: Vec<Kv<'_>> = if answer.status == 404 { Vec::new() } else { answer.json()? };
        let mut changes = Vec::new();
        let mut backwards = false;
        let mut still_reported = 0;
        for kv in &found {
            let reported = self.reported.get(kv.key.as_ref());
            still_reported += usize::from(reported.is_some());
            if reported == Some(&kv.modify_index) {
                continue;
            }
            backwards |= reported.is_some_and(|reported| *reported > kv.modify_index);
            changes.push(Change::Put(kv.entry(&answer.endpoint)?));
        }
        if still_reported < self.reported.len() {
            backwards = true;
            let present: std::collections::HashSet<&str> = found.iter().map(|kv| kv.key.as_ref()).collect();
            let deleted = self.reported.keys().filter(|key| !present.contains(key.as_str()));
            changes.extend(deleted.map(|key| Change::Delete(Key::from(key.clone().into_bytes()))));
        }
        Ok((changes, backwards))
    }

    /// Limits the rate of answers to [`ANSWERS_PER_SECOND`] by a token bucket; a single change never waits.
    async fn pace(&mut self) {
        let now = Instant::now();
        let (tokens, since) = self.tokens;
        let tokens = (tokens + now.duration_since(since).as_secs_f64() * ANSWERS_PER_SECOND).min(ANSWER_BURST);
        self.tokens = (tokens - 1.0, now);
        if tokens < 1.0 {
            tokio::time::sleep(Duration::from_secs_f64((1.0 - tokens) / ANSWERS_PER_SECOND)).await;
        }
    }
}

fn entries(answer: &Answer) -> Result<Vec<Entry>, AdapterError> {
    if answer.status == 404 {
        return Ok(Vec::new());
    }
    let found: Vec<Kv<'_>> = answer.json()?;
    found.iter().map(|kv| kv.entry(&answer.endpoint)).collect()
}

#[async_trait]
impl Source for ConsulSource {
    async fn next(&mut self) -> Result<Event, AdapterError> {
        loop {
            match self.step().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => {
                    self.index = None;
                    self.http.failed(&error.endpoint);
                    return Err(error);
                }
            }
        }
    }
}
