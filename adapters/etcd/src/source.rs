//! Watches etcd. The watch is a hint; a listing at one revision is authoritative.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep_until};
use waypost_adapter::{AdapterError, Change, Entry, Event, Key, Revision, Settings, Source};

use crate::client::{bounded, connect, denied, entry_of, explain, unreachable};

/// Interval of the progress requests to the server.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Time without a message after which the stream counts as broken.
const MAX_WATCH_SILENCE: Duration = Duration::from_secs(6);
/// Keys per page of a listing.
const KEYS_PER_PAGE: i64 = 1_000;

/// A live view of one prefix.
pub(crate) struct EtcdSource {
    settings: Settings,
    root: String,
    next_endpoint: usize,
    live: Option<Live>,
    /// The revisions of the delivered entries.
    reported: BTreeMap<Key, Revision>,
    /// A listing that is compared with the watch once the watch has reached its revision.
    audit: Option<Audit>,
}

/// A listing for comparison with the watch, once the watch has reached its revision.
struct Audit {
    entries: BTreeMap<Key, Revision>,
    at: i64,
    /// Keys whose deletion the watch delivered since the listing.
    deleted: BTreeSet<Key>,
    /// Answers to progress requests so far. Old releases may send one before events that precede it, so only the second one counts.
    answers: usize,
}

struct Live {
    endpoint: String,
    client: Client,
    stream: WatchStream,
    /// The revision of the listing. The watch repeats events up to it, which are skipped.
    listed: i64,
    at: i64,
    /// When the last message of the watch arrived.
    last_message_at: Instant,
    next_progress: Instant,
    next_list: Instant,
}

impl std::fmt::Debug for EtcdSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdSource").field("root", &self.root).finish_non_exhaustive()
    }
}

impl EtcdSource {
    pub(crate) fn new(settings: Settings, root: &str) -> Self {
        Self { settings, root: root.to_owned(), next_endpoint: 0, live: None, reported: BTreeMap::new(), audit: None }
    }

    fn prefix(&self) -> Vec<u8> {
        format!("{}/", self.root).into_bytes()
    }

    /// Lists all entries, and watches from the listing's revision.
    async fn begin(&mut self, drift: usize) -> Result<Event, AdapterError> {
        self.audit = None;
        let count = self.settings.endpoints.len().max(1);
        let endpoint = self.settings.endpoints.get(self.next_endpoint % count).cloned().unwrap_or_default();
        self.next_endpoint = self.next_endpoint.wrapping_add(1);
        let client = connect(&self.settings, &endpoint).await?;
        let (entries, at) = self.list(&client, &endpoint).await?;
        let stream = self.watch(&client, &endpoint, at).await?;
        // This endpoint works, so it is tried first the next time.
        self.next_endpoint = self.next_endpoint.wrapping_sub(1);
        let now = Instant::now();
        self.reported = entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect();
        self.live = Some(Live {
            endpoint,
            client,
            stream,
            listed: at,
            at,
            last_message_at: now,
            next_progress: now + PROGRESS_INTERVAL,
            next_list: now + self.settings.audit_pause(fastrand::f64()),
        });
        Ok(Event::Reset { entries, at: revision(at), drift })
    }

    /// Lists all entries at one revision, page by page.
    async fn list(&self, client: &Client, endpoint: &str) -> Result<(Vec<Entry>, i64), AdapterError> {
        let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
        let end = prefix_end(&self.prefix());
        let mut from = self.prefix();
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(KEYS_PER_PAGE).with_revision(at);
            let mut page = bounded(endpoint, kv.get(from.clone(), Some(options))).await?;
            if at == 0 {
                at = page.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            entries.extend(page.take_kvs().into_iter().map(entry_of));
            match entries.last() {
                Some(last) if page.more() => from = [last.key.bytes(), b"\0"].concat(),
                _ => return Ok((entries, at)),
            }
        }
    }

