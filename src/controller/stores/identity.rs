//! The identities of the cluster and of this controller: both are on disk, and the cluster's id is in the store as well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use waypost_adapter::{ErrorKind, Event, Expected, Key, PutIf};

use crate::controller::jitter::jitter;
use crate::controller::message::Input;
use crate::controller::settings::Store;
use crate::controller::stored::identity::new_id;

/// The record of the cluster in the store.
#[derive(Debug, Serialize, Deserialize)]
struct ClusterRecord {
    id: String,
}

/// Where a controller can be reached, in the store.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ControllerRecord {
    url: String,
}

/// Writes `controllers/NAME` to the store, for programs that look for a controller, and reads the other controllers there. If we may not write there,
/// our key does not exist.
pub async fn announce(store: Arc<Store>, name: String, url: String, inputs: mpsc::Sender<Input>) {
    let root = format!("{}/controllers", store.status_root());
    let key = Key::from(format!("{root}/{name}"));
    let record = ControllerRecord { url };
    loop {
        let found = store.adapter.get(&key).await;
        let stands = matches!(&found, Ok(Some(entry)) if serde_json::from_slice::<ControllerRecord>(&entry.value).is_ok_and(|stored| stored == record));
        if let (false, Ok(_), Ok(value)) = (stands, &found, serde_json::to_vec(&record))
            && let Err(error) = store.adapter.put(&key, Bytes::from(value)).await
        {
            tracing::debug!("{key} was not written: {error}");
        }
        if let Some(peers) = others(&store, &root, &name).await
            && inputs.send(Input::Peers(peers)).await.is_err()
        {
            return;
        }
        // A controller that has just started is found soon.
        let pause = if found.is_ok() && stands { ID_CHECK_INTERVAL } else { Duration::from_secs(2) };
        tokio::time::sleep(pause / 2 + jitter(pause)).await;
    }
}

/// The other controllers, if the store can be asked.
async fn others(store: &Store, root: &str, own: &str) -> Option<BTreeMap<String, String>> {
    let mut source = store.adapter.source(root);
    let Ok(Ok(Event::Reset { entries, .. })) = tokio::time::timeout(Duration::from_secs(5), source.next()).await else { return None };
    let one = |entry: waypost_adapter::Entry| {
        let name = entry.key.below(root).filter(|name| !name.is_empty() && name != own)?;
        Some((name, serde_json::from_slice::<ControllerRecord>(&entry.value).ok()?.url))
    };
    Some(entries.into_iter().filter_map(one).collect())
}

/// Interval in which the store is asked whether it still has the id: somebody may have wiped it.
const ID_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Finds out the cluster's id: ours from disk if there is one, otherwise the store's, otherwise a new one. Writes it to the store, also after a wipe.
/// If we may not write there, the id is on our disk alone.
pub async fn settle(store: Arc<Store>, own: Option<String>, inputs: mpsc::Sender<Input>) {
    let key = Key::from(format!("{}/cluster", store.status_root()));
    let mut own = own;
    let mut pause = Duration::from_millis(100);
    let mut sent = None;
    loop {
        if let Some(id) = own.as_ref().filter(|id| sent.as_ref() != Some(*id)) {
            if inputs.send(Input::Cluster(id.clone())).await.is_err() {
                return;
            }
            sent = Some(id.clone());
        }
        match look(&store, &key, own.as_deref(), (pause.is_zero(), &inputs)).await {
            Some(id) => {
                own.get_or_insert(id);
                if sent.is_some() {
                    pause = Duration::ZERO;
                    tokio::time::sleep(ID_CHECK_INTERVAL + jitter(ID_CHECK_INTERVAL)).await;
                }
            }
            None => {
                pause = (pause * 2).clamp(Duration::from_millis(100), Duration::from_secs(5));
                tokio::time::sleep(jitter(pause)).await;
            }
        }
    }
}

/// The cluster's id, once the store was asked and has one; `None` to ask again. A problem that was logged `before` is not logged again.
async fn look(store: &Store, key: &Key, own: Option<&str>, (before, inputs): (bool, &mpsc::Sender<Input>)) -> Option<String> {
    let ours = || own.map_or_else(new_id, str::to_owned);
    match store.adapter.get(key).await {
        Ok(Some(entry)) => match serde_json::from_slice::<ClusterRecord>(&entry.value) {
            Ok(record) => {
                if let (false, Some(own)) = (before, own.filter(|own| *own != record.id)) {
                    let message = format!("the store belongs to cluster {}, this controller to {own}; check --store and --state", record.id);
                    let event = Input::Event { reason: "ForeignStore", about: store.url.clone(), message };
                    inputs.send(event).await.ok()?;
                }
                Some(record.id)
            }
            Err(error) => {
                if !before {
                    tracing::error!("{key} cannot be read: {error}; delete it to have it written again");
                }
                Some(ours())
            }
        },
        Ok(None) => create(store, key, ours()).await,
        Err(error) if error.kind == ErrorKind::Denied => {
            if !before {
                tracing::info!("{error}; the cluster's id is kept in --state alone");
            }
            Some(ours())
        }
        Err(_) => None,
    }
}

async fn create(store: &Store, key: &Key, id: String) -> Option<String> {
    let value = serde_json::to_vec(&ClusterRecord { id: id.clone() }).ok()?;
    match store.adapter.put_if(key, Bytes::from(value), Expected::Absent).await {
        Ok(PutIf::Written(_)) => Some(id),
        // Another controller was first: its id is read in the next round.
        Ok(PutIf::Conflict) => None,
        Err(error) if matches!(error.kind, ErrorKind::Denied | ErrorKind::Refused) => {
            tracing::info!("{error}; the cluster's id is kept in --state alone");
            Some(id)
        }
        Err(_) => None,
    }
}
