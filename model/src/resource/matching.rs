//! Conditions of a rule: path, method, headers and query parameters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern::{Pattern, Work};
use crate::limits::MAX_PATH_BYTES;
use crate::value::{HeaderName, Method};

/// One alternative of a rule's conditions: a request matches if it fulfils every given condition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a match, such as {\"path\":{\"type\":\"PathPrefix\",\"value\":\"/api\"}}")]
pub struct RouteMatch {
    /// The path; every path if absent.
    #[serde(default, skip_serializing_if = "PathMatch::is_any")]
    pub path: PathMatch,
    /// The method; every method if absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<Method>")]
    pub method: Option<Method>,
    /// Headers that must all match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters that must all match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<QueryMatch>,
}

/// A condition on the path without the query, compared in its matched form ([`crate::path`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "TypedValue", into = "TypedValue")]
#[schemars(with = "PathValue")]
pub enum PathMatch {
    /// The whole path, in its matched form.
    Exact(String),
    /// The path up to a `/` or its end, in its matched form: `/api` takes `/api` and `/api/x`, not `/apix`. Without a trailing slash.
    Prefix(String),
    /// A regular expression for the whole path, in its matched form.
    Pattern(Pattern),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix(String::new())
    }
}

impl PathMatch {
    /// Whether every path matches.
    pub fn is_any(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.is_empty())
    }

    /// Why no request can have such a path; `None` if one can.
    pub fn never_matches(&self) -> Option<String> {
        match self {
            Self::Exact(path) | Self::Prefix(path) if crate::path::is_ambiguous(path) => Some(format!(
                "path {path:?} matches only where pathNormalization is None: elsewhere %2F, %5C and backslashes are also read as \"/\"; write \"/\""
            )),
            Self::Exact(_) | Self::Prefix(_) => None,
            Self::Pattern(pattern) => pattern.never_matches_path(),
        }
    }

    /// Length of the condition in bytes; the longer one wins.
    pub fn length(&self) -> usize {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text.len(),
            Self::Pattern(pattern) => pattern.as_str().len(),
        }
    }
}

/// How a path is written.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the written form for the schema")]
struct PathValue {
    /// `Exact`, `PathPrefix` (default) or `RegularExpression`.
    #[schemars(default)]
    r#type: PathType,
    /// Begins with `/`, unless it is a regular expression.
    value: String,
}

/// How a path is compared.
#[derive(Default, Serialize, JsonSchema)]
#[allow(dead_code, reason = "describes the written form for the schema")]
enum PathType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

/// The written form of every condition with a type and a value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a type and a value, such as {\"type\":\"PathPrefix\",\"value\":\"/api\"}")]
struct TypedValue {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    r#type: Option<String>,
    value: String,
}

fn unknown_type(found: &str, types: &[&str]) -> String {
    match crate::problem::nearest(found, types.iter().copied()) {
        Some(name) => format!("unknown type {found:?}; did you mean {name:?}?"),
        None => format!("unknown type {found:?}; known are {}", types.join(", ")),
    }
}

impl TryFrom<TypedValue> for PathMatch {
    type Error = String;

