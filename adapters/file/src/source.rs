//! Watches a directory: inotify is fast, a walk of the directory is authoritative.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use waypost_adapter::{AdapterError, Change, Entry, ErrorKind, Event, Key, Revision, Source};

use crate::failed::failed;
use crate::tree::{Walk, entry_of, key_of, walk};

/// Interval of the idle events.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of the check whether the directory itself was replaced: the watch has no event for a changed link to it.
const ROOT_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Interval of the audits, which read the whole directory again.
const AUDIT_INTERVAL: Duration = Duration::from_secs(30);
/// Delay of the second walk after a folder appeared: its first files may be older than its watch.
const FOLDER_SETTLE_TIME: Duration = Duration::from_millis(100);
/// In a directory that changes all the time, a walk is accepted as it is after this time; the watch delivers later changes.
const MAX_WALK_TIME: Duration = Duration::from_secs(2);
/// During a storm of changes, walks take at most one part in this many of the time.
const WALK_SHARE: u32 = 4;
/// Capacity of the queue of signals; when it is full, the directory is walked again.
const SIGNAL_QUEUE_LENGTH: usize = 8_192;

/// A signal from the watcher's thread.
#[derive(Debug)]
enum Signal {
    /// These paths changed.
    Paths(Vec<PathBuf>),
    /// A change that needs a walk.
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
    /// Whether the directory itself was deleted or renamed.
    root_gone: bool,
    /// When to check next whether the watched directory is still the one at this path.
    next_look: Instant,
    next_walk: Instant,
    /// When a requested walk is due: at once, except shortly after a walk.
    asked_walk: Option<Instant>,
    walk_again: bool,
    rested: Instant,
    /// The walk in progress; the watch continues beside it.
    walking: Option<Walking>,
}

/// The reason for a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The first walk: it results in a reset, and the signals of the watch wait for it.
    First,
    /// A signal of the watch requires it.
    Asked,
    /// The audit interval is over: differences that it finds were missed by the watch.
    Audit,
}

/// A walk in progress.
#[derive(Debug)]
struct Walking {
    task: tokio::task::JoinHandle<std::io::Result<Listing>>,
    begun: Instant,
    why: Why,
    /// Keys that the watch delivered during the walk; their delivered entries are newer.
    touched: BTreeSet<String>,
}

