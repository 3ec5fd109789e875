//! Recovery from proxies, for a leader that has lost the published snapshot: decides how long it waits for their offers. Pure.

use std::time::Duration;

use waypost_model::snapshot::Version;

/// Most proxies that lost their controller have come back within this time.
const PROXY_RETURN_TIME: Duration = Duration::from_secs(7);
/// Where no store is empty and the proxies that connected have nothing, a leader waits this long for other proxies.
const EMPTY_PROXY_PATIENCE: Duration = Duration::from_secs(1);
/// Proxies that connected have offered their snapshots within this time.
const OFFER_PATIENCE: Duration = Duration::from_secs(15);

/// The facts that decide how long a leader waits for offers.
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
    /// The highest version that a proxy of our cluster may have. A proxy that has reported that it has nothing does not count.
    pub held: Option<Version>,
}

/// The next step of a leader without a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait for offers of proxies and answers of other controllers.
    Wait,
    /// The same, and report that this may take long.
    WaitLong,
    /// Go on with the stores and the offers so far.
    Go,
}

/// How long a leader that has lost the published snapshot has waited, and the facts that it has collected.
#[derive(Debug, Default)]
pub struct Waiting {
    came: Option<Duration>,
    /// Since when no store is empty.
    full: Option<Duration>,
    /// The highest version that any proxy may have, including proxies that have left again.
    pub held: Option<Version>,
}

impl Waiting {
    /// Counts time from now on; facts that were collected stay.
    pub fn begin_anew(&mut self) {
        (self.came, self.full) = (None, None);
    }

    /// The next step at `elapsed` after the beginning; `offered` is the highest version that was offered so far.
    pub fn next(&mut self, elapsed: Duration, facts: &RecoveryState, offered: Version) -> Next {
        self.held = self.held.max(facts.held);
        if facts.came {
            self.came.get_or_insert(elapsed);
        }
        self.full = (!facts.empty).then(|| self.full.unwrap_or(elapsed));
        if offered.sequence > 0 {
            // A proxy that comes later may have a higher one.
            let all = Some(offered) >= self.held && elapsed >= PROXY_RETURN_TIME;
            return if all || elapsed >= OFFER_PATIENCE { Next::Go } else { Next::Wait };
        }
        // A store that has just begun to be filled does not have everything yet.
        let over = match (self.held, self.came, self.full) {
            (Some(_), _, full) => elapsed >= OFFER_PATIENCE && full.is_none_or(|full| elapsed >= full + PROXY_RETURN_TIME),
            (None, Some(came), Some(full)) => elapsed >= came.max(full) + EMPTY_PROXY_PATIENCE,
            (None, _, _) => elapsed >= PROXY_RETURN_TIME,
        };
        match over {
            false => Next::Wait,
            true if !facts.complete || facts.empty && self.held.is_some() => Next::WaitLong,
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
    fn only_proxies_with_a_higher_version_than_was_offered_are_asked_and_only_while_offers_are_wanted() {
        let recall = ProxyOffers::default();
        let offer = |sequence| recall.take(Snapshot { version: at(sequence), ..Snapshot::default() });
        offer(9);
        assert!(recall.above(true).is_none() && recall.best().is_none());
        let wanted = recall.want();
        assert_eq!((recall.above(true), recall.above(false)), (Some(Version::default()), None));
        [3, 5, 4].into_iter().for_each(offer);
        assert_eq!((recall.above(true), recall.best().unwrap().version), (Some(at(5)), at(5)));
        drop(wanted);
        assert!(recall.above(true).is_none() && recall.best().is_none());
        recall.wanted_upstream(Some(at(2)));
        assert_eq!((recall.above(true), recall.above(false)), (None, Some(at(2))));
    }

    fn facts(came: bool, empty: bool, held: u64) -> RecoveryState {
        RecoveryState { came, empty, complete: true, held: Some(at(held)).filter(|_| held > 0), ..RecoveryState::default() }
    }

    /// The second in which a wait ends that has these facts in each second; `None` if it never does.
    fn ends(of: impl Fn(u64) -> RecoveryState, offered: u64) -> Option<(u64, Next)> {
        let mut waiting = Waiting::default();
        (0..100).map(|second| (second, waiting.next(Duration::from_secs(second), &of(second), at(offered)))).find(|(_, next)| *next != Next::Wait)
    }

    #[test]
    fn the_wait_depends_on_the_proxies_that_came_and_the_content_of_the_stores() {
        for (what, state, offered, expected) in [
            ("nobody came", facts(false, false, 0), 0, Some((7, Next::Go))),
            ("one came that has nothing", facts(true, false, 0), 0, Some((1, Next::Go))),
            ("one came that may hold something and does not tell", facts(true, false, 5), 0, Some((15, Next::Go))),
            ("all was told", facts(true, false, 5), 5, Some((7, Next::Go))),
            ("another may have more", facts(true, false, 5), 4, Some((15, Next::Go))),
            ("nobody came, and a store is empty", facts(false, true, 0), 0, Some((7, Next::Go))),
            ("one came that has nothing, and a store is empty", facts(true, true, 0), 0, Some((7, Next::Go))),
            ("one may hold something, and a store is empty", facts(true, true, 5), 0, Some((15, Next::WaitLong))),
            ("all was told, and a store is empty", facts(true, true, 5), 5, Some((7, Next::Go))),
            ("a store was not read", RecoveryState { complete: false, ..facts(false, false, 0) }, 0, Some((7, Next::WaitLong))),
        ] {
            assert_eq!(ends(|_| state.clone(), offered), expected, "{what}");
        }
    }

    #[test]
    fn facts_are_remembered_and_a_store_has_time_to_be_filled_before_it_is_believed() {
        assert_eq!(ends(|second| facts(second < 2, false, if second < 2 { 5 } else { 0 }), 0), Some((15, Next::Go)), "who has gone may come back");
        let mut waiting = Waiting::default();
        let next = |waiting: &mut Waiting, second, state: &RecoveryState| waiting.next(Duration::from_secs(second), state, Version::default());
        assert_eq!(next(&mut waiting, 40, &facts(true, true, 5)), Next::WaitLong);
        waiting.begin_anew();
        assert_eq!(next(&mut waiting, 8, &facts(false, true, 0)), Next::Wait, "what was seen is not forgotten");
        for (second, expected) in [(41, Next::Wait), (47, Next::Wait), (48, Next::Go)] {
            assert_eq!(next(&mut waiting, second, &facts(true, false, 5)), expected, "a store that begins to be filled is given time: {second}");
        }
    }
}
