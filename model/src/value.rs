//! Small values that are valid by construction: each type refuses invalid text with a message that says what to write.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Implements serde, display and schema for a checked text.
macro_rules! text_value {
    ($name:ident, $check:path, $example:literal) => {
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                $check(&text).map($name)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0.to_string()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "examples": [$example] })
            }
        }
    };
}

impl schemars::JsonSchema for crate::duration::Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$", "examples": ["10s"] })
    }
}

/// The address of an endpoint: `IPv4:port`, `[IPv6]:port` or `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

text_value!(Address, check_address, "10.0.0.5:8080");

impl Address {
    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One spelling for all addresses that lead to the same place: names in lower case without a trailing dot, IPv4-mapped IPv6 as IPv4.
    pub fn canonical(&self) -> String {
        if let Some(socket) = self.socket() {
            return SocketAddr::new(socket.ip().to_canonical(), socket.port()).to_string();
        }
        let lower = self.0.to_ascii_lowercase();
        match lower.rsplit_once(':') {
            Some((host, port)) => format!("{}:{port}", host.strip_suffix('.').unwrap_or(host)),
            None => lower,
        }
    }

    /// The socket address, unless the host is a name.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.0.parse().ok()
    }
}

fn check_address(text: &str) -> Result<String, String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let plain = rest.split('/').next().unwrap_or_default();
        return Err(format!("address {text:?} has the scheme {scheme:?}; write {plain:?}"));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if !text.starts_with('[') && text.matches(':').count() > 1 {
        return Err(match text.rsplit_once(':') {
            Some((host, port)) if text.parse::<IpAddr>().is_err() || !host.ends_with(':') && port.len() == 4 && port.chars().all(|c| c.is_ascii_digit()) => {
                format!("address {text:?} needs brackets around the IPv6 address; write \"[{host}]:{port}\"")
            }
            _ => format!("address {text:?} needs brackets around the IPv6 address and a port; write \"[{text}]:PORT\""),
        });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && !port.ends_with(']') => (host, port),
        _ if bare.is_empty() => return Err("the address is empty; write HOST:PORT, such as \"10.0.0.5:8080\"".to_owned()),
        _ => return Err(format!("address {text:?} has no port; write \"{}:PORT\"", text.trim_end_matches(':'))),
    };
    check_port(text, port)?;
    check_host(text, host)?;
    Ok(text.to_owned())
}

fn check_port(text: &str, port: &str) -> Result<u16, String> {
    match port.parse::<u64>() {
        Ok(number @ 1..=65_535) if port.len() <= 5 => u16::try_from(number).map_err(|e| e.to_string()),
        Ok(_) => Err(format!("address {text:?} has the port {port}; ports are 1 to 65535")),
        Err(_) => Err(format!("address {text:?} has the port {port:?}, which is not a number from 1 to 65535")),
    }
}

fn check_host(text: &str, host: &str) -> Result<(), String> {
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return match inner.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("address {text:?}: {inner:?} is not an IPv6 address")),
        };
    }
    let numeric = !host.is_empty() && host.chars().all(|c| c.is_ascii_digit() || c == '.');
    if numeric && host.parse::<std::net::Ipv4Addr>().is_err() {
        return Err(format!("address {text:?}: {host:?} is not an IPv4 address"));
    }
    let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label) {
        return Ok(());
    }
    Err(format!("address {text:?}: {host:?} is not a host name or IP address"))
}

/// The address that proxies bind: `IPv4:port` or `[IPv6]:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BindAddress(SocketAddr);

text_value!(BindAddress, check_bind, "0.0.0.0:80");

impl BindAddress {
    /// The socket address.
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

/// Whether one process cannot bind both addresses: they have the same port, and one of them covers the other.
pub fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = a.ip() == b.ip() || a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
    a.port() == b.port() && covers
}

impl From<SocketAddr> for BindAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

fn check_bind(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':').filter(|port| !port.contains(':')) {
        return Err(format!("address {text:?} has no host; write \"0.0.0.0:{port}\" for every IPv4 address of the machine"));
    }
    check_address(text)?;
    text.parse().map_err(|_| format!("address {text:?} is not an IP address and port; a listener binds addresses, such as \"0.0.0.0:80\", not names"))
}

/// A host that a route serves: `shop.example.com`, `*.example.com` for every name below it, or an IP address. It is stored in the spelling
/// that requests are compared in: lower case, without a trailing dot, IPv6 as in RFC 5952 and without brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

