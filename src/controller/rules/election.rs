//! Decides which controller leads, by one record in the store, written with compare and set. Pure: time and the store's answers are inputs.
//!
//! The holder renews its record every third of the TTL and stops leading two thirds of a TTL after it *sent* the last
//! renewal that was acknowledged. A challenger takes over when it has seen the record unchanged for a whole TTL of its
//! own clock. Clocks need not agree, they only have to run at about the same speed. Every run of leading has an epoch of
//! its own, above everything that was seen anywhere. See `docs/decisions/10-election.md`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use waypost_adapter::{Expected, PutIf, Revision};

/// The controller that has the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The controller's name.
    pub name: String,
    /// One run of one process.
    pub run: String,
}

/// The record below the status root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The cluster's id.
    pub cluster: String,
    /// The controller that has it.
    pub holder: Holder,
    /// Where the holder's API is.
    pub url: String,
    /// The epoch under which the holder publishes.
    pub epoch: u64,
    /// Grows with every renewal: an unchanged record is one that nobody renews.
    pub renewal: u64,
    /// The holder's TTL in milliseconds; a challenger waits at least as long.
    #[serde(default)]
    pub ttl_millis: u64,
    /// The holder let go: nobody has to wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
}

/// The identity with which this controller stands for election.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The cluster's id.
    pub cluster: String,
    /// Our name and this run.
    pub holder: Holder,
    /// The run before this one, on the same state directory. It is dead, so its record need not run out.
    pub previous_run: Option<String>,
    /// Where our API is.
    pub url: String,
}

/// Why the store did not answer a request as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFailure {
    /// It cannot be reached, or it is unknown whether the record was written.
    Unreachable,
    /// We have no right to write there.
    Denied,
}

/// The content of the record's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// The store's revision of it.
    pub revision: Revision,
    /// The record; `None` if it cannot be understood.
    pub record: Option<Record>,
}

/// The next request to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// Read the record.
    Read,
    /// Write it.
    Write {
        /// The record.
        record: Record,
        /// The expected content of the key.
        expected: Expected,
    },
}

/// An input of the election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectionInput {
    /// The store answered a read.
    Read(Result<Option<StoredRecord>, StoreFailure>),
    /// The store answered a write.
    Wrote(Result<PutIf, StoreFailure>),
    /// Another program has seen this epoch; `living` if a controller leads under it now.
    Saw {
        /// The epoch.
        epoch: u64,
        /// Whether a controller leads under it now.
        living: bool,
    },
    /// An operator asks us to let go.
    StepDown,
    /// Lead although the store cannot be asked: an operator says that no other controller leads, or no other one is known.
    Caretake,
    /// The store may have a new answer: ask it now.
    Look,
    /// Whether there are other controllers: if there are, no controller leads without the record.
    Others(bool),
}

/// The role of a controller at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Somebody else leads, or nobody.
    Following {
        /// The leader, as far as the store says.
        leader: Option<Record>,
    },
    /// We lead.
    Leading {
        /// Our epoch.
        epoch: u64,
        /// Until when, on our clock, unless the record is renewed.
        until: Duration,
    },
    /// We led, or an operator told us to lead, and the store cannot be asked: only operators' requests are published, and nothing of the store.
    Caretaking {
        /// Our epoch.
        epoch: u64,
        /// An operator told us to lead, and we did not lead before.
        named: bool,
    },
}

impl Role {
    /// The leader, if it is another controller and known.
    pub const fn leader(&self) -> Option<&Record> {
        match self {
            Self::Following { leader } => leader.as_ref(),
            Self::Leading { .. } | Self::Caretaking { .. } => None,
        }
    }

    /// Whether we lead or take care at this time since the start. A lease that has run out does not count, even if it may have been renewed since.
    pub fn leads(&self, now: Duration) -> bool {
        match self {
            Self::Leading { until, .. } => now < *until,
            Self::Caretaking { .. } => true,
            Self::Following { .. } => false,
        }
    }

    /// The epoch under which we may publish.
    pub const fn epoch(&self) -> Option<u64> {
        match self {
            Self::Following { .. } => None,
            Self::Leading { epoch, .. } | Self::Caretaking { epoch, .. } => Some(*epoch),
        }
    }
}

/// The highest epoch that is believed. No cluster has had so many leaders: a claim of a higher epoch is a mistake or an attack, and would leave no
/// room above it.
pub const MAX_EPOCH: u64 = 1 << 52;
/// The bound below which epochs that proxies claim are believed. Epochs above it are believed only from records and publications.
pub const MAX_CLAIMED_EPOCH: u64 = MAX_EPOCH / 2;

