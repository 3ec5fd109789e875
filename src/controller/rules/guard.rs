//! The guard: removals that could hurt the traffic wait until they are known to be meant. Pure: time is an input.
//!
//! Removals of objects that were neither drained nor approved are collected until no further one comes for a moment, because some writers delete key
//! by key, and are then judged together with all removals of the last minute. Until then, and while they are held, the objects stay in the snapshot;
//! endpoints are marked as suspect, so that proxies use them only when no other can take a request. See `docs/decisions/09-guard.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waypost_model::compile::{Departed, EntryId, Origin, Written};
use waypost_model::key::Kind;
use waypost_model::lane::Lane;
use waypost_model::object::{Digest, Object, kind};
use waypost_model::resource::{Backend, BackendGuard, Listener};
use waypost_model::value::{Address, overlap};

use crate::controller::rules::objects::{backend, is_member, mark_of, source_of, takes_requests};

/// When removals are held. All are settings of the `[guard]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Thresholds {
    /// Whether there is a guard at all.
    pub enabled: bool,
    /// More than this part of the routes, in percent, is held.
    pub routes_percent: usize,
    /// Fewer routes than this never are.
    pub routes_least: usize,
    /// More than this part of all endpoints, in percent, is held if they are of several backends.
    pub endpoints_percent: usize,
    /// Fewer endpoints than this never are, unless they are a backend's last.
    pub endpoints_least: usize,
    /// More than this part of a backend's endpoints, in percent, is held.
    pub backend_percent: usize,
    /// Fewer endpoints of a backend than this never are, unless they are its last.
    pub backend_least: usize,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { enabled: true, routes_percent: 20, routes_least: 5, endpoints_percent: 10, endpoints_least: 5, backend_percent: 50, backend_least: 3 }
    }
}

/// Removals are judged when no further one has come for this long.
const REMOVAL_SETTLE_TIME: Duration = Duration::from_millis(500);
/// Removals are judged after this long in any case.
const MAX_REMOVAL_SETTLE_TIME: Duration = Duration::from_secs(5);
/// A small removal of a backend's last endpoints goes when its store has confirmed it for this long.
const CONFIRMATION_TIME: Duration = Duration::from_secs(10);
/// Removals within this time are judged together as one batch.
const BATCH_TIME: Duration = Duration::from_secs(60);
/// An approval that was given before its removal is good for this long.
pub(crate) const APPROVAL_LIFETIME: Duration = Duration::from_secs(300);

/// What is to become of a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "fate")]
pub enum Judgement {
    /// It is not judged yet.
    Waiting,
    /// It goes when the store has confirmed it for a while.
    Confirming,
    /// It stays until an operator approves.
    Held {
        /// Why.
        why: String,
    },
    /// The object has left the snapshot; the removal is remembered for a while.
    Released,
}

impl Judgement {
    /// The judgement of a new removal from a store that may be distrusted.
    fn of_new(doubted: Option<DistrustedStore<'_>>, source: usize) -> Self {
        doubted.filter(|doubted| doubted.source == source).map_or(Self::Waiting, |doubted| Self::Held { why: doubted.why.to_owned() })
    }
}

/// A distrusted store.
#[derive(Debug, Clone, Copy)]
pub struct DistrustedStore<'a> {
    /// Its number.
    pub source: usize,
    /// Why.
    pub why: &'a str,
}

/// Whether a store is the distrusted one.
pub(crate) fn is_distrusted(doubted: Option<DistrustedStore<'_>>, source: usize) -> bool {
    doubted.is_some_and(|doubted| doubted.source == source)
}

/// An object that left its store.
#[derive(Debug, Clone)]
pub struct Removal {
    /// The object.
    pub object: Arc<Object>,
    /// The entry it came from.
    pub origin: Origin,
    /// When it left.
    pub at: Duration,
    /// The same as a date, in milliseconds since 1970.
    pub date: u64,
    /// What is to become of it.
    pub judgement: Judgement,
    /// The revision of its store at which this controller read the removal; zero if another controller read it.
    pub store_revision: u64,
    /// The digest that its store has in its place; `None` if there is nothing. Once the store has another one, the object was written anew, and its
    /// removal is over.
    pub instead: Option<Digest>,
}

/// The content of the stores: the config and the membership lane.
pub type Lanes<'a> = (&'a Lane, &'a Lane);

