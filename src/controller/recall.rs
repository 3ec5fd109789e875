//! What proxies hold, for controllers that have lost what was published: when they are asked, and how long a leader waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use waypost_model::snapshot::Version;

/// Most proxies that lost their controller have come back within this time.
const COMING: Duration = Duration::from_secs(7);
/// Where the stores have something, and those that came hold nothing, others are waited for so long.
const SAYING: Duration = Duration::from_secs(1);
/// Those that came have told what they hold within this time.
const TELLING: Duration = Duration::from_secs(15);

/// What a controller knows of what there is to be recalled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Our cluster, if it is known.
    pub cluster: Option<String>,
    /// Whether proxies follow us.
    pub came: bool,
    /// Whether all stores were read.
    pub complete: bool,
    /// Whether none of them has anything.
    pub empty: bool,
    /// The highest version that a proxy of our cluster may hold: one that has not said that it holds nothing.
    pub held: Option<Version>,
}

/// Whether proxies are asked.
#[derive(Debug, Default)]
pub struct Recall {
    leads: AtomicBool,
    /// The version that a proxy told last.
    told: Mutex<Version>,
    /// One proxy at a time: all of a fleet would be much at once, and the first is likely to be enough.
    telling: tokio::sync::Mutex<()>,
}

/// While it lives, whoever leads asks.
#[derive(Debug)]
pub(super) struct Wanted<'a>(&'a Recall);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.leads.store(false, Ordering::Relaxed);
    }
}

impl Recall {
    /// From now on proxies are asked.
    pub(super) fn want(&self) -> Wanted<'_> {
        self.leads.store(true, Ordering::Relaxed);
        Wanted(self)
    }

    /// Whether a proxy is asked that has seen `highest`, where `own` is what we have: by who leads and has lost it, and by who `follows`
    /// and has nothing either, or only what another proxy told.
    pub(super) fn wants(&self, own: Version, follows: bool, highest: Version) -> bool {
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let asks = self.leads.load(Ordering::Relaxed) || follows && (own.sequence == 0 || own == told);
        asks && highest > own
    }

    /// The turn to tell; nothing while somebody else does.
    pub fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.telling.try_lock().ok()
    }

    /// A proxy told this version.
    pub fn told(&self, version: Version) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }
}

/// What is to be done before a leader that knew nothing publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for what proxies and other controllers may tell.
    Wait,
    /// The same, and tell that it takes so long: every store is empty, and to publish that helps nobody.
    WaitOnEmpty,
    /// Go on with what there is.
    Go,
}

/// How long a leader that knew nothing has waited, and what it has seen meanwhile.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    came: Option<Duration>,
    /// The highest version that any proxy may hold, also one that has gone again.
    pub(super) held: Option<Version>,
}

impl Waiting {
    /// `elapsed` after it began, where `own` is what was told so far.
    pub(super) fn next(&mut self, elapsed: Duration, seen: &Seen, own: Version) -> Next {
        self.held = self.held.max(seen.held);
        if seen.came {
            self.came.get_or_insert(elapsed);
        }
        if own.sequence > 0 {
            // One that comes later may have more.
            let all = Some(own) >= self.held && elapsed >= COMING;
            return if all || elapsed >= TELLING { Next::Go } else { Next::Wait };
        }
        let over = match (self.held, self.came) {
            (Some(_), _) => elapsed >= TELLING,
            (None, Some(came)) if !seen.empty => elapsed >= came + SAYING,
            (None, _) => elapsed >= COMING,
        };
        match over && seen.complete {
            false => Next::Wait,
            true if seen.empty => Next::WaitOnEmpty,
            true => Next::Go,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(sequence: u64) -> Version {
        Version { epoch: 2, sequence }
    }

    #[test]
    fn those_are_asked_that_have_more_by_who_leads_or_has_only_what_was_told() {
        let (recall, nothing) = (Recall::default(), Version::default());
        assert!(!recall.wants(nothing, false, at(1)) && recall.wants(nothing, true, at(1)));
        let wanted = recall.want();
        assert!(recall.wants(nothing, false, at(1)) && recall.wants(at(1), false, at(2)) && !recall.wants(at(2), false, at(2)));
        drop(wanted);
        assert!(!recall.wants(at(1), false, at(2)) && !recall.wants(at(1), true, at(2)), "what was published is not asked for");
        recall.told(at(1));
        assert!(recall.wants(at(1), true, at(2)) && !recall.wants(at(1), true, at(1)));
    }

    /// When a wait ends in which the same is seen all the time, in seconds; `None` if it never does.
    fn ends(seen: &Seen, own: u64) -> Option<(u64, Next)> {
        let mut waiting = Waiting::default();
        (0..100).map(|seconds| (seconds, waiting.next(Duration::from_secs(seconds), seen, at(own)))).find(|(_, next)| *next != Next::Wait)
    }

    #[test]
    fn how_long_is_waited_depends_on_who_came_and_what_the_stores_have() {
        let seen = |came: bool, empty: bool, held: u64| Seen { came, empty, complete: true, held: Some(at(held)).filter(|_| held > 0), ..Seen::default() };
        for (what, seen, own, expected) in [
            ("nobody came", seen(false, false, 0), 0, Some((7, Next::Go))),
            ("one came that has nothing", seen(true, false, 0), 0, Some((1, Next::Go))),
            ("one came that may hold something and does not tell", seen(true, false, 5), 0, Some((15, Next::Go))),
            ("all was told", seen(true, false, 5), 5, Some((7, Next::Go))),
            ("another may have more", seen(true, false, 5), 4, Some((15, Next::Go))),
            ("nobody came, and there is nothing", seen(false, true, 0), 0, Some((7, Next::WaitOnEmpty))),
            ("one came that has nothing, and there is nothing", seen(true, true, 0), 0, Some((7, Next::WaitOnEmpty))),
            ("one may hold something, and there is nothing", seen(true, true, 5), 0, Some((15, Next::WaitOnEmpty))),
            ("all was told, and there is nothing", seen(true, true, 5), 5, Some((7, Next::Go))),
            ("a store was not read", Seen { complete: false, ..seen(false, false, 0) }, 0, None),
        ] {
            assert_eq!(ends(&seen, own), expected, "{what}");
        }
    }

    #[test]
    fn one_that_has_gone_may_come_back() {
        let mut waiting = Waiting::default();
        let seen = |held: Option<Version>| Seen { came: held.is_some(), complete: true, held, ..Seen::default() };
        assert_eq!(waiting.next(Duration::from_secs(1), &seen(Some(at(5))), Version::default()), Next::Wait);
        assert_eq!(waiting.next(Duration::from_secs(10), &seen(None), Version::default()), Next::Wait);
        assert_eq!(waiting.next(Duration::from_secs(15), &seen(None), Version::default()), Next::Go);
    }
}
