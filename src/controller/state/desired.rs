//! The lanes to be published, derived from the stores, the held removals and the pin. No other file writes them.

use waypost_model::lane::{Change, Lane};
use waypost_model::object::Object;

use super::State;
use crate::controller::rules::election::Role;

/// The lanes from which the desired ones are derived.
#[derive(Debug, Clone, Copy)]
pub(super) enum Basis<'a> {
    /// The content of the stores.
    Stores,
    /// The endpoints of the stores, and the published config: the config on disk may be older.
    PublishedConfig,
    /// The desired lanes so far, without the removals at these paths, which an operator approved.
    Approved(&'a [String]),
}

impl State {
    /// Derives the desired lanes anew. A caretaker does not know the present content of the stores, so its desired lanes stay.
    pub(super) fn refresh(&mut self) {
        if !matches!(self.role, Role::Caretaking { .. }) {
            self.derive(Basis::Stores);
        }
    }

    /// Derives the desired lanes from this basis.
    pub(super) fn derive(&mut self, basis: Basis<'_>) {
        self.lanes = self.desired(basis);
        #[cfg(all(test, debug_assertions))]
        self.check_overlay();
    }

    /// Whatever happened before, the overlay is what deriving from nothing gives.
    #[cfg(all(test, debug_assertions))]
    fn check_overlay(&mut self) {
        let whole = self.guard.apply(self.compiler.config(), self.compiler.membership());
        assert!(self.overlay.update(&self.guard, (self.compiler.config(), self.compiler.membership())) == whole, "the overlay is out of date");
    }

    /// The lanes to be published if there is no pin: config and membership.
    fn desired(&mut self, basis: Basis<'_>) -> (Lane, Lane) {
        match basis {
            Basis::Stores => self.overlay.update(&self.guard, (self.compiler.config(), self.compiler.membership())),
            Basis::PublishedConfig => (self.snapshot.config.clone(), self.desired(Basis::Stores).1),
            Basis::Approved(paths) => paths.iter().fold(self.lanes.clone(), |lanes, path| self.without_removal(&lanes, path)),
        }
    }

    /// The lanes with the stores' content at one path, and no other change of the stores.
    fn without_removal(&self, (config, membership): &(Lane, Lane), path: &str) -> (Lane, Lane) {
        let stored = |lane: &Lane| lane.get(path).map_or_else(|| Change::Delete(path.to_owned()), |object| Change::Put(object.clone()));
        let no_mark = |mark: &Object| Change::Delete(mark.path().to_owned());
        match path.strip_prefix("endpoint/") {
            None => (config.with([stored(self.compiler.config())]), membership.with([no_mark(&Object::held(path))])),
            Some(name) => (config.clone(), membership.with([stored(self.compiler.membership()), no_mark(&Object::suspect(name))])),
        }
    }

    /// The config to be published: the pinned one, if there is a pin.
    pub(super) fn desired_config(&self) -> &Lane {
        self.pin.as_ref().map_or(&self.lanes.0, |(pin, _)| &pin.lane)
    }

    /// The membership to be published. Marks of held routes do not apply to a pinned config.
    pub(super) fn desired_membership(&self) -> Lane {
        if self.pin.is_none() {
            return self.lanes.1.clone();
        }
        self.lanes.1.with(self.guard.config_marks().map(Change::Delete))
    }
}
