//! Verdicts in the store, below the status root: `<root>-status/verdicts/<kind>/<name>`. Written behind, at a bounded
//! rate; where we may not write, they are in the API alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use waypost_adapter::{ErrorKind, Event, Key};
use waypost_model::compile::EntryView;

use super::settings::{StatusWrites, Store};

/// What is to stand at a key: a verdict, or nothing.
pub type Wanted = BTreeMap<String, Option<Bytes>>;

/// A pause between two writes, so that a burst of verdicts does not load the store.
const PAUSE: Duration = Duration::from_millis(5);
/// After a refusal the next try comes this much later.
const REFUSED: Duration = Duration::from_secs(60);

/// The key below `verdicts/` and the text of an entry's verdict; `None` where none is to be written.
pub fn of(view: &EntryView, writes: StatusWrites) -> Option<(String, Option<Bytes>)> {
    let resource = view.resource.as_ref()?;
    let problem = view.verdict.problem();
    let told = match writes {
        StatusWrites::None => return None,
        StatusWrites::Problems => problem.is_some(),
        StatusWrites::All => true,
    };
    let text = json!({ "revision": view.written.revision, "conditions": view.verdict.conditions, "lastGoodRevision": view.last_good });
    Some((resource.to_string(), told.then(|| Bytes::from(text.to_string()))))
}

/// Writes verdicts as they come, until stopped.
pub async fn run(store: Arc<Store>, mut wanted: mpsc::Receiver<Wanted>, stop: CancellationToken) {
    let root = format!("{}/verdicts", store.status_root());
    let mut written: Option<BTreeSet<String>> = None;
    let mut open = Wanted::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            more = wanted.recv() => match more {
                Some(more) => open.extend(more),
                None => return,
            },
            () = std::future::ready(()), if !open.is_empty() => {
                // What an earlier run left behind is found out once, and taken away where it no longer holds.
                if written.is_none() {
                    written = existing(&store, &root).await;
                }
                let known = written.get_or_insert_default();
                if !write_one(&store, &root, &mut open, known).await {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(REFUSED) => {}
                    }
                }
            }
        }
    }
}

async fn existing(store: &Store, root: &str) -> Option<BTreeSet<String>> {
    match tokio::time::timeout(Duration::from_secs(5), store.adapter.source(root).next()).await {
        Ok(Ok(Event::Reset { entries, .. })) => Some(entries.iter().filter_map(|entry| entry.key.below(root)).collect()),
        _ => None,
    }
}

/// Writes one verdict. Returns whether the store took it.
async fn write_one(store: &Store, root: &str, open: &mut Wanted, known: &mut BTreeSet<String>) -> bool {
    let Some((name, value)) = open.pop_first() else { return true };
    let key = Key::from(format!("{root}/{name}"));
    let result = match &value {
        Some(value) => store.adapter.put(&key, value.clone()).await.map(|_| known.insert(name.clone())),
        None if known.contains(&name) => store.adapter.delete(&key).await.map(|()| known.remove(&name)),
        None => return true,
    };
    match result {
        Ok(_) => {
            tokio::time::sleep(PAUSE).await;
            true
        }
        Err(error) => {
            let remedy = if error.kind == ErrorKind::Denied { "; allow writing there, or start with --status-writes none" } else { "" };
            tracing::warn!("a verdict was not written: {error}{remedy}");
            open.entry(name).or_insert(value);
            false
        }
    }
}
