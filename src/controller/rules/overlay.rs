//! The lanes with what the guard holds, brought up to date by what changed: an emptied store may leave a hundred thousand removals, and every entry
//! that comes back is published at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::lane::{Change, Lane};
use waypost_model::object::Object;

use crate::controller::rules::guard::Guard;
use crate::controller::rules::objects::{is_member, mark_of};

/// The lanes of the stores, the removals that were put over them, and the result.
#[derive(Debug, Default)]
pub struct Overlay {
    stores: (Lane, Lane),
    removals: BTreeMap<String, Arc<Object>>,
    lanes: (Lane, Lane),
}

impl Overlay {
    /// What the stores say now, config and membership, with what the guard holds now.
    pub fn update(&mut self, guard: &Guard, stores: (&Lane, &Lane)) -> (Lane, Lane) {
        let (mut config, mut membership) = (Vec::new(), Vec::new());
        for (path, object) in self.changed_removals(guard) {
            let (lane, changes) = if is_member(&path) { (stores.1, &mut membership) } else { (stores.0, &mut config) };
            let mark = mark_of(&path);
            match object {
                Some(object) => {
                    changes.push(Change::Put(object.clone()));
                    membership.extend(mark.filter(|_| !self.removals.contains_key(&path)).map(Change::Put));
                    self.removals.insert(path, object);
                }
                None => {
                    changes.push(lane.get(&path).map_or_else(|| Change::Delete(path.clone()), |object| Change::Put(object.clone())));
                    membership.extend(mark.map(|mark| Change::Delete(mark.path().to_owned())));
                    self.removals.remove(&path);
                }
            }
        }
        let is_written = |change: &Change| !self.removals.contains_key(change.path());
        config.extend(self.stores.0.changes_to(stores.0).into_iter().filter(is_written));
        membership.extend(self.stores.1.changes_to(stores.1).into_iter().filter(is_written));
        self.stores = (stores.0.clone(), stores.1.clone());
        let with = |lane: &Lane, changes: Vec<Change>| if changes.is_empty() { lane.clone() } else { lane.with(changes) };
        self.lanes = (with(&self.lanes.0, config), with(&self.lanes.1, membership));
        self.lanes.clone()
    }

    /// The paths at which the guard holds something else than the last time, with what it holds.
    fn changed_removals(&self, guard: &Guard) -> Vec<(String, Option<Arc<Object>>)> {
        let mut changed = Vec::new();
        let mut before = self.removals.iter().peekable();
        for removal in guard.removals() {
            let path = removal.object.path();
            while let Some((removed, _)) = before.next_if(|(before, _)| before.as_str() < path) {
                changed.push((removed.clone(), None));
            }
            let same = before.next_if(|(before, _)| before.as_str() == path).is_some_and(|(_, object)| Arc::ptr_eq(object, &removal.object));
            if !same {
                changed.push((path.to_owned(), Some(removal.object.clone())));
            }
        }
        changed.extend(before.map(|(path, _)| (path.clone(), None)));
        changed
    }
}
