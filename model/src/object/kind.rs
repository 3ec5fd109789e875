//! The kinds of objects: one table, with a line per kind.
//!
//! Who adds a kind of key adds a line here, a variant of [`crate::key::Kind`] and a file in [`crate::resource`].

/// The lane in which objects of a kind travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneKind {
    /// What people write: listeners, routes, backends, certificates. A pin keeps it.
    Config,
    /// What machines write, and what controllers add to it. It goes on while the config is pinned.
    Membership,
}

/// A kind of object, and how objects of that kind are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectKind {
    /// The kind's name in objects and output, in the singular: `route`.
    pub name: &'static str,
    /// The kind's folder in a store, such as `routes`; `None` for a kind that only controllers make.
    pub folder: Option<&'static str>,
    /// The lane of its objects.
    pub lane: LaneKind,
    /// Whether the guard may hold the removal of such an object.
    pub guarded: bool,
    /// The lowest level of proxies that understand such objects. A single object may need more, because of what it says.
    pub minimum_level: u32,
}

use LaneKind::{Config, Membership};

//                                                   name        folder             lane        guarded  minimum level
/// An address that proxies bind.
pub const LISTENER: ObjectKind = line("listener", Some("listeners"), Config, true, 1);
/// Hostnames and rules.
pub const ROUTE: ObjectKind = line("route", Some("routes"), Config, true, 1);
/// A named set of endpoints and its policy.
pub const BACKEND: ObjectKind = line("backend", Some("backends"), Config, true, 1);
/// What HTTPS listeners show to clients.
pub const CERTIFICATE: ObjectKind = line("certificate", Some("certificates"), Config, true, 2);
/// One address of a backend.
pub const ENDPOINT: ObjectKind = line("endpoint", Some("endpoints"), Membership, true, 1);
/// Marks an endpoint whose removal is held.
pub const SUSPECT: ObjectKind = line("suspect", None, Membership, false, 1);
/// Marks a route whose removal is held.
pub const HELD: ObjectKind = line("held", None, Membership, false, 1);
/// Marks an endpoint that the probes agree cannot take requests.
pub const HEALTH: ObjectKind = line("health", None, Membership, false, 1);
/// A proxy that probes endpoints.
pub const PROBER: ObjectKind = line("prober", None, Membership, false, 1);

/// All kinds, in the order in which they are shown.
pub const KINDS: [ObjectKind; 9] = [LISTENER, ROUTE, BACKEND, CERTIFICATE, ENDPOINT, SUSPECT, HELD, HEALTH, PROBER];

const fn line(name: &'static str, folder: Option<&'static str>, lane: LaneKind, guarded: bool, minimum_level: u32) -> ObjectKind {
    ObjectKind { name, folder, lane, guarded, minimum_level }
}

/// The kind of this name; `None` for one of a newer release.
pub fn by_name(name: &str) -> Option<ObjectKind> {
    KINDS.into_iter().find(|kind| kind.name == name)
}

/// Whether people or machines write objects of this kind, and not only controllers.
pub fn is_written(name: &str) -> bool {
    by_name(name).is_some_and(|kind| kind.folder.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Kind;

    #[test]
    fn names_and_folders_are_each_used_once_and_every_written_kind_has_its_line() {
        let names: std::collections::BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let folders: Vec<&str> = KINDS.iter().filter_map(|kind| kind.folder).collect();
        assert_eq!(names.len(), KINDS.len());
        assert_eq!(folders, Kind::ALL.map(Kind::plural));
        assert!(by_name("tap").is_none() && is_written("route") && !is_written("suspect"));
    }
}
