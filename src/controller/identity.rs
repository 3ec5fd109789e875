//! Who this cluster is, and which run of leading this is: both survive on disk, the cluster's id in the store as well.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use waypost_adapter::{ErrorKind, Expected, Key, PutIf};

use super::feed::jitter;
use super::settings::Store;
use super::step::Input;

/// What the state directory says of us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// The cluster's id; empty before it is known.
    pub cluster: String,
    /// The epoch of the last run.
    pub epoch: u64,
}

/// The record of the cluster in the store.
#[derive(Debug, Serialize, Deserialize)]
struct ClusterRecord {
    id: String,
}

impl Identity {
    /// Reads it, or begins anew. A file that cannot be used is told of.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn load(folder: &Path) -> Result<Self, waypost_disk::ReadError> {
        let Some(content) = waypost_disk::read(&folder.join("identity.json"))? else { return Ok(Self::default()) };
        if let Some(note) = &content.fallback {
            tracing::warn!("{note}");
        }
        Ok(serde_json::from_slice(&content.bytes).unwrap_or_default())
    }

    /// Writes it.
    ///
    /// # Errors
    /// The disk refused.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        waypost_disk::write(&folder.join("identity.json"), &serde_json::to_vec(self)?)
    }
}

/// Finds out the cluster's id: ours from disk if there is one, else the store's, else a new one; and sees to it that
/// the store has it. Where we may not write there, the id lives on our disk alone.
pub async fn settle(store: Arc<Store>, own: Option<String>, inputs: mpsc::Sender<Input>) {
    let key = Key::from(format!("{}/cluster", store.status_root()));
    let mut pause = Duration::from_millis(100);
    if let Some(id) = &own
        && inputs.send(Input::Cluster(id.clone())).await.is_err()
    {
        return;
    }
    loop {
        let told = match store.adapter.get(&key).await {
            Ok(Some(entry)) => match serde_json::from_slice::<ClusterRecord>(&entry.value) {
                Ok(record) => {
                    if own.as_ref().is_some_and(|own| *own != record.id) {
                        tracing::error!(
                            store = store.url,
                            "the store belongs to cluster {}, this controller to {}; check --store and --state",
                            record.id,
                            own.as_deref().unwrap_or_default()
                        );
                    }
                    Some(record.id)
                }
                Err(error) => {
                    tracing::error!("{key} cannot be read: {error}; delete it to have it written again");
                    Some(own.clone().unwrap_or_else(new_id))
                }
            },
            Ok(None) => create(&store, &key, own.clone().unwrap_or_else(new_id)).await,
            Err(error) if error.kind == ErrorKind::Denied => {
                tracing::info!("{error}; the cluster's id is kept in --state alone");
                Some(own.clone().unwrap_or_else(new_id))
            }
            Err(_) => None,
        };
        match (told, &own) {
            (Some(id), None) => {
                if inputs.send(Input::Cluster(id)).await.is_err() {
                    tracing::debug!("the controller is gone");
                }
                return;
            }
            (Some(_), Some(_)) => return,
            (None, _) => {
                pause = (pause * 2).min(Duration::from_secs(5));
                tokio::time::sleep(jitter(pause)).await;
            }
        }
    }
}

async fn create(store: &Store, key: &Key, id: String) -> Option<String> {
    let value = serde_json::to_vec(&ClusterRecord { id: id.clone() }).ok()?;
    match store.adapter.put_if(key, Bytes::from(value), Expected::Absent).await {
        Ok(PutIf::Written(_)) => Some(id),
        // Somebody else was first: theirs is read in the next round.
        Ok(PutIf::Conflict) => None,
        Err(error) if matches!(error.kind, ErrorKind::Denied | ErrorKind::Refused) => {
            tracing::info!("{error}; the cluster's id is kept in --state alone");
            Some(id)
        }
        Err(_) => None,
    }
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
