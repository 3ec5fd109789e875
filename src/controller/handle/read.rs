//! Reads the published snapshot, the stores, the history and the audit.

use std::sync::{Arc, PoisonError};

use tokio::sync::{oneshot, watch};
use waypost_adapter::{AdapterError, Entry, Key};
use waypost_model::key::{Place, place};
use waypost_model::snapshot::Snapshot;
use waypost_wire::Heartbeat;

use crate::controller::answers::shapes::{EntryInfo, ObjectDiff};
use crate::controller::clock::now_millis;
use crate::controller::handle::Handle;
use crate::controller::message::{Command, EntriesAfter, Query, Stopped};
use crate::controller::stored::config::ConfigRecord;
use crate::controller::stored::entries::Exported;
use crate::controller::stored::operator::Audit;

/// Whether a key below the root is an endpoint's.
fn is_membership(key: &str) -> bool {
    matches!(place(key, false), Place::Resource { resource, .. } if resource.kind.is_membership())
}

/// The endpoints of a store, or everything else.
fn only(mut store: Exported, membership: bool) -> Exported {
    store.entries.retain(|(key, _)| is_membership(key) == membership);
    store
}

impl Handle {
    /// The URLs of our stores, in their order.
    pub fn store_urls(&self) -> Vec<String> {
        self.stores.iter().map(|store| store.url.clone()).collect()
    }

    /// The differences between two configs of the history, or between one of them and the published config.
    ///
    /// # Errors
    /// There is no such config, or its file cannot be used.
    pub async fn diff(&self, from: u64, to: Option<u64>) -> Result<Vec<ObjectDiff>, String> {
        let (history, published) = (self.history.clone(), self.snapshots.borrow().config.clone());
        let compare = move || {
            let history = history.lock().unwrap_or_else(PoisonError::into_inner);
            let before = history.lane(from)?;
            let after = to.map_or(Ok(published), |number| history.lane(number))?;
            Ok::<_, String>(ObjectDiff::between(&before, &after))
        };
        tokio::task::spawn_blocking(compare).await.map_err(|error| error.to_string())?
    }

    /// The snapshot, and every later one.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Changes whenever the answer for this key below the root may have changed. Connections of proxies are not noticed: look again from time to
    /// time.
    pub fn wait_for(&self, key: &str) -> watch::Receiver<()> {
        self.waiters.wait_for(key)
    }

    /// Changes whenever something changes that is replicated to other controllers.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Asks the controller; returns its answer.
    ///
    /// # Errors
    /// It has stopped.
    pub async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, Stopped> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(Command::Ask(query(sender))).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// The entries whose keys below the root begin with `prefix`. They are asked for in parts: between two of them the controller may
    /// apply changes; each entry is as it was either before or after them.
    ///
    /// # Errors
    /// The controller has stopped.
    pub async fn entries(&self, prefix: String) -> Result<Vec<EntryInfo>, Stopped> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let asked = EntriesAfter { prefix: prefix.clone(), after };
            let (entries, last) = self.ask(|to| Query::Entries(asked, to)).await?;
            all.extend(entries);
            if last.is_none() {
                return Ok(all);
            }
            after = last;
        }
    }

    /// A consistent read of an entry, in the first store that has it; `relative` is the key below the root.
    ///
    /// # Errors
    /// A store could not be read.
    pub async fn read(&self, relative: &str) -> Result<Option<Entry>, AdapterError> {
        for store in self.stores.iter() {
            if let Some(entry) = store.adapter.get(&Key::from(store.full_key(relative))).await? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The key below the root for a key that a person typed with or without the root of any store.
    ///
    /// # Errors
    /// The key is not valid; the text says why.
    pub fn relative(&self, typed: &str) -> Result<String, String> {
        let mut roots = self.stores.iter().map(|store| store.root.as_str());
        let below = |root: &&str| typed.strip_prefix(*root).is_some_and(|rest| rest.starts_with('/'));
        waypost_model::key::parse_key(roots.find(below).unwrap_or_default(), typed)
    }

    /// The configs of the history; read from memory, but perhaps only after a write of the disk.
    pub async fn history(&self) -> Vec<ConfigRecord> {
        let history = self.history.clone();
        let read = move || history.lock().unwrap_or_else(PoisonError::into_inner).records().to_vec();
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// The authors' bytes of the entries that serve now: the present endpoints, and the pinned config if there is a pin.
    ///
    /// # Errors
    /// The file of that config cannot be used, or the controller has stopped.
    pub async fn export(&self) -> Result<Vec<Exported>, String> {
        let now = self.ask(|to| Query::Export(false, to)).await.map_err(|stopped| stopped.to_string())?;
        // A pin whose time ended while nobody led is still on record, and has no effect.
        let mark = self.saved.lock().unwrap_or_else(PoisonError::into_inner).mark.clone();
        let held = mark.filter(|mark| !mark.is_over(now_millis())).map(|mark| mark.config);
        let Some(held) = held else { return Ok(now) };
        let config = self.export_config(held).await?;
        Ok(config.into_iter().chain(now.into_iter().map(|store| only(store, true))).collect())
    }

    /// The authors' bytes of a config of the history: listeners, routes and backends. Its endpoints are left out: they would be out of date.
    ///
    /// # Errors
    /// There is no such config, or its file cannot be used.
    pub async fn export_config(&self, number: u64) -> Result<Vec<Exported>, String> {
        let history = self.history.clone();
        let read = move || history.lock().unwrap_or_else(PoisonError::into_inner).entries(number);
        let saved = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??;
        Ok(saved.into_iter().map(|store| only(Exported::of(store), false)).collect())
    }

    /// Who did what, and who joined, oldest first.
    pub fn audit(&self) -> Vec<Audit> {
        let mut audit = self.saved.lock().unwrap_or_else(PoisonError::into_inner).audit.clone();
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        audit.extend(programs.iter().map(|(name, program)| Audit { at: program.joined, by: name.clone(), what: "joined".to_owned() }));
        audit.sort_by_key(|audit| audit.at);
        audit
    }

    /// The heartbeat to send now.
    pub fn heartbeat(&self) -> Heartbeat {
        let leads = self.roles.borrow().epoch().is_some();
        self.fresh.heartbeat(leads)
    }
}
