//! Leading and following: decides who may publish what, and takes over the state of the previous leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use waypost_adapter::Revision;
use waypost_model::lane::Lane;
use waypost_model::object::{Object, kind};
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::{Content, Downstream, RelayedEvent};

use super::State;
use super::desired::Basis;
use crate::controller::message::{Now, Output};
use crate::controller::rules::election::Role;
use crate::controller::rules::guard::{APPROVAL_LIFETIME, DistrustedStore, Judgement, Removal, is_distrusted, own_settings};
use crate::controller::rules::health::unhealthy_endpoints;
use crate::controller::rules::objects::source_of;
use crate::controller::state::Follower;
use crate::controller::state::proxies::BEHIND_AFTER;
use crate::controller::stored::entries::same_store;
use crate::controller::stored::replica::Replica;

/// Maximum number of another controller's events that are taken in at once.
const MAX_RELAYED_EVENTS: usize = 100;
/// A controller follows us if it has reported within this time.
const FOLLOWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A controller that has not reported for this long is forgotten.
const FORGET_FOLLOWER_AFTER: Duration = Duration::from_secs(600);
/// Time after our start within which proxies that lost their controller have found another one, or this one again.
pub(super) const PROXY_RETURN_TIME: Duration = Duration::from_secs(20);
/// Proxies that followed the previous leader find a new leader within this time.
const PROXY_SEARCH_TIME: Duration = Duration::from_secs(15);

impl State {
    /// The last epoch for which the stores are, or were, read anew and other controllers asked.
    pub const fn begun(&self) -> Option<u64> {
        self.begun
    }

    /// Our role in the election.
    pub const fn role(&self) -> &Role {
        &self.role
    }

    /// Our role changed, or goes on.
    pub(super) fn take_role(&mut self, role: Role, now: Now) -> Output {
        let before = std::mem::replace(&mut self.role, role);
        let mut output = Output::default();
        match (before.epoch(), self.role.epoch()) {
            (old, Some(epoch)) if old != Some(epoch) => {
                let message = if matches!(self.role, Role::Leading { .. }) { "this controller leads" } else { "this controller takes care without the store" };
                self.events.add(now.date, "Leading", "controller", format!("{message}, under epoch {epoch}"));
                output.verdicts = self.compiler.views().map(|view| view.id).collect();
            }
            (Some(epoch), Some(_)) => self.note_caretaking(&before, epoch, now),
            (Some(epoch), None) => self.events.add(now.date, "Deposed", "controller", format!("this controller leads no more under epoch {epoch}")),
            (None, _) => {}
        }
        if let Role::Leading { epoch, .. } = self.role
            && self.begun != Some(epoch)
        {
            self.begun = Some(epoch);
            self.recovered = false;
            self.sources.iter_mut().for_each(|source| (source.settled, source.failing) = (false, None));
            output.relist = true;
            self.generation += 1;
        }
        if before != self.role && self.role.epoch().is_some() && (self.suppressed || before.epoch() != self.role.epoch()) {
            let keeps_published = matches!(self.role, Role::Caretaking { named: true, .. }) && self.pin.is_none() && self.is_ready();
            self.derive(if keeps_published { Basis::PublishedConfig } else { Basis::Stores });
            output.absorb(self.publish(true, true, now));
        }
        output.changed = true;
        output
    }

    fn note_caretaking(&mut self, before: &Role, epoch: u64, now: Now) {
        match (before, &self.role) {
            (Role::Leading { .. }, Role::Caretaking { .. }) => {
                let message = format!("the record of leading cannot be renewed: under epoch {epoch} only what operators ask for is published");
                self.events.add(now.date, "Caretaking", "controller", message);
            }
            (Role::Caretaking { .. }, Role::Leading { .. }) => {
                self.events.add(
                    now.date,
                    "Leading",
                    "controller",
                    format!("the record is renewed: what the store says is published again under epoch {epoch}"),
                );
            }
            _ => {}
        }
    }

    /// Whether snapshots of other controllers are taken over: while we follow, and until we have asked all of them.
    const fn accepts_relays(&self) -> bool {
        match self.role {
            Role::Following { .. } => true,
            Role::Leading { .. } => !self.recovered,
            Role::Caretaking { .. } => false,
        }
    }

