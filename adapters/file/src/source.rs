//! Watching a directory: inotify for speed, a walk for truth.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use waypost_adapter::{AdapterError, Change, Entry, ErrorKind, Event, Key, Revision, Source};

use crate::failed;
use crate::tree::{Walk, entry_of, key_of, walk};

/// How often the watch is confirmed.
const IDLE: Duration = Duration::from_secs(5);
/// How often the whole directory is read again.
const RELIST: Duration = Duration::from_secs(30);
/// After a folder appeared, its files may have come before its watch: look again.
const SETTLE: Duration = Duration::from_millis(100);
/// Events that wait to be read; more than this and the directory is read again.
const QUEUE: usize = 8_192;

/// What the watcher's thread tells.
#[derive(Debug)]
enum Signal {
    /// These paths changed.
    Paths(Vec<PathBuf>),
    /// Something changed that needs a walk.
    Everything,
}

/// A live view of one directory.
#[derive(Debug)]
pub(crate) struct FileSource {
    folder: PathBuf,
    root: String,
    watch: Option<Watch>,
    entries: BTreeMap<String, Entry>,
    at: Revision,
    next_idle: Instant,
    next_walk: Instant,
}

#[derive(Debug)]
struct Watch {
    _watcher: notify::RecommendedWatcher,
    signals: mpsc::Receiver<Signal>,
    overflow: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl FileSource {
    pub(crate) fn new(folder: PathBuf, root: String) -> Self {
        let now = Instant::now();
        Self { folder, root, watch: None, entries: BTreeMap::new(), at: Revision(0), next_idle: now, next_walk: now }
    }

    fn begin_watch(&mut self) -> Result<(), AdapterError> {
        let (sender, signals) = mpsc::channel(QUEUE);
        let overflow = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let lost = overflow.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            if let Some(signal) = signal_of(event)
                && sender.try_send(signal).is_err()
            {
                lost.store(true, std::sync::atomic::Ordering::Release);
            }
        };
        let watch_failed = |error: notify::Error| match error.kind {
            notify::ErrorKind::Io(error) => failed(&self.folder, &error),
            notify::ErrorKind::PathNotFound => failed(&self.folder, &std::io::ErrorKind::NotFound.into()),
            _ => AdapterError::new(ErrorKind::Unreachable, self.folder.display().to_string(), error.to_string(), "raise fs.inotify.max_user_watches"),
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(watch_failed)?;
        watcher.watch(&self.folder, RecursiveMode::Recursive).map_err(watch_failed)?;
        self.watch = Some(Watch { _watcher: watcher, signals, overflow });
        Ok(())
    }

    /// Walks until two walks agree, then reads. The watch is armed before.
    async fn list(&self) -> Result<(BTreeMap<String, Entry>, Revision), AdapterError> {
        let (folder, root) = (self.folder.clone(), self.root.clone());
        let task = tokio::task::spawn_blocking(move || {
            let mut before = walk(&folder)?;
            for _ in 0..20 {
                let entries = read_all(&folder, &root, &before);
                let after = walk(&folder)?;
                if after == before {
                    return Ok((entries, after.newest));
                }
                before = after;
            }
            Err(std::io::Error::other("the directory changes faster than it can be read"))
        });
        let listed = task.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        listed.map_err(|error| failed(&self.folder, &error))
    }

    async fn reset(&mut self) -> Result<Event, AdapterError> {
        self.begin_watch()?;
        let (entries, at) = self.list().await.inspect_err(|_| self.watch = None)?;
        self.entries = entries;
        self.at = at;
        let now = Instant::now();
        (self.next_idle, self.next_walk) = (now + IDLE, now + RELIST);
        Ok(Event::Reset { entries: self.entries.values().cloned().collect(), at, drift: 0 })
    }

    /// Reads everything again; tells what differs, as a reset if the watch had missed it.
    async fn relist(&mut self, quiet: bool) -> Result<Option<Event>, AdapterError> {
        self.next_walk = Instant::now() + RELIST;
        let (entries, at) = self.list().await?;
        let changes = differences(&self.entries, &entries);
        self.at = self.at.max(at);
        self.entries = entries;
        if changes.is_empty() {
            return Ok(None);
        }
        if quiet {
            return Ok(Some(Event::Changes { changes, at: self.at }));
        }
        let drift = changes.len();
        Ok(Some(Event::Reset { entries: self.entries.values().cloned().collect(), at: self.at, drift }))
    }

    /// Reads the files of these paths again.
    fn reread(&mut self, paths: &[PathBuf]) -> Option<Event> {
        let keys: BTreeSet<String> = paths.iter().filter_map(|path| path.strip_prefix(&self.folder).ok()).filter_map(|path| key_of(&self.root, path)).collect();
        let mut changes = Vec::new();
        for key in keys {
            let files = self.files_of(&key);
            match entry_of(&key, &files) {
                Some(mut entry) => {
                    let before = self.entries.get(&key);
                    if before.is_some_and(|before| before.value == entry.value && before.revision == entry.revision && before.unreadable == entry.unreadable) {
                        continue;
                    }
                    // Two writes within one tick of the file system's clock are still two revisions.
                    let floor = before.map_or(0, |before| before.revision.0 + 1);
                    entry.revision = entry.revision.max(Revision(floor));
                    self.at = self.at.max(entry.revision);
                    self.entries.insert(key, entry.clone());
                    changes.push(Change::Put(entry));
                }
                None => {
                    if let Some(entry) = self.entries.remove(&key) {
                        self.at = Revision(self.at.0 + 1);
                        changes.push(Change::Delete(entry.key));
                    }
                }
            }
        }
        (!changes.is_empty()).then_some(Event::Changes { changes, at: self.at })
    }

    fn files_of(&self, key: &str) -> Vec<PathBuf> {
        let relative = key.strip_prefix(&self.root).unwrap_or(key).trim_start_matches('/');
        let path = |ending: &&str| self.folder.join(format!("{relative}{ending}"));
        crate::tree::EXTENSIONS.iter().map(path).filter(|path| path.is_file()).collect()
    }

    async fn step(&mut self) -> Result<Option<Event>, AdapterError> {
        let Some(watch) = self.watch.as_mut() else { return self.reset().await.map(Some) };
        if watch.overflow.swap(false, std::sync::atomic::Ordering::AcqRel) {
            return self.relist(true).await;
        }
        let signal = tokio::select! {
            biased;
            signal = watch.signals.recv() => signal,
            () = sleep_until(self.next_walk) => return self.relist(false).await,
            () = sleep_until(self.next_idle) => {
                self.next_idle = Instant::now() + IDLE;
                std::fs::metadata(&self.folder).map_err(|error| failed(&self.folder, &error))?;
                return Ok(Some(Event::Idle { at: self.at }));
            }
        };
        match signal {
            Some(Signal::Paths(paths)) if paths.iter().any(|path| path.is_dir()) => {
                self.next_walk = self.next_walk.min(Instant::now() + SETTLE);
                self.relist(true).await
            }
            Some(Signal::Paths(paths)) => {
                let gone = paths.iter().any(|path| self.is_folder(path));
                let event = self.reread(&paths);
                if gone { self.relist(true).await } else { Ok(event) }
            }
            Some(Signal::Everything) => self.relist(true).await,
            None => {
                self.watch = None;
                Err(failed(&self.folder, &std::io::Error::other("the watch ended")))
            }
        }
    }

    /// Whether a path that may be gone was a folder with entries.
    fn is_folder(&self, path: &Path) -> bool {
        let Some(key) = path.strip_prefix(&self.folder).ok().and_then(|path| key_of(&self.root, path)) else { return path == self.folder };
        let prefix = format!("{key}/");
        self.entries.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }
}

/// Reads every file of a walk.
fn read_all(folder: &Path, root: &str, walk: &Walk) -> BTreeMap<String, Entry> {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in walk.seen.keys() {
        if let Some(key) = path.strip_prefix(folder).ok().and_then(|relative| key_of(root, relative)) {
            files.entry(key).or_default().push(path.clone());
        }
    }
    files.into_iter().filter_map(|(key, paths)| entry_of(&key, &paths).map(|entry| (key, entry))).collect()
}

fn differences(before: &BTreeMap<String, Entry>, after: &BTreeMap<String, Entry>) -> Vec<Change> {
    let gone = before.values().filter(|entry| !after.contains_key(&key_text(&entry.key))).map(|entry| Change::Delete(entry.key.clone()));
    let fresh = after.iter().filter(|(key, entry)| before.get(*key).is_none_or(|was| was.value != entry.value || was.unreadable != entry.unreadable));
    gone.chain(fresh.map(|(_, entry)| Change::Put(entry.clone()))).collect()
}

fn key_text(key: &Key) -> String {
    String::from_utf8_lossy(key.bytes()).into_owned()
}

/// What an event of the file system means: a file counts when its writer closes it, not while it is being written.
fn signal_of(event: notify::Result<notify::Event>) -> Option<Signal> {
    let Ok(event) = event else { return Some(Signal::Everything) };
    if event.need_rescan() {
        return Some(Signal::Everything);
    }
    let relevant = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => true,
        // A permission that changed, a link or a folder that appeared: there is no close to wait for.
        EventKind::Modify(ModifyKind::Metadata(_)) => true,
        EventKind::Create(_) => event.paths.iter().any(|path| path.is_dir() || path.is_symlink() || hard_link(path)),
        _ => false,
    };
    if !relevant {
        return None;
    }
    // `..data` is how a mounted ConfigMap or Secret swaps all its files at once.
    let swapped = event.paths.iter().any(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("..")));
    Some(if swapped { Signal::Everything } else { Signal::Paths(event.paths) })
}

/// A file that appeared complete, under a second name.
fn hard_link(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.nlink() > 1)
}

#[async_trait]
impl Source for FileSource {
    async fn next(&mut self) -> Result<Event, AdapterError> {
        loop {
            match self.step().await {
                Ok(Some(event)) => {
                    self.next_idle = Instant::now() + IDLE;
                    return Ok(event);
                }
                Ok(None) => {}
                Err(error) => {
                    self.watch = None;
                    return Err(error);
                }
            }
        }
    }
}