    fn try_from(written: TypedValue) -> Result<Self, String> {
        let TypedValue { r#type, value } = written;
        let kind = r#type.as_deref().unwrap_or("PathPrefix");
        if kind == "RegularExpression" {
            return Pattern::new(&value).map(Self::Pattern);
        }
        if !matches!(kind, "Exact" | "PathPrefix") {
            return Err(unknown_type(kind, &["Exact", "PathPrefix", "RegularExpression"]));
        }
        if !value.starts_with('/') {
            return Err(format!("path {value:?} does not begin with '/'; write {:?}", format!("/{value}")));
        }
        if let Some(c) = value.chars().find(|c| matches!(c, '?' | '#') || c.is_control() || c.is_whitespace()) {
            return Err(format!("path {value:?} has {c:?}, which no path has; query parameters go under queryParams"));
        }
        if value.len() > MAX_PATH_BYTES {
            return Err(format!("the path has {} bytes; at most {MAX_PATH_BYTES} are accepted", value.len()));
        }
        let path = crate::path::of_rule(&value)?;
        Ok(if kind == "Exact" { Self::Exact(path) } else { Self::Prefix(path.trim_end_matches('/').to_owned()) })
    }
}

impl From<PathMatch> for TypedValue {
    fn from(path: PathMatch) -> Self {
        let (kind, value) = match path {
            PathMatch::Exact(value) => ("Exact", value),
            PathMatch::Prefix(value) if value.is_empty() => ("PathPrefix", "/".to_owned()),
            PathMatch::Prefix(value) => ("PathPrefix", value),
            PathMatch::Pattern(pattern) => ("RegularExpression", pattern.as_str().to_owned()),
        };
        Self { r#type: Some(kind.to_owned()), value }
    }
}

/// A condition on a text: the whole text, or a regular expression for it.
#[derive(Debug, Clone, PartialEq)]
pub enum StringMatch {
    /// Equal, byte by byte.
    Exact(String),
    /// A regular expression for the whole text.
    Pattern(Pattern),
}

impl StringMatch {
    fn new(kind: Option<&str>, value: String) -> Result<Self, String> {
        match kind.unwrap_or("Exact") {
            "Exact" => Ok(Self::Exact(value)),
            "RegularExpression" => Pattern::new(&value).map(Self::Pattern),
            other => Err(unknown_type(other, &["Exact", "RegularExpression"])),
        }
    }

    /// Whether `text` matches; `false` as well if there is not enough `work` left to know.
    pub fn is_match(&self, text: &str, work: &Work) -> bool {
        match self {
            Self::Exact(wanted) => wanted == text,
            Self::Pattern(pattern) => pattern.is_match(text, work),
        }
    }

    /// The regular expression, if it is one.
    pub const fn pattern(&self) -> Option<&Pattern> {
        match self {
            Self::Exact(_) => None,
            Self::Pattern(pattern) => Some(pattern),
        }
    }

    fn written(self) -> (Option<String>, String) {
        match self {
            Self::Exact(value) => (None, value),
            Self::Pattern(pattern) => (Some("RegularExpression".to_owned()), pattern.as_str().to_owned()),
        }
    }
}

/// The written form of a condition on a header or query parameter.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a name and a value, such as {\"name\":\"x-tier\",\"value\":\"edge\"}")]
struct NamedValue {
    /// `Exact` (default) or `RegularExpression`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<String>")]
    r#type: Option<String>,
    /// Which header or parameter.
    name: String,
    /// What its value must be.
    value: String,
}

/// A condition on a header. If the header comes more than once, its values are joined with `, `.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "NamedValue", into = "NamedValue")]
#[schemars(with = "NamedValue")]
pub struct HeaderMatch {
    /// Which header.
    pub name: HeaderName,
    /// What its value must be.
    pub value: StringMatch,
}

impl TryFrom<NamedValue> for HeaderMatch {
    type Error = String;

    fn try_from(written: NamedValue) -> Result<Self, String> {
        Ok(Self { name: HeaderName::try_from(written.name)?, value: StringMatch::new(written.r#type.as_deref(), written.value)? })
    }
}

impl From<HeaderMatch> for NamedValue {
    fn from(header: HeaderMatch) -> Self {
        let (kind, value) = header.value.written();
        Self { r#type: kind, name: header.name.into(), value }
    }
}

/// A condition on a query parameter; the first one of that name counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "NamedValue", into = "NamedValue")]
#[schemars(with = "NamedValue")]
pub struct QueryMatch {
    /// Which parameter.
    pub name: String,
    /// What its value must be.
    pub value: StringMatch,
}

impl TryFrom<NamedValue> for QueryMatch {
    type Error = String;

    fn try_from(written: NamedValue) -> Result<Self, String> {
        if written.name.is_empty() {
            return Err("the query parameter has no name".to_owned());
        }
        Ok(Self { name: written.name, value: StringMatch::new(written.r#type.as_deref(), written.value)? })
    }
}

impl From<QueryMatch> for NamedValue {
    fn from(query: QueryMatch) -> Self {
        let (kind, value) = query.value.written();
        Self { r#type: kind, name: query.name, value }
    }
}