    /// Watches from the listing's own revision: a watch that begins at a revision which does not exist yet gets no answer to progress
    /// requests until something is written (etcd compares the two before it answers).
    async fn watch(&self, client: &Client, endpoint: &str, at: i64) -> Result<WatchStream, AdapterError> {
        let mut watcher = client.watch_client().max_decoding_message_size(usize::MAX);
        let options = WatchOptions::new().with_prefix().with_start_revision(at).with_progress_notify();
        let mut stream = bounded(endpoint, watcher.watch(self.prefix(), Some(options))).await?;
        let first = bounded(endpoint, stream.message()).await?.ok_or_else(|| unreachable(endpoint, "the watch was not created"))?;
        if first.compact_revision() != 0 {
            return Err(unreachable(endpoint, "the listing's revision was compacted meanwhile"));
        }
        refused(endpoint, &first).map_or(Ok(stream), Err)
    }

    async fn step(&mut self) -> Result<Option<Event>, AdapterError> {
        let Some(live) = self.live.as_mut() else { return self.begin(0).await.map(Some) };
        let message = tokio::select! {
            biased;
            message = live.stream.message() => message.map_err(|error| explain(&live.endpoint, &error))?,
            () = sleep_until(live.last_message_at + MAX_WATCH_SILENCE) => {
                return Err(unreachable(&live.endpoint, format!("the watch has been silent for {MAX_WATCH_SILENCE:?}")));
            }
            () = sleep_until(live.next_progress) => {
                live.next_progress = Instant::now() + PROGRESS_INTERVAL;
                bounded(&live.endpoint, live.stream.request_progress()).await?;
                return Ok(None);
            }
            () = sleep_until(live.next_list) => return self.begin_audit().await,
        };
        let message = message.ok_or_else(|| unreachable(&live.endpoint, "the watch ended"))?;
        live.last_message_at = Instant::now();
        if message.compact_revision() != 0 {
            // The next events were compacted away, so the source must list again.
            self.live = None;
            return Ok(None);
        }
        if let Some(error) = refused(&live.endpoint, &message) {
            return Err(error);
        }
        let drift = self.compare(&message);
        if drift > 0 {
            self.live = None;
            return self.begin(drift).await.map(Some);
        }
        self.take(&message)
    }

    fn take(&mut self, message: &WatchResponse) -> Result<Option<Event>, AdapterError> {
        let Some(live) = self.live.as_mut() else { return Ok(None) };
        let header = message.header().map_or(0, etcd_client::ResponseHeader::revision);
        if message.events().is_empty() {
            if header < live.at && header > 0 {
                return Err(unreachable(&live.endpoint, format!("the store went back from revision {} to {header}; it was restored from a backup", live.at)));
            }
            return Ok(Some(Event::Idle { at: revision(live.at) }));
        }
        let mut changes = Vec::new();
        for event in message.events() {
            let Some(kv) = event.kv().filter(|kv| kv.mod_revision() > live.listed) else { continue };
            live.at = live.at.max(kv.mod_revision());
            let key = Key::from(kv.key().to_vec());
            // After a partition some servers send events again that were delivered before.
            if self.reported.get(&key).is_some_and(|reported| reported.0 >= u64::try_from(kv.mod_revision()).unwrap_or_default()) {
                continue;
            }
            match event.event_type() {
                EventType::Put => {
                    let entry = entry_of(kv.clone());
                    self.reported.insert(key, entry.revision);
                    changes.push(Change::Put(entry));
                }
                EventType::Delete => {
                    self.reported.remove(&key);
                    if let Some(audit) = &mut self.audit {
                        audit.deleted.insert(key.clone());
                    }
                    changes.push(Change::Delete(key));
                }
            }
        }
        Ok(Some(Event::Changes { changes, at: revision(live.at) }))
    }

