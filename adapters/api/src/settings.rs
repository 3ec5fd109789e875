//! The settings of a connection to a store. They are parsed once, before any connection is made.

use std::fmt;
use std::time::Duration;

/// All settings of an adapter except the root.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` of each endpoint, in the order of preference; for a directory, its path.
    pub endpoints: Vec<String>,
    /// TLS, if the endpoints speak it.
    pub tls: Option<Tls>,
    /// The credentials.
    pub auth: Auth,
    /// The datacenter, for stores that have them.
    pub datacenter: Option<String>,
    /// The namespace, for stores that have them.
    pub namespace: Option<String>,
    /// Interval of the audits, plus up to a quarter at random: an audit lists everything, to find changes that the watch lost.
    pub audit: Duration,
}

/// Default interval of the audits.
pub const AUDIT_INTERVAL: Duration = Duration::from_secs(60);

impl Settings {
    /// The pause until the next audit. `chance` (0 to 1) varies it, so that many controllers do not list at the same time.
    pub fn audit_pause(&self, chance: f64) -> Duration {
        self.audit + self.audit.mul_f64(chance / 4.0)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { endpoints: Vec::new(), tls: None, auth: Auth::None, datacenter: None, namespace: None, audit: AUDIT_INTERVAL }
    }
}

/// TLS settings for a store, as PEM text.
#[derive(Clone, Default)]
pub struct Tls {
    /// The authorities to trust; the system's if absent.
    pub ca: Option<String>,
    /// The client certificate and its key, if the store requires one.
    pub identity: Option<(String, String)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("ca", &self.ca.is_some()).field("identity", &self.identity.is_some()).finish()
    }
}

/// The credentials for a store. Secrets are never printed.
#[derive(Clone, Default)]
pub enum Auth {
    /// No credentials.
    #[default]
    None,
    /// A user and password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}
