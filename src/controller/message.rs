//! Messages between the parts of the controller: inputs and outputs of the state, queries and commands.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use waypost_adapter::{AdapterError, Event as StoreEvent};
use waypost_model::compile::EntryId;
use waypost_model::lane::Lane;
use waypost_model::object::Digest;
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::{Content, Downstream, RelayedEvent, Report};

use crate::controller::answers::shapes::{EntryAnswer, EntryInfo, Event, ProxyInfo, ReadyInfo, StatusInfo};
use crate::controller::rules::election::Role;
use crate::controller::rules::pins::{Pin, PinRecord};
use crate::controller::rules::recovery::RecoveryState;
use crate::controller::stored::entries::{Exported, SavedStore};
use crate::controller::stored::replica::Replica;

/// When something happened: since the start, for measuring, and as a date, for people.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Since the start of the process.
    pub since_start: Duration,
    /// Milliseconds since 1970.
    pub date: u64,
}

/// An input of the state.
#[derive(Debug)]
pub enum Input {
    /// A store delivered an event.
    Store {
        /// Its number.
        source: usize,
        /// The event.
        event: StoreEvent,
        /// How often the stores had to be read anew when this reading began.
        generation: u64,
    },
    /// A store cannot be read.
    StoreFailed {
        /// Its number.
        source: usize,
        /// Why.
        error: AdapterError,
    },
    /// Keys under the other spelling of a store's root.
    OtherSpelling {
        /// The store's number.
        source: usize,
        /// How many, and one of them.
        found: Option<(usize, String)>,
    },
    /// The cluster's id is known.
    Cluster(String),
    /// The other controllers: where they are, by name.
    Peers(BTreeMap<String, String>),
    /// Our role in the election.
    Role(Role),
    /// The leader published this; we relay it.
    Relayed(Arc<Snapshot>),
    /// A proxy offered the snapshot that was published before we lead and that was lost here. Why an object left the stores since then is not known.
    RecoveredFromProxy(Arc<Snapshot>),
    /// Recovery from the other controllers has ended: this controller may publish under this epoch.
    Recovered(u64),
    /// The leader's state beside the snapshot. It takes effect once this controller leads.
    Replica(Box<Replica>),
    /// Proxies that follow another controller, which passes on what they say.
    Downstream {
        /// The controller's name.
        controller: String,
        /// Their state, as far as it knows.
        proxies: Vec<Downstream>,
        /// The version of what it relays.
        version: Option<Version>,
        /// The digests of the content that it relays.
        content: Option<Content>,
        /// Events that only that controller can know.
        events: Vec<RelayedEvent>,
        /// The epoch of operators' actions that it has stored and this controller has not.
        newer_actions: Option<u64>,
    },
    /// A proxy began to watch; the highest version it has seen.
    ProxyOpened {
        /// Its name.
        name: String,
        /// The highest version it has seen.
        highest: Version,
        /// The cluster it believes to belong to.
        cluster: Option<String>,
    },
    /// An event outside the state that people should know.
    Event {
        /// One word.
        reason: &'static str,
        /// What it is about.
        about: String,
        /// One sentence.
        message: String,
    },
    /// A proxy's stream ended.
    ProxyClosed(String),
    /// A proxy reported.
    Reported {
        /// Its name.
        name: String,
        /// The report.
        report: Box<Report>,
    },
    /// An operator pins the config, or ends the pin.
    Pin {
        /// The pin from now on; `None` ends it.
        pin: Option<Box<Pin>>,
        /// Who asked for it.
        by: String,
    },
    /// An operator approves held removals, and deletions that he is about to make.
    Approve {
        /// Keys of resources below the root, such as `routes/shop`; all held removals if there are none.
        keys: Vec<String>,
        /// Whether removals of these keys that are still to come are approved as well.
        later: bool,
        /// By whom.
        by: String,
    },
    /// Time passed.
    Tick,
}

impl Input {
    /// A file of the state directory cannot be used; `message` says what is lost with it.
    pub fn damaged(file: &str, message: String) -> Self {
        Self::Event { reason: "StateDamaged", about: file.to_owned(), message }
    }
}

/// Maximum number of keys in one step; beyond it, all waiters are woken.
const MAX_WOKEN_KEYS: usize = 1_000;

/// The entries of which the answer may have changed.
#[derive(Debug, Default)]
pub struct Woken {
    keys: BTreeSet<String>,
    all: bool,
}

impl Woken {
    /// The answer for this key below the root may have changed. A key of a tree is also asked for without its tree.
    pub fn add(&mut self, key: &str) {
        if self.keys.len() >= MAX_WOKEN_KEYS {
            self.add_all();
        }
        if self.all {
            return;
        }
        let below_tree = key.strip_prefix("trees/").and_then(|rest| rest.split_once('/')).map(|(_, rest)| rest.to_owned());
        self.keys.extend(below_tree);
        self.keys.insert(key.to_owned());
    }

    /// The answer may have changed for every key.
    pub fn add_all(&mut self) {
        self.all = true;
        self.keys.clear();
    }

    /// Whether no answer has changed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.all
    }

    /// The keys; `None` for all.
    pub fn keys(&self) -> Option<&BTreeSet<String>> {
        Some(&self.keys).filter(|_| !self.all)
    }
}