/// Our position in the election.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Post {
    /// We do not have the record.
    None,
    /// The record is ours at this revision; `renewed` is when the last acknowledged renewal was sent.
    Held { epoch: u64, revision: Revision, renewal: u64, renewed: Option<Duration> },
    /// We may not write, and lead without a record.
    Alone { epoch: u64 },
    /// We were told to lead without the store.
    Named { epoch: u64 },
}

/// An ask that is under way.
#[derive(Debug, Clone)]
struct Pending {
    sent: Duration,
    ask: StoreRequest,
}

/// The election, as one controller takes part in it.
#[derive(Debug)]
pub struct Election {
    me: Candidate,
    ttl: Duration,
    /// A pause before we challenge, different for each controller.
    jitter: Duration,
    /// The highest epoch seen anywhere.
    highest: u64,
    post: Post,
    /// The content of the key at the last read, and since when it is unchanged.
    last_read: Option<(Option<StoredRecord>, Duration)>,
    /// The revision of the record that was read or written last.
    last: Option<Revision>,
    /// The record went back to an older one, together with a store that was restored: its holder need not lead, and others may.
    went_back: bool,
    /// Whether another controller's record was ever read.
    met_another: bool,
    /// When writing was denied last.
    denied: Option<Duration>,
    others: bool,
    pending: Option<Pending>,
    next: Duration,
    rest_until: Duration,
}

impl Election {
    /// A controller that has seen epochs up to `highest`, and waits `jitter` before it challenges.
    pub fn new(me: Candidate, ttl: Duration, jitter: Duration, highest: u64) -> Self {
        Self {
            me,
            ttl,
            jitter,
            highest,
            post: Post::None,
            last_read: None,
            last: None,
            went_back: false,
            met_another: false,
            denied: None,
            others: false,
            pending: None,
            next: Duration::ZERO,
            rest_until: Duration::ZERO,
        }
    }

    /// The highest epoch seen anywhere.
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// How long a holder leads after it sent a renewal.
    fn lease(&self) -> Duration {
        self.ttl * 2 / 3
    }

    /// Our role now.
    pub fn role(&self, now: Duration) -> Role {
        let following = || {
            let record = self.last_read.as_ref().and_then(|(standing, _)| standing.as_ref()?.record.clone());
            let another = |record: &Record| record.holder.run != self.me.holder.run && !self.was_ours(record);
            Role::Following { leader: record.filter(|record| !record.released && another(record) && record.cluster == self.me.cluster) }
        };
        match self.post {
            Post::None => following(),
            Post::Alone { epoch } => Role::Leading { epoch, until: Duration::MAX },
            Post::Named { epoch } => Role::Caretaking { epoch, named: true },
            Post::Held { epoch, renewed: Some(renewed), .. } if now < renewed + self.lease() => Role::Leading { epoch, until: renewed + self.lease() },
            // A controller that has seen a higher epoch has a successor.
            Post::Held { epoch, renewed: Some(_), .. } if self.highest <= epoch => Role::Caretaking { epoch, named: false },
            Post::Held { .. } => following(),
        }
    }

    /// When [`Election::poll`] or [`Election::role`] say something new by themselves.
    pub fn due(&self, now: Duration) -> Duration {
        let lapse = match self.post {
            Post::Held { renewed: Some(renewed), .. } => Some(renewed + self.lease()).filter(|lapse| *lapse > now),
            _ => None,
        };
        let ask = if self.pending.is_some() { Duration::MAX } else { self.next };
        lapse.map_or(ask, |lapse| lapse.min(ask))
    }

    /// The next request to the store, if one is due. Its answer is passed to [`Election::handle`].
    pub fn poll(&mut self, now: Duration) -> Option<StoreRequest> {
        if self.pending.is_some() || now < self.next {
            return None;
        }
        let ask = match self.post {
            Post::Held { epoch, revision, renewal, .. } => {
                // A higher epoch was seen. The record is proved to be ours before the epoch is raised above it.
                let epoch = if self.highest > epoch { self.highest + 1 } else { epoch };
                StoreRequest::Write { record: self.record(epoch, renewal + 1), expected: Expected::At(revision) }
            }
            _ => self.challenge(now).unwrap_or(StoreRequest::Read),
        };
        self.pending = Some(Pending { sent: now, ask: ask.clone() });
        Some(ask)
    }

