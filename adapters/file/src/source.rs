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
/// How often the directory itself is looked at, which the watch does not tell of when a link to it is swapped.
const LOOK: Duration = Duration::from_millis(500);
/// How often the whole directory is read again.
const RELIST: Duration = Duration::from_secs(30);
/// After a folder appeared, its files may have come before its watch: look again.
const SETTLE: Duration = Duration::from_millis(100);
/// In a directory that never rests a walk is taken as it is after this long: what changes later is told by the watch.
const RESTLESS: Duration = Duration::from_secs(2);
/// Under a storm, walks take at most this share of the time: one in so many.
const WALK_SHARE: u32 = 4;
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
    /// The directory itself was taken away or renamed.
    root_gone: bool,
    /// When to look next whether the directory is still the one that is watched.
    next_look: Instant,
    next_walk: Instant,
    /// When a walk that a signal asked for is due: at once, unless walks have just been busy.
    asked_walk: Option<Instant>,
    walk_again: bool,
    rested: Instant,
    /// The walk that is under way, beside the watch.
    walking: Option<Walking>,
}

/// What a walk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Nothing is known yet: it leads to a reset, and the watch waits for it.
    First,
    /// The watch asked for it.
    Asked,
    /// Nobody asked: what it finds the watch has missed.
    Audit,
}

/// A walk under way.
#[derive(Debug)]
struct Walking {
    task: tokio::task::JoinHandle<std::io::Result<Listing>>,
    begun: Instant,
    why: Why,
    /// Keys that the watch told meanwhile: what it says of them is newer.
    touched: BTreeSet<String>,
}

#[derive(Debug)]
struct Watch {
    watcher: notify::RecommendedWatcher,
    /// Folders outside the directory that links lead to.
    linked: BTreeSet<PathBuf>,
    /// The directory that is watched: device and inode. Another may come to stand under its name.
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
        // Taken before: a folder that comes in its place meanwhile is then noticed.
        let folder = identity(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        watcher.watch(&self.folder, RecursiveMode::Recursive).map_err(watch_failed)?;
        self.watch = Some(Watch { watcher, linked: BTreeSet::new(), folder, signals, overflow });
        Ok(())
    }

