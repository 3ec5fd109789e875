//! Recovery from proxies, for a leader that has lost what was published: how long it waits for their offers. Pure.

use std::time::Duration;

use waypost_model::snapshot::Version;

/// Most proxies that lost their controller have come back within this time.
const PROXY_RETURN_TIME: Duration = Duration::from_secs(7);
/// Where no store is empty and the proxies that connected have nothing, a leader waits this long for other proxies.
const EMPTY_PROXY_PATIENCE: Duration = Duration::from_secs(1);
/// Proxies that connected have offered their snapshots within this time.
const OFFER_PATIENCE: Duration = Duration::from_secs(15);

/// What decides how long a leader waits for offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryState {
    /// Our cluster, if it is known.
    pub cluster: Option<String>,
    /// Whether proxies follow us.
    pub came: bool,
    /// Whether all stores were read.
    pub complete: bool,
    /// Whether one of them has nothing.
    pub empty: bool,
    /// The highest version that a proxy of our cluster may hold: one that has not said that it holds nothing.
    pub held: Option<Version>,
}

/// What is to be done before a leader that knew nothing publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait for offers of proxies and answers of other controllers.
    Wait,
    /// The same, and say so: it may take long.
    WaitLong,
    /// Go on with what there is.
    Go,
}

/// How long a leader that has lost what was published has waited, and what it has observed meanwhile.
#[derive(Debug, Default)]
pub struct Waiting {
    came: Option<Duration>,
    /// Since when no store is empty.
    full: Option<Duration>,
    /// The highest version that any proxy may have, also one that has left again.
    pub held: Option<Version>,
}

impl Waiting {
    /// Counts time from now on; what was observed is not forgotten.
    pub fn begin_anew(&mut self) {
        (self.came, self.full) = (None, None);
    }

    /// What to do `elapsed` after the wait began, with `told` the highest version that was offered so far.
    pub fn next(&mut self, elapsed: Duration, seen: &RecoveryState, told: Version) -> Next {
        self.held = self.held.max(seen.held);
        if seen.came {
            self.came.get_or_insert(elapsed);
        }
        self.full = (!seen.empty).then(|| self.full.unwrap_or(elapsed));
        if told.sequence > 0 {
            // One that comes later may have more.
            let all = Some(told) >= self.held && elapsed >= PROXY_RETURN_TIME;
            return if all || elapsed >= OFFER_PATIENCE { Next::Go } else { Next::Wait };
        }
        // A store that begins to be filled has not all of it yet.
        let over = match (self.held, self.came, self.full) {
            (Some(_), _, full) => elapsed >= OFFER_PATIENCE && full.is_none_or(|full| elapsed >= full + PROXY_RETURN_TIME),
            (None, Some(came), Some(full)) => elapsed >= came.max(full) + EMPTY_PROXY_PATIENCE,
            (None, _, _) => elapsed >= PROXY_RETURN_TIME,
        };
        match over {
            false => Next::Wait,
            true if !seen.complete || seen.empty && self.held.is_some() => Next::WaitLong,
            true => Next::Go,
        }
    }
}

#[cfg(test)]
mod tests {
    use waypost_model::snapshot::Snapshot;

    use super::*;
    use crate::controller::peers::offers::ProxyOffers;

    const fn at(sequence: u64) -> Version {
        Version { epoch: 2, sequence }
    }

    #[test]
    fn those_are_asked_that_have_more_than_came_and_only_while_it_is_wanted() {
        let recall = ProxyOffers::default();
        let told = |sequence| recall.take(Snapshot { version: at(sequence), ..Snapshot::default() });
        told(9);
        assert!(recall.above(true).is_none() && recall.best().is_none());
        let wanted = recall.want();
        assert_eq!((recall.above(true), recall.above(false)), (Some(Version::default()), None));
        [3, 5, 4].into_iter().for_each(told);
        assert_eq!((recall.above(true), recall.best().unwrap().version), (Some(at(5)), at(5)));
        drop(wanted);
        assert!(recall.above(true).is_none() && recall.best().is_none());
        recall.wanted_upstream(Some(at(2)));
        assert_eq!((recall.above(true), recall.above(false)), (None, Some(at(2))));
    }

    fn seen(came: bool, empty: bool, held: u64) -> RecoveryState {
        RecoveryState { came, empty, complete: true, held: Some(at(held)).filter(|_| held > 0), ..RecoveryState::default() }
    }

    /// When a wait ends in which this is seen in each second; `None` if it never does.
    fn ends(of: impl Fn(u64) -> RecoveryState, told: u64) -> Option<(u64, Next)> {
        let mut waiting = Waiting::default();
        (0..100).map(|second| (second, waiting.next(Duration::from_secs(second), &of(second), at(told)))).find(|(_, next)| *next != Next::Wait)
    }

    #[test]
    fn how_long_is_waited_depends_on_who_came_and_what_the_stores_have() {
        for (what, seen, told, expected) in [
            ("nobody came", seen(false, false, 0), 0, Some((7, Next::Go))),
            ("one came that has nothing", seen(true, false, 0), 0, Some((1, Next::Go))),
            ("one came that may hold something and does not tell", seen(true, false, 5), 0, Some((15, Next::Go))),
            ("all was told", seen(true, false, 5), 5, Some((7, Next::Go))),
            ("another may have more", seen(true, false, 5), 4, Some((15, Next::Go))),
            ("nobody came, and a store is empty", seen(false, true, 0), 0, Some((7, Next::Go))),
            ("one came that has nothing, and a store is empty", seen(true, true, 0), 0, Some((7, Next::Go))),
            ("one may hold something, and a store is empty", seen(true, true, 5), 0, Some((15, Next::WaitLong))),
            ("all was told, and a store is empty", seen(true, true, 5), 5, Some((7, Next::Go))),
            ("a store was not read", RecoveryState { complete: false, ..seen(false, false, 0) }, 0, Some((7, Next::WaitLong))),
        ] {
            assert_eq!(ends(|_| seen.clone(), told), expected, "{what}");
        }
    }

    #[test]
    fn what_was_seen_counts_for_good_and_a_store_is_filled_before_it_is_believed() {
        assert_eq!(ends(|second| seen(second < 2, false, if second < 2 { 5 } else { 0 }), 0), Some((15, Next::Go)), "who has gone may come back");
        let mut waiting = Waiting::default();
        let next = |waiting: &mut Waiting, second, seen: &RecoveryState| waiting.next(Duration::from_secs(second), seen, Version::default());
        assert_eq!(next(&mut waiting, 40, &seen(true, true, 5)), Next::WaitLong);
        waiting.begin_anew();
        assert_eq!(next(&mut waiting, 8, &seen(false, true, 0)), Next::Wait, "what was seen is not forgotten");
        for (second, expected) in [(41, Next::Wait), (47, Next::Wait), (48, Next::Go)] {
            assert_eq!(next(&mut waiting, second, &seen(true, false, 5)), expected, "a store that begins to be filled is given time: {second}");
        }
    }
}