text_value!(Hostname, check_hostname, "shop.example.com");

impl Hostname {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after `*.` of a wildcard.
    pub fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }
}

/// One host that requests can be sent to: a [`Hostname`] that is not a wildcard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PreciseHostname(String);

text_value!(PreciseHostname, check_precise_hostname, "shop.example.com");

impl PreciseHostname {
    /// The host in the form of a URI or a `Host` header: IPv6 in brackets (RFC 3986, 3.2.2).
    pub fn in_uri(&self) -> String {
        if self.0.contains(':') { format!("[{}]", self.0) } else { self.0.clone() }
    }
}

fn check_precise_hostname(text: &str) -> Result<String, String> {
    if text.contains('*') {
        return Err(format!("hostname {text:?} is a wildcard, and requests are sent to one host; write its name"));
    }
    check_hostname(text)
}

fn check_hostname(text: &str) -> Result<String, String> {
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    let plain = host.split(['/', '?', '#']).next().unwrap_or_default();
    if host.len() != text.len() {
        return Err(format!("hostname {text:?} has a scheme; write {plain:?}"));
    }
    if plain.len() != host.len() {
        return Err(format!("hostname {text:?} has a path; write {plain:?} here and the path under rules[].matches[].path"));
    }
    if let Some(address) = host_address(text) {
        return Ok(address.to_string());
    }
    if let Some((name, _port)) = text.rsplit_once(':') {
        return Err(format!("hostname {text:?} has a port; write {name:?}, a route serves every port of its listeners"));
    }
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let labels = lower.strip_prefix("*.").unwrap_or(&lower);
    if labels.contains('*') {
        return Err(format!("hostname {text:?} has a '*' that is not its whole first label; write \"*.example.com\", or no hostnames for every host"));
    }
    if !labels.is_ascii() {
        return Err(match idna::domain_to_ascii(labels) {
            Ok(ascii) => format!("hostname {text:?} is not in ASCII, and clients send {ascii:?}; write {:?}", lower.replace(labels, &ascii)),
            Err(_) => format!("hostname {text:?} is not a host name; write it as in \"shop.example.com\""),
        });
    }
    if labels.rsplit('.').next().is_some_and(is_number) {
        return Err(format!("hostname {text:?} ends in a number and is no IPv4 address, so that no client sends it; write four numbers up to 255, or a name"));
    }
    let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if labels.len() <= 253 && labels.split('.').all(label) {
        return Ok(lower);
    }
    Err(format!("hostname {text:?} is not a host name; write it as in \"shop.example.com\""))
}

/// The IP address, if the host is one, with or without brackets.
pub fn host_address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

/// Whether clients read a label as a number, and hence a host that ends in it as an IPv4 address (WHATWG URL, 3.5).
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit())
}

/// The name of an HTTP header, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderName(String);

text_value!(HeaderName, check_header_name, "x-tier");

impl HeaderName {
    /// The text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_header_name(text: &str) -> Result<String, String> {
    if text.len() <= 256 && is_token(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("{text:?} is not the name of a header; write a token (RFC 9110, 5.6.2), such as \"x-tier\""))
}

/// The value of an HTTP header: visible characters, spaces and tabs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderValue(String);

text_value!(HeaderValue, check_header_value, "edge");

