//! Opens stores: the only place that maps URLs to concrete adapters.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use waypost_adapter::{Adapter, Auth, Settings, Tls};

pub use crate::controller::settings::Store;

/// The settings of a store, from the command line or the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreFlags {
    /// Its URL.
    pub url: String,
    /// A file with a token, or with `user:password`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A file with the authorities to trust (PEM).
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// A file with the client certificate (PEM).
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// A file with the key of the client certificate (PEM).
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The datacenter (Consul).
    #[serde(default)]
    pub datacenter: Option<String>,
    /// The namespace (Consul Enterprise).
    #[serde(default)]
    pub namespace: Option<String>,
    /// Interval of complete listings, such as `60s`.
    #[serde(default)]
    pub audit: Option<waypost_model::duration::Duration>,
}

impl From<&str> for StoreFlags {
    fn from(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }
}

/// What is particular to a kind of store.
#[derive(Debug, PartialEq, Eq)]
struct StoreKind {
    /// The scheme of its URLs, to which an `s` is added for TLS.
    scheme: &'static str,
    /// Whether this build has its adapter.
    is_built: bool,
    /// The port of an endpoint without one; 0 for directories.
    port: u16,
    /// The variable from which its own tools take their credential.
    variable: &'static str,
    /// Whether the credential is a token, and not a user and password.
    takes_token: bool,
    /// Whether it has datacenters and namespaces.
    has_datacenters: bool,
    /// A URL for messages.
    example: &'static str,
}

impl StoreKind {
    /// Whether it is a directory of this machine, without endpoints and credentials.
    const fn is_directory(&self) -> bool {
        self.port == 0
    }
}

/// The kinds of store. Each has one line here and one in [`open_one`].
static KINDS: [StoreKind; 4] = [
    StoreKind { is_built: cfg!(feature = "file"), ..kind("file", 0, "", "file:///etc/waypost") },
    StoreKind { is_built: cfg!(feature = "etcd"), ..kind("etcd", 2_379, "ETCDCTL_USER", "etcd://127.0.0.1:2379/waypost") },
    StoreKind {
        is_built: cfg!(feature = "consul"),
        takes_token: true,
        has_datacenters: true,
        ..kind("consul", 8_500, "CONSUL_HTTP_TOKEN", "consul://127.0.0.1:8500/waypost")
    },
    StoreKind { is_built: cfg!(feature = "zookeeper"), ..kind("zookeeper", 2_181, "ZOOKEEPER_AUTH", "zookeeper://127.0.0.1:2181/waypost") },
];

const fn kind(scheme: &'static str, port: u16, variable: &'static str, example: &'static str) -> StoreKind {
    StoreKind { scheme, is_built: false, port, variable, takes_token: false, has_datacenters: false, example }
}

/// The parts of a store's URL.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    kind: &'static StoreKind,
    tls: bool,
    endpoints: Vec<String>,
    root: String,
    shown: String,
}

fn examples() -> String {
    let all: Vec<&str> = KINDS.iter().map(|kind| kind.example).collect();
    all.split_last().map(|(last, others)| format!("{} or {last}", others.join(", "))).unwrap_or_default()
}

fn split(url: &str) -> Result<Parts, String> {
    let Some((written, rest)) = url.split_once("://") else {
        return Err(format!("the store {url:?} has no scheme; write {}", examples()));
    };
    let kind_of = |scheme: &str| KINDS.iter().find(|kind| kind.scheme == scheme);
    let plain = written.strip_suffix('s').filter(|plain| kind_of(plain).is_some() && *plain != "file");
    let scheme = plain.unwrap_or(written);
    let Some(kind) = kind_of(scheme) else {
        let with_tls: Vec<String> = KINDS.iter().filter(|kind| !kind.is_directory()).map(|kind| format!("{}s", kind.scheme)).collect();
        let names = KINDS.iter().map(|kind| kind.scheme).chain(with_tls.iter().map(String::as_str));
        let hint = waypost_model::problem::nearest(written, names).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
        return Err(format!("the store {url:?} has the unknown scheme {written:?}{hint}; write {}", examples()));
    };
    if !kind.is_built {
        return Err(format!("this build has no {scheme} adapter; build it with --features {scheme}"));
    }
    if scheme == "file" {
        return Ok(Parts { kind, tls: false, endpoints: vec![rest.to_owned()], root: String::new(), shown: url.to_owned() });
    }
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    if hosts.contains('@') {
        return Err(format!("the store URL of {scheme} holds a credential; put it into a file and name it with tokenFile, or into the environment"));
    }
    let endpoints: Vec<String> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect();
    if endpoints.is_empty() {
        return Err(format!("the store {url:?} has no endpoint; write {scheme}://HOST:PORT/ROOT"));
    }
    let root = path.trim_matches('/');
    let root = if root.is_empty() { "waypost" } else { root };
    Ok(Parts { kind, tls: plain.is_some(), endpoints, root: root.to_owned(), shown: format!("{written}://{hosts}/{root}") })
}

