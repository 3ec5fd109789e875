//! Filters: what a rule changes in a request or response, or answers instead of a backend.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::{HeaderName, HeaderValue, PreciseHostname};

/// One step between match and backend, in the form of the Gateway API: a type, and the field with the type's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
#[schemars(with = "Written")]
pub enum Filter {
    /// Changes the headers that the endpoint gets.
    RequestHeaderModifier(HeaderModifier),
    /// Changes the headers that the client gets.
    ResponseHeaderModifier(HeaderModifier),
    /// Answers with a redirect.
    RequestRedirect(Redirect),
    /// Changes host and path of what the endpoint gets.
    UrlRewrite(UrlRewrite),
    /// Answers with a fixed response.
    FixedResponse(FixedResponse),
}

impl Filter {
    /// Whether the filter answers the request itself, without a backend.
    pub const fn answers(&self) -> bool {
        matches!(self, Self::RequestRedirect(_) | Self::FixedResponse(_))
    }

    /// How many headers it sets, adds and removes.
    pub const fn header_changes(&self) -> usize {
        match self {
            Self::RequestHeaderModifier(changes) | Self::ResponseHeaderModifier(changes) => changes.set.len() + changes.add.len() + changes.remove.len(),
            Self::RequestRedirect(_) | Self::UrlRewrite(_) | Self::FixedResponse(_) => 0,
        }
    }
}

/// The written form of a filter.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a filter, such as {\"type\":\"RequestRedirect\",\"requestRedirect\":{\"scheme\":\"https\"}}")]
struct Written {
    /// The type selects one of the fields below: its name is the field's with a capital.
    r#type: FilterType,
    /// Changes of the request's headers.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<HeaderModifier>")]
    request_header_modifier: Option<HeaderModifier>,
    /// Changes of the response's headers.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<HeaderModifier>")]
    response_header_modifier: Option<HeaderModifier>,
    /// A redirect instead of an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<Redirect>")]
    request_redirect: Option<Redirect>,
    /// Another host or path for the endpoint.
    #[serde(default, rename = "urlRewrite", skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<UrlRewrite>")]
    url_rewrite: Option<UrlRewrite>,
    /// A response of the proxy instead of an endpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<FixedResponse>")]
    fixed_response: Option<FixedResponse>,
}

/// The types of filters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
enum FilterType {
    #[default]
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    FixedResponse,
}

