//! The findings of a proxy on the endpoints that it probes, and their transfer: all of them, or the changes since a number that the receiver has
//! confirmed. Thousands of endpoints may fail at once, so each finding is sent once, and in parts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::snapshot::Version;

use crate::report::Probed;

/// Maximum length of an error in a report, in bytes.
const MAX_ERROR_BYTES: usize = 200;

/// Bytes of a report per endpoint beside its name and its error.
const BYTES_PER_ENDPOINT: usize = 8;

/// Maximum number of recovered endpoints that are remembered, for receivers that do not know yet that they recovered.
const MAX_WELL_ENDPOINTS: usize = 10_000;

/// The finding of a proxy on one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Finding {
    /// It can take requests.
    #[default]
    Well,
    /// There is no result yet.
    Unsure,
    /// It failed too often in a row, with this error.
    Failing(String),
}

/// The findings of a proxy on all endpoints that it probes. An endpoint without a finding is well.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// The version that decided which endpoints are probed.
    version: Version,
    /// The number of the last change.
    number: u64,
    /// Some of the changes up to this number are forgotten.
    floor: u64,
    by_name: BTreeMap<Arc<str>, (u64, Finding)>,
    by_number: BTreeSet<(u64, Arc<str>)>,
    /// The number of endpoints in `by_name` that are well.
    well: usize,
}

impl Findings {
    /// The version that decided which endpoints are probed; zero before anything is known.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The number of the last change.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The finding on an endpoint.
    pub fn of(&self, name: &str) -> &Finding {
        self.by_name.get(name).map_or(&Finding::Well, |(_, finding)| finding)
    }

    /// The endpoints that are not well.
    pub fn unwell(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.iter().filter(|(_, (_, finding))| *finding != Finding::Well).map(|(name, _)| name)
    }

    /// Sets the version that decided which endpoints are probed.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The prober found this out of an endpoint.
    pub fn note(&mut self, name: &Arc<str>, mut finding: Finding) {
        if let Finding::Failing(why) = &mut finding {
            why.truncate(why.floor_char_boundary(MAX_ERROR_BYTES));
        }
        if *self.of(name) != finding {
            self.number += 1;
            self.put(name.clone(), self.number, finding);
        }
    }

    /// The receiver has all changes up to this number: changes that need not be sent again are forgotten.
    pub fn confirmed(&mut self, number: u64) {
        let names: Vec<Arc<str>> = self.by_number.range(..(number + 1, Arc::from(""))).map(|(_, name)| name.clone()).collect();
        let well = |name: &Arc<str>| *self.of(name) == Finding::Well;
        let names: Vec<Arc<str>> = names.into_iter().filter(well).collect();
        if !names.is_empty() {
            self.floor = self.floor.max(number);
            names.iter().for_each(|name| self.remove(name));
        }
    }

    /// Everything that a receiver does not have which has confirmed the number `base`, or nothing yet.
    pub fn message(&self, base: Option<u64>) -> Probed {
        self.changes(base.filter(|base| (self.floor..=self.number).contains(base)), usize::MAX)
    }

    /// The same in at most about `budget` bytes, which must have room for one name and one error. What does not fit is in the next message,
    /// once this one is confirmed.
    pub fn next_message(&mut self, base: Option<u64>, budget: usize) -> Probed {
        match base.filter(|base| (self.floor..=self.number).contains(base)) {
            None if self.size() > budget => self.begin_anew(),
            base => self.changes(base, budget),
        }
    }

    /// The first message of a series: the receiver has no findings yet, and gets all of them as changes.
    fn begin_anew(&mut self) -> Probed {
        let (version, number) = (self.version, self.number);
        let unwell: Vec<_> = std::mem::take(self).by_name.into_iter().filter(|(_, (_, finding))| *finding != Finding::Well).collect();
        (self.version, self.number, self.floor) = (version, number, number);
        for (name, (_, finding)) in unwell {
            self.number += 1;
            self.put(name, self.number, finding);
        }
        Probed { number, ..Probed::default() }
    }

