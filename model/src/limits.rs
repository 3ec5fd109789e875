//! Every limit of the model, with its default, in one place.

use serde::{Deserialize, Serialize};

/// Bounds on what is accepted. A value over a limit is refused, never cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one value.
    pub value_bytes: usize,
    /// Entries of one store.
    pub entries: usize,
    /// Rules of one route.
    pub rules_per_route: usize,
    /// Matches of one rule.
    pub matches_per_rule: usize,
    /// Hostnames of one route.
    pub hostnames_per_route: usize,
    /// Routes that name the same hostname.
    pub routes_per_host: usize,
    /// Endpoints of one backend.
    pub endpoints_per_backend: usize,
    /// Bytes of a compiled regular expression (linear-time engine only).
    pub regex_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes: 256 * 1024,
            entries: 200_000,
            rules_per_route: 128,
            matches_per_rule: 64,
            hostnames_per_route: 128,
            routes_per_host: 10_000,
            endpoints_per_backend: 10_000,
            regex_bytes: DEFAULT_REGEX_BYTES,
        }
    }
}

/// Default of [`Limits::regex_bytes`]; a proxy, which has no settings of the model, uses ten times this.
pub const DEFAULT_REGEX_BYTES: usize = 256 * 1024;

/// Nesting of brackets in a value. Not a setting: the parser's own stack depends on it.
pub const DEPTH: usize = 64;