/// Opens several stores in order of rank. A credential in the environment is only used if there is one store:
/// it must not be sent to another one.
///
/// # Errors
/// One of them cannot be opened; the text says why.
pub fn open_all(flags: &[StoreFlags]) -> Result<Vec<Store>, String> {
    flags.iter().map(|one| open_one(one, flags.len() == 1)).collect()
}

/// Opens the store that the flags describe. It connects later.
///
/// # Errors
/// The flags cannot be used; the text says why.
pub fn open(flags: &StoreFlags) -> Result<Store, String> {
    open_one(flags, true)
}

#[cfg_attr(
    not(any(feature = "etcd", feature = "consul", feature = "zookeeper")),
    allow(unreachable_code, unused_variables, reason = "a build with directories alone opens nothing else")
)]
fn open_one(flags: &StoreFlags, sole: bool) -> Result<Store, String> {
    let (url, within) = within(flags)?;
    let parts = split(&url)?;
    refuse_unused(&parts, &within)?;
    if parts.kind.is_directory() {
        return open_directory(parts);
    }
    let settings = Settings {
        endpoints: parts.endpoints.iter().map(|endpoint| with_port(endpoint, parts.kind.port)).collect(),
        tls: parts.tls.then(|| tls(flags)).transpose()?,
        auth: auth(parts.kind, flags, sole)?,
        datacenter: within.datacenter.clone(),
        namespace: within.namespace.clone(),
        audit: audit(flags)?,
    };
    let (adapter, other): (Arc<dyn Adapter>, Option<String>) = match parts.kind.scheme {
        #[cfg(feature = "etcd")]
        "etcd" => (Arc::new(waypost_adapter_etcd::EtcdAdapter::new(settings)), Some(format!("/{}", parts.root))),
        #[cfg(feature = "consul")]
        "consul" => (Arc::new(waypost_adapter_consul::ConsulAdapter::new(settings).map_err(|error| error.to_string())?), Some(format!("/{}", parts.root))),
        #[cfg(feature = "zookeeper")]
        "zookeeper" => (Arc::new(waypost_adapter_zookeeper::ZooKeeperAdapter::new(settings)), None),
        other => return Err(format!("this build has no {other} adapter")),
    };
    Ok(Store { url: named(parts.shown, &within), adapter, root: parts.root, other_spelling: other })
}

/// Moves the datacenter and namespace in the URL's query to the settings. A store's full name has that form, so a copied name works as
/// a URL.
///
/// # Errors
/// The query has another parameter, or contradicts the settings.
fn within(flags: &StoreFlags) -> Result<(String, StoreFlags), String> {
    let mut within = flags.clone();
    let Some((url, query)) = flags.url.split_once('?').filter(|_| !flags.url.starts_with("file:")) else { return Ok((flags.url.clone(), within)) };
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let setting = match &*name {
            "datacenter" => &mut within.datacenter,
            "namespace" => &mut within.namespace,
            _ => return Err(format!("the store {:?} has the unknown parameter {name:?}; there are datacenter and namespace", flags.url)),
        };
        if setting.as_deref().is_some_and(|given| *given != *value) {
            return Err(format!("the store {:?} names another {name} than its settings; take one of them away", flags.url));
        }
        *setting = Some(value.into_owned());
    }
    Ok((url.to_owned(), within))
}

/// A store's full name: two stores that differ only in datacenter or namespace are two.
fn named(shown: String, within: &StoreFlags) -> String {
    let pairs = [("datacenter", &within.datacenter), ("namespace", &within.namespace)];
    let query: Vec<String> = pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_deref()?))).collect();
    if query.is_empty() { shown } else { format!("{shown}?{}", query.join("&")) }
}

/// Refuses settings that this kind of store does not use.
fn refuse_unused(parts: &Parts, flags: &StoreFlags) -> Result<(), String> {
    let certificates = flags.ca.is_some() || flags.cert.is_some() || flags.key.is_some();
    if parts.kind.is_directory() && (certificates || flags.token_file.is_some()) {
        return Err(format!("credentials are given, but {} is a directory and has none; take them away", parts.shown));
    }
    if parts.kind.is_directory() && flags.audit.is_some() {
        return Err(format!("an audit is given, but {} is a directory, which is read again every 30 s in any case; take it away", parts.shown));
    }
    if certificates && !parts.tls {
        return Err(format!("certificates are given, but {} is in clear text; write {}s://", parts.shown, parts.kind.scheme));
    }
    if !parts.kind.has_datacenters && (flags.datacenter.is_some() || flags.namespace.is_some()) {
        return Err(format!("a datacenter or namespace is given, but {} knows neither; only consul:// does", parts.shown));
    }
    Ok(())
}

/// Parses the interval of complete listings; at least a second.
fn audit(flags: &StoreFlags) -> Result<Duration, String> {
    let wanted = flags.audit.map_or(waypost_adapter::AUDIT_INTERVAL, waypost_model::duration::Duration::get);
    if wanted < Duration::from_secs(1) { Err("a store is audited once a second at most; write 1s or more, such as 60s".to_owned()) } else { Ok(wanted) }
}

