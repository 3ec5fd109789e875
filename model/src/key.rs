//! Parses the keys of a store: what each names.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::object::kind::{self, LaneKind, ObjectKind};
use crate::problem::{bounded, nearest};

/// The kinds of resource that people and machines write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An address that proxies bind.
    Listener,
    /// Hostnames and rules.
    Route,
    /// A named set of endpoints and its policy.
    Backend,
    /// What HTTPS listeners show to clients.
    Certificate,
    /// One address of a backend.
    Endpoint,
}

impl Kind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Listener, Self::Route, Self::Backend, Self::Certificate, Self::Endpoint];

    /// The kind's name in objects and output: `route`.
    pub const fn singular(self) -> &'static str {
        self.object_kind().name
    }

    /// The kind's line in the table of kinds.
    pub const fn object_kind(self) -> ObjectKind {
        match self {
            Self::Listener => kind::LISTENER,
            Self::Route => kind::ROUTE,
            Self::Backend => kind::BACKEND,
            Self::Certificate => kind::CERTIFICATE,
            Self::Endpoint => kind::ENDPOINT,
        }
    }

    /// The kind's folder in a store: `routes`.
    pub const fn plural(self) -> &'static str {
        match self.object_kind().folder {
            Some(folder) => folder,
            None => self.object_kind().name,
        }
    }

    /// Whether machines write the kind and every proxy gets it at once (membership, M); `false` for config (C).
    pub const fn is_membership(self) -> bool {
        matches!(self.object_kind().lane, LaneKind::Membership)
    }

    /// The kind with this folder name.
    pub fn from_plural(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == name)
    }

    /// The kind with this folder name or singular name: `route` or `routes`.
    pub fn from_any(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == name || kind.singular() == name)
    }
}

/// A resource by kind and name; an endpoint's name is `<backend>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    /// The resource's kind.
    pub kind: Kind,
    /// The resource's name.
    pub name: String,
}

impl ResourceKey {
    /// A key of this kind and name, unchecked.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// The backend and id of an endpoint's name.
    pub fn endpoint_parts(&self) -> Option<(&str, &str)> {
        self.name.split_once('/').filter(|_| self.kind == Kind::Endpoint)
    }

    /// The backend that the resource belongs to: a backend's own name, or the first part of an endpoint's name.
    pub fn backend(&self) -> Option<&str> {
        match self.kind {
            Kind::Backend => Some(&self.name),
            Kind::Endpoint => self.endpoint_parts().map(|(backend, _)| backend),
            Kind::Listener | Kind::Route | Kind::Certificate => None,
        }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.plural(), self.name)
    }
}

/// The meaning of a key below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A parent key without content; it has no verdict.
    Folder,
    /// `current`: names the active tree.
    Current,
    /// A resource, at the root or inside `trees/<tree>/`.
    Resource {
        /// The tree it belongs to, `None` at the root.
        tree: Option<String>,
        /// The resource.
        resource: ResourceKey,
    },
    /// A key that Waypost does not know; the message says which key to write instead.
    Unknown(String),
}

/// Parses a key relative to the root (no leading slash). `empty` says whether its value is empty: a key with an empty value is a folder if
/// it ends in `/` or stands where a folder would.
pub fn place(relative: &str, empty: bool) -> Place {
    match placed(relative, empty) {
        Place::Unknown(message) => Place::Unknown(bounded(message)),
        place => place,
    }
}

fn placed(relative: &str, empty: bool) -> Place {
    if relative.is_empty() || (empty && relative.ends_with('/')) {
        return Place::Folder;
    }
    let parts: Vec<&str> = relative.split('/').collect();
    match parts.as_slice() {
        ["current"] => Place::Current,
        ["trees"] | ["trees", _] if empty => Place::Folder,
        ["trees", tree, rest @ ..] if !rest.is_empty() => in_tree(tree, rest, empty),
        rest => resource(None, rest, empty),
    }
}

fn in_tree(tree: &str, rest: &[&str], empty: bool) -> Place {
    if let Err(message) = check_name("tree", tree) {
        return Place::Unknown(message);
    }
    match rest {
        ["endpoints", name @ ..] if !empty || name.len() > 1 => {
            Place::Unknown(format!("endpoints are not part of a tree; write endpoints/{} at the root", name.join("/")))
        }
        rest => resource(Some(tree.to_owned()), rest, empty),
    }
}

fn resource(tree: Option<String>, parts: &[&str], empty: bool) -> Place {
    let Some((folder, names)) = parts.split_first() else { return Place::Folder };
    let Some(kind) = Kind::from_plural(folder) else {
        return if empty && names.is_empty() { Place::Folder } else { Place::Unknown(unknown_kind(folder)) };
    };
    let shape = if kind == Kind::Endpoint { "endpoints/<backend>/<id>" } else { "<name>" };
    match (kind, names) {
        (_, []) if empty => Place::Folder,
        (Kind::Endpoint, [_]) if empty => Place::Folder,
        (Kind::Endpoint, [backend, id]) => match check_name("backend", backend).and_then(|()| check_id(id)) {
            Ok(()) => Place::Resource { tree, resource: ResourceKey::new(kind, format!("{backend}/{id}")) },
            Err(message) => Place::Unknown(message),
        },
        (Kind::Endpoint, _) => Place::Unknown(format!("the key of an endpoint is {shape}")),
        (_, [name]) => match check_name(kind.singular(), name) {
            Ok(()) => Place::Resource { tree, resource: ResourceKey::new(kind, *name) },
            Err(message) => Place::Unknown(message),
        },
        _ => Place::Unknown(format!("the key of a {} is {}/{shape}, without further parts", kind.singular(), kind.plural())),
    }
}