/// The effects of one step.
#[derive(Debug, Default)]
pub struct Output {
    /// Publish this.
    pub publish: Option<Arc<Snapshot>>,
    /// The config changed: write it to the history.
    pub config_published: bool,
    /// Entries or their last good values changed: write them to disk.
    pub entries_changed: bool,
    /// A store is distrusted: the judgement goes to disk soon, so that it is not repeated after a restart.
    pub doubted: bool,
    /// Another program has seen this epoch, which is above ours.
    pub saw: Option<u64>,
    /// Every store is to be read anew: what it said so far may be older than what is published.
    pub relist: bool,
    /// Entries whose verdict may have changed.
    pub verdicts: BTreeSet<EntryId>,
    /// Something changed that is replicated to other controllers.
    pub changed: bool,
    /// The entries of which the answer may have changed.
    pub woken: Woken,
    /// Paths of the removals that an operator approved.
    pub approved: Vec<String>,
    /// The pin whose time is over.
    pub over: Option<PinRecord>,
}

impl Output {
    /// Adds the effects of a further part of the same step.
    pub(super) fn absorb(&mut self, more: Self) {
        self.publish = more.publish.or(self.publish.take());
        self.config_published |= more.config_published;
        self.entries_changed |= more.entries_changed;
        self.doubted |= more.doubted;
        self.saw = more.saw.or(self.saw);
        self.relist |= more.relist;
        self.verdicts.extend(more.verdicts);
        self.changed |= more.changed;
    }
}

/// A selection of entries.
#[derive(Debug, Clone, Default)]
pub struct EntriesAfter {
    /// How their keys below the root begin; empty for all.
    pub prefix: String,
    /// Only entries after this one.
    pub after: Option<EntryId>,
}

/// A question to the one task that owns the state.
#[derive(Debug)]
pub enum Query {
    /// The status.
    Status(oneshot::Sender<StatusInfo>),
    /// Whether something is published, and how fresh the stores are.
    Ready(oneshot::Sender<ReadyInfo>),
    /// The next entries of a prefix, and the last of them if there may be more.
    Entries(EntriesAfter, oneshot::Sender<(Vec<EntryInfo>, Option<EntryId>)>),
    /// The entry under a key, relative to the root.
    Entry(String, oneshot::Sender<EntryAnswer>),
    /// The names of the proxies that follow us.
    Connected(oneshot::Sender<Vec<String>>),
    /// The proxies.
    Proxies(oneshot::Sender<Vec<ProxyInfo>>),
    /// Events from this number on.
    Events(u64, oneshot::Sender<Vec<Event>>),
    /// The authors' bytes of everything that serves now, or (`true`) of held removals only.
    Export(bool, oneshot::Sender<Vec<Exported>>),
    /// The removals that an approval of these keys would release, or all if there are none; with `true` also later ones. Each with the key that names
    /// exactly that.
    Approvable(Vec<String>, bool, oneshot::Sender<Vec<(String, String)>>),
    /// The published config with the entries that it was compiled from; nothing before the first publication.
    Current(oneshot::Sender<Option<Current>>),
    /// Whether the config is pinned.
    Pinned(oneshot::Sender<bool>),
    /// The time that is left of the pin.
    PinLeft(oneshot::Sender<Option<Duration>>),
    /// The other controllers: where they are, by name.
    Peers(oneshot::Sender<BTreeMap<String, String>>),
    /// Whether the store has said which other controllers there are.
    Met(oneshot::Sender<bool>),
    /// The facts on which recovery from proxies depends.
    RecoveryState(oneshot::Sender<RecoveryState>),
    /// Whether another controller follows us.
    Followed(oneshot::Sender<bool>),
    /// Whether a store was never read, so that a follower needs all entries.
    Empty(oneshot::Sender<bool>),
    /// The number of the last change of a proxy's findings that this controller has.
    FindingsNumber(String, oneshot::Sender<Option<u64>>),
    /// Of these proxies, with the reported numbers of their findings: those whose findings this controller has under another number, or does not have.
    FindingsMissed(Vec<(String, u64)>, oneshot::Sender<Vec<String>>),
    /// The proxies that follow us, directly or not, with their last reports. Findings that are in these earlier reports are left out.
    Downstream(HashMap<String, Report>, oneshot::Sender<Vec<Downstream>>),
    /// The replica for followers; with all entries (`true`), or only those with a last good value.
    Replica(bool, oneshot::Sender<Replica>),
    /// The metrics.
    Metrics(oneshot::Sender<String>),
}

/// A message to the controller's task.
#[derive(Debug)]
pub enum Command {
    /// Something happened.
    Input(Input),
    /// A query.
    Ask(Query),
    /// Pins the config, but only if the published one has this digest; answers whether it had.
    PinIf(Input, Digest, oneshot::Sender<bool>),
    /// State that followers replicate has changed.
    Touch,
    /// An operator approves removals; gets the paths of the released ones and the number of the save request that has the approval; `None` if we do
    /// not lead.
    Approve(Input, oneshot::Sender<Option<(Vec<String>, u64)>>),
}

/// The controller has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the controller is stopping")]
pub struct Stopped;

/// A signal from the rest of the controller to the election.
#[derive(Debug)]
pub enum Signal {
    /// A program has seen this epoch.
    Saw {
        /// The epoch.
        epoch: u64,
        /// Whether a controller leads under it now.
        living: bool,
    },
    /// Step down; gets whether this controller led.
    StepDown(oneshot::Sender<bool>),
    /// The leader may have stopped: ask the store now.
    Look,
    /// Whether there are other controllers.
    Others(bool),
}

/// The published config, for the history.
#[derive(Debug)]
pub struct Current {
    /// Its version.
    pub version: Version,
    /// The config.
    pub config: Lane,
    /// The entries it was compiled from.
    pub stores: Vec<SavedStore>,
}

/// The controllers that we follow: the chain up to the leader, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// These, the nearest first; none if we lead.
    Through(Vec<String>),
    /// Nobody: none leads, as far as we know.
    Nobody,
    /// Nobody, although somebody leads: we are cut off, and others may know more.
    CutOff,
}