    /// The leader published this snapshot: our followers get it unchanged.
    pub(super) fn relayed(&mut self, snapshot: &Arc<Snapshot>, now: Now) -> Output {
        let foreign = self.cluster.as_ref().is_some_and(|own| *own != snapshot.cluster);
        if !self.accepts_relays() || foreign || snapshot.version <= self.snapshot.version {
            return Output::default();
        }
        let saw = Some(snapshot.version.epoch).filter(|epoch| *epoch > self.snapshot.version.epoch || self.role.epoch().is_some());
        if self.role.epoch().is_some_and(|epoch| snapshot.version.epoch >= epoch) {
            self.contested = self.role.epoch();
            return Output { saw, ..Output::default() };
        }
        (self.snapshot, self.published) = (snapshot.clone(), now.since_start);
        // The controller that published this had more than a proxy could offer.
        self.recovered_from_proxy = false;
        Output { publish: Some(snapshot.clone()), changed: true, entries_changed: true, saw, ..Output::default() }
    }

    /// Recovery from the other controllers has ended.
    pub(super) fn recovered(&mut self, epoch: u64, now: Now) -> Output {
        self.recovered |= self.begun == Some(epoch);
        if self.suppressed { self.publish(true, true, now) } else { Output::default() }
    }

    /// Restores the snapshot that was published before this process began, from disk.
    pub fn restore_published(&mut self, snapshot: Snapshot, now: Now) -> Output {
        self.relayed(&Arc::new(snapshot), now)
    }

    /// Grows with every time that the stores have to be read anew.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether this controller follows us now.
    pub fn follows(&self, name: &str, now: Now) -> bool {
        self.followers.get(name).is_some_and(|follower| now.since_start.saturating_sub(follower.reported_at) < FOLLOWER_TIMEOUT)
    }

    /// Whether a controller that follows us has not got a snapshot that was published a while ago.
    pub fn is_behind(&self, name: &str, now: Now) -> bool {
        let late = now.since_start.saturating_sub(self.published) > BEHIND_AFTER;
        late && self.is_ready() && self.follows(name, now) && self.followers.get(name).is_some_and(|follower| follower.version < Some(self.snapshot.version))
    }

    /// Whether any other controller follows us now.
    pub fn is_followed(&self, now: Now) -> bool {
        self.followers.keys().any(|name| self.follows(name, now))
    }

    /// The held removals, and the approvals of removals to come, for the next leader: ours if we lead, otherwise the leader's.
    pub fn removals_for_followers(&self) -> (Vec<Removal>, Vec<String>) {
        let inherited = self.role.epoch() == Some(self.snapshot.version.epoch);
        match self.role.epoch() {
            // A controller that was only just elected has not taken over the removals of the previous leader yet.
            Some(_) if inherited || self.replica.at.is_empty() => (self.guard.removals().cloned().collect(), self.guard.expected().cloned().collect()),
            // Before the first replica of a leader, the removals are those from before the restart.
            None if self.replica.at.is_empty() => (self.guard.removals().cloned().collect(), Vec::new()),
            following => {
                let ours: Vec<String> = self.guard.expected().filter(|_| following.is_some()).cloned().collect();
                let removals = self.replica.removals.iter().filter(|removal| !ours.iter().any(|path| path == removal.object.path())).cloned().collect();
                (removals, self.replica.expected.iter().cloned().chain(ours).collect())
            }
        }
    }

    /// Paths of removals that operators approved in advance, and until which date that is good, in milliseconds since 1970: ours, or the leader's.
    pub fn announced(&self, now: Now) -> BTreeMap<String, u64> {
        if self.role.epoch().is_some() || self.replica.at.is_empty() {
            return self.guard.expected_until((now.since_start, now.date));
        }
        let until = self.replicated_at.saturating_add(u64::try_from(APPROVAL_LIFETIME.as_millis()).unwrap_or(u64::MAX));
        self.replica.expected.iter().map(|path| (path.clone(), until)).collect()
    }

    /// Takes up the state that was replicated from the leader.
    pub(super) fn replicated(&mut self, replica: Replica, now: Now) -> Output {
        if !self.accepts_relays() {
            return Output::default();
        }
        let mut output = Output { entries_changed: true, ..Output::default() };
        for (number, name) in self.names.clone().iter().enumerate() {
            if let (Some(source), Some(at)) = (self.sources.get_mut(number), revision(&replica.at, name)) {
                source.floor.0 = at;
                self.regression.take_if(|flagged| flagged.source == number && flagged.is_judged(Revision(at)));
            }
            if let Some((_, entries)) = replica.entries.iter().find(|(url, _)| same_store(url, name)) {
                self.compiler.adopt(number, entries.clone());
                output.absorb(self.compiled(Some(number), None, now));
            }
        }
        (self.replica, self.replicated_at) = (Replica { entries: Vec::new(), ..replica }, now.date);
        output
    }