impl TryFrom<Written> for Filter {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let given = [
            (written.request_header_modifier.is_some(), FilterType::RequestHeaderModifier, "requestHeaderModifier"),
            (written.response_header_modifier.is_some(), FilterType::ResponseHeaderModifier, "responseHeaderModifier"),
            (written.request_redirect.is_some(), FilterType::RequestRedirect, "requestRedirect"),
            (written.url_rewrite.is_some(), FilterType::UrlRewrite, "urlRewrite"),
            (written.fixed_response.is_some(), FilterType::FixedResponse, "fixedResponse"),
        ];
        if let Some((_, _, field)) = given.iter().find(|(given, kind, _)| *given && *kind != written.r#type) {
            return Err(format!("the filter has the type {:?} and the field {field}, which belongs to another type; write two filters", written.r#type));
        }
        let field = given.iter().find(|(_, kind, _)| *kind == written.r#type).map_or("", |(_, _, field)| field);
        for changes in written.request_header_modifier.iter().chain(&written.response_header_modifier) {
            changes
                .check()
                .map_err(|name| format!("the header {name:?} belongs to the connection and cannot be changed; the proxy sets it; take it out of {field}"))?;
        }
        let filter = match written.r#type {
            FilterType::RequestHeaderModifier => written.request_header_modifier.map(Self::RequestHeaderModifier),
            FilterType::ResponseHeaderModifier => written.response_header_modifier.map(Self::ResponseHeaderModifier),
            FilterType::RequestRedirect => written.request_redirect.map(Self::RequestRedirect),
            FilterType::UrlRewrite => written.url_rewrite.map(Self::UrlRewrite),
            FilterType::FixedResponse => written.fixed_response.map(Self::FixedResponse),
        };
        filter.ok_or_else(|| format!("the filter has no field {field:?}, which its type needs"))
    }
}

impl From<Filter> for Written {
    fn from(filter: Filter) -> Self {
        let none = Self::default();
        match filter {
            Filter::RequestHeaderModifier(it) => Self { r#type: FilterType::RequestHeaderModifier, request_header_modifier: Some(it), ..none },
            Filter::ResponseHeaderModifier(it) => Self { r#type: FilterType::ResponseHeaderModifier, response_header_modifier: Some(it), ..none },
            Filter::RequestRedirect(it) => Self { r#type: FilterType::RequestRedirect, request_redirect: Some(it), ..none },
            Filter::UrlRewrite(it) => Self { r#type: FilterType::UrlRewrite, url_rewrite: Some(it), ..none },
            Filter::FixedResponse(it) => Self { r#type: FilterType::FixedResponse, fixed_response: Some(it), ..none },
        }
    }
}

/// Headers to set (replace), add and remove, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "header changes, such as {\"set\":[{\"name\":\"x-tier\",\"value\":\"edge\"}]}")]
pub struct HeaderModifier {
    /// Headers that replace those of the same name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderPair>,
    /// Headers that are added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderPair>,
    /// Headers that are removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<HeaderName>,
}

/// Fields that define where a message ends or how it is transferred. A filter that changed them could smuggle in a second message.
const FRAMING_FIELDS: [&str; 9] = ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"];

impl HeaderModifier {
    /// Checks that no header is one of [`FRAMING_FIELDS`]; the error is the first that is.
    fn check(&self) -> Result<(), &str> {
        let pairs = self.set.iter().chain(&self.add).map(|pair| &pair.name);
        match pairs.chain(&self.remove).find(|name| FRAMING_FIELDS.contains(&name.as_str())) {
            Some(name) => Err(name.as_str()),
            None => Ok(()),
        }
    }
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(expecting = "a header, such as {\"name\":\"x-tier\",\"value\":\"edge\"}")]
pub struct HeaderPair {
    /// The header's name.
    pub name: HeaderName,
    /// The header's value.
    pub value: HeaderValue,
}

/// A redirect; absent parts stay as in the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a redirect, such as {\"scheme\":\"https\",\"statusCode\":301}")]
pub struct Redirect {
    /// `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<Scheme>")]
    pub scheme: Option<Scheme>,
    /// The host to go to.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<PreciseHostname>")]
    pub hostname: Option<PreciseHostname>,
    /// The path to go to; the query stays.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<PathRewrite>")]
    pub path: Option<PathRewrite>,
    /// The port to go to; without it, the scheme's own if a scheme is given.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<u16>")]
    pub port: Option<std::num::NonZeroU16>,
    /// 301, 302, 303, 307 or 308. Default 302.
    #[serde(default)]
    pub status_code: RedirectStatus,
}

/// The scheme of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Clear text.
    Http,
    /// TLS.
    Https,
}

/// The status of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u64", into = "u16")]
pub struct RedirectStatus(u16);

impl RedirectStatus {
    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for RedirectStatus {
    fn default() -> Self {
        Self(302)
    }
}

impl TryFrom<u64> for RedirectStatus {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        match u16::try_from(number) {
            Ok(code @ (301 | 302 | 303 | 307 | 308)) => Ok(Self(code)),
            _ => Err(format!("{number} is not the status of a redirect; write 301, 302, 303, 307 or 308")),
        }
    }
}

impl From<RedirectStatus> for u16 {
    fn from(status: RedirectStatus) -> Self {
        status.0
    }
}

/// Changes host and path of the request to the endpoint; absent parts stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a rewrite, such as {\"path\":{\"type\":\"ReplacePrefixMatch\",\"replacePrefixMatch\":\"/\"}}")]
pub struct UrlRewrite {
    /// The host that the endpoint sees.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<PreciseHostname>")]
    pub hostname: Option<PreciseHostname>,
    /// The path that the endpoint sees; the query stays.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<PathRewrite>")]
    pub path: Option<PathRewrite>,
}

/// Replaces the whole path, or the prefix that the rule matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenPath", into = "WrittenPath")]
#[schemars(with = "WrittenPath")]
pub enum PathRewrite {
    /// The whole path becomes this.
    Full(String),
    /// The matched prefix becomes this.
    Prefix(String),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a path change, such as {\"type\":\"ReplaceFullPath\",\"replaceFullPath\":\"/\"}")]
struct WrittenPath {
    /// The type selects one of the two fields.
    r#type: PathRewriteType,
    /// The new path.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<String>")]
    replace_full_path: Option<String>,
    /// What stands for the prefix that the rule matched.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<String>")]
    replace_prefix_match: Option<String>,
}

/// The types of path changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
enum PathRewriteType {
    #[default]
    ReplaceFullPath,
    ReplacePrefixMatch,
}

impl TryFrom<WrittenPath> for PathRewrite {
    type Error = String;

    fn try_from(written: WrittenPath) -> Result<Self, String> {
        let (path, make): (_, fn(String) -> Self) = match (written.r#type, written.replace_full_path, written.replace_prefix_match) {
            (PathRewriteType::ReplaceFullPath, Some(path), None) => (path, Self::Full),
            (PathRewriteType::ReplacePrefixMatch, None, Some(path)) => (path, Self::Prefix),
            (PathRewriteType::ReplaceFullPath, ..) => return Err("the type ReplaceFullPath needs the field \"replaceFullPath\" and no other".to_owned()),
            (PathRewriteType::ReplacePrefixMatch, ..) => {
                return Err("the type ReplacePrefixMatch needs the field \"replacePrefixMatch\" and no other".to_owned());
            }
        };
        // The examples of the Gateway API use an empty text to remove a prefix.
        let path = if path.is_empty() && written.r#type == PathRewriteType::ReplacePrefixMatch { "/".to_owned() } else { path };
        let bad = |c: char| matches!(c, '?' | '#') || c.is_control() || c.is_whitespace() || !c.is_ascii();
        if !path.starts_with('/') || path.contains(bad) {
            return Err(format!("{path:?} is not a path; it begins with '/' and has no '?', '#' or blanks"));
        }
        crate::path::check_target(&path)?;
        Ok(make(path))
    }
}

impl From<PathRewrite> for WrittenPath {
    fn from(rewrite: PathRewrite) -> Self {
        match rewrite {
            PathRewrite::Full(path) => Self { r#type: PathRewriteType::ReplaceFullPath, replace_full_path: Some(path), replace_prefix_match: None },
            PathRewrite::Prefix(path) => Self { r#type: PathRewriteType::ReplacePrefixMatch, replace_full_path: None, replace_prefix_match: Some(path) },
        }
    }
}

/// A response that the proxy makes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a response, such as {\"statusCode\":503,\"body\":\"back soon\"}")]
pub struct FixedResponse {
    /// 200 to 599.
    pub status_code: ResponseStatus,
    /// The body; empty if absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// The body's type. Default `text/plain; charset=utf-8`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<HeaderValue>")]
    pub content_type: Option<HeaderValue>,
}

/// The status of a fixed response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u64", into = "u16")]
pub struct ResponseStatus(u16);

impl ResponseStatus {
    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u64> for ResponseStatus {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        match u16::try_from(number) {
            Ok(code @ 200..=599) => Ok(Self(code)),
            _ => Err(format!("{number} is not the status of a response; write 200 to 599")),
        }
    }
}

impl From<ResponseStatus> for u16 {
    fn from(status: ResponseStatus) -> Self {
        status.0
    }
}
