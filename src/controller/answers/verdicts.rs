//! Selects the verdicts that are written to the store.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::json;
use waypost_model::compile::{EntryId, EntryView};
use waypost_model::key::{Place, place};
use waypost_model::verdict::Status;

use crate::controller::answers::entries;
use crate::controller::settings::StatusWrites;
use crate::controller::state::State;
use crate::controller::stores::verdicts::Wanted;

/// The verdicts to write to the store after these entries changed. A resource has one verdict there: that of the entry that answers for it, even if
/// several trees and stores have an entry of its name.
pub fn wanted(state: &State, touched: &BTreeSet<EntryId>, writes: StatusWrites) -> Wanted {
    let compiler = &state.compiler;
    let one = |id: &EntryId| match place(&id.key, false) {
        Place::Resource { resource, .. } => Some((resource.to_string(), compiler.entry_of(&resource))),
        Place::Current => Some((id.key.clone(), compiler.entry_at(&id.key))),
        Place::Folder | Place::Unknown(_) => None,
    };
    let text = |id: Option<EntryId>| id.and_then(|id| compiler.view(&id)).and_then(|view| text(state, &view, writes));
    if writes == StatusWrites::None { Wanted::new() } else { touched.iter().filter_map(one).map(|(name, id)| (name, text(id))).collect() }
}

fn text(state: &State, view: &EntryView, writes: StatusWrites) -> Option<Bytes> {
    let conditions = entries::conditions(state, view);
    if writes == StatusWrites::Problems && conditions.iter().all(|condition| condition.status != Status::False) {
        return None;
    }
    let text = json!({ "revision": view.written.revision, "conditions": conditions, "lastGoodRevision": view.last_good });
    Some(Bytes::from(text.to_string()))
}
