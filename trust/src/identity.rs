//! The identities of programs, as certificates carry them.

use std::fmt;

/// The program that a certificate belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A controller of this name. It may speak for every proxy, because it relays their reports.
    Controller(String),
    /// A proxy of this name.
    Proxy(String),
}

const URI_PREFIX: &str = "spiffe://waypost/";

impl Identity {
    /// The identity as a URI.
    pub fn uri(&self) -> String {
        match self {
            Self::Controller(name) => format!("{URI_PREFIX}controller/{name}"),
            Self::Proxy(name) => format!("{URI_PREFIX}proxy/{name}"),
        }
    }

    /// The identity in a URI; `None` if the URI is not that of a Waypost program.
    pub fn of_uri(uri: &str) -> Option<Self> {
        let (kind, name) = uri.strip_prefix(URI_PREFIX)?.split_once('/')?;
        let named = !name.is_empty() && !name.contains('/');
        match kind {
            "controller" if named => Some(Self::Controller(name.to_owned())),
            "proxy" if named => Some(Self::Proxy(name.to_owned())),
            _ => None,
        }
    }

    /// Whether the program may speak as the proxy of this name.
    pub fn may_be_proxy(&self, name: &str) -> bool {
        match self {
            Self::Controller(_) => true,
            Self::Proxy(own) => own == name,
        }
    }

    /// Whether the program may speak as the controller of this name.
    pub fn may_be_controller(&self, name: &str) -> bool {
        matches!(self, Self::Controller(own) if own == name)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(name) => write!(f, "controller {name}"),
            Self::Proxy(name) => write!(f, "proxy {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_uri_and_others_are_none() {
        for identity in [Identity::Controller("c1".to_owned()), Identity::Proxy("edge-1".to_owned())] {
            assert_eq!(Identity::of_uri(&identity.uri()), Some(identity));
        }
        for uri in ["spiffe://other/proxy/a", "spiffe://waypost/proxy/", "spiffe://waypost/proxy/a/b", "spiffe://waypost/king/a", "https://waypost/proxy/a"] {
            assert_eq!(Identity::of_uri(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_proxy_speaks_for_itself_alone_and_a_controller_for_its_proxies() {
        let (proxy, controller) = (Identity::Proxy("a".to_owned()), Identity::Controller("c".to_owned()));
        assert!(proxy.may_be_proxy("a") && !proxy.may_be_proxy("b") && !proxy.may_be_controller("a"));
        assert!(controller.may_be_proxy("a") && controller.may_be_controller("c") && !controller.may_be_controller("d"));
    }
}
