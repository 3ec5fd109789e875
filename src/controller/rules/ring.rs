//! Decides when the keys that proxies share are added, activated and retired. Pure: time and randomness are inputs.
//!
//! A new key only opens at first. It seals once every live proxy has it, so that no proxy gets something that it cannot open;
//! then the one before only opens, until what it has sealed is out of date.

use waypost_model::snapshot::Version;
use waypost_wire::{KeyRing, Phase, RingKey};

/// Seconds that a key which every live proxy has waits before it seals: the next leader may not have it yet.
const KEY_SETTLING_SECONDS: u64 = 2;
/// Number of rotations for which a replaced key still opens.
const RETIRED_ROTATIONS: u64 = 2;

/// The facts by which the ring is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Seconds since 1970.
    pub(crate) now: u64,
    /// A key seals for so many seconds.
    pub(crate) rotation: u64,
    /// The epoch under which we lead.
    pub(crate) epoch: u64,
    /// Whether every live proxy holds this very version of the ring.
    pub(crate) everybody_has_it: bool,
}

/// The next form of the ring, if it is to change; `random` makes a key.
pub(crate) fn next(ring: &KeyRing, at: Moment, random: impl FnOnce() -> Option<String>) -> Option<KeyRing> {
    let mut next = ring.clone();
    next.keys.retain(|key| key.phase != Phase::Retired || at.now < key.since.saturating_add(at.rotation.saturating_mul(RETIRED_ROTATIONS)));
    let waiting = next.keys.iter().position(|key| key.phase == Phase::DecryptOnly);
    match waiting {
        Some(new) => {
            let since = next.keys.get(new).map_or(u64::MAX, |key| key.since);
            if at.everybody_has_it && at.now >= since.saturating_add(KEY_SETTLING_SECONDS) {
                activate(&mut next.keys, new, at.now);
            }
        }
        None if next.active().is_none_or(|active| at.now >= active.since.saturating_add(at.rotation)) => {
            let id = next.keys.last().map_or(1, |last| last.id + 1);
            next.keys.push(RingKey { id, phase: Phase::DecryptOnly, since: at.now, key: random()? });
        }
        None => {}
    }
    (next.keys != ring.keys).then(|| KeyRing { version: above(ring.version, at.epoch), ..next })
}

fn activate(keys: &mut [RingKey], new: usize, now: u64) {
    for (number, key) in keys.iter_mut().enumerate() {
        let phase = match key.phase {
            Phase::Active => Phase::Retired,
            Phase::DecryptOnly if number == new => Phase::Active,
            _ => continue,
        };
        (key.phase, key.since) = (phase, now);
    }
}

fn above(version: Version, epoch: u64) -> Version {
    if epoch > version.epoch { Version { epoch, sequence: 1 } } else { version.next() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATION: u64 = 100;

    fn step(ring: &mut KeyRing, now: u64, everybody_has_it: bool) -> Vec<(u64, Phase)> {
        let at = Moment { now, rotation: ROTATION, epoch: 3, everybody_has_it };
        if let Some(next) = next(ring, at, || Some(format!("key{now}"))) {
            assert!(next.version > ring.version);
            *ring = next;
        }
        ring.keys.iter().map(|key| (key.id, key.phase)).collect()
    }

    #[test]
    fn a_key_seals_only_when_everybody_has_it_and_opens_for_a_while_after_that() {
        use Phase::{Active, DecryptOnly, Retired};
        let mut ring = KeyRing::default();
        assert_eq!(step(&mut ring, 1_000, false), [(1, DecryptOnly)]);
        assert_eq!(ring.version, Version { epoch: 3, sequence: 1 });
        assert_eq!(step(&mut ring, 1_001, true), [(1, DecryptOnly)], "whoever leads next may not have it");
        assert_eq!(step(&mut ring, 1_002, true), [(1, Active)]);
        assert_eq!(step(&mut ring, 1_101, true), [(1, Active)]);
        assert_eq!(step(&mut ring, 1_102, true), [(1, Active), (2, DecryptOnly)]);
        for now in [1_104, 2_000] {
            assert_eq!(step(&mut ring, now, false), [(1, Active), (2, DecryptOnly)], "somebody has not got it");
        }
        assert_eq!(step(&mut ring, 2_001, true), [(1, Retired), (2, Active)]);
        assert_eq!(step(&mut ring, 2_101, true), [(1, Retired), (2, Active), (3, DecryptOnly)]);
        assert_eq!(step(&mut ring, 2_150, true), [(1, Retired), (2, Retired), (3, Active)]);
        assert_eq!(step(&mut ring, 2_201, true), [(2, Retired), (3, Active)]);
    }

    #[test]
    fn a_clock_that_goes_back_and_no_randomness_change_nothing() {
        let mut ring = KeyRing::default();
        step(&mut ring, 1_000, true);
        step(&mut ring, 1_010, true);
        let before = ring.clone();
        step(&mut ring, 10, true);
        assert_eq!(ring, before);
        let at = Moment { now: 9_999, rotation: ROTATION, epoch: 3, everybody_has_it: true };
        assert_eq!(next(&ring, at, || None), None);
    }
}