#[derive(Debug)]
struct Watch {
    watcher: notify::RecommendedWatcher,
    /// Folders outside the directory that links point to.
    linked: BTreeSet<PathBuf>,
    /// Device and inode of the watched directory. Another directory may be moved to its path.
    folder: (u64, u64),
    signals: mpsc::Receiver<Signal>,
    overflow: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl FileSource {
    pub(crate) fn new(folder: PathBuf, root: String) -> Self {
        let now = Instant::now();
        Self {
            folder,
            root,
            watch: None,
            entries: BTreeMap::new(),
            at: Revision(0),
            next_idle: now,
            next_look: now,
            root_gone: false,
            next_walk: now,
            asked_walk: None,
            walking: None,
            walk_again: false,
            rested: now,
        }
    }

    fn begin_watch(&mut self) -> Result<(), AdapterError> {
        let (sender, signals) = mpsc::channel(SIGNAL_QUEUE_LENGTH);
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
        // Read before the watch starts, so that a directory which is replaced in between is noticed.
        let folder = identity(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        watcher.watch(&self.folder, RecursiveMode::Recursive).map_err(watch_failed)?;
        self.watch = Some(Watch { watcher, linked: BTreeSet::new(), folder, signals, overflow });
        Ok(())
    }

    /// Whether another directory is at the path of the watched one, as after a change of a link.
    fn was_replaced(&self) -> Result<bool, AdapterError> {
        let now = identity(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        Ok(self.watch.as_ref().is_some_and(|watch| watch.folder != now))
    }

    /// Restarts with the directory that is at the path now.
    fn begin_anew(&mut self) {
        (self.watch, self.walking) = (None, None);
    }

    /// Begins a walk, which repeats until two passes agree. The watch must be active before.
    fn begin_walk(&mut self, why: Why) {
        let (folder, root, previous) = (self.folder.clone(), self.root.clone(), self.entries.clone());
        let task = tokio::task::spawn_blocking(move || list(&folder, &root, &previous));
        self.walking = Some(Walking { task, begun: Instant::now(), why, touched: BTreeSet::new() });
    }

    /// Handles the end of a walk: returns the differences. They are a reset after the first walk, and after an audit, because then the
    /// watch missed them.
    fn walked(&mut self, listed: Listing) -> Option<Event> {
        let Walking { begun, why, touched, .. } = self.walking.take()?;
        let now = Instant::now();
        self.rested = now + (now - begun) * WALK_SHARE;
        self.next_walk = now + AUDIT_INTERVAL;
        if listed.unfinished || std::mem::take(&mut self.walk_again) {
            self.ask_walk(FOLDER_SETTLE_TIME);
        }
        if let Some(watch) = self.watch.as_mut()
            && watch.follow(listed.linked)
        {
            // The walk finds what changed there before it was watched.
            self.ask_walk(FOLDER_SETTLE_TIME);
        }
        let mut entries = listed.entries;
        for key in &touched {
            match self.entries.get(key) {
                Some(current) => drop(entries.insert(key.clone(), current.clone())),
                None => drop(entries.remove(key)),
            }
        }
        let changes = differences(&self.entries, &entries);
        self.at = self.at.max(listed.at);
        self.entries = entries;
        let (all, at) = (|| self.entries.values().cloned().collect(), self.at);
        match why {
            Why::First => Some(Event::Reset { entries: all(), at, drift: 0 }),
            _ if changes.is_empty() => None,
            Why::Asked => Some(Event::Changes { changes, at }),
            Why::Audit => Some(Event::Reset { entries: all(), at, drift: changes.len() }),
        }
    }

    /// Requests a walk after this delay, but not before the pause since the last one is over.
    fn ask_walk(&mut self, after: Duration) {
        let due = (Instant::now() + after).max(self.rested);
        self.asked_walk = Some(self.asked_walk.map_or(due, |asked| asked.min(due)));
    }

    /// Reads the files at these paths again.
    fn reread(&mut self, paths: &[PathBuf]) -> Option<Event> {
        let keys: BTreeSet<String> = paths.iter().filter_map(|path| path.strip_prefix(&self.folder).ok()).filter_map(|path| key_of(&self.root, path)).collect();
        let mut changes = Vec::new();
        if let Some(walking) = &mut self.walking {
            walking.touched.extend(keys.iter().cloned());
        }
        for key in keys {
            let files = self.files_of(&key);
            match entry_of(&key, &files) {
                Some(mut entry) => {
                    let before = self.entries.get(&key);
                    if before.is_some_and(|before| before.value == entry.value && before.revision == entry.revision && before.unreadable == entry.unreadable) {
                        continue;
                    }
                    // If both writes fall into one tick of the file system's clock, the second still gets a higher revision.
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
        if self.watch.is_none() {
            self.begin_watch()?;
            self.begin_walk(Why::First);
        }
        let Some(watch) = self.watch.as_mut() else { return Ok(None) };
        if watch.overflow.swap(false, std::sync::atomic::Ordering::AcqRel) {
            self.ask_walk(Duration::ZERO);
            return Ok(None);
        }
        let (asked_walk, walking) = (self.asked_walk, self.walking.is_some());
        let first = self.walking.as_ref().is_some_and(|walking| walking.why == Why::First);
        let signal = tokio::select! {
            biased;
            listed = finished(&mut self.walking) => {
                let listed = listed.map_err(|error| failed(&self.folder, &error))?;
                return Ok(self.walked(listed));
            }
            () = sleep_until(asked_walk.unwrap_or(self.next_walk)), if !walking => {
                self.asked_walk = None;
                self.begin_walk(if asked_walk.is_some() { Why::Asked } else { Why::Audit });
                return Ok(None);
            }
            () = sleep_until(self.next_idle), if !first => {
                self.next_idle = Instant::now() + IDLE_INTERVAL;
                return Ok(Some(Event::Idle { at: self.at }));
            }
            () = sleep_until(self.next_look), if !first => {
                self.next_look = Instant::now() + ROOT_CHECK_INTERVAL;
                if self.was_replaced()? {
                    self.begin_anew();
                }
                return Ok(None);
            }
            signal = watch.signals.recv(), if !first => signal,
        };
        let Some(signal) = signal else {
            self.watch = None;
            return Err(failed(&self.folder, &std::io::Error::other("the watch ended")));
        };
        let changes = self.take(signal);
        if std::mem::take(&mut self.root_gone) {
            // The watch ended with the directory, even if another one is at its path now.
            self.begin_anew();
            return Ok(None);
        }
        Ok(changes)
    }

    /// Handles this signal and all others in the queue, as one event.
    fn take(&mut self, first: Signal) -> Option<Event> {
        let mut signals = vec![first];
        if let Some(watch) = self.watch.as_mut() {
            while let Ok(signal) = watch.signals.try_recv() {
                signals.push(signal);
            }
        }
        let mut changed = Vec::new();
        for signal in signals {
            match signal {
                Signal::Everything => self.ask_walk(Duration::ZERO),
                Signal::Paths(paths) => {
                    self.root_gone |= paths.contains(&self.folder);
                    if paths.iter().any(|path| !path.starts_with(&self.folder)) {
                        // The path is behind a link: only a walk can find the keys.
                        self.ask_walk(Duration::ZERO);
                    }
                    if paths.iter().any(|path| path.is_dir()) {
                        // One walk now, and another for files that appeared before the folder was watched.
                        self.ask_walk(Duration::ZERO);
                        self.walk_again = true;
                    } else {
                        if paths.iter().any(|path| self.is_folder(path)) {
                            self.ask_walk(Duration::ZERO);
                        }
                        changed.extend(paths);
                    }
                }
            }
        }
        self.reread(&changed)
    }

    /// Whether a path, which may be deleted, was a folder with entries.
    fn is_folder(&self, path: &Path) -> bool {
        let Some(key) = path.strip_prefix(&self.folder).ok().and_then(|path| key_of(&self.root, path)) else { return path == self.folder };
        let prefix = format!("{key}/");
        self.entries.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }
}

impl Watch {
    /// Watches exactly these folders outside the directory. Returns whether one of them is new.
    fn follow(&mut self, linked: BTreeSet<PathBuf>) -> bool {
        for folder in self.linked.difference(&linked) {
            // The folder may be deleted, so an error is ignored.
            drop(self.watcher.unwatch(folder));
        }
        let mut is_new = false;
        for folder in linked.difference(&self.linked) {
            match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => is_new = true,
                Err(error) => tracing::debug!(%error, folder = %folder.display(), "what a link leads to is not watched; walks find its changes"),
            }
        }
        self.linked = linked;
        is_new
    }
}

/// Waits for the end of the walk in progress; for ever if there is none.
async fn finished(walking: &mut Option<Walking>) -> std::io::Result<Listing> {
    match walking {
        Some(walking) => joined((&mut walking.task).await),
        None => std::future::pending().await,
    }
}

fn joined(ended: Result<std::io::Result<Listing>, tokio::task::JoinError>) -> std::io::Result<Listing> {
    ended.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// Walks and reads until nothing changes in between.
fn list(folder: &Path, root: &str, previous: &BTreeMap<String, Entry>) -> std::io::Result<Listing> {
    let begun = std::time::Instant::now();
    let mut before = walk(folder)?;
    loop {
        let (entries, unfinished) = read_all(folder, root, &before, previous);
        let after = walk(folder)?;
        if after == before || begun.elapsed() > MAX_WALK_TIME {
            return Ok(Listing { entries, at: after.newest, unfinished, linked: after.linked });
        }
        before = after;
    }
}

/// The entries of a directory.
#[derive(Debug)]
struct Listing {
    entries: BTreeMap<String, Entry>,
    at: Revision,
    /// Whether a file was empty because its writer had just created it; its previous entry is retained.
    unfinished: bool,
    /// Folders outside the directory that links point to.
    linked: BTreeSet<PathBuf>,
}

/// Reads every file that a walk found.
fn read_all(folder: &Path, root: &str, walk: &Walk, previous: &BTreeMap<String, Entry>) -> (BTreeMap<String, Entry>, bool) {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in walk.files.keys() {
        if let Some(key) = path.strip_prefix(folder).ok().and_then(|relative| key_of(root, relative)) {
            files.entry(key).or_default().push(path.clone());
        }
    }
    let mut unfinished = false;
    let mut entries = BTreeMap::new();
    for (key, paths) in files {
        let Some(entry) = entry_of(&key, &paths) else { continue };
        let begun = entry.value.is_empty() && entry.unreadable.is_none() && is_young(entry.revision);
        unfinished |= begun;
        if let Some(entry) = if begun { previous.get(&key).cloned() } else { Some(entry) } {
            entries.insert(key, entry);
        }
    }
    (entries, unfinished)
}

/// Whether a file of this revision was modified a moment ago.
fn is_young(revision: Revision) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() < u128::from(revision.0) + FOLDER_SETTLE_TIME.as_nanos() / 2
}

fn differences(before: &BTreeMap<String, Entry>, after: &BTreeMap<String, Entry>) -> Vec<Change> {
    let deleted = before.values().filter(|entry| !after.contains_key(&key_text(&entry.key))).map(|entry| Change::Delete(entry.key.clone()));
    let fresh = after.iter().filter(|(key, entry)| before.get(*key).is_none_or(|was| was.value != entry.value || was.unreadable != entry.unreadable));
    deleted.chain(fresh.map(|(_, entry)| Change::Put(entry.clone()))).collect()
}

/// Device and inode of the directory at a path.
fn identity(folder: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(folder).map(|meta| (meta.dev(), meta.ino()))
}

fn key_text(key: &Key) -> String {
    String::from_utf8_lossy(key.bytes()).into_owned()
}

/// The signal of a file system event. A written file counts when its writer closes it, not while it is being written.
fn signal_of(event: notify::Result<notify::Event>) -> Option<Signal> {
    let Ok(event) = event else { return Some(Signal::Everything) };
    if event.need_rescan() {
        return Some(Signal::Everything);
    }
    let relevant = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => true,
        // For a changed permission, a link or a new folder there is no close event to wait for.
        EventKind::Modify(ModifyKind::Metadata(_)) => true,
        EventKind::Create(_) => event.paths.iter().any(|path| path.is_dir() || path.is_symlink() || hard_link(path)),
        _ => false,
    };
    if !relevant {
        return None;
    }
    // A mounted ConfigMap or Secret replaces all its files at once by a rename of `..data`.
    let swapped = event.paths.iter().any(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("..")));
    Some(if swapped { Signal::Everything } else { Signal::Paths(event.paths) })
}

/// Whether a file appeared complete, as a hard link.
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
                    self.next_idle = Instant::now() + IDLE_INTERVAL;
                    return Ok(event);
                }
                Ok(None) => {}
                Err(error) => {
                    (self.watch, self.walking) = (None, None);
                    return Err(error);
                }
            }
        }
    }
}