/// The digest of the stores' object at a path.
fn found(lanes: Lanes<'_>, path: &str) -> Option<Digest> {
    object_at(lanes, path).map(|object| object.digest())
}

/// The stores' object at a path.
fn object_at<'a>((config, membership): Lanes<'a>, path: &str) -> Option<&'a Arc<Object>> {
    config.get(path).or_else(|| membership.get(path))
}

/// The guard.
#[derive(Debug)]
pub struct Guard {
    thresholds: Thresholds,
    removals: BTreeMap<String, Removal>,
    /// When the first and the last removal that is not judged yet came.
    batch: Option<(Duration, Duration)>,
    /// Approvals of removals that are still to come, by path, and until when they are good.
    expected: BTreeMap<String, Duration>,
}

/// How many routes and endpoints that take requests are left in the stores.
#[derive(Debug, Default)]
struct Counts {
    routes: usize,
    endpoints: usize,
    by_backend: BTreeMap<String, usize>,
}

impl Counts {
    fn of(config: &Lane, membership: &Lane) -> Self {
        let mut counts = Self { routes: config.of_kind("route").count(), ..Self::default() };
        for endpoint in membership.of_kind("endpoint").filter(|endpoint| takes_requests(endpoint)) {
            counts.endpoints += 1;
            *counts.by_backend.entry(backend(endpoint).to_owned()).or_default() += 1;
        }
        counts
    }
}

/// The guard settings of a backend for its own endpoints.
fn settings_of(backend: &str, config: &Lane) -> BackendGuard {
    let written = config.get(&format!("backend/{backend}")).and_then(|object| object.decode::<Backend>().ok());
    written.and_then(|body| body.spec.guard).unwrap_or_default()
}

/// The same for the backend of an endpoint; the defaults for other objects.
pub(crate) fn own_settings(object: &Object, config: &Lane) -> BackendGuard {
    if object.kind() == "endpoint" { settings_of(backend(object), config) } else { BackendGuard::default() }
}

