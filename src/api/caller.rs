//! The caller of a request: the identity in the certificate of its connection, and the operator's name.

use std::net::IpAddr;

use axum::http::HeaderName;
use waypost_trust::Identity;

/// The header in which a controller that forwards a request names the original caller.
pub(super) const CALLER_HEADER: HeaderName = HeaderName::from_static("waypost-by");
/// The header that marks a forwarded request, which is not forwarded again.
pub(super) const FORWARDED_HEADER: HeaderName = HeaderName::from_static("waypost-forwarded");

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A caller over clear text, who needs no credential.
    Plain,
    /// A caller over TLS.
    Tls {
        /// The identity in the client certificate, if there was one.
        identity: Option<Identity>,
        /// The address.
        ip: IpAddr,
    },
}

impl Caller {
    /// Whether the caller may speak as the proxy of this name.
    pub(super) fn check_proxy(&self, name: &str) -> Result<(), String> {
        self.check(|identity| identity.may_be_proxy(name), "proxy", name)
    }

    /// Whether the caller may speak as the controller of this name.
    pub(super) fn check_controller(&self, name: &str) -> Result<(), String> {
        self.check(|identity| identity.may_be_controller(name), "controller", name)
    }

    /// Whether the caller may speak as the controller of this name, if one is given, else as that proxy.
    pub(super) fn check_program(&self, controller: Option<&str>, proxy: &str) -> Result<(), String> {
        controller.map_or_else(|| self.check_proxy(proxy), |controller| self.check_controller(controller))
    }

    /// Whether a certificate says who it is.
    pub(super) const fn is_identified(&self) -> bool {
        matches!(self, Self::Tls { identity: Some(_), .. })
    }

    /// Whether it may forward the requests of others.
    pub(super) const fn passes_on(&self) -> bool {
        matches!(self, Self::Plain | Self::Tls { identity: Some(Identity::Controller(_)), .. })
    }

    fn check(&self, may: impl Fn(&Identity) -> bool, kind: &str, name: &str) -> Result<(), String> {
        match self {
            Self::Plain => Ok(()),
            Self::Tls { identity: Some(identity), .. } if may(identity) => Ok(()),
            Self::Tls { identity: Some(identity), .. } => Err(format!("the certificate is that of {identity}, which may not speak as {kind} {name}")),
            Self::Tls { identity: None, .. } => Err(NO_CERTIFICATE.to_owned()),
        }
    }

    /// The caller in words.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Plain => "somebody".to_owned(),
            Self::Tls { identity: Some(identity), .. } => identity.to_string(),
            Self::Tls { identity: None, ip } => ip.to_string(),
        }
    }
}

/// The authenticated name of the caller, if it is known. It takes precedence over the name in the request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asker(pub(super) Option<String>);

pub(super) const NO_CERTIFICATE: &str =
    "only a program with a certificate of this cluster may do this; let it join with a token of `waypost token --join proxy`";
