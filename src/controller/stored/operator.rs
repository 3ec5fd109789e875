//! The record of operators' actions and the pin, as it is on disk and on the stream between controllers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waypost_model::object::Digest;

use crate::controller::rules::pins::PinRecord;
use crate::controller::stored::programs::Programs;

/// Maximum number of actions in the audit.
pub const MAX_AUDIT_ENTRIES: usize = 500;

/// One line of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Who.
    pub by: String,
    /// The action, in one sentence.
    pub what: String,
}

/// The record of operators' actions and the pin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorState {
    /// The pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<PinRecord>,
    /// The audit, oldest line first.
    #[serde(default)]
    pub audit: Vec<Audit>,
    /// Clusters whose proxies may follow us.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<String>,
    /// Programs that have joined, as release 0.1 stored and sent them: now they are in [`Programs`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub joined: BTreeSet<String>,
    /// The digests of their public keys, in the same way.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, Digest>,
    /// Grows with every change: of two controllers' records, the one with the higher number is newer.
    #[serde(default)]
    pub count: u64,
    /// The epoch of the last change; the record of a later leader is newer, whatever its count.
    #[serde(default)]
    pub epoch: u64,
}

impl OperatorState {
    /// Takes out the programs that release 0.1 stored here. Their date of joining was not stored; they count as seen at this date.
    pub fn take_programs(&mut self, date: u64) -> Programs {
        let (joined, keys) = (std::mem::take(&mut self.joined), std::mem::take(&mut self.keys));
        let mut programs = Programs::default();
        for name in joined {
            let key = keys.get(&name).copied();
            programs.join(name, key, date);
        }
        programs
    }

    /// Puts in the programs, for a follower of release 0.1.
    #[must_use]
    pub fn with_programs(self, programs: &Programs) -> Self {
        let (all, _) = programs.since(None);
        let keys = all.iter().filter_map(|(name, program)| Some((name.clone(), program.key?))).collect();
        Self { joined: all.into_keys().collect(), keys, ..self }
    }

    /// Of two records, the one with the higher rank is newer.
    pub const fn rank(&self) -> (u64, u64) {
        (self.epoch, self.count)
    }

    /// Our pin, if the leader that wrote `next` never had it, as far as its audit shows.
    pub fn unknown_to(&self, next: &Self) -> Option<&PinRecord> {
        let mark = self.mark.as_ref().filter(|mark| next.mark.as_ref() != Some(*mark))?;
        let is_audited = next.audit.iter().any(|audit| (audit.at, &audit.by) == (mark.at, &mark.by));
        let forgotten = next.audit.len() >= MAX_AUDIT_ENTRIES && next.audit.first().is_some_and(|oldest| oldest.at > mark.at);
        (!is_audited && !forgotten).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::rules::pins::Reason;

    #[test]
    fn a_pin_is_lost_only_to_a_leader_that_never_had_it() {
        let audit = |at, by: &str| Audit { at, by: by.to_owned(), what: "x".to_owned() };
        let mark = PinRecord { reason: Reason::Frozen, config: 7, by: "alice".to_owned(), at: 1_000, until: None, digest: None };
        let own = OperatorState { mark: Some(mark.clone()), audit: vec![audit(1_000, "alice")], ..OperatorState::default() };
        let leaders = |mark: Option<&PinRecord>, audit: &[Audit]| OperatorState { mark: mark.cloned(), audit: audit.to_vec(), ..OperatorState::default() };
        assert_eq!(own.unknown_to(&leaders(None, &[audit(900, "alice"), audit(1_200, "bob")])), Some(&mark));
        assert_eq!(own.unknown_to(&leaders(None, &[audit(1_000, "alice"), audit(1_200, "bob")])), None, "bob let it go");
        assert_eq!(own.unknown_to(&leaders(None, &[audit(1_200, "alice")])), Some(&mark), "alice did something else");
        assert_eq!(own.unknown_to(&leaders(None, &vec![audit(1_200, "bob"); MAX_AUDIT_ENTRIES])), None, "nobody remembers");
        assert_eq!(own.unknown_to(&leaders(Some(&mark), &[])), None);
        assert_eq!(OperatorState::default().unknown_to(&own), None);
    }
}