impl Guard {
    /// A guard that holds nothing.
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, removals: BTreeMap::new(), batch: None, expected: BTreeMap::new() }
    }

    /// Restores the removals from before a restart.
    pub fn restore(&mut self, removal: Vec<Removal>, now: Duration) {
        for one in removal {
            if one.judgement == Judgement::Waiting {
                // Its store is read first: other removals that happened meanwhile are judged with it.
                self.collect(now + MAX_REMOVAL_SETTLE_TIME);
            }
            self.removals.insert(one.object.path().to_owned(), Removal { at: now, ..one });
        }
    }

    /// A store was read for the first time since the start: removals are over whose path has another content than when they were noted.
    pub fn reconcile(&mut self, source: usize, lanes: Lanes<'_>) {
        self.removals.retain(|path, removal| removal.origin.id.source != source || found(lanes, path) == removal.instead);
    }

    /// Begins with the snapshot of another controller: `missing` are its objects that the stores do not have. That controller's removals
    /// (`inherited`) stay as they were, unless their objects were written anew. All others are judged as if they had happened just now, or held
    /// if their store is `doubted`. Config comes from the active `tree`, if there is one.
    pub fn inherit(
        &mut self,
        missing: Vec<Arc<Object>>,
        inherited: Vec<Removal>,
        (lanes, tree): (Lanes<'_>, Option<&str>),
        doubted: Option<DistrustedStore<'_>>,
        now: (Duration, u64),
    ) {
        let expected = std::mem::take(&mut self.expected);
        let meant = |path: &str| expected.get(path).is_some_and(|until| *until >= now.0);
        self.removals.retain(|path, _| !meant(path));
        let stays = |path: &str, removal: &Removal| match found(lanes, path) {
            same if same == Some(removal.object.digest()) => false,
            now => is_distrusted(doubted, removal.origin.id.source) || now == removal.instead,
        };
        for removal in inherited {
            let path = removal.object.path();
            if stays(path, &removal) && !meant(path) {
                let instead = found(lanes, path);
                self.add(Removal { at: now.0, store_revision: 0, instead, ..removal });
            }
        }
        for object in missing {
            let path = object.path();
            if !self.is_guarded(&object) || is_drained(&object) || self.held_at(path).is_some() || meant(path) {
                continue;
            }
            let instead = found(lanes, path);
            // The object that the store had last, otherwise the published one.
            let before = self.removals.remove(path);
            let (object, origin) = before.map_or_else(|| (object.clone(), origin_of(&object, tree)), |removal| (removal.object, removal.origin));
            let judgement = Judgement::of_new(doubted, origin.id.source);
            self.add(Removal { object, origin, at: now.0, date: now.1, judgement, store_revision: 0, instead });
        }
        // An approval whose removal has happened is used up.
        self.expected = expected.into_iter().filter(|(path, _)| found(lanes, path).is_some()).collect();
    }

    /// Whether removals of such objects are guarded.
    fn is_guarded(&self, object: &Object) -> bool {
        self.thresholds.enabled && kind::by_name(object.kind()).is_some_and(|kind| kind.guarded)
    }

    /// Adds a removal; its object stays in the snapshot until it is judged, or longer.
    fn add(&mut self, removal: Removal) {
        if removal.judgement == Judgement::Waiting {
            self.collect(removal.at);
        }
        self.removals.insert(removal.object.path().to_owned(), removal);
    }

    /// Forgets held removals that are not `published` any more as they were.
    pub fn forget_unless(&mut self, published: &dyn Fn(&Removal) -> bool) {
        self.removals.retain(|_, removal| removal.judgement == Judgement::Released || published(removal));
    }

    /// Objects that changed in their store and are held, and whose removal `is_known`, are held in their published form: the forms that the store had
    /// since then were never served.
    pub fn hold_as_published(&mut self, is_known: &dyn Fn(&Removal) -> bool, (config, membership): Lanes<'_>, tree: Option<&str>) {
        for removal in self.removals.values_mut().filter(|removal| removal.judgement != Judgement::Released && removal.instead.is_some() && is_known(removal)) {
            let path = removal.object.path();
            let published = config.get(path).or_else(|| membership.get(path)).filter(|published| published.digest() != removal.object.digest());
            if let Some(published) = published.cloned() {
                (removal.origin, removal.object) = (origin_of(&published, tree), published);
            }
        }
    }

    /// Paths of approved removals that are still to come.
    pub fn expected(&self) -> impl Iterator<Item = &String> {
        self.expected.keys()
    }

    /// The same with the dates until which the approvals are good, in milliseconds since 1970.
    pub fn expected_until(&self, (now, date): (Duration, u64)) -> BTreeMap<String, u64> {
        let left = |until: &Duration| u64::try_from(until.saturating_sub(now).as_millis()).unwrap_or(u64::MAX);
        self.expected.iter().map(|(path, until)| (path.clone(), date.saturating_add(left(until)))).collect()
    }

    /// Restores the approvals of removals to come from before a restart, each until its date.
    pub fn restore_expected(&mut self, saved: BTreeMap<String, u64>, (now, date): (Duration, u64)) {
        let left = |until: u64| Duration::from_millis(until.saturating_sub(date)).min(APPROVAL_LIFETIME);
        self.expected.extend(saved.into_iter().filter(|(_, until)| *until > date).map(|(path, until)| (path, now + left(until))));
    }

    /// Approves removals of these paths that are still to come.
    pub fn expect(&mut self, paths: Vec<String>, now: Duration) {
        self.expected.extend(paths.into_iter().map(|path| (path, now + APPROVAL_LIFETIME)));
    }

    /// Takes a commit: the objects that came or came back, those that departed, and the present lanes; `at` are the revisions of the stores. If a
    /// store is `doubted`, its changed objects are held in their earlier form as well.
    pub fn take(
        &mut self,
        came: &[String],
        departed: Vec<Departed>,
        (lanes, at): (Lanes<'_>, &[u64]),
        doubted: Option<DistrustedStore<'_>>,
        now: (Duration, u64),
    ) {
        came.iter().for_each(|path| self.came(path, found(lanes, path), doubted));
        for Departed { object, origin, replaced } in departed {
            let meant = self.expected.remove(object.path()).is_some_and(|until| until >= now.0) || is_drained(&object);
            if meant {
                self.removals.remove(object.path());
            }
            let by_another = replaced && object_at(lanes, object.path()).is_some_and(|now| source_of(now) != origin.id.source);
            let believed = by_another || !is_distrusted(doubted, origin.id.source) && (replaced || !own_settings(&object, lanes.0).enabled.unwrap_or(true));
            if !self.is_guarded(&object) || meant || believed {
                continue;
            }
            let (instead, store_revision) = (found(lanes, object.path()), at.get(origin.id.source).copied().unwrap_or_default());
            // The form that was held before stays, and not the one that replaced it meanwhile.
            if let Some(removal) = self.removals.get_mut(object.path()).filter(|removal| matches!(removal.judgement, Judgement::Held { .. })) {
                (removal.instead, removal.store_revision) = (instead, store_revision);
                continue;
            }
            let judgement = Judgement::of_new(doubted, origin.id.source);
            self.add(Removal { object, origin, at: now.0, date: now.1, judgement, store_revision, instead });
        }
        // A store that is distrusted now may have lied a moment ago.
        doubted.into_iter().for_each(|doubted| self.doubt(doubted));
    }

    /// Gives up removals whose place is taken by something that is written now, because written entries always win: another store's entry of the same
    /// name, a listener on the same port, an endpoint at the same address (`is_registered`). Returns their paths, with the reasons.
    pub fn give_way(&mut self, lanes: Lanes<'_>, is_registered: &dyn Fn(&Address) -> bool) -> Vec<(String, &'static str)> {
        if self.removals.is_empty() {
            return Vec::new();
        }
        let has_listeners = self.removals.values().any(|removal| removal.object.kind() == "listener");
        let bound: Vec<_> =
            if has_listeners { lanes.0.of_kind("listener").filter_map(|object| Some((object.path(), listener(object)?))).collect() } else { Vec::new() };
        let reason = |path: &str, removal: &Removal| match removal.object.kind() {
            _ if object_at(lanes, path).is_some_and(|now| source_of(now) != removal.origin.id.source) => Some("another store has an entry of this name"),
            "listener" if listener(&removal.object).is_some_and(|own| bound.iter().any(|(at, other)| *at != path && collides(&own, other))) => {
                Some("a listener that is written now has its port")
            }
            "endpoint" if address_of(&removal.object).is_some_and(|address| is_registered(&address)) => Some("its address is registered for another endpoint"),
            _ => None,
        };
        let mut given_up = Vec::new();
        self.removals.retain(|path, removal| match reason(path, removal) {
            Some(reason) => {
                if removal.judgement != Judgement::Released {
                    given_up.push((path.clone(), reason));
                }
                false
            }
            None => true,
        });
        given_up
    }

    /// A store is distrusted: every removal of it is held.
    pub fn doubt(&mut self, DistrustedStore { source, why }: DistrustedStore<'_>) {
        let own: Vec<String> = self.removals.iter().filter(|(_, removal)| removal.origin.id.source == source).map(|(path, _)| path.clone()).collect();
        self.hold(&own, why);
    }

    /// An object came to a path: the removal there is over, unless its store is distrusted.
    fn came(&mut self, path: &str, digest: Option<Digest>, doubted: Option<DistrustedStore<'_>>) {
        let doubted_removal = self.removals.get_mut(path).filter(|removal| {
            is_distrusted(doubted, removal.origin.id.source) && removal.judgement != Judgement::Released && Some(removal.object.digest()) != digest
        });
        match doubted_removal {
            Some(removal) => removal.instead = digest,
            None => drop(self.removals.remove(path)),
        }
    }

    fn collect(&mut self, now: Duration) {
        self.batch = Some((self.batch.map_or(now, |(first, _)| first), now));
    }

    /// When time matters next.
    pub fn due(&self) -> Option<Duration> {
        self.batch.map(|(first, last)| (last + REMOVAL_SETTLE_TIME).min(first + MAX_REMOVAL_SETTLE_TIME))
    }

    /// Time has passed: judges what is due. `config` and `membership` are what the stores say. Returns whether
    /// anything was decided.
    pub fn tick(&mut self, config: &Lane, membership: &Lane, now: Duration) -> bool {
        self.expected.retain(|_, until| *until >= now);
        self.removals.retain(|_, removal| removal.judgement != Judgement::Released || now.saturating_sub(removal.at) < BATCH_TIME);
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        self.batch = None;
        self.judge(&Counts::of(config, membership), config);
        true
    }

    /// Every store was confirmed at `confirmed` or later: removals that waited for that are released. Returns whether there were any.
    pub fn confirmed(&mut self, confirmed: Duration) -> bool {
        let sure = self.removals.values_mut().filter(|removal| removal.judgement == Judgement::Confirming && removal.at + CONFIRMATION_TIME <= confirmed);
        sure.map(|removal| removal.judgement = Judgement::Released).count() > 0
    }

    fn judge(&mut self, counts: &Counts, config: &Lane) {
        let routes = self.paths("route");
        let endpoints = self.paths("endpoint");
        let part = |went: usize, left: usize, percent: usize, least: usize| went >= least && went * 100 > percent * (went + left);
        let t = self.thresholds.clone();
        self.hold(&self.paths("listener"), "a listener went");
        let many_routes = part(routes.len(), counts.routes, t.routes_percent, t.routes_least);
        if many_routes {
            self.hold(&routes, &self.describe_share("routes", &routes, counts.routes));
        }
        let many = part(endpoints.len(), counts.endpoints, t.endpoints_percent, 0);
        let backends: BTreeSet<String> =
            endpoints.iter().filter_map(|path| self.removals.get(path)).map(|removal| backend(&removal.object).to_owned()).collect();
        if many && endpoints.len() >= t.endpoints_least && backends.len() > 1 {
            let reason = self.describe_share(&format!("endpoints of {} backends", backends.len()), &endpoints, counts.endpoints);
            self.hold(&endpoints, &reason);
        }
        for name in &backends {
            let prefix = format!("endpoint/{name}/");
            let own: Vec<String> = endpoints.iter().filter(|path| path.starts_with(&prefix)).cloned().collect();
            let left = counts.by_backend.get(name).copied().unwrap_or_default();
            let settings = settings_of(name, config);
            let (percent, least) = (settings.percent.unwrap_or(t.backend_percent), settings.least.unwrap_or(t.backend_least));
            if left > 0 && !part(own.len(), left, percent, least) {
                continue;
            }
            let reason = if left == 0 {
                format!("backend {name} lost its last endpoint")
            } else {
                self.describe_share(&format!("endpoints of backend {name}"), &own, left)
            };
            if many {
                self.hold(&own, &reason);
            } else {
                self.confirm(&own);
            }
        }
        self.judge_policies(many_routes);
        self.judge_certificates(config);
        for removal in self.removals.values_mut().filter(|removal| removal.judgement == Judgement::Waiting) {
            removal.judgement = Judgement::Released;
        }
    }

    /// A sentence on how many objects were removed. A removal that has been held since an earlier judgement does not count as one of the last minute.
    fn describe_share(&self, what: &str, went: &[String], left: usize) -> String {
        let is_held = |path: &&String| self.removals.get(*path).is_some_and(|removal| matches!(removal.judgement, Judgement::Held { .. }));
        let earlier = went.iter().filter(is_held).count();
        let total = went.len() + left;
        match earlier {
            0 => format!("{} of {total} {what} went within a minute", went.len()),
            _ => format!("{} of {total} {what} went: {} within a minute, {earlier} before that are held", went.len(), went.len() - earlier),
        }
    }

    /// A policy is removed as its author meant it, unless its endpoints are held, or many routes were removed with it.
    fn judge_policies(&mut self, many_routes: bool) {
        for path in self.paths("backend") {
            let name = path.strip_prefix("backend/").unwrap_or_default();
            let prefix = format!("endpoint/{name}/");
            let fates: Vec<&Judgement> =
                self.removals.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix)).map(|(_, removal)| &removal.judgement).collect();
            if many_routes || fates.iter().any(|judgement| matches!(judgement, Judgement::Held { .. })) {
                let message = format!("the policy of backend {name} went with what it is about");
                self.hold(&[path], &message);
            } else if fates.contains(&&Judgement::Confirming) {
                self.confirm(&[path]);
            }
        }
    }

    /// A certificate that a listener names stays with it: without one the listener answers nobody.
    fn judge_certificates(&mut self, config: &Lane) {
        let certificates = self.paths("certificate");
        if certificates.is_empty() {
            return;
        }
        let held = self.removals.values().map(|removal| &removal.object).filter(|object| object.kind() == "listener");
        let mut users = BTreeMap::new();
        for object in config.of_kind("listener").chain(held) {
            let tls = listener(object).and_then(|listener| listener.tls);
            users.extend(tls.into_iter().flat_map(|tls| tls.certificates).map(|name| (format!("certificate/{}", name.as_str()), object.name().to_owned())));
        }
        for path in certificates {
            if let Some(user) = users.get(&path) {
                self.hold(&[path], &format!("a certificate went that listeners/{user} names"));
            }
        }
    }

    /// All removals of a kind that are held or happened within the last minute.
    fn paths(&self, kind: &str) -> Vec<String> {
        self.removals.iter().filter(|(_, removal)| removal.object.kind() == kind).map(|(path, _)| path.clone()).collect()
    }

    /// Holds these removals, also released ones; those that are held already keep their reason.
    fn hold(&mut self, paths: &[String], why: &str) {
        for path in paths {
            if let Some(removal) = self.removals.get_mut(path).filter(|removal| !matches!(removal.judgement, Judgement::Held { .. })) {
                removal.judgement = Judgement::Held { why: why.to_owned() };
            }
        }
    }

    fn confirm(&mut self, paths: &[String]) {
        for path in paths {
            if let Some(removal) = self.removals.get_mut(path).filter(|removal| removal.judgement == Judgement::Waiting) {
                removal.judgement = Judgement::Confirming;
            }
        }
    }

    /// Approves the removals that `which` chooses, and of the paths in `later` those that are still to come. Returns the paths of the released
    /// removals. A controller that has yet to `inherit` the published snapshot finds their objects missing once more, so these are approved for that
    /// as well.
    pub fn approve(&mut self, which: &dyn Fn(&str) -> bool, later: &[String], inherits: bool, now: Duration) -> Vec<String> {
        let chosen: Vec<String> =
            self.removals.iter().filter(|(path, removal)| removal.judgement != Judgement::Released && which(path)).map(|(path, _)| path.clone()).collect();
        for path in &chosen {
            self.removals.remove(path);
        }
        let later = later.iter().filter(|path| !chosen.contains(path)).chain(chosen.iter().filter(|_| inherits));
        self.expected.extend(later.map(|path| (path.clone(), now + APPROVAL_LIFETIME)));
        chosen
    }

    /// All removals that are held: unjudged, to be confirmed, or until an approval.
    pub fn removals(&self) -> impl Iterator<Item = &Removal> {
        self.removals.values().filter(|removal| removal.judgement != Judgement::Released)
    }

    /// The store that the held removal at a path left.
    pub fn source_of(&self, path: &str) -> Option<usize> {
        self.removals.get(path).map(|removal| removal.origin.id.source)
    }

    /// The removal that is held at a path.
    pub fn held_at(&self, path: &str) -> Option<&Removal> {
        self.removals.get(path).filter(|removal| removal.judgement != Judgement::Released)
    }

    /// The paths of the marks of held routes and listeners. They are part of membership: the config stays as people wrote it last.
    pub fn config_marks(&self) -> impl Iterator<Item = String> {
        let config = self.removals().map(|removal| removal.object.path()).filter(|path| !is_member(path));
        config.filter_map(mark_of).map(|mark| mark.path().to_owned())
    }

    /// Both lanes with the held objects, derived from nothing.
    #[cfg(test)]
    pub fn apply(&self, config: &Lane, membership: &Lane) -> (Lane, Lane) {
        crate::controller::rules::overlay::Overlay::default().update(self, (config, membership))
    }
}

