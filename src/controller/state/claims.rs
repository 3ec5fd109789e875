//! Claims of programs to have seen a higher epoch: decides which are believed, and how often.

use std::time::Duration;

use waypost_model::snapshot::Version;

use super::State;
use crate::controller::message::{Now, Output};
use crate::controller::rules::election::MAX_CLAIMED_EPOCH;

/// A program's claim of a still higher epoch is believed again after this long.
const CLAIM_PAUSE: Duration = Duration::from_secs(5);

/// New claims that are believed within that time, of all programs together: names are free where nobody proves them.
const CLAIMS_PER_PAUSE: usize = 3;

/// Minimum interval between events about claims that are not believed.
const CLAIM_EVENT_INTERVAL: Duration = Duration::from_secs(60);

/// Claims are forgotten after this long.
pub(super) const CLAIM_MEMORY: Duration = Duration::from_secs(600);

impl State {
    pub(super) fn opened(&mut self, name: &str, highest: Version, cluster: Option<&str>, now: Now) -> Output {
        if self.proxies.opened(name, highest, cluster, now.since_start) {
            self.events.add(now.date, "ProxyConnected", name, format!("the proxy follows us; it has seen version {highest}"));
        }
        Output { changed: true, saw: self.claimed(name, highest, cluster, now), ..Output::default() }
    }

    /// The epoch above ours that a program claims to have seen. A new epoch has to be taken then, and every store to be listed, so that new claims are
    /// believed only now and then.
    pub(super) fn claimed(&mut self, name: &str, highest: Version, cluster: Option<&str>, now: Now) -> Option<u64> {
        self.believed(name, self.claim_of(highest, cluster)?, now)
    }

    /// The same where another controller has stored operators' actions of an epoch, and we have not: it led under that epoch, and the store's record
    /// of it is lost. Under a higher epoch we ask it for them.
    pub(super) fn claimed_by_actions(&mut self, controller: &str, epoch: u64, now: Now) -> Option<u64> {
        let is_above = self.role.epoch().is_some_and(|own| epoch >= own) && epoch < MAX_CLAIMED_EPOCH;
        if is_above { self.believed(controller, epoch, now) } else { None }
    }

    fn believed(&mut self, name: &str, epoch: u64, now: Now) -> Option<u64> {
        let is_recent = |at: Duration| now.since_start.saturating_sub(at) < CLAIM_PAUSE;
        let own = self.claims.get(name).copied();
        if own.is_some_and(|(claimed, _)| epoch <= claimed) {
            return Some(epoch);
        }
        if own.is_some_and(|(_, at)| is_recent(at)) || self.claims.values().filter(|(_, at)| is_recent(*at)).count() >= CLAIMS_PER_PAUSE {
            let message =
                format!("it claims to have seen epoch {epoch}; there were other claims a moment ago, and this one is looked at after {CLAIM_PAUSE:?}");
            // A program that claims again and again must not push all other events out.
            if self.last_claim_event.is_none_or(|at| now.since_start.saturating_sub(at) >= CLAIM_EVENT_INTERVAL) {
                self.last_claim_event = Some(now.since_start);
                self.events.add(now.date, "EpochClaims", name, message);
            }
            return None;
        }
        self.claims.insert(name.to_owned(), (epoch, now.since_start));
        Some(epoch)
    }

    /// The epoch above ours that is claimed, if it is to be believed.
    pub(super) fn claim_of(&self, highest: Version, cluster: Option<&str>) -> Option<u64> {
        // Only a claim that names our cluster is believed, and none that leaves no room above it, because the epoch that is derived from it has to be
        // believed as well.
        let ours = cluster.is_some() && cluster == self.cluster.as_deref() && highest.epoch < MAX_CLAIMED_EPOCH;
        // We lost our state, or another controller led in between. No proxy may be asked to go back.
        (ours && highest > self.snapshot.version && self.role.epoch().is_none_or(|epoch| highest.epoch >= epoch)).then_some(highest.epoch)
    }
}
