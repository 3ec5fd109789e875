//! Conditions of a rule: path, method, headers and query parameters.

use std::sync::OnceLock;

use regex_automata::meta::Regex;
use regex_automata::nfa::thompson::WhichCaptures;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_PATH_BYTES, MAX_PATTERN_INPUT_BYTES, MAX_REGEX_TEXT_BYTES, MOST_REGEX_BYTES};
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
            Self::Pattern(pattern) => pattern.text.len(),
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
            PathMatch::Pattern(pattern) => ("RegularExpression", pattern.text),
        };
        Self { r#type: Some(kind.to_owned()), value }
    }
}

/// A regular expression that must match the whole text, in linear time (no look-around, no back-references). Reading it only checks the
/// syntax, because compiling is expensive: the proxy compiles it before it matches, the controller within limits before it accepts it.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: OnceLock<Regex>,
}

impl Pattern {
    /// An expression with valid syntax.
    ///
    /// # Errors
    /// The expression is not valid or too long.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > MAX_REGEX_TEXT_BYTES {
            return Err(format!("the regular expression has {} bytes; at most {MAX_REGEX_TEXT_BYTES} are accepted", text.len()));
        }
        // The text is parsed without the group around it: a superfluous bracket would close that group.
        match regex_syntax::ast::parse::Parser::new().parse(text) {
            Ok(_) => Ok(Self { text: text.to_owned(), regex: OnceLock::new() }),
            Err(error) => Err(invalid(text, &error.kind())),
        }
    }

    /// Compiles the expression in advance, so that matching does not have to.
    ///
    /// # Errors
    /// The expression is not valid, or larger than any limit allows.
    pub fn compile(&self) -> Result<(), String> {
        // The engines that only help to find groups are left out: they take up to 1 MiB, which no limit counts.
        let config =
            Regex::config().nfa_size_limit(Some(MOST_REGEX_BYTES)).hybrid_cache_capacity(LAZY_DFA_BYTES).onepass(false).which_captures(WhichCaptures::Implicit);
        match Regex::builder().configure(config).build(&self.anchored()) {
            Ok(regex) => {
                // Another thread may have set it first; both compiled the same text.
                drop(self.regex.set(regex));
                Ok(())
            }
            Err(error) => Err(error.size_limit().map_or_else(|| invalid(&self.text, &error), |limit| too_big(&self.text, limit))),
        }
    }

    /// The size of the compiled expression in bytes.
    ///
    /// # Errors
    /// The size exceeds `limit`, or the expression is not valid.
    pub fn compiled_bytes(&self, limit: usize) -> Result<usize, String> {
        use regex_automata::nfa::thompson::{Compiler, Config};
        let compiled = Compiler::new().configure(Config::new().nfa_size_limit(Some(limit))).build(&self.anchored());
        match compiled {
            Ok(nfa) => Ok(nfa.memory_usage()),
            Err(error) if error.size_limit().is_some() => Err(too_big(&self.text, limit)),
            Err(error) => Err(invalid(&self.text, &std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))),
        }
    }

    fn anchored(&self) -> String {
        format!("^(?:{})$", self.text)
    }

    /// Whether the whole of `text` matches. Compiles the expression if that was not done; one that cannot be compiled matches nothing, and nothing
    /// matches a text of more than [`MAX_PATTERN_INPUT_BYTES`] bytes: a request may meet hundreds of expressions.
    pub fn is_match(&self, text: &str) -> bool {
        if text.len() > MAX_PATTERN_INPUT_BYTES {
            return false;
        }
        if self.regex.get().is_none() && self.compile().is_err() {
            return false;
        }
        self.regex.get().is_some_and(|regex| regex.is_match(text))
    }

    /// Why no path can match, if that is evident.
    fn never_matches_path(&self) -> Option<String> {
        use regex_syntax::hir::literal::Extractor;
        let never = |why: String| Some(format!("the regular expression {:?} never matches: {why}", self.text));
        let hir = regex_syntax::parse(&self.text).ok()?;
        let firsts = Extractor::new().extract(&hir);
        let firsts = firsts.literals().filter(|all| all.iter().all(|first| !first.as_bytes().is_empty()))?;
        let begins = |first: &regex_syntax::hir::literal::Literal| first.as_bytes().first() == Some(&b'/');
        if !firsts.iter().any(begins) {
            return never("it is compared with the whole path, which begins with \"/\"".to_owned());
        }
        let whole = hir.properties().is_literal().then(|| firsts.first()).flatten().filter(|first| first.is_exact())?;
        let text = std::str::from_utf8(whole.as_bytes()).ok()?;
        let path = crate::path::of_rule(text).ok()?;
        if path == text { None } else { never(format!("paths are compared in one spelling; write {path:?}")) }
    }

    /// The expression as the author wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Memory per thread for the states that matching computes as it goes. An expression that needs more is matched more slowly.
const LAZY_DFA_BYTES: usize = 64 * 1024;

fn too_big(text: &str, limit: usize) -> String {
    format!("the regular expression {text:?} compiles to more than {limit} bytes; make it smaller, repetition counts are what grows")
}

fn invalid(text: &str, error: &dyn std::fmt::Display) -> String {
    let reason = error.to_string();
    let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
    format!("the regular expression {text:?} is not valid: {reason}; the syntax is that of RE2, without look-around and back-references")
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
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

    /// Whether `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => wanted == text,
            Self::Pattern(pattern) => pattern.is_match(text),
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
            Self::Pattern(pattern) => (Some("RegularExpression".to_owned()), pattern.text),
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
