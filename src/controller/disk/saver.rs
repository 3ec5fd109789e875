//! Writes the state to the state directory, beside the task that owns it.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use waypost_model::lane::Lane;
use waypost_model::snapshot::{Snapshot, Version};

use crate::controller::disk::files::{ANNOUNCED_FILE, REVISIONS_FILE, load_guard, save_entries, save_guard, save_numbers, save_published};
use crate::controller::disk::history::History;
use crate::controller::metrics::Metrics;
use crate::controller::rules::guard::Removal;
use crate::controller::stored::entries::{Exported, SavedStore, with_held};

/// Pause before a failed write is tried again.
const WRITE_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// The content of one save.
#[derive(Debug, Clone)]
pub struct SaveRequest {
    /// Its number; grows by one.
    pub number: u64,
    /// The entries of the stores.
    pub stores: Vec<SavedStore>,
    /// How far stores have been read whose revisions never go back, by their URLs.
    pub revisions: BTreeMap<String, u64>,
    /// The config that was published last, and when.
    pub config: Option<(Version, Lane, u64)>,
    /// The held removals.
    pub removals: Vec<Removal>,
    /// The authors' bytes of these removals, by store.
    pub held: Vec<Exported>,
    /// Paths of the removals that operators approved in advance, and until which date that is good, in milliseconds since 1970.
    pub announced: BTreeMap<String, u64>,
    /// The published snapshot; `None` before the first publication.
    pub published: Option<Arc<Snapshot>>,
}

/// Writes save requests to the state directory.
#[derive(Debug)]
pub struct Files {
    /// The state directory.
    pub folder: PathBuf,
    /// The stores' URLs.
    pub stores: Vec<String>,
    /// The configs there were.
    pub history: Arc<Mutex<History>>,
    /// Counts failed writes.
    pub metrics: Arc<Metrics>,
    /// Gets the number of the request that was written last.
    pub written: watch::Sender<u64>,
}

impl Files {
    /// Writes the owner's save requests until it stops, the last one in any case.
    pub async fn save(self, mut save_request: watch::Receiver<Option<SaveRequest>>, stop: CancellationToken) {
        let mut failed = false;
        // An event at the start has reported a file that cannot be read.
        let mut removals = load_guard(&self.folder, &self.stores).unwrap_or_default().value;
        loop {
            // The owner drops its sender after its last request.
            let more = match timeout(if failed { WRITE_RETRY_PAUSE } else { Duration::MAX }, save_request.changed()).await {
                Ok(changed) => changed.is_ok(),
                Err(_) => true,
            };
            let work = save_request.borrow_and_update().clone();
            if let Some(work) = work {
                let (target, history, before, stores) = (self.folder.clone(), self.history.clone(), removals.clone(), self.stores.clone());
                let (number, now) = (work.number, work.removals.clone());
                let written = tokio::task::spawn_blocking(move || write(&target, &history, work, (before, &stores))).await;
                let result = written.unwrap_or_else(|error| Err(io::Error::other(error)));
                failed = result.is_err();
                match result {
                    Ok(()) => {
                        removals = now;
                        self.written.send_replace(number);
                    }
                    Err(error) => self.report(&error),
                }
            }
            if !more || stop.is_cancelled() && save_request.has_changed().is_err() {
                return;
            }
        }
    }

    fn report(&self, error: &io::Error) {
        self.metrics.disk_errors.inc();
        let remedy = if error.kind() == io::ErrorKind::PermissionDenied { "let this user write it" } else { "free some space" };
        tracing::error!(%error, "the state directory {} could not be written; {remedy}: last good values would be lost in a restart", self.folder.display());
    }
}

/// Writes the files in such an order that every object that serves is in at least one of them at any time: first the published snapshot, because a
/// removal that is not published counts as approved; then the removals that are held now or were held `before`; then the entries; last the removals
/// that are held now. An object that is both in the entries and among the removals came back.
fn write(folder: &Path, history: &Mutex<History>, work: SaveRequest, (before, stores): (Vec<Removal>, &[String])) -> io::Result<()> {
    if let Some(snapshot) = &work.published {
        save_published(folder, snapshot)?;
    }
    let paths: HashSet<&str> = work.removals.iter().map(|removal| removal.object.path()).collect();
    let mut both: Vec<Removal> = before.into_iter().filter(|removal| !paths.contains(removal.object.path())).collect();
    let more = !both.is_empty();
    both.extend(work.removals.iter().cloned());
    save_guard(folder, &both, stores)?;
    save_numbers(folder, ANNOUNCED_FILE, &work.announced)?;
    save_entries(folder, &work.stores)?;
    save_numbers(folder, REVISIONS_FILE, &work.revisions)?;
    if more {
        save_guard(folder, &work.removals, stores)?;
    }
    if let (Some((version, config, at)), Ok(mut history)) = (&work.config, history.lock()) {
        history.add(*version, config, *at, &with_held(work.stores, &work.held)).map(drop)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use waypost_model::compile::{EntryId, Origin, Written};
    use waypost_model::object::Object;

    use super::*;
    use crate::controller::disk::files::load_published;
    use crate::controller::rules::guard::Judgement;

    fn removal(path: &str) -> Removal {
        let name = path.split('/').nth(1).unwrap();
        let object = Object::suspect(name);
        let written = Written { value: b"x".to_vec().into(), revision: 1 };
        Removal {
            object,
            origin: Origin { id: EntryId { source: 0, key: path.to_owned() }, written },
            at: Duration::ZERO,
            date: 0,
            judgement: Judgement::Waiting,
            store_revision: 0,
            instead: None,
        }
    }

    #[test]
    fn an_object_that_serves_is_on_disk_wherever_writing_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let history = Mutex::new(History::open(folder.path(), 1));
        let published = Snapshot { cluster: "c".to_owned(), version: Version { epoch: 1, sequence: 2 }, ..Snapshot::default() };
        let work = SaveRequest {
            number: 1,
            stores: Vec::new(),
            revisions: BTreeMap::new(),
            config: None,
            removals: vec![removal("endpoints/b")],
            held: Vec::new(),
            announced: BTreeMap::new(),
            published: Some(Arc::new(published.clone())),
        };
        // The entries cannot be written. A controller that is killed at this point has both the new removal and the one whose entry came back.
        std::fs::create_dir(folder.path().join("entries.json.gz")).unwrap();
        std::fs::create_dir(folder.path().join("entries.json.gz.previous")).unwrap();
        std::fs::write(folder.path().join("entries.json.gz.previous/x"), b"").unwrap();
        assert!(write(folder.path(), &history, work.clone(), (vec![removal("endpoints/a")], &[])).is_err());
        let names = |found: Vec<Removal>| found.iter().map(|removal| removal.origin.id.key.clone()).collect::<Vec<_>>();
        assert_eq!(names(load_guard(folder.path(), &[]).unwrap().value), ["endpoints/a", "endpoints/b"]);
        // The held removal is published as well: otherwise it would count as approved by the previous leader.
        assert_eq!(load_published(folder.path()).unwrap().value.unwrap().version, published.version);
        std::fs::remove_dir(folder.path().join("entries.json.gz")).unwrap();
        write(folder.path(), &history, work, (vec![removal("endpoints/a")], &[])).unwrap();
        assert_eq!(names(load_guard(folder.path(), &[]).unwrap().value), ["endpoints/b"]);
    }
}