#[cfg(feature = "file")]
fn open_directory(parts: Parts) -> Result<Store, String> {
    let path = std::path::absolute(parts.endpoints.concat()).map_err(|error| error.to_string())?;
    let (Some(parent), Some(root)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(format!("{} is not a directory below another; write file:///etc/waypost", parts.shown));
    };
    Ok(Store {
        url: format!("file://{}", path.display()),
        adapter: Arc::new(waypost_adapter_file::FileAdapter::new(parent)),
        root: root.to_owned(),
        other_spelling: None,
    })
}

#[cfg(not(feature = "file"))]
fn open_directory(_: Parts) -> Result<Store, String> {
    Err("this build has no file adapter; build it with --features file".to_owned())
}

fn with_port(endpoint: &str, port: u16) -> String {
    let has = endpoint.rsplit_once(':').is_some_and(|(_, tail)| tail.chars().all(|c| c.is_ascii_digit()) && !tail.is_empty());
    if has { endpoint.to_owned() } else { format!("{endpoint}:{port}") }
}

fn read(path: &std::path::Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn tls(flags: &StoreFlags) -> Result<Tls, String> {
    let identity = match (&flags.cert, &flags.key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        (None, None) => None,
        _ => return Err("a certificate needs its key: give both --store-cert and --store-key".to_owned()),
    };
    Ok(Tls { ca: flags.ca.as_deref().map(read).transpose()?, identity })
}

/// The credential: from the file, otherwise, if there is one store, from the variable of the store's own tools.
fn auth(kind: &StoreKind, flags: &StoreFlags, sole: bool) -> Result<Auth, String> {
    let StoreKind { scheme, variable, takes_token, .. } = *kind;
    let secret = match &flags.token_file {
        Some(path) => Some(read(path)?),
        None => std::env::var(variable).ok().filter(|_| sole),
    };
    let Some(secret) = secret.map(|secret| secret.trim().to_owned()).filter(|secret| !secret.is_empty()) else { return Ok(Auth::None) };
    if takes_token {
        return Ok(Auth::Token(secret));
    }
    match secret.split_once(':') {
        Some((user, password)) => Ok(Auth::Password { user: user.to_owned(), password: password.to_owned() }),
        None => Err(format!("the credential of {scheme} is USER:PASSWORD; the file or {variable} has no colon")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parts = split("etcds://h1:2379,h2:2379/team/waypost/").unwrap();
        assert_eq!((parts.kind.scheme, parts.tls, parts.root.as_str()), ("etcd", true, "team/waypost"));
        assert_eq!(parts.endpoints, ["h1:2379", "h2:2379"]);
        assert_eq!(split("consul://127.0.0.1").unwrap().root, "waypost");
        assert_eq!(with_port("[::1]", 8500), "[::1]:8500");
        assert_eq!(with_port("h:1", 8500), "h:1");
    }

    #[test]
    #[cfg(feature = "consul")]
    fn stores_that_differ_in_datacenter_or_namespace_are_two_and_their_names_open_them_again() {
        let of = |datacenter: &str| StoreFlags { datacenter: Some(datacenter.into()), ..StoreFlags::from("consul://h/x") };
        let (one, two) = (open(&of("dc1")).unwrap(), open(&of("dc2")).unwrap());
        assert_eq!(one.url, "consul://h/x?datacenter=dc1");
        assert!(!crate::controller::stored::entries::same_store(&one.url, &two.url));
        let again = open(&StoreFlags::from(&*one.url)).unwrap();
        assert_eq!((again.url, again.root), (one.url, "x".to_owned()));
        assert!(open(&StoreFlags { url: "consul://h/x?datacenter=dc2".into(), ..of("dc1") }).unwrap_err().contains("names another"));
        assert!(open(&StoreFlags::from("consul://h/x?dc=1")).unwrap_err().contains("unknown parameter"));
        assert!(open(&StoreFlags::from("etcd://h/x?namespace=1")).unwrap_err().contains("only consul:// does"));
    }

    #[test]
    fn settings_that_a_store_would_not_use_are_refused() {
        let file = StoreFlags { token_file: Some("/x".into()), ..StoreFlags::from("file:///etc/waypost") };
        assert!(open(&file).unwrap_err().contains("is a directory and has none"));
        let clear = StoreFlags { key: Some("/x".into()), ..StoreFlags::from("etcd://h/x") };
        assert!(open(&clear).unwrap_err().contains("is in clear text; write etcds://"));
        let datacenter = StoreFlags { datacenter: Some("dc1".into()), ..StoreFlags::from("zookeeper://h/x") };
        assert!(open(&datacenter).unwrap_err().contains("only consul:// does"));
    }

    #[test]
    fn a_store_that_cannot_be_is_refused_with_examples() {
        for (url, message) in [
            ("redis://h", "the store \"redis://h\" has the unknown scheme \"redis\"; write file:///etc/waypost"),
            ("consl://h", "did you mean \"consul\"?"),
            ("127.0.0.1:8500", "has no scheme"),
            ("etcd://", "has no endpoint; write etcd://HOST:PORT/ROOT"),
            ("consul://user:secret@h", "holds a credential"),
        ] {
            let error = open(&url.into()).unwrap_err();
            assert!(error.contains(message), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
