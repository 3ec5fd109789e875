//! The programs that have joined the cluster, as they are on disk and on the stream between controllers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waypost_model::object::Digest;

/// Another program can join under the name of a program that was not connected for this long, in milliseconds.
pub const FORGET_PROGRAM_AFTER_MILLIS: u64 = 30 * DAY_MILLIS;
/// Maximum number of remembered names; beyond it, the names of the programs that were connected longest ago become free.
pub const MAX_PROGRAMS: usize = 10_000;
/// Interval in which `last_seen` is updated, in milliseconds.
const DAY_MILLIS: u64 = 24 * 3_600 * 1_000;

/// A program that has joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// The digest of the public key with which it joined. A program that asks again with the same key did not get the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Digest>,
    /// When it joined, in milliseconds since 1970.
    pub joined: u64,
    /// When it was connected last, in milliseconds since 1970, to within a day.
    #[serde(rename = "seen")]
    pub last_seen: u64,
    /// The number of its last change in this run of the controller.
    #[serde(skip)]
    change: u64,
}

/// The programs that have joined, by kind and name, such as `proxy edge-1`. A token for any name does not admit another program under these names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    joined: BTreeMap<String, Program>,
    /// The number of changes in this run of the controller.
    #[serde(skip)]
    changes: u64,
}

/// A program that joins.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Such as `proxy edge-1`.
    pub program: String,
    /// The digest of its public key, if it has one.
    pub key: Option<Digest>,
    /// Whether its token is bound to this name; if so, it may also join if another program has joined under the name.
    pub bound: bool,
}

impl Programs {
    /// The program of that name, if one has joined.
    pub fn get(&self, name: &str) -> Option<&Program> {
        self.joined.get(name)
    }

    /// Whether nobody has joined under that name, or somebody has with the same key.
    pub fn has_room(&self, name: &str, key: Option<Digest>) -> bool {
        self.joined.get(name).is_none_or(|program| key.is_some() && program.key == key)
    }

    /// A program joins at this date.
    pub fn join(&mut self, name: String, key: Option<Digest>, date: u64) {
        self.changes += 1;
        self.joined.insert(name, Program { key, joined: date, last_seen: date, change: self.changes });
    }

    /// Takes over another controller's record; of two programs with one name, the later one counts.
    pub fn merge(&mut self, others: BTreeMap<String, Program>) -> bool {
        let before = self.changes;
        for (name, other) in others {
            let own = self.joined.get(&name);
            if own.is_none_or(|own| (other.joined, other.last_seen) > (own.joined, own.last_seen)) {
                self.changes += 1;
                self.joined.insert(name, Program { change: self.changes, ..other });
            }
        }
        self.changes != before
    }

    /// The programs that changed later than the change of number `after` in this run, or all of them for `None`, and the number of changes.
    pub fn since(&self, after: Option<u64>) -> (BTreeMap<String, Program>, u64) {
        let new = self.joined.iter().filter(|(_, program)| after.is_none_or(|after| program.change > after));
        (new.map(|(name, program)| (name.clone(), *program)).collect(), self.changes)
    }

    /// These programs are connected now. Forgets the names of programs that were not connected for long. Returns whether anything changed.
    pub fn tidy<'a>(&mut self, present: impl Iterator<Item = &'a str>, date: u64) -> bool {
        let (changes, count) = (self.changes, self.joined.len());
        for name in present {
            if let Some(program) = self.joined.get_mut(name).filter(|program| date.saturating_sub(program.last_seen) >= DAY_MILLIS) {
                self.changes += 1;
                (program.last_seen, program.change) = (date, self.changes);
            }
        }
        // A date in the future is that of a clock that was wrong.
        self.joined.values_mut().for_each(|program| program.last_seen = program.last_seen.min(date));
        self.joined.retain(|_, program| date.saturating_sub(program.last_seen) < FORGET_PROGRAM_AFTER_MILLIS);
        self.shrink();
        (changes, count) != (self.changes, self.joined.len())
    }

    /// Forgets the names of the programs that were connected longest ago, if there are too many.
    pub fn shrink(&mut self) {
        let surplus = self.joined.len().saturating_sub(MAX_PROGRAMS);
        if surplus == 0 {
            return;
        }
        let mut oldest: Vec<(u64, String)> = self.joined.iter().map(|(name, program)| (program.last_seen, name.clone())).collect();
        oldest.sort_unstable();
        oldest.truncate(surplus);
        tracing::warn!("more than {MAX_PROGRAMS} programs have joined; the names of {surplus} that were seen longest ago can be taken again");
        for (_, name) in &oldest {
            self.joined.remove(name);
        }
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Program)> {
        self.joined.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(count: u64) -> Programs {
        let mut programs = Programs::default();
        (0..count).for_each(|number| programs.join(format!("proxy p{number}"), None, number));
        programs
    }

    #[test]
    fn a_name_is_taken_until_its_program_was_not_seen_for_long() {
        let mut programs = named(2);
        let key = Some(Digest::of(b"key"));
        programs.join("proxy k".to_owned(), key, 0);
        assert!(!programs.has_room("proxy p0", None) && !programs.has_room("proxy p0", key) && programs.has_room("proxy other", None));
        assert!(programs.has_room("proxy k", key) && !programs.has_room("proxy k", None), "only the same key asks again");
        assert!(!programs.tidy(["proxy p0"].into_iter(), DAY_MILLIS / 2), "it was seen today");
        assert!(programs.tidy(["proxy p0", "proxy never-joined"].into_iter(), FORGET_PROGRAM_AFTER_MILLIS - 1));
        assert_eq!(programs.joined.len(), 3);
        assert!(programs.tidy(std::iter::empty(), FORGET_PROGRAM_AFTER_MILLIS + 1));
        assert!(programs.get("proxy p0").is_some() && programs.joined.len() == 1);
    }

    #[test]
    fn only_changed_programs_are_sent_again() {
        let mut programs = named(3);
        let (all, changes) = programs.since(None);
        assert_eq!((all.len(), programs.since(Some(changes)).0.len()), (3, 0));
        programs.join("proxy new".to_owned(), None, 9);
        let (new, changes) = programs.since(Some(changes));
        assert_eq!(new.keys().collect::<Vec<_>>(), ["proxy new"]);
        let mut other = named(1);
        assert!(other.merge(all) && other.merge(new) && !other.merge(programs.since(None).0), "what is known changes nothing");
        assert_eq!(other.joined.len(), 4);
        assert!(programs.since(Some(changes)).0.is_empty());
        let restarted: Programs = serde_json::from_slice(&serde_json::to_vec(&programs).unwrap()).unwrap();
        let (all, changes) = restarted.since(None);
        assert!(all.len() == 4 && restarted.since(Some(changes)).0.is_empty(), "what was read from disk is told once");
    }

    #[test]
    fn there_is_a_limit_and_the_oldest_names_go_first() {
        let mut programs = named(MAX_PROGRAMS as u64 + 5);
        programs.shrink();
        assert_eq!(programs.joined.len(), MAX_PROGRAMS);
        assert!(programs.get("proxy p4").is_none() && programs.get("proxy p5").is_some());
    }
}