impl HeaderValue {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_header_value(text: &str) -> Result<String, String> {
    match text.chars().find(|c| c.is_control() && *c != '\t') {
        Some(c) => Err(format!("the header value {text:?} has the control character {c:?}; take it out")),
        None if text.len() > 8_192 => Err(format!("the header value has {} bytes; at most 8192 are accepted", text.len())),
        None => Ok(text.trim().to_owned()),
    }
}

/// An HTTP method, in upper case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

text_value!(Method, check_method, "GET");

impl Method {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_method(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    if text == upper && !text.is_empty() && text.len() <= 32 && text.chars().all(|c| c.is_ascii_uppercase() || matches!(c, '-' | '_')) {
        return Ok(upper);
    }
    Err(format!("{text:?} is not a method; methods are written in upper case, such as {:?}", if upper.is_empty() { "GET" } else { &upper }))
}

/// A protocol that a connection switches to, as the `Upgrade` header names it (RFC 9110, 7.8).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpgradeProtocol(String);

text_value!(UpgradeProtocol, check_upgrade, "websocket");

impl UpgradeProtocol {
    /// The text. Protocols are compared without regard to case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_upgrade(text: &str) -> Result<String, String> {
    let (name, version) = text.split_once('/').map_or((text, None), |(name, version)| (name, Some(version)));
    if name.eq_ignore_ascii_case("h2c") || name.eq_ignore_ascii_case("http") {
        return Err(format!("{text:?} cannot be switched to: requests on it would pass no rule; take it out"));
    }
    if !is_token(name) || !version.is_none_or(is_token) {
        return Err(format!("{text:?} is not a protocol; write its name, or name and version, such as \"websocket\" or \"SPDY/3.1\""));
    }
    Ok(text.to_owned())
}

/// Whether the text is a token (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

/// The name of a resource, used as a reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

text_value!(Name, check_reference, "shop");

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_reference(text: &str) -> Result<String, String> {
    crate::key::check_name("resource", text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_be_meant_are_refused_with_the_remedy() {
        for (text, message) in [
            ("http://10.0.0.5:8080", "address \"http://10.0.0.5:8080\" has the scheme \"http\"; write \"10.0.0.5:8080\""),
            ("10.0.0.5:0", "address \"10.0.0.5:0\" has the port 0; ports are 1 to 65535"),
            ("10.0.0.5:70000", "address \"10.0.0.5:70000\" has the port 70000; ports are 1 to 65535"),
            ("10.0.0.5", "address \"10.0.0.5\" has no port; write \"10.0.0.5:PORT\""),
            ("2001:db8::1:8080", "address \"2001:db8::1:8080\" needs brackets around the IPv6 address; write \"[2001:db8::1]:8080\""),
            ("::1", "address \"::1\" needs brackets around the IPv6 address and a port; write \"[::1]:PORT\""),
            ("10.0.0.500:80", "address \"10.0.0.500:80\": \"10.0.0.500\" is not an IPv4 address"),
            ("", "the address is empty; write HOST:PORT, such as \"10.0.0.5:8080\""),
        ] {
            assert_eq!(Address::try_from(text.to_owned()).unwrap_err(), message, "{text}");
        }
        for text in ["10.0.0.5:8080", "[::1]:80", "shop.internal:1", "a:65535"] {
            assert_eq!(Address::try_from(text.to_owned()).unwrap().as_str(), text);
        }
    }

    #[test]
    fn hostnames_are_hosts_only() {
        for (text, message) in [
            ("shop.example.com/api", "has a path; write \"shop.example.com\" here"),
            ("https://shop.example.com", "has a scheme; write \"shop.example.com\""),
            ("shop.example.com:443", "has a port; write \"shop.example.com\""),
            ("a.*.com", "has a '*' that is not its whole first label"),
            ("", "is not a host name"),
        ] {
            let error = Hostname::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
        assert_eq!(Hostname::try_from("*.Example.COM".to_owned()).unwrap().wildcard_suffix(), Some("example.com"));
    }

    #[test]
    fn a_hostname_has_the_spelling_that_requests_are_compared_in() {
        for (text, canonical) in [
            ("Shop.Example.COM.", "shop.example.com"),
            ("2001:DB8:0:0::2A", "2001:db8::2a"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("192.0.2.28", "192.0.2.28"),
            ("xn--caf-dma.example", "xn--caf-dma.example"),
            ("_dmarc.a-.example", "_dmarc.a-.example"),
        ] {
            assert_eq!(Hostname::try_from(text.to_owned()).unwrap().as_str(), canonical);
        }
        for (text, message) in [
            ("café.example", "write \"xn--caf-dma.example\""),
            ("*.café.example", "write \"*.xn--caf-dma.example\""),
            ("192.0.2.256", "ends in a number"),
            ("192.0.2.028", "ends in a number"),
            ("a.0x7f", "ends in a number"),
            ("*.0.2.1", "ends in a number"),
            ("[192.0.2.1]", "is not a host name"),
            ("a..b", "is not a host name"),
            ("%61.example", "is not a host name"),
        ] {
            let error = Hostname::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
        assert!(PreciseHostname::try_from("*.example.com".to_owned()).unwrap_err().contains("is a wildcard"));
        assert_eq!(PreciseHostname::try_from("2001:db8::1".to_owned()).unwrap().in_uri(), "[2001:db8::1]");
    }

    #[test]
    fn a_listener_binds_addresses_and_not_names() {
        assert!(BindAddress::try_from(":80".to_owned()).unwrap_err().contains("\"0.0.0.0:80\""));
        assert!(BindAddress::try_from("localhost:80".to_owned()).unwrap_err().contains("not names"));
    }
}
