//! The stores: their state, their events, and when they are distrusted.

use std::time::Duration;

use waypost_adapter::{AdapterError, Change, Entry, Event, Revision};
use waypost_model::compile::{EntryChange, EntryInput, Written};

use super::State;
use crate::controller::message::{Now, Output};
use crate::controller::rules::guard::DistrustedStore;
use crate::controller::state::source::StoreRegression;

/// A new leader waits this long for a store that cannot be read, and then goes on with its last known content.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

impl State {
    /// The revision up to which a store was read, by us or by the leader: no newer one is published. A later leader distrusts a store that has not
    /// reached it.
    pub fn known_revision(&self, source: usize) -> u64 {
        self.sources.get(source).map_or(0, |state| state.at.max(state.floor).0)
    }

    pub(super) fn store(&mut self, source: usize, event: Event, generation: u64, now: Now) -> Output {
        let name = self.names.get(source).cloned().unwrap_or_default();
        let Some(state) = self.sources.get_mut(source) else { return Output::default() };
        (state.confirmed, state.failing) = (Some(now.since_start), None);
        if state.error.take().is_some() {
            self.events.add(now.date, "StoreBack", &name, "the store answers again");
        }
        match event {
            Event::Idle { at } => {
                state.at = at;
                self.confirm(now)
            }
            Event::Changes { changes, at } => {
                let before = std::mem::replace(&mut state.at, at);
                let entries_before = self.served_entries(source);
                self.compiler.change(source, changes.into_iter().map(change).collect());
                let flagged = self.became_empty(source, entries_before);
                if let Some(why) = flagged.clone() {
                    let leaders = self.sources.get(source).map_or(Revision(0), |state| state.floor);
                    self.doubt(StoreRegression { why, source, before, at }, leaders);
                }
                self.compiled(None, flagged.as_deref().map(|why| DistrustedStore { source, why }), now)
            }
            Event::Reset { entries, at, drift } => {
                let mut before = std::mem::replace(&mut state.at, at);
                let leaders = state.floor;
                if self.role.epoch().is_some() && generation >= self.generation {
                    // The previous leader's revision counts once; while we follow, it is often ahead of ours.
                    before = before.max(std::mem::take(&mut state.floor));
                }
                state.settled |= generation >= self.generation;
                state.drift += u64::try_from(drift).unwrap_or_default();
                let first = !std::mem::replace(&mut state.live, true);
                if drift > 0 {
                    self.events.add(now.date, "Drift", &name, format!("the watch had missed {drift} entries; the listing mended it"));
                }
                let (entries_before, count) = (self.served_entries(source), entries.len());
                self.compiler.reset(source, entries.into_iter().map(input).collect());
                let went_back = (at < before).then(|| format!("the store went back from revision {before} to {at}"));
                let flagged = self.became_empty(source, entries_before).or(went_back);
                if let Some(why) = flagged.clone() {
                    self.doubt(StoreRegression { why, source, before, at }, leaders);
                }
                if first {
                    self.events.add(now.date, "StoreRead", &name, format!("{count} entries at revision {at}"));
                }
                let mut output = self.compiled(first.then_some(source), flagged.as_deref().map(|why| DistrustedStore { source, why }), now);
                output.absorb(self.confirm(now));
                output
            }
        }
    }

    /// The number of a store's entries, if any of them could be served.
    fn served_entries(&self, source: usize) -> Option<usize> {
        self.compiler.has_any(source).then(|| self.compiler.entries_of(source))
    }

    /// The reason to distrust a store that had entries and has none any more, whether they were removed at once or key by key.
    fn became_empty(&self, source: usize, entries_before: Option<usize>) -> Option<String> {
        let entries_before = entries_before.filter(|_| !self.compiler.has_any(source))?;
        Some(match entries_before.saturating_sub(self.compiler.entries_of(source)) {
            0 | 1 => "the store became empty: its last entry went".to_owned(),
            went => format!("the store became empty: its last {went} entries went"),
        })
    }

    /// A store is distrusted. The next leader has to judge that, unless we lead and judge it ourselves, or the leader has judged it; `leaders` is the
    /// revision up to which the leader had read.
    fn doubt(&mut self, doubt: StoreRegression, leaders: Revision) {
        if self.role.epoch() == Some(self.snapshot.version.epoch) {
            return;
        }
        // A store that went back may do so again.
        let reached = doubt.at >= doubt.before || leaders <= doubt.at;
        let judged = self.role.epoch().is_none() && leaders.0 > 0 && reached && doubt.is_judged(leaders);
        if !judged {
            self.regression = Some(doubt);
        }
    }

    pub(super) fn store_failed(&mut self, source: usize, error: AdapterError, now: Now) -> Output {
        let name = self.names.get(source).cloned().unwrap_or_default();
        if let Some(state) = self.sources.get_mut(source) {
            // Endpoints of a store take turns in failing; that is one loss and not many.
            if state.error.as_ref().map(|previous| previous.kind) != Some(error.kind) {
                let serving = if self.snapshot.version.sequence > 0 { "what is published stays" } else { "nothing is published yet" };
                self.events.add(now.date, "StoreLost", &name, format!("{error}; {serving}"));
            }
            // It cannot be read. After a while its last content is used, unless the previous leader had read further.
            let since = *state.failing.get_or_insert(now.since_start);
            state.settled |= state.at >= state.floor && now.since_start.saturating_sub(since) >= STORE_PATIENCE;
            state.error = Some(error);
        }
        let mut output = if self.suppressed { self.publish(true, true, now) } else { Output::default() };
        output.changed = true;
        output
    }
}

/// An adapter's entry as the compiler takes it; keys below the root.
fn input(entry: Entry) -> EntryInput {
    EntryInput { key: entry.key.to_string(), written: Written { value: entry.value.as_ref().into(), revision: entry.revision.0 }, unreadable: entry.unreadable }
}

fn change(change: Change) -> EntryChange {
    match change {
        Change::Put(entry) => EntryChange::Put(input(entry)),
        Change::Delete(key) => EntryChange::Delete(key.to_string()),
    }
}