    /// Adds the events of a controller that follows us, with its name. An event that came through several controllers has its name already.
    pub(super) fn pass_events(&mut self, controller: &str, events: Vec<RelayedEvent>, now: Now) {
        for RelayedEvent { reason, about, message } in events.into_iter().take(MAX_RELAYED_EVENTS) {
            let about = if about.ends_with(')') { about } else { format!("{about} (on {controller})") };
            self.events.add(now.date, &reason, about, message);
        }
    }

    /// A controller follows us, and says what it relays.
    pub(super) fn follower(&mut self, name: &str, version: Option<Version>, content: Option<Content>, now: Now) {
        self.followers.retain(|_, follower| now.since_start.saturating_sub(follower.reported_at) < FORGET_FOLLOWER_AFTER);
        let drifted = version.zip(content).is_some_and(|(version, content)| self.proxies.is_other(version, content));
        let before = self.followers.insert(name.to_owned(), Follower { reported_at: now.since_start, version, drifted });
        if drifted && before.is_none_or(|before| !before.drifted) {
            self.events.add(now.date, "Drift", name, "the controller relays other content than was published under its version");
        }
    }

    /// Another controller reports the proxies that follow it.
    pub(super) fn downstream(&mut self, controller: &str, proxies: Vec<Downstream>, version: Option<Version>, now: Now) -> Output {
        let mut output = Output { changed: true, ..Output::default() };
        let mut reports = Vec::new();
        // It follows us and has a higher version: our record of leading came back with a store that was restored.
        let ours = self.cluster.clone();
        output.saw = version.and_then(|version| self.claimed(controller, version, ours.as_deref(), now));
        for proxy in &proxies {
            output.saw = output.saw.max(self.claimed(&proxy.name, proxy.highest, proxy.cluster.as_deref(), now));
        }
        for (name, came) in self.proxies.relayed(controller, proxies, now.since_start, &mut reports) {
            let (reason, message) = if came {
                ("ProxyConnected", format!("the proxy follows {controller}"))
            } else {
                output.absorb(self.prober_gone(&name, now));
                ("ProxyDisconnected", format!("the proxy does not follow {controller} any more"))
            };
            self.events.add(now.date, reason, name, message);
        }
        for (name, report) in reports {
            output.absorb(self.reported(&name, report, now));
        }
        output.absorb(self.gather(now));
        output
    }

    /// Begins with the published snapshot: objects that it has and the stores do not have were removed while nobody led, or are held.
    pub(super) fn inherit(&mut self, now: Now) {
        self.health.inherit(&self.snapshot);
        self.proxies.watch_anew();
        self.proxies_expected_until = if self.snapshot.version.sequence > 0 { now.since_start + PROXY_SEARCH_TIME } else { Duration::ZERO };
        // From now on our own removals count, also once we follow again.
        let Replica { removals: inherited, expected, at, .. } = std::mem::take(&mut self.replica);
        if self.snapshot.version.sequence > 0 {
            self.forget_what_was_let_go(&at);
        }
        self.guard.expect(expected, now.since_start);
        // A pinned config says nothing about the content of the stores.
        let none = Lane::default();
        let config = if self.pin.is_some() { &none } else { &self.snapshot.config };
        let (config_now, membership_now) = (self.compiler.config(), self.compiler.membership());
        // Objects that a distrusted store changed count as missing too.
        let emptied = self.emptied(config);
        let doubt = self.regression.take();
        let doubted = doubt.as_ref().map(|doubt| DistrustedStore { source: doubt.source, why: &doubt.why });
        let is_distrusted = |object: &Object| doubted.is_some() && is_distrusted(doubted, source_of(object));
        let removal = |now: &Lane, object: &Object| now.get(object.path()).is_none_or(|now| now.digest() != object.digest() && is_distrusted(object));
        let unhealthy = unhealthy_endpoints(&self.snapshot);
        let missed = |object: &Object| {
            let is_unhealthy = object.kind() == "endpoint" && unhealthy.contains(object.name());
            is_distrusted(object)
                || !emptied.is_empty() && emptied.contains(&source_of(object))
                || !is_unhealthy && own_settings(object, config_now).enabled.unwrap_or(true)
        };
        // The published objects of a distrusted store stay, pinned or not: nobody knows what else it had.
        let pinned = self.snapshot.config.objects().filter(|object| self.pin.is_some() && is_distrusted(object));
        let missing: Vec<Arc<Object>> = config
            .objects()
            .chain(pinned)
            .filter(|object| removal(config_now, object))
            .chain(self.snapshot.membership.objects().filter(|object| removal(membership_now, object)))
            .filter(|object| missed(object))
            .cloned()
            .collect();
        let stores = ((config_now, membership_now), self.compiler.active_tree());
        self.guard.inherit(missing, inherited, stores, doubted, (now.since_start, now.date));
        for source in emptied {
            self.guard.doubt(DistrustedStore { source, why: "the store is empty, and what is published of it is not" });
        }
        let lost = if std::mem::take(&mut self.recovered_from_proxy) { self.sources.len() } else { 0 };
        for source in 0..lost {
            self.guard.doubt(DistrustedStore { source, why: "it went before this controller lost its disk, or since" });
        }
        self.give_way(now);
        self.derive(Basis::Stores);
        self.note_held(now);
    }