/// An entry that compiles to this object, for an object whose author's bytes are unknown; `tree` is the active one.
fn origin_of(object: &Object, tree: Option<&str>) -> Origin {
    let plural = Kind::from_any(object.kind()).map_or("", Kind::plural);
    let (source, spec) = object.decode::<serde_json::Value>().map(|body| (body.order, body.spec.to_string())).unwrap_or_default();
    let value: Arc<[u8]> = spec.as_bytes().into();
    let key = match tree {
        Some(tree) if object.kind() != "endpoint" => format!("trees/{tree}/{plural}/{}", object.name()),
        _ => format!("{plural}/{}", object.name()),
    };
    Origin { id: EntryId { source, key }, written: Written { value, revision: 0 } }
}

/// Decodes a listener.
fn listener(object: &Object) -> Option<Listener> {
    object.decode::<Listener>().ok().map(|body| body.spec)
}

/// Whether a proxy that has the labels of both listeners could bind only one of them.
fn collides(one: &Listener, other: &Listener) -> bool {
    let is_apart = one.proxies.iter().any(|(key, value)| other.proxies.get(key).is_some_and(|other| other != value));
    overlap(one.address.get(), other.address.get()) && !is_apart
}

/// The address of an endpoint, out of its canonical bytes: there may be many of them.
fn address_of(endpoint: &Object) -> Option<Address> {
    let (_, rest) = endpoint.bytes().split_once(r#""spec":{"address":""#)?;
    Address::try_from(rest.split('"').next()?.to_owned()).ok()
}

/// Whether an endpoint was drained before its removal, or had no weight.
fn is_drained(object: &Object) -> bool {
    object.kind() == "endpoint" && !takes_requests(object)
}

#[cfg(test)]
mod tests;