    /// Takes in a message. Returns the endpoints of which it says something else; `None` if it builds on changes that this receiver does not have.
    pub fn merge(&mut self, message: &Probed) -> Option<BTreeSet<String>> {
        let before = match message.since {
            Some(base) if base != self.number => return None,
            Some(_) => Self::default(),
            None => std::mem::take(self),
        };
        let mut changed: BTreeSet<String> = before.unwell().map(|name| name.to_string()).collect();
        let failing = message.failing.iter().map(|(name, why)| (name, Finding::Failing(why.clone())));
        let unsure = message.unsure.iter().map(|name| (name, Finding::Unsure));
        let recovered = message.recovered.iter().map(|name| (name, Finding::Well));
        for (name, finding) in failing.chain(unsure).chain(recovered) {
            let previous = if message.since.is_none() { before.of(name) } else { self.of(name) };
            if *previous == finding {
                changed.remove(name);
            } else {
                changed.insert(name.clone());
            }
            self.put(Arc::from(name.as_str()), message.number, finding);
        }
        self.number = message.number;
        // Until all messages have arrived, it is unknown which endpoints were well before.
        if message.since.is_none() || self.version == Version::default() {
            self.floor = self.number;
        }
        if !message.more {
            self.version = message.version;
        }
        if self.well > MAX_WELL_ENDPOINTS {
            self.confirmed(self.number);
        }
        Some(changed)
    }

    /// What changed after this number, or everything.
    fn changes(&self, base: Option<u64>, budget: usize) -> Probed {
        let mut message = Probed { version: self.version, number: self.number, since: base, ..Probed::default() };
        let mut room = budget;
        let first = base.map_or(0, |base| base + 1);
        for (number, name) in self.by_number.range((first, Arc::from(""))..) {
            let finding = self.of(name);
            let cost = cost(name, finding);
            if cost > room {
                message.more = true;
                message.number = number - 1;
                break;
            }
            room -= cost;
            match finding {
                Finding::Failing(why) => drop(message.failing.insert(name.to_string(), why.clone())),
                Finding::Unsure => drop(message.unsure.insert(name.to_string())),
                // A receiver without a finding takes the endpoint for well.
                Finding::Well if base.is_some() => drop(message.recovered.insert(name.to_string())),
                Finding::Well => {}
            }
        }
        message
    }

    /// The approximate length of a message with everything, in bytes.
    fn size(&self) -> usize {
        self.by_name.iter().map(|(name, (_, finding))| cost(name, finding)).sum()
    }

    fn put(&mut self, name: Arc<str>, number: u64, finding: Finding) {
        self.remove(&name);
        self.well += usize::from(finding == Finding::Well);
        self.by_number.insert((number, name.clone()));
        self.by_name.insert(name, (number, finding));
    }

    fn remove(&mut self, name: &Arc<str>) {
        if let Some((number, finding)) = self.by_name.remove(name) {
            self.by_number.remove(&(number, name.clone()));
            self.well -= usize::from(finding == Finding::Well);
        }
    }
}