    /// Lists all entries again. Differences to the delivered entries may be events on their way, so the comparison waits until the watch
    /// has reached the revision of the listing.
    async fn begin_audit(&mut self) -> Result<Option<Event>, AdapterError> {
        let Some(live) = self.live.as_mut() else { return Ok(None) };
        live.next_list = Instant::now() + self.settings.audit_pause(fastrand::f64());
        if self.audit.is_some() {
            // An audit that takes longer than the interval must not be restarted, or it would never end.
            return Ok(None);
        }
        let (client, endpoint) = (live.client.clone(), live.endpoint.clone());
        let (entries, at) = self.list(&client, &endpoint).await?;
        self.audit = Some(Audit { entries: entries.into_iter().map(|entry| (entry.key, entry.revision)).collect(), at, deleted: BTreeSet::new(), answers: 0 });
        if let Some(live) = self.live.as_mut() {
            // During a long listing the watch was not read, so it does not count as silent.
            (live.last_message_at, live.next_progress) = (Instant::now(), Instant::now());
        }
        Ok(None)
    }

    /// The number of entries in which the listing differs, once the server says that the watch has sent all events up to it.
    fn compare(&mut self, message: &WatchResponse) -> usize {
        let header = message.header().map_or(0, etcd_client::ResponseHeader::revision);
        let is_reached = |audit: &mut Audit| {
            audit.answers += usize::from(message.events().is_empty() && header >= audit.at);
            audit.answers >= 2
        };
        let Some(audit) = self.audit.take_if(is_reached) else { return 0 };
        audit.differences(&self.reported)
    }
}

impl Audit {
    /// The number of entries in which the listing differs from the entries delivered up to its revision.
    fn differences(&self, reported: &BTreeMap<Key, Revision>) -> usize {
        let newer = |reported: &Revision| *reported > revision(self.at);
        let missed = |(key, listed): &(&Key, &Revision)| {
            !self.deleted.contains(*key) && reported.get(*key).is_none_or(|reported| reported != *listed && !newer(reported))
        };
        let surplus = |(key, reported): &(&Key, &Revision)| !self.entries.contains_key(*key) && !newer(reported);
        self.entries.iter().filter(missed).count() + reported.iter().filter(surplus).count()
    }
}

/// Why the server ended the watch; `None` if it did not.
fn refused(endpoint: &str, message: &WatchResponse) -> Option<AdapterError> {
    if !message.canceled() || message.compact_revision() != 0 {
        return None;
    }
    let reason = message.cancel_reason();
    // An expired token is renewed by connecting again, which happens after any error.
    if reason.contains("permission denied") { Some(denied(endpoint, reason)) } else { Some(unreachable(endpoint, format!("the watch was ended: {reason}"))) }
}

fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}

/// The end of the range of all keys with this prefix.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end;
        }
        end.pop();
    }
    vec![0]
}

#[async_trait]
impl Source for EtcdSource {
    async fn next(&mut self) -> Result<Event, AdapterError> {
        loop {
            match self.step().await {
                Ok(Some(Event::Changes { changes, at })) if changes.is_empty() => return Ok(Event::Idle { at }),
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => {
                    if self.live.take().is_some() {
                        self.next_endpoint = self.next_endpoint.wrapping_add(1);
                    }
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_audit_finds_what_the_watch_lost_and_nothing_that_came_later() {
        let map = |pairs: &[(&'static str, u64)]| pairs.iter().map(|(key, revision)| (Key::from(*key), Revision(*revision))).collect::<BTreeMap<_, _>>();
        let audit = |deleted: &[&'static str]| Audit {
            entries: map(&[("a", 3), ("b", 5)]),
            at: 10,
            deleted: deleted.iter().map(|key| Key::from(*key)).collect(),
            answers: 0,
        };
        for (reported, deleted, wanted) in [
            (map(&[("a", 3), ("b", 5)]), audit(&[]), 0),
            (map(&[("a", 3), ("b", 12), ("c", 11)]), audit(&[]), 0),
            (map(&[("a", 3)]), audit(&["b"]), 0),
            (map(&[("a", 3)]), audit(&[]), 1),
            (map(&[("a", 2), ("b", 5)]), audit(&[]), 1),
            (map(&[("a", 3), ("b", 5), ("gone", 4)]), audit(&[]), 1),
        ] {
            assert_eq!(deleted.differences(&reported), wanted, "{reported:?}");
        }
    }
}
