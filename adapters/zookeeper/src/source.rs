//! Watches a tree of ZooKeeper. The watch is armed before the walk, so every change during the walk has an event and is read again. After
//! an interruption of the session the source begins again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use waypost_adapter::{AdapterError, Change, Entry, ErrorKind, Event, Revision, Settings, Source};
use zookeeper_client::{AddWatchMode, Client, Error, EventType, PersistentWatcher, SessionState, WatchedEvent};

use crate::client::{bounded, connect, entry_of, explain, in_time, unreachable};

/// Interval of the checks whether the session is current.
const IDLE_INTERVAL: Duration = Duration::from_secs(3);
/// Time after which changes are delivered although a storm of events continues and there is always more to read.
const MAX_STORM_TIME: Duration = Duration::from_secs(1);
/// Maximum concurrent requests; the server's own limit is 1,000.
const MAX_CONCURRENT_REQUESTS: usize = 256;

/// The entries by path, without a leading slash.
type Tree = BTreeMap<String, Entry>;

/// A live view of one tree.
pub(crate) struct ZooKeeperSource {
    settings: Arc<Settings>,
    root: String,
    live: Option<Live>,
    tree: Tree,
    at: Revision,
    /// Paths with events that have not been read yet, and changes that were read and not delivered yet. They are fields, so that dropping
    /// the future of the next event loses neither.
    unread: BTreeSet<String>,
    undelivered: Vec<Change>,
}

struct Live {
    client: Client,
    watcher: PersistentWatcher,
    next_idle: Instant,
    next_list: Instant,
}

impl std::fmt::Debug for ZooKeeperSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZooKeeperSource").field("root", &self.root).finish_non_exhaustive()
    }
}

impl ZooKeeperSource {
    pub(crate) fn new(settings: Arc<Settings>, root: &str) -> Self {
        Self { settings, root: root.to_owned(), live: None, tree: Tree::new(), at: Revision(0), unread: BTreeSet::new(), undelivered: Vec::new() }
    }

    fn path(&self) -> String {
        format!("/{}", self.root)
    }

    async fn begin(&mut self) -> Result<Event, AdapterError> {
        (self.unread, self.undelivered) = (BTreeSet::new(), Vec::new());
        let client = connect(&self.settings).await?;
        let watcher = bounded(&self.settings, client.watch(&self.path(), AddWatchMode::PersistentRecursive)).await?;
        let now = Instant::now();
        let live = Live { client, watcher, next_idle: now + IDLE_INTERVAL, next_list: now + self.settings.audit_pause(fastrand::f64()) };
        // The previous tree shows which nodes had children, also those whose children may not be listed any more.
        let (tree, at) = walk(&self.settings, &live.client, &self.path(), &self.tree).await?;
        (self.tree, self.at) = (tree, at);
        // All events of changes during the walk have arrived after this `sync`; reading their nodes again completes the listing.
        bounded(&self.settings, live.client.sync(&self.path())).await?;
        self.live = Some(live);
        if let Err(error) = self.catch_up().await {
            self.live = None;
            return Err(error);
        }
        self.undelivered.clear();
        Ok(Event::Reset { entries: self.tree.values().cloned().collect(), at: self.at, drift: 0 })
    }

    async fn step(&mut self) -> Result<Option<Event>, AdapterError> {
        let Some(live) = self.live.as_mut() else { return self.begin().await.map(Some) };
        if !self.unread.is_empty() || !self.undelivered.is_empty() {
            self.catch_up().await?;
            return Ok(self.event_of());
        }
        let event = tokio::select! {
            biased;
            event = live.watcher.changed() => event,
            () = sleep_until(live.next_list) => return self.audit().await,
            () = sleep_until(live.next_idle) => {
                live.next_idle = Instant::now() + IDLE_INTERVAL;
                let client = live.client.clone();
                bounded(&self.settings, client.sync(&self.path())).await?;
                return Ok(Some(Event::Idle { at: self.at }));
            }
        };
        self.unread.extend(paths(&self.settings, event)?);
        self.catch_up().await?;
        Ok(self.event_of())
    }

    /// Reads all nodes with events, until no event is left. The server sends the events of all nodes that a transaction changed before it
    /// shows any of them as changed, so changes that are delivered together belong together. Returns the paths of all events.
    async fn catch_up(&mut self) -> Result<BTreeSet<String>, AdapterError> {
        let (mut all, begun) = (BTreeSet::new(), Instant::now());
        while let Some(live) = self.live.as_mut() {
            self.unread.extend(drain(&mut live.watcher, &self.settings)?);
            if self.unread.is_empty() || begun.elapsed() > MAX_STORM_TIME {
                break;
            }
            let (client, paths) = (live.client.clone(), self.unread.clone());
            self.reread(&client, &paths).await?;
            self.unread.retain(|path| !paths.contains(path));
            all.extend(paths);
        }
        all.extend(self.unread.iter().cloned());
        Ok(all)
    }

