//! Drives one store's source: the only place that retries, with back-off and full jitter.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use waypost_adapter::{Change, Entry, Event, Key};

use crate::controller::jitter::jitter;
use crate::controller::message::Input;
use crate::controller::settings::Store;

/// Bounds of the pause after an error, which is random below it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// A source that says nothing for this long has broken its contract, or its store is frozen behind it.
const MAX_SOURCE_SILENCE: Duration = Duration::from_secs(30);
/// Interval of the checks for keys under the other spelling of the root.
const SPELLING_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Feeds the controller from one store until stopped.
pub async fn run(number: usize, store: Arc<Store>, inputs: mpsc::Sender<Input>, generations: watch::Receiver<u64>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow(number, &store, &inputs, generations) => {}
        () = look_for_other_spelling(number, &store, &inputs) => {}
    }
}

/// Follows the store. When `generations` grows, it is read anew.
async fn follow(number: usize, store: &Store, inputs: &mpsc::Sender<Input>, mut generations: watch::Receiver<u64>) {
    let mut generation = *generations.borrow_and_update();
    let mut source = store.adapter.source(&store.root);
    let mut pause = BACKOFF.0;
    loop {
        let next = tokio::select! {
            biased;
            Ok(()) = generations.changed() => {
                generation = *generations.borrow_and_update();
                source = store.adapter.source(&store.root);
                continue;
            }
            next = tokio::time::timeout(MAX_SOURCE_SILENCE, source.next()) => next,
        };
        let input = match next {
            Ok(Ok(event)) => {
                pause = BACKOFF.0;
                Input::Store { source: number, event: below(event, &store.root), generation }
            }
            Ok(Err(error)) => {
                pause = (pause * 2).min(BACKOFF.1);
                if inputs.send(Input::StoreFailed { source: number, error }).await.is_err() {
                    return;
                }
                tokio::time::sleep(jitter(pause)).await;
                continue;
            }
            Err(_) => {
                source = store.adapter.source(&store.root);
                continue;
            }
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

/// Keys under the other spelling of the root are read by nobody; now and then they are counted, beside the watch.
async fn look_for_other_spelling(number: usize, store: &Store, inputs: &mpsc::Sender<Input>) {
    loop {
        let found = other_spelling(store).await;
        if inputs.send(Input::OtherSpelling { source: number, found }).await.is_err() {
            return;
        }
        tokio::time::sleep(SPELLING_CHECK_INTERVAL).await;
    }
}

/// Keys become relative to the root; what lies outside is not ours.
fn below(event: Event, root: &str) -> Event {
    let key = |key: &Key| key.below(root).map(Key::from);
    let entry = |entry: Entry| key(&entry.key).map(|key| Entry { key, ..entry });
    match event {
        Event::Reset { entries, at, drift } => Event::Reset { entries: entries.into_iter().filter_map(entry).collect(), at, drift },
        Event::Changes { changes, at } => {
            let change = |change| match change {
                Change::Put(put) => entry(put).map(Change::Put),
                Change::Delete(removal) => key(&removal).map(Change::Delete),
            };
            Event::Changes { changes: changes.into_iter().filter_map(change).collect(), at }
        }
        Event::Idle { at } => Event::Idle { at },
    }
}

/// Keys that somebody wrote under the other spelling of the root: how many, and one of them.
async fn other_spelling(store: &Store) -> Option<(usize, String)> {
    let root = store.other_spelling.as_ref()?;
    let mut source = store.adapter.source(root);
    // A credential for our root alone may not look there; then there is nothing to say.
    match tokio::time::timeout(Duration::from_secs(2), source.next()).await {
        Ok(Ok(Event::Reset { entries, .. })) => entries.first().map(|entry| (entries.len(), entry.key.to_string())),
        _ => None,
    }
}