fn unknown_kind(folder: &str) -> String {
    let kinds = Kind::ALL.map(Kind::plural);
    match nearest(folder, kinds.into_iter().chain(["current", "trees"])) {
        Some(name) => format!("unknown kind {folder:?}; did you mean {name:?}?"),
        None => format!("unknown kind {folder:?}; known are {}, trees and current", kinds.join(", ")),
    }
}

/// Checks that a name matches `[A-Za-z0-9._-]+`.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name {
        "" => Err(format!("the {what} has no name; write letters, digits, '.', '_' or '-'")),
        "." | ".." => Err(format!("{name:?} is not a {what} name")),
        name if name.chars().all(ok) => Ok(()),
        name => Err(format!("{what} name {name:?} may only have letters, digits, '.', '_' and '-'")),
    }
}

fn check_id(id: &str) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '[' | ']');
    if !id.is_empty() && id != "." && id != ".." && id.chars().all(ok) {
        return Ok(());
    }
    Err(format!("endpoint id {id:?} may only have letters, digits, '.', '_', '-', ':', '[' and ']'"))
}

/// Parses a resource as people type it: `route/shop`, `routes/shop` or the full key below `root`.
///
/// # Errors
/// The key names no resource; the message has the nearest kind.
pub fn parse_typed(root: &str, typed: &str) -> Result<ResourceKey, String> {
    let relative = typed.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')).unwrap_or(typed).trim_matches('/');
    let (kind, name) = relative.split_once('/').ok_or_else(|| format!("{typed:?} names no resource; write KIND/NAME, such as routes/shop"))?;
    let kind = Kind::from_any(kind).ok_or_else(|| unknown_kind(kind))?;
    match place(&format!("{}/{name}", kind.plural()), false) {
        Place::Resource { resource, .. } => Ok(resource),
        Place::Unknown(message) => Err(message),
        Place::Folder | Place::Current => Err(format!("{typed:?} names no resource")),
    }
}

/// Parses a key as people type it: a resource in any form that [`parse_typed`] accepts, `current`, a key of a tree, or any of these below
/// `root`. Returns the key below the root.
///
/// # Errors
/// The key is not valid; the message has the nearest kind.
pub fn parse_key(root: &str, typed: &str) -> Result<String, String> {
    let relative = typed.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')).unwrap_or(typed).trim_matches('/');
    match place(relative, false) {
        Place::Resource { .. } | Place::Current => Ok(relative.to_owned()),
        _ => parse_typed(root, typed).map(|resource| resource.to_string()),
    }
}

/// Joins two words that are one key: `route shop` becomes `route/shop`.
pub fn join_typed(words: &[String]) -> Vec<String> {
    let mut keys = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        match words.peek() {
            Some(name) if Kind::from_any(word).is_some() => {
                keys.push(format!("{word}/{name}"));
                words.next();
            }
            _ => keys.push(word.clone()),
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(relative: &str) -> String {
        match place(relative, false) {
            Place::Resource { tree: None, resource } => resource.to_string(),
            Place::Resource { tree: Some(tree), resource } => format!("{tree}:{resource}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn keys_name_resources_at_the_root_and_in_trees() {
        assert_eq!(found("routes/shop"), "routes/shop");
        assert_eq!(found("endpoints/shop/[::1]:80"), "endpoints/shop/[::1]:80");
        assert_eq!(found("trees/v2/routes/shop"), "v2:routes/shop");
        assert_eq!(place("current", false), Place::Current);
    }

    #[test]
    fn parents_without_content_are_folders() {
        for key in ["", "routes", "routes/", "endpoints/shop", "endpoints/shop/", "trees", "trees/v2", "trees/v2/routes", "anything"] {
            assert_eq!(place(key, true), Place::Folder, "{key}");
        }
        assert!(matches!(place("routes/shop", true), Place::Resource { .. }));
    }

    #[test]
    fn unknown_keys_are_answered_with_the_nearest_name() {
        for (key, message) in [
            ("route/shop", "unknown kind \"route\"; did you mean \"routes\"?"),
            ("endpoints/shop", "the key of an endpoint is endpoints/<backend>/<id>"),
            ("routes/a b", "route name \"a b\" may only have letters, digits, '.', '_' and '-'"),
            ("trees/v2/endpoints/shop/a", "endpoints are not part of a tree; write endpoints/shop/a at the root"),
            ("routes/a/b", "the key of a route is routes/<name>, without further parts"),
        ] {
            assert_eq!(place(key, false), Place::Unknown(message.to_owned()), "{key}");
        }
    }

    #[test]
    fn people_may_type_a_resource_in_any_form() {
        for typed in ["route/shop", "routes/shop", "waypost/routes/shop", "/routes/shop"] {
            assert_eq!(parse_typed("waypost", typed).unwrap(), ResourceKey::new(Kind::Route, "shop"), "{typed}");
        }
        assert!(parse_typed("waypost", "shop").unwrap_err().contains("KIND/NAME"));
        for (typed, key) in [
            ("route/shop", "routes/shop"),
            ("waypost/current", "current"),
            ("trees/v2/routes/shop", "trees/v2/routes/shop"),
            ("waypost/trees/v2/routes/shop", "trees/v2/routes/shop"),
        ] {
            assert_eq!(parse_key("waypost", typed).unwrap(), key);
        }
        assert!(parse_key("waypost", "rotues/shop").unwrap_err().contains("did you mean \"routes\"?"));
        let words = ["route", "shop", "endpoints/shop/a", "current"].map(str::to_owned);
        assert_eq!(join_typed(&words), ["route/shop", "endpoints/shop/a", "current"]);
    }
}
