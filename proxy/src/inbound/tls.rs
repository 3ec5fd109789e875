//! TLS of a listener: which versions it speaks, and which certificate a client gets.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use waypost_model::resource::{ListenerTls, MinVersion};

use crate::inbound::certificates::Certificates;

/// Protocols that clients can choose, the best first (RFC 7301).
const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// TLS of a listener.
#[derive(Debug)]
pub(crate) struct Tls {
    terms: ListenerTls,
    /// The value of Strict-Transport-Security, if responses carry one.
    hsts: Option<String>,
    config: Arc<ServerConfig>,
}

/// Two are the same if their listeners say the same.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.terms == other.terms
    }
}

impl Eq for Tls {}

impl Tls {
    /// TLS as a listener describes it.
    ///
    /// # Errors
    /// The cryptographic library does not offer it.
    pub(crate) fn new(terms: ListenerTls, certificates: Arc<Certificates>) -> Result<Self, rustls::Error> {
        let order = terms.certificates.iter().enumerate().map(|(at, name)| (name.as_str().into(), at)).collect();
        let versions: &[_] = match terms.min_version {
            MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver { order, certificates }));
        config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
        config.ticketer = Ticketer::new()?;
        let hsts = terms.hsts.map(|hsts| {
            let more = |wanted: bool, text: &'static str| if wanted { text } else { "" };
            let seconds = hsts.max_age.get().as_secs();
            format!("max-age={seconds}{}{}", more(hsts.include_subdomains, "; includeSubDomains"), more(hsts.preload, "; preload"))
        });
        Ok(Self { terms, hsts, config: Arc::new(config) })
    }

    /// What its listener says.
    pub(crate) const fn terms(&self) -> &ListenerTls {
        &self.terms
    }

    /// The value of Strict-Transport-Security, if responses carry one.
    pub(crate) fn hsts(&self) -> Option<&str> {
        self.hsts.as_deref()
    }

    /// The settings of its handshakes.
    pub(crate) const fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }
}

/// Chooses a certificate for a client.
#[derive(Debug)]
struct Resolver {
    /// The certificates of the listener, with their places in its list.
    order: HashMap<Arc<str>, usize>,
    certificates: Arc<Certificates>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_fit = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.certificates.choose(hello.server_name(), &self.order, &is_fit)
    }
}