    /// The changes that were read, as an event.
    fn event_of(&mut self) -> Option<Event> {
        let changes = std::mem::take(&mut self.undelivered);
        (!changes.is_empty()).then_some(Event::Changes { changes, at: self.at })
    }

    /// Reads these nodes again, and collects the differences.
    async fn reread(&mut self, client: &Client, paths: &BTreeSet<String>) -> Result<(), AdapterError> {
        let mut parents = BTreeSet::new();
        // The root itself is not an entry.
        let root = self.path();
        for batch in paths.iter().filter(|path| **path != root).collect::<Vec<_>>().chunks(MAX_CONCURRENT_REQUESTS) {
            for (path, found) in read_all(&self.settings, client, batch.iter().map(|path| (*path).clone())).await? {
                let key = path.trim_start_matches('/').to_owned();
                match found {
                    Some((entry, newest)) => {
                        self.at = self.at.max(newest);
                        if self.tree.get(&key) != Some(&entry) {
                            self.tree.insert(key, entry.clone());
                            self.undelivered.push(Change::Put(entry));
                        }
                    }
                    None => {
                        if let Some(entry) = self.tree.remove(&key) {
                            parents.extend(path.rsplit_once('/').map(|(parent, _)| parent.to_owned()));
                            self.undelivered.push(Change::Delete(entry.key));
                        }
                    }
                }
            }
        }
        for parent in parents.iter().filter(|parent| !parent.is_empty()) {
            if let Some(stat) = bounded(&self.settings, client.check_stat(parent)).await? {
                self.at = self.at.max(Revision(u64::try_from(stat.pzxid).unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// Walks the tree again and compares: differences without an event are drift.
    async fn audit(&mut self) -> Result<Option<Event>, AdapterError> {
        let root = self.path();
        let Some(live) = self.live.as_mut() else { return Ok(None) };
        live.next_list = Instant::now() + self.settings.audit_pause(fastrand::f64());
        let client = live.client.clone();
        bounded(&self.settings, client.sync(&root)).await?;
        let (tree, at) = walk(&self.settings, &client, &root, &self.tree).await?;
        // Events of changes during the walk may still be in the queue; differences that they explain are not drift.
        bounded(&self.settings, client.sync(&root)).await?;
        let explained = self.catch_up().await?;
        let is_explained = |key: &String| explained.contains(&format!("/{key}"));
        let fresh = tree.iter().filter(|(key, entry)| !is_explained(key) && self.tree.get(*key) != Some(*entry)).count();
        let deleted = self.tree.keys().filter(|key| !is_explained(key) && !tree.contains_key(*key)).count();
        self.at = self.at.max(at);
        if fresh + deleted == 0 {
            return Ok(self.event_of().or(Some(Event::Idle { at: self.at })));
        }
        self.live = None;
        let Event::Reset { entries, at, .. } = self.begin().await? else { return Ok(None) };
        Ok(Some(Event::Reset { entries, at, drift: fresh + deleted }))
    }
}

/// The path of an event.
fn paths(settings: &Settings, event: WatchedEvent) -> Result<BTreeSet<String>, AdapterError> {
    match (event.event_type, event.session_state) {
        (EventType::Session, SessionState::SyncConnected) => Ok(BTreeSet::new()),
        (EventType::Session, state) => Err(unreachable(settings, format!("the session was interrupted: {state:?}"))),
        _ => Ok(BTreeSet::from([event.path])),
    }
}

/// The paths of all events in the queue.
fn drain(watcher: &mut PersistentWatcher, settings: &Settings) -> Result<BTreeSet<String>, AdapterError> {
    let mut all = BTreeSet::new();
    loop {
        // The runtime's budget must not delay this: queued events are needed now.
        let mut changed = std::pin::pin!(tokio::task::unconstrained(watcher.changed()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match changed.as_mut().poll(&mut context) {
            std::task::Poll::Ready(event) => all.extend(paths(settings, event)?),
            std::task::Poll::Pending => return Ok(all),
        }
    }
}

/// Every node below `root`, without `root` itself, and the newest transaction that changed any of them. `previous` is the tree of the walk before.
async fn walk(settings: &Arc<Settings>, client: &Client, root: &str, previous: &Tree) -> Result<(Tree, Revision), AdapterError> {
    bounded(settings, client.sync(root)).await?;
    let mut tree = Tree::new();
    let mut newest = Revision(0);
    let mut level = vec![root.to_owned()];
    while !level.is_empty() {
        let mut children = Vec::new();
        for batch in level.chunks(MAX_CONCURRENT_REQUESTS) {
            for (parent, names) in children_of(settings, client, batch, previous).await? {
                children.extend(names.into_iter().map(|name| format!("{parent}/{name}")));
            }
        }
        for batch in children.chunks(MAX_CONCURRENT_REQUESTS) {
            for (path, found) in read_all(settings, client, batch.iter().cloned()).await? {
                // The watch delivers the deletion of a node that is missing by now; the listing leaves it out.
                if let Some((entry, touched)) = found {
                    newest = newest.max(touched);
                    tree.insert(path.trim_start_matches('/').to_owned(), entry);
                }
            }
        }
        level = children;
    }
    if let Some(stat) = bounded(settings, client.check_stat(root)).await? {
        newest = newest.max(Revision(u64::try_from(stat.mzxid.max(stat.pzxid)).unwrap_or_default()));
    }
    Ok((tree, newest))
}

async fn children_of(settings: &Settings, client: &Client, parents: &[String], previous: &Tree) -> Result<Vec<(String, Vec<String>)>, AdapterError> {
    let mut set = JoinSet::new();
    for parent in parents {
        let listing = client.get_children(parent);
        let parent = parent.clone();
        set.spawn(async move { (parent, listing.await) });
    }
    let mut all = Vec::new();
    while let Some(joined) = in_time(settings, set.join_next()).await? {
        match joined {
            Ok((parent, Ok((names, _)))) => all.push((parent, names)),
            Ok((_, Err(Error::NoNode))) => {}
            Ok((parent, Err(Error::NoAuth))) => may_be_closed(settings, &parent, previous)?,
            Ok((_, Err(error))) => return Err(explain(settings, &error)),
            Err(error) => return Err(unreachable(settings, error.to_string())),
        }
    }
    Ok(all)
}

/// An unreadable node affects only itself. But if it had children, a listing without them would look like their deletion, so the listing
/// fails.
fn may_be_closed(settings: &Settings, path: &str, previous: &Tree) -> Result<(), AdapterError> {
    let below = format!("{}/", path.trim_start_matches('/'));
    if previous.range(below.clone()..).next().is_none_or(|(key, _)| !key.starts_with(&below)) {
        return Ok(());
    }
    let message = format!("the children of {path} may not be listed any more");
    Err(AdapterError::new(ErrorKind::Denied, settings.endpoints.join(","), message, "grant read on it to everybody or to our identity"))
}

/// Reads many nodes concurrently: each with its entry and newest transaction, or `None` if it does not exist.
async fn read_all(settings: &Settings, client: &Client, paths: impl Iterator<Item = String>) -> Result<Vec<(String, Option<(Entry, Revision)>)>, AdapterError> {
    let mut set = JoinSet::new();
    for path in paths {
        let reading = client.get_data(&path);
        set.spawn(async move { (path, reading.await) });
    }
    let mut all = Vec::new();
    while let Some(joined) = in_time(settings, set.join_next()).await? {
        match joined {
            Ok((path, Ok((data, stat)))) => {
                let newest = Revision(u64::try_from(stat.mzxid.max(stat.pzxid)).unwrap_or_default());
                let entry = entry_of(&path, data, &stat);
                all.push((path, Some((entry, newest))));
            }
            Ok((path, Err(Error::NoNode))) => all.push((path, None)),
            // An unreadable node affects only itself.
            Ok((path, Err(Error::NoAuth))) => {
                let message = "the ACL of this node does not let us read it; grant read to everybody or to our identity";
                let entry = Entry { unreadable: Some(message.to_owned()), ..Entry::new(path.trim_start_matches('/').as_bytes().to_vec(), Vec::new(), 0) };
                all.push((path, Some((entry, Revision(0)))));
            }
            Ok((_, Err(error))) => return Err(explain(settings, &error)),
            Err(error) => return Err(unreachable(settings, error.to_string())),
        }
    }
    Ok(all)
}

#[async_trait]
impl Source for ZooKeeperSource {
    async fn next(&mut self) -> Result<Event, AdapterError> {
        loop {
            match self.step().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => {
                    self.live = None;
                    return Err(error);
                }
            }
        }
    }
}