fn cost(name: &str, finding: &Finding) -> usize {
    let why = if let Finding::Failing(why) = finding { why.len() } else { 0 };
    name.len() + why + BYTES_PER_ENDPOINT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V: Version = Version { epoch: 1, sequence: 7 };

    fn name(number: usize) -> Arc<str> {
        format!("shop/e{number:05}").into()
    }

    fn unwell(findings: &Findings) -> Vec<(Arc<str>, Finding)> {
        findings.unwell().map(|name| (name.clone(), findings.of(name).clone())).collect()
    }

    /// Sends until everything is confirmed; returns the number of messages and the length of the longest.
    fn sync(sender: &mut Findings, receiver: &mut Findings, mut base: Option<u64>, budget: usize) -> (usize, usize) {
        let (mut count, mut longest) = (0, 0);
        loop {
            let message = sender.next_message(base, budget);
            longest = longest.max(serde_json::to_vec(&message).unwrap().len());
            let message: Probed = serde_json::from_slice(&serde_json::to_vec(&message).unwrap()).unwrap();
            receiver.merge(&message);
            base = Some(receiver.number());
            sender.confirmed(receiver.number());
            count += 1;
            assert!(count < 1_000, "no end: {message:?} to {base:?} of {}", sender.number());
            if receiver.number() == sender.number() && !message.more {
                return (count, longest);
            }
        }
    }

    #[test]
    fn thirty_thousand_failing_endpoints_are_sent_in_parts_and_then_only_changes() {
        let (mut sender, mut receiver) = (Findings::default(), Findings::default());
        sender.set_version(V);
        (0..30_000).for_each(|number| sender.note(&name(number), Finding::Failing(format!("connection refused (os error 111) {number}"))));
        let budget = 256 * 1024;
        let whole = serde_json::to_vec(&sender.message(None)).unwrap().len();
        let (count, longest) = sync(&mut sender, &mut receiver, None, budget);
        assert!(count > 4 && longest < budget * 3 / 2, "{count} messages of at most {longest} bytes, {whole} as a whole");
        assert_eq!((unwell(&receiver), receiver.version()), (unwell(&sender), V));
        sender.note(&name(7), Finding::Well);
        let number = Some(receiver.number());
        let (count, longest) = sync(&mut sender, &mut receiver, number, budget);
        assert!(count == 1 && longest < 200, "{longest} bytes for one change");
        assert_eq!(receiver.of(&name(7)), &Finding::Well);
    }

    #[test]
    fn no_endpoint_has_a_finding_before_all_parts_have_come() {
        let (mut sender, mut receiver) = (Findings::default(), Findings::default());
        sender.set_version(V);
        (0..100).for_each(|number| sender.note(&name(number), Finding::Unsure));
        receiver.merge(&sender.next_message(None, 500)).unwrap();
        receiver.merge(&sender.next_message(Some(receiver.number()), 500)).unwrap();
        assert!(receiver.unwell().count() < 100 && receiver.version() == Version::default(), "a prober without a version has no say");
        assert_eq!(receiver.merge(&sender.next_message(Some(200), 500)), None, "it builds on something else");
    }

    proptest! {
        #[test]
        fn a_receiver_ends_up_with_the_findings_of_the_sender(
            steps in prop::collection::vec((0usize..12, 0u8..3, any::<bool>(), any::<bool>()), 1..80),
            budget in 10usize..200,
        ) {
            let (mut sender, mut receiver, mut follower) = (Findings::default(), Findings::default(), Findings::default());
            sender.set_version(V);
            for (number, finding, complete, lost) in steps {
                let finding = [Finding::Well, Finding::Unsure, Finding::Failing("x".repeat(number))][usize::from(finding)].clone();
                sender.note(&name(number), finding);
                if lost {
                    receiver = Findings::default();
                }
                if complete {
                    let base = Some(receiver.number()).filter(|_| !lost);
                    sync(&mut sender, &mut receiver, base, budget.max(40));
                    prop_assert_eq!(unwell(&receiver), unwell(&sender));
                    // A follower passes on what it has, all at once.
                    let before = unwell(&follower);
                    let changed = match follower.merge(&receiver.message(Some(follower.number()))) {
                        Some(changed) => changed,
                        None => follower.merge(&receiver.message(None)).unwrap(),
                    };
                    prop_assert_eq!(unwell(&follower), unwell(&sender));
                    let differ = |one: &[(Arc<str>, Finding)], other: &[(Arc<str>, Finding)]| {
                        one.iter().filter(|found| !other.contains(found)).map(|(name, _)| name.to_string()).collect::<BTreeSet<String>>()
                    };
                    let after = unwell(&follower);
                    let expected: BTreeSet<String> = differ(&before, &after).union(&differ(&after, &before)).cloned().collect();
                    prop_assert_eq!(changed, expected);
                }
            }
        }
    }
}