    /// Whether another directory stands under the name of the one that is watched, as after a link was swapped.
    fn was_replaced(&self) -> Result<bool, AdapterError> {
        let now = identity(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        Ok(self.watch.as_ref().is_some_and(|watch| watch.folder != now))
    }

    /// Another directory stands there: everything is read from it.
    fn begin_anew(&mut self) {
        (self.watch, self.walking) = (None, None);
    }

    /// Begins to walk, until two walks agree. The watch is armed before.
    fn begin_walk(&mut self, why: Why) {
        let (folder, root, known) = (self.folder.clone(), self.root.clone(), self.entries.clone());
        let task = tokio::task::spawn_blocking(move || list(&folder, &root, &known));
        self.walking = Some(Walking { task, begun: Instant::now(), why, touched: BTreeSet::new() });
    }

    /// A walk has ended: tells what differs, as a reset if it is the first, or if nobody asked for the
    /// walk, for then the watch missed it.
    fn walked(&mut self, listed: Listing) -> Option<Event> {
        let Walking { begun, why, touched, .. } = self.walking.take()?;
        let now = Instant::now();
        self.rested = now + (now - begun) * WALK_SHARE;
        self.next_walk = now + RELIST;
        if listed.unfinished || std::mem::take(&mut self.walk_again) {
            self.ask_walk(SETTLE);
        }
        if let Some(watch) = self.watch.as_mut()
            && watch.follow(listed.linked)
        {
            // What changed there before it was watched.
            self.ask_walk(SETTLE);
        }
        let mut entries = listed.entries;
        for key in &touched {
            match self.entries.get(key) {
                Some(known) => drop(entries.insert(key.clone(), known.clone())),
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

    /// A walk is needed after so long, or once walks have rested.
    fn ask_walk(&mut self, after: Duration) {
        let due = (Instant::now() + after).max(self.rested);
        self.asked_walk = Some(self.asked_walk.map_or(due, |asked| asked.min(due)));
    }

    /// Reads the files of these paths again.
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
                self.next_idle = Instant::now() + IDLE;
                return Ok(Some(Event::Idle { at: self.at }));
            }
            () = sleep_until(self.next_look), if !first => {
                self.next_look = Instant::now() + LOOK;
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
            // The watch went with it, whatever stands there now.
            self.begin_anew();
            return Ok(None);
        }
        Ok(changes)
    }

    /// Everything that has been signalled by now, as one event.
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
                        // Behind a link: which keys that is only a walk can tell.
                        self.ask_walk(Duration::ZERO);
                    }
                    if paths.iter().any(|path| path.is_dir()) {
                        // Twice: at once, and for what came between the folder and its watch.
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

    /// Whether a path that may be gone was a folder with entries.
    fn is_folder(&self, path: &Path) -> bool {
        let Some(key) = path.strip_prefix(&self.folder).ok().and_then(|path| key_of(&self.root, path)) else { return path == self.folder };
        let prefix = format!("{key}/");
        self.entries.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }
}

impl Watch {
    /// Watches these folders outside as well, and no others any more. Returns whether one is new.
    fn follow(&mut self, linked: BTreeSet<PathBuf>) -> bool {
        for folder in self.linked.difference(&linked) {
            // It may be gone.
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

/// The end of a walk, if one is under way.
async fn finished(walking: &mut Option<Walking>) -> std::io::Result<Listing> {
    match walking {
        Some(walking) => joined((&mut walking.task).await),
        None => std::future::pending().await,
    }
}

fn joined(ended: Result<std::io::Result<Listing>, tokio::task::JoinError>) -> std::io::Result<Listing> {
    ended.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// Walks and reads until nothing changed meanwhile.
fn list(folder: &Path, root: &str, known: &BTreeMap<String, Entry>) -> std::io::Result<Listing> {
    let begun = std::time::Instant::now();
    let mut before = walk(folder)?;
    loop {
        let (entries, unfinished) = read_all(folder, root, &before, known);
        let after = walk(folder)?;
        if after == before || begun.elapsed() > RESTLESS {
            return Ok(Listing { entries, at: after.newest, unfinished, linked: after.linked });
        }
        before = after;
    }
}

/// What a directory holds.
#[derive(Debug)]
struct Listing {
    entries: BTreeMap<String, Entry>,
    at: Revision,
    /// A file was empty because its writer had just begun; what was known of it stays.
    unfinished: bool,
    /// Folders outside that links lead to.
    linked: BTreeSet<PathBuf>,
}

/// Reads every file of a walk.
fn read_all(folder: &Path, root: &str, walk: &Walk, known: &BTreeMap<String, Entry>) -> (BTreeMap<String, Entry>, bool) {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in walk.seen.keys() {
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
        if let Some(entry) = if begun { known.get(&key).cloned() } else { Some(entry) } {
            entries.insert(key, entry);
        }
    }
    (entries, unfinished)
}

/// Whether a file of this revision was touched a moment ago.
fn is_young(revision: Revision) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() < u128::from(revision.0) + SETTLE.as_nanos() / 2
}

fn differences(before: &BTreeMap<String, Entry>, after: &BTreeMap<String, Entry>) -> Vec<Change> {
    let gone = before.values().filter(|entry| !after.contains_key(&key_text(&entry.key))).map(|entry| Change::Delete(entry.key.clone()));
    let fresh = after.iter().filter(|(key, entry)| before.get(*key).is_none_or(|was| was.value != entry.value || was.unreadable != entry.unreadable));
    gone.chain(fresh.map(|(_, entry)| Change::Put(entry.clone()))).collect()
}

/// Device and inode of what stands under a path.
fn identity(folder: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(folder).map(|meta| (meta.dev(), meta.ino()))
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
                    (self.watch, self.walking) = (None, None);
                    return Err(error);
                }
            }
        }
    }
}
