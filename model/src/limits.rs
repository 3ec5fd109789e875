//! Every limit of the model, with its default, in one place.

use serde::{Deserialize, Serialize};

/// Bounds on what is accepted. A value over a limit is refused, never cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one value.
    pub value_bytes: usize,
    /// Bytes of one compiled value; it can be larger than the value, because YAML aliases repeat parts of it.
    pub object_bytes: usize,
    /// Entries of one store.
    pub entries: usize,
    /// Rules of one route.
    pub rules_per_route: usize,
    /// Matches of one rule.
    pub matches_per_rule: usize,
    /// Headers and query parameters that one match compares.
    pub conditions_per_match: usize,
    /// Headers that the filters of one rule set, add and remove.
    pub header_changes_per_rule: usize,
    /// Backends of one rule.
    pub backend_refs_per_rule: usize,
    /// Protocols that one rule lets connections switch to.
    pub upgrades_per_rule: usize,
    /// Hostnames of one route.
    pub hostnames_per_route: usize,
    /// Hostnames × matches × listeners of one route: each combination costs memory in controllers and proxies.
    pub matches_per_route: usize,
    /// Routes that name the same hostname.
    pub routes_per_host: usize,
    /// Regular expressions of all routes that name the same hostname: a request may have to try each of them.
    pub patterns_per_host: usize,
    /// Endpoints of one backend.
    pub endpoints_per_backend: usize,
    /// Trusted networks of one listener.
    pub trusted_proxies_per_listener: usize,
    /// Certificates of one listener.
    pub certificates_per_listener: usize,
    /// Bytes of a compiled regular expression (linear-time engine only).
    pub regex_bytes: usize,
    /// Bytes of all compiled regular expressions of one route.
    pub route_regex_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes: 256 * 1024,
            object_bytes: 1024 * 1024,
            entries: 200_000,
            rules_per_route: 128,
            matches_per_rule: 64,
            conditions_per_match: 32,
            header_changes_per_rule: 128,
            backend_refs_per_rule: 64,
            upgrades_per_rule: 16,
            hostnames_per_route: 128,
            matches_per_route: 10_000,
            routes_per_host: 10_000,
            patterns_per_host: 256,
            endpoints_per_backend: 10_000,
            trusted_proxies_per_listener: 256,
            certificates_per_listener: 1_000,
            regex_bytes: DEFAULT_REGEX_BYTES,
            route_regex_bytes: 3 * 512 * 1024,
        }
    }
}

impl Limits {
    /// All limits zero, as the start of a count.
    pub const fn nothing() -> Self {
        Self {
            value_bytes: 0,
            object_bytes: 0,
            entries: 0,
            rules_per_route: 0,
            matches_per_rule: 0,
            conditions_per_match: 0,
            header_changes_per_rule: 0,
            backend_refs_per_rule: 0,
            upgrades_per_rule: 0,
            hostnames_per_route: 0,
            matches_per_route: 0,
            routes_per_host: 0,
            patterns_per_host: 0,
            endpoints_per_backend: 0,
            trusted_proxies_per_listener: 0,
            certificates_per_listener: 0,
            regex_bytes: 0,
            route_regex_bytes: 0,
        }
    }

    /// No limits, for values that were accepted before.
    pub const fn unbounded() -> Self {
        Self {
            value_bytes: usize::MAX,
            object_bytes: usize::MAX,
            entries: usize::MAX,
            rules_per_route: usize::MAX,
            matches_per_rule: usize::MAX,
            conditions_per_match: usize::MAX,
            header_changes_per_rule: usize::MAX,
            backend_refs_per_rule: usize::MAX,
            upgrades_per_rule: usize::MAX,
            hostnames_per_route: usize::MAX,
            matches_per_route: usize::MAX,
            routes_per_host: usize::MAX,
            patterns_per_host: usize::MAX,
            endpoints_per_backend: usize::MAX,
            trusted_proxies_per_listener: usize::MAX,
            certificates_per_listener: usize::MAX,
            regex_bytes: MOST_REGEX_BYTES,
            route_regex_bytes: usize::MAX,
        }
    }

    /// Checks that proxies can follow the settings.
    ///
    /// # Errors
    /// Names the setting that is too large, and its maximum.
    pub fn check(&self) -> Result<(), String> {
        let bounds = [
            ("valueBytes", self.value_bytes, MOST_OBJECT_BYTES),
            ("objectBytes", self.object_bytes, MOST_OBJECT_BYTES),
            ("regexBytes", self.regex_bytes, MOST_REGEX_BYTES),
        ];
        match bounds.into_iter().find(|(_, value, most)| value > most) {
            Some((name, value, most)) => Err(format!("the limit {name} is {value}; proxies take at most {most}")),
            None => Ok(()),
        }
    }
}

/// The maximum of [`Limits::object_bytes`]: an object has to fit into one line of the watch stream.
pub const MOST_OBJECT_BYTES: usize = 3 * 1024 * 1024;

/// Default of [`Limits::regex_bytes`].
const DEFAULT_REGEX_BYTES: usize = 256 * 1024;

/// Maximum bytes of the text of a regular expression. Not a setting: the cost of finding its compiled size depends on it.
pub const MAX_REGEX_TEXT_BYTES: usize = 4_096;

/// Steps of the lookup of one request: one for each byte that is compared with a regular expression, and [`MATCH_STEPS`] for each match that is compared.
/// A request that needs more is refused. Not a setting: the time of a lookup depends on it.
pub const MAX_LOOKUP_STEPS: usize = 16 * 1024;

/// Steps for the comparison of one match.
pub const MATCH_STEPS: usize = 16;

/// Maximum number of query parameters of a request that are compared with conditions; further ones are ignored. Not a setting: the time of
/// a lookup depends on it.
pub const MAX_QUERY_PARAMETERS: usize = 256;

/// Maximum bytes of the path of a match. Not a setting: the time of a lookup depends on it.
pub const MAX_PATH_BYTES: usize = 4_096;

/// Maximum bytes of a compiled regular expression on a proxy, which has no settings of the model.
pub const MOST_REGEX_BYTES: usize = 10 * DEFAULT_REGEX_BYTES;

/// Maximum nesting depth of brackets in a value. Not a setting: the parser's own stack depends on it.
pub const MAX_BRACKET_DEPTH: usize = 64;
