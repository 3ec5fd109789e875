//! What is to be published: derived here from what the stores say, what the guard holds and what an operator pinned. Nothing else
//! writes it.

use waypost_model::lane::{Change, Lane};
use waypost_model::object::Object;

use super::State;
use crate::controller::rules::election::Role;

/// What the desired lanes begin with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Basis<'a> {
    /// What the stores say.
    Stores,
    /// What the stores say of endpoints, and the config that is published: what is on disk may be older.
    PublishedConfig,
    /// What was desired before, less the removals at these paths, which an operator approved.
    Approved(&'a [String]),
}

impl State {
    /// Derives what is to be published anew. A caretaker cannot know what the stores say now: for it, what was desired stays.
    pub(super) fn refresh(&mut self) {
        if !matches!(self.role, Role::Caretaking { .. }) {
            self.derive(Basis::Stores);
        }
    }

    /// Derives what is to be published from this basis.
    pub(super) fn derive(&mut self, basis: Basis<'_>) {
        self.lanes = self.desired(basis);
    }

    /// What is to be published, but for a pin: config and membership.
    fn desired(&self, basis: Basis<'_>) -> (Lane, Lane) {
        match basis {
            Basis::Stores => self.guard.apply(self.compiler.config(), self.compiler.membership()),
            Basis::PublishedConfig => (self.snapshot.config.clone(), self.desired(Basis::Stores).1),
            Basis::Approved(paths) => paths.iter().fold(self.lanes.clone(), |lanes, path| self.without_removal(&lanes, path)),
        }
    }

    /// The lanes with what the stores say at a path, and nothing else that they say now.
    fn without_removal(&self, (config, membership): &(Lane, Lane), path: &str) -> (Lane, Lane) {
        let said = |lane: &Lane| lane.get(path).map_or_else(|| Change::Delete(path.to_owned()), |object| Change::Put(object.clone()));
        let no_mark = |mark: &Object| Change::Delete(mark.path().to_owned());
        match path.strip_prefix("endpoint/") {
            None => (config.with([said(self.compiler.config())]), membership.with([no_mark(&Object::held(path))])),
            Some(name) => (config.clone(), membership.with([said(self.compiler.membership()), no_mark(&Object::suspect(name))])),
        }
    }

    /// The config that is to be published: the pinned one, if one is.
    pub(super) fn desired_config(&self) -> &Lane {
        self.pin.as_ref().map_or(&self.lanes.0, |(pin, _)| &pin.lane)
    }

    /// The membership that is to be published. Which routes the guard holds says nothing about a pinned config.
    pub(super) fn desired_membership(&self) -> Lane {
        if self.pin.is_none() {
            return self.lanes.1.clone();
        }
        self.lanes.1.with(self.guard.held_marks().map(|mark| Change::Delete(mark.path().to_owned())))
    }
}