    fn record(&self, epoch: u64, renewal: u64) -> Record {
        let ttl_millis = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        Record { cluster: self.me.cluster.clone(), holder: self.me.holder.clone(), url: self.me.url.clone(), epoch, renewal, ttl_millis, released: false }
    }

    /// The record that makes us leader, once the present content of the key may be replaced.
    fn challenge(&self, now: Duration) -> Option<StoreRequest> {
        let (standing, since) = self.last_read.as_ref()?;
        // The right to write may come back.
        let denied = self.denied.is_some_and(|at| now < at + self.ttl);
        if now < self.rest_until || denied || now < *since + self.wait(standing.as_ref())? {
            return None;
        }
        let epoch = self.highest.saturating_add(1);
        let expected = standing.as_ref().map_or(Expected::Absent, |standing| Expected::At(standing.revision));
        let renewal = standing.as_ref().and_then(|standing| standing.record.as_ref()).map_or(1, |record| record.renewal.saturating_add(1));
        Some(StoreRequest::Write { record: self.record(epoch, renewal), expected })
    }

    /// Whether the holder is the run before this one, which is dead.
    fn was_ours(&self, record: &Record) -> bool {
        record.holder.name == self.me.holder.name && Some(&record.holder.run) == self.me.previous_run.as_ref()
    }

    /// How long the content of the key must be unchanged before it is replaced; `None` if it may never be.
    fn wait(&self, standing: Option<&StoredRecord>) -> Option<Duration> {
        let patience = |ttl: Duration| self.ttl.max(ttl) + self.jitter;
        match standing {
            None if self.met_another => Some(patience(Duration::ZERO)),
            None => Some(Duration::ZERO),
            Some(StoredRecord { record: None, .. }) => Some(patience(Duration::ZERO)),
            Some(StoredRecord { record: Some(record), .. }) => match record.cluster == self.me.cluster {
                false => None,
                true if self.went_back && self.met_another => Some(patience(Duration::from_millis(record.ttl_millis))),
                true if record.released || self.went_back || self.was_ours(record) => Some(Duration::ZERO),
                true => Some(patience(Duration::from_millis(record.ttl_millis))),
            },
        }
    }

    /// Handles an input.
    pub fn handle(&mut self, input: ElectionInput, now: Duration) {
        match input {
            ElectionInput::Read(answer) => {
                self.pending = None;
                self.read(answer, now);
            }
            ElectionInput::Wrote(answer) => {
                if let Some(pending) = self.pending.take() {
                    self.wrote(pending, answer, now);
                }
            }
            ElectionInput::Saw { epoch, living } => self.saw(epoch, living, now),
            ElectionInput::StepDown => {
                self.post = Post::None;
                self.rest_until = now + self.ttl;
            }
            ElectionInput::Caretake => {
                if self.post == Post::None {
                    self.highest = self.highest.saturating_add(1);
                    self.post = Post::Named { epoch: self.highest };
                }
            }
            ElectionInput::Look => self.next = self.next.min(now),
            ElectionInput::Others(others) => self.others = others,
        }
    }

    fn read(&mut self, answer: Result<Option<StoredRecord>, StoreFailure>, now: Duration) {
        self.next = now + self.ttl / 24;
        let standing = match answer {
            Ok(standing) => standing,
            Err(StoreFailure::Unreachable) => return,
            Err(StoreFailure::Denied) => return self.alone(None, now),
        };
        let had_record = matches!(self.last_read, Some((Some(_), _)));
        let unchanged =
            self.last_read.as_ref().is_some_and(|(before, _)| before.as_ref().map(|before| before.revision) == standing.as_ref().map(|found| found.revision));
        if !unchanged {
            self.last_read = Some((standing.clone(), now));
        }
        if let Some(found) = standing.as_ref().filter(|found| Some(found.revision) != self.last) {
            self.went_back = self.last.replace(found.revision).is_some_and(|last| found.revision < last);
        }
        if let Some((revision, record)) = standing.as_ref().and_then(|found| Some((found.revision, found.record.as_ref()?))) {
            if record.cluster == self.me.cluster && record.epoch < MAX_EPOCH {
                self.highest = self.highest.max(record.epoch);
            }
            let ours = record.holder.run == self.me.holder.run && !self.went_back;
            if ours && !record.released && now >= self.rest_until && self.denied.is_none() {
                // A write of ours whose outcome was unknown has arrived; it counts from the next renewal on.
                if self.post == Post::None {
                    self.post = Post::Held { epoch: record.epoch, revision, renewal: record.renewal, renewed: None };
                }
                self.next = now;
                return;
            }
            // Where there are other controllers, one may have led since our last run.
            self.met_another |= record.holder.run != self.me.holder.run && (self.others || !self.was_ours(record));
            // Another controller renews the record: a leader that leads without the store's word steps down.
            if had_record && !unchanged && !record.released && matches!(self.post, Post::Alone { .. } | Post::Named { .. }) {
                self.post = Post::None;
            }
        }
        if self.denied.is_some() {
            self.alone(standing.as_ref(), now);
        } else if let Some(wait) = self.wait(standing.as_ref()) {
            let since = self.last_read.as_ref().map_or(now, |(_, since)| *since);
            // Not a moment later than it may be.
            self.next = self.next.min((since + wait).max(self.rest_until).max(now));
        }
    }