    /// Stores that were read and are empty, although the snapshot has objects of them that no store has now. A controller that has lost its disk does
    /// not know that they had entries.
    fn emptied(&self, config: &Lane) -> BTreeSet<usize> {
        let is_empty = |source: &usize| self.sources.get(*source).is_some_and(|state| state.live) && !self.compiler.has_any(*source);
        let empty: BTreeSet<usize> = (0..self.sources.len()).filter(is_empty).collect();
        if empty.is_empty() {
            return empty;
        }
        let written = |object: &&Arc<Object>| kind::is_written(object.kind());
        let lost = |lane: &Lane, now: &Lane| {
            let absent = lane.objects().filter(written).filter(|object| now.get(object.path()).is_none());
            absent.map(|object| source_of(object)).collect::<BTreeSet<_>>()
        };
        let all = lost(config, self.compiler.config()).into_iter().chain(lost(&self.snapshot.membership, self.compiler.membership()));
        all.filter(|source| empty.contains(source)).collect()
    }

    /// Forgets our own removals that are not in the published snapshot any more: another leader approved or released them. `at` are the revisions
    /// that it had read. An object that is published in another form than the store's was not approved.
    fn forget_what_was_let_go(&mut self, at: &BTreeMap<String, u64>) {
        let (snapshot, held) = (self.snapshot.clone(), self.pin.is_some());
        let (config_now, membership_now) = (self.compiler.config(), self.compiler.membership());
        let stands = |lane: &Lane, now: &Lane, object: &Object| {
            lane.get(object.path()).is_some_and(|published| {
                let changed = |now: &Arc<Object>| now.digest() != published.digest();
                published.digest() == object.digest() || now.get(object.path()).is_some_and(changed)
            })
        };
        let counts_up = |source: usize| self.sources.get(source).is_some_and(|state| state.counts_up);
        let read_to = |source: usize| self.names.get(source).filter(|_| counts_up(source)).and_then(|name| revision(at, name));
        // A store that is not as far as the previous leader had read went back meanwhile: its revisions do not show what that leader knew.
        let now_at = |source: usize| self.sources.get(source).map_or(0, |state| state.at.0);
        let read_to = |source: usize| read_to(source).filter(|at| *at <= now_at(source));
        let leader_knew = |removal: &Removal| self.regression.is_none() && read_to(removal.origin.id.source).is_some_and(|at| removal.store_revision <= at);
        let published = |removal: &Removal| match removal.object.kind() {
            "endpoint" => stands(&snapshot.membership, membership_now, &removal.object),
            // A pinned config does not show this. A leader that knew of the removal would have held it.
            _ if held => !leader_knew(removal),
            _ => stands(&snapshot.config, config_now, &removal.object),
        };
        // The replica of the previous leader is older than the removal: nobody approved it.
        let unjudged = |removal: &Removal| matches!(removal.judgement, Judgement::Held { .. }) && removal.at > self.published && !leader_knew(removal);
        self.guard.forget_unless(&|removal| published(removal) || unjudged(removal));
        let none = Lane::default();
        let config = if held { &none } else { &snapshot.config };
        // Under epochs that we know nothing of, the last content of the store may have been published.
        let missed = self.role.epoch().is_some_and(|epoch| epoch > snapshot.version.epoch + 1);
        let is_known = |removal: &Removal| !(missed && unjudged(removal));
        self.guard.hold_as_published(&is_known, (config, &snapshot.membership), self.compiler.active_tree());
    }
}

/// The revision of a store, by any of its URLs.
fn revision(of: &BTreeMap<String, u64>, store: &str) -> Option<u64> {
    of.iter().find(|(url, _)| same_store(url, store)).map(|(_, at)| *at)
}
