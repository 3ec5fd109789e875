//! The store of the simulation: one record of leading, and routes whose value counts up; once it may be restored from a backup.

use std::collections::BTreeMap;

use waypost_adapter::{Change, Entry, Event, Expected, Key, PutIf, Revision};
use waypost_model::lane::{Change as LaneChange, Lane};
use waypost_model::limits::Limits;

use crate::controller::rules::election::{ElectionInput, Record, StoreRequest, StoredRecord};
use crate::controller::rules::guard::Removal;

/// How many routes there may be.
const ROUTES: u64 = 12;

/// What a backup has of the store.
#[derive(Debug, Default, Clone)]
struct Content {
    revision: u64,
    record: Option<(u64, Record)>,
    /// By route: the revision, and the value, which is nothing after a deletion.
    routes: BTreeMap<String, (u64, Option<u64>)>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    now: Content,
    counter: u64,
    backup: Option<Content>,
    /// How often it was restored: a controller that watched it has to begin anew.
    pub(super) restored: u64,
}

fn value(count: u64) -> String {
    format!(r#"{{"hostnames":["n{count}.example.com"],"rules":[{{"backendRefs":[{{"name":"shop"}}]}}]}}"#)
}

impl Store {
    pub(super) fn answer(&mut self, ask: &StoreRequest) -> ElectionInput {
        match ask {
            StoreRequest::Read => {
                let standing = |(revision, record): &(u64, Record)| StoredRecord { revision: Revision(*revision), record: Some(record.clone()) };
                ElectionInput::Read(Ok(self.now.record.as_ref().map(standing)))
            }
            StoreRequest::Write { record, expected } => {
                let found = self.now.record.as_ref().map_or(Expected::Absent, |(revision, _)| Expected::At(Revision(*revision)));
                if found != *expected {
                    return ElectionInput::Wrote(Ok(PutIf::Conflict));
                }
                self.now.revision += self.stride();
                self.now.record = Some((self.now.revision, record.clone()));
                ElectionInput::Wrote(Ok(PutIf::Written(Revision(self.now.revision))))
            }
        }
    }

    /// Somebody writes a route, or deletes one.
    pub(super) fn write(&mut self, random: &mut fastrand::Rng) {
        let name = format!("r{}", random.u64(0..ROUTES));
        self.now.revision += self.stride();
        self.counter += 1;
        let delete = random.u8(0..8) == 0 && self.now.routes.get(&name).is_some_and(|(_, value)| value.is_some());
        self.now.routes.insert(name, (self.now.revision, (!delete).then_some(self.counter)));
    }

    /// The step of the revision. A restored store stays below its former revision, because a controller that reads it only later could not notice
    /// that it went back.
    const fn stride(&self) -> u64 {
        if self.restored == 0 { 1_000 } else { 1 }
    }

    pub(super) const fn revision(&self) -> u64 {
        self.now.revision
    }

    pub(super) fn back_up(&mut self) {
        self.backup = Some(self.now.clone());
    }

    /// Restores the backup. Returns the routes that come back with it: those that had been deleted or that `went` as far as any controller knows.
    pub(super) fn restore(&mut self, went: &dyn Fn(&str) -> bool) -> Vec<String> {
        let Some(backup) = self.backup.take() else { return Vec::new() };
        let has = |content: &Content, name: &str| content.routes.get(name).is_some_and(|(_, value)| value.is_some());
        let paths = backup.routes.keys().filter(|name| has(&backup, name)).map(|name| (format!("route/{name}"), !has(&self.now, name)));
        let back = paths.filter(|(path, removal)| *removal || went(path)).map(|(path, _)| path).collect();
        self.now = backup;
        self.restored += 1;
        back
    }

    fn entry(name: &str, revision: u64, count: u64) -> Entry {
        Entry::new(format!("routes/{name}").into_bytes(), value(count).into_bytes(), revision)
    }

    pub(super) fn listing(&self) -> Event {
        let entries = self.now.routes.iter().filter_map(|(name, (revision, count))| Some(Self::entry(name, *revision, (*count)?))).collect();
        Event::Reset { entries, at: Revision(self.now.revision), drift: 0 }
    }

    pub(super) fn changes_since(&self, at: u64) -> Option<Event> {
        let changed = self.now.routes.iter().filter(|(_, (revision, _))| *revision > at);
        let change = |(name, (revision, count)): (&String, &(u64, Option<u64>))| match count {
            Some(count) => Change::Put(Self::entry(name, *revision, *count)),
            None => Change::Delete(Key::from(format!("routes/{name}"))),
        };
        let changes: Vec<Change> = changed.map(change).collect();
        if changes.is_empty() {
            return Some(Event::Idle { at: Revision(self.now.revision) });
        }
        Some(Event::Changes { changes, at: Revision(self.now.revision) })
    }

    /// The config that this makes, with what the guard holds.
    pub(super) fn config<'a>(&self, removals: impl Iterator<Item = &'a Removal>) -> Lane {
        let mut compiler = waypost_model::compile::Compiler::new(1, Limits::default());
        let input = |entry: Entry| waypost_model::compile::EntryInput {
            key: entry.key.to_string(),
            written: waypost_model::compile::Written { value: entry.value.as_ref().into(), revision: entry.revision.0 },
            unreadable: None,
        };
        let Event::Reset { entries, .. } = self.listing() else { return Lane::default() };
        compiler.reset(0, entries.into_iter().map(input).collect());
        compiler.commit();
        compiler.config().with(removals.map(|removal| LaneChange::Put(removal.object.clone())).collect::<Vec<_>>())
    }
}