    /// We may not write: we lead without a record, unless another controller renews one.
    fn alone(&mut self, standing: Option<&StoredRecord>, now: Duration) {
        self.denied.get_or_insert(now);
        let since = self.last_read.as_ref().map_or(now, |(_, since)| *since);
        let free = match standing {
            None => true,
            Some(found) => self.wait(Some(found)).is_some_and(|wait| now >= since + wait),
        };
        // Where there are other controllers, two could come to this conclusion.
        if free && !self.others && matches!(self.post, Post::None | Post::Named { .. }) && now >= self.rest_until {
            self.highest = self.highest.saturating_add(1);
            self.post = Post::Alone { epoch: self.highest };
        }
    }

    fn wrote(&mut self, pending: Pending, answer: Result<PutIf, StoreFailure>, now: Duration) {
        let StoreRequest::Write { record, .. } = pending.ask else { return };
        match answer {
            Ok(PutIf::Written(revision)) => {
                self.denied = None;
                self.highest = self.highest.max(record.epoch);
                self.last_read = Some((Some(StoredRecord { revision, record: Some(record.clone()) }), now));
                (self.last, self.went_back) = (Some(revision), false);
                if now < self.rest_until {
                    // We were asked to step down meanwhile; the record runs out.
                    self.next = now + self.ttl / 24;
                    return;
                }
                self.post = Post::Held { epoch: record.epoch, revision, renewal: record.renewal, renewed: Some(pending.sent) };
                let raised = self.highest > record.epoch;
                self.next = if raised { now } else { pending.sent + self.ttl / 3 };
            }
            Ok(PutIf::Conflict) => {
                if matches!(self.post, Post::Held { .. }) {
                    self.post = Post::None;
                }
                self.last_read = None;
                self.next = now;
            }
            Err(StoreFailure::Denied) => {
                self.denied = Some(now);
                if matches!(self.post, Post::Held { .. }) {
                    self.post = Post::None;
                }
                self.next = now + self.ttl / 24;
            }
            Err(StoreFailure::Unreachable) => {
                self.next = now + self.ttl / 24;
                if !matches!(self.post, Post::Held { .. }) {
                    // The write may yet arrive: the record is read before another one is written.
                    self.last_read = None;
                }
            }
        }
    }

    /// Another controller publishes, or published, under this epoch.
    fn saw(&mut self, epoch: u64, living: bool, now: Duration) {
        if epoch >= MAX_EPOCH {
            return;
        }
        self.highest = self.highest.max(epoch);
        if matches!(self.post, Post::Held { epoch: own, .. } if own == epoch) {
            // Our epoch must become the higher one.
            self.highest = self.highest.max(epoch + 1);
        }
        match &mut self.post {
            Post::Held { epoch: own, .. } if epoch >= *own => self.next = self.next.min(now),
            Post::Named { epoch: own } | Post::Alone { epoch: own } if epoch >= *own => {
                if living {
                    self.post = Post::None;
                } else {
                    self.highest = self.highest.saturating_add(1);
                    *own = self.highest;
                }
            }
            _ => {}
        }
    }

    /// The record that releases leading, if we hold one. It is written once, when the controller stops or steps down.
    pub fn release(&self) -> Option<StoreRequest> {
        let Post::Held { epoch, revision, renewal, .. } = self.post else { return None };
        Some(StoreRequest::Write { record: Record { released: true, ..self.record(epoch, renewal + 1) }, expected: Expected::At(revision) })
    }
}

#[cfg(test)]
mod tests;
