//! How to reach a store. Parsed once, before anything connects.

use std::fmt;
use std::time::Duration;

/// Everything that an adapter needs besides the root.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` of each endpoint, in the order of preference; for a directory, its path.
    pub endpoints: Vec<String>,
    /// TLS, if the endpoints speak it.
    pub tls: Option<Tls>,
    /// Who we are.
    pub auth: Auth,
    /// The datacenter to ask, where a store has them.
    pub datacenter: Option<String>,
    /// The namespace to use, where a store has them.
    pub namespace: Option<String>,
    /// Everything is listed again this often, and a quarter more at random: what a watch has lost is found then.
    pub audit: Duration,
}

/// Everything is listed again this often unless told otherwise.
pub const AUDIT: Duration = Duration::from_secs(60);

impl Settings {
    /// The pause until the next audit; `chance` (0 to 1) makes it different each time, so that many controllers do not list
    /// together.
    pub fn audit_pause(&self, chance: f64) -> Duration {
        self.audit + self.audit.mul_f64(chance / 4.0)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { endpoints: Vec::new(), tls: None, auth: Auth::None, datacenter: None, namespace: None, audit: AUDIT }
    }
}

/// TLS towards a store, as PEM text.
#[derive(Clone, Default)]
pub struct Tls {
    /// The authorities to trust; the system's if absent.
    pub ca: Option<String>,
    /// Our certificate and key, if the store asks for one.
    pub identity: Option<(String, String)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("ca", &self.ca.is_some()).field("identity", &self.identity.is_some()).finish()
    }
}

/// Who we are. Never printed.
#[derive(Clone, Default)]
pub enum Auth {
    /// Nobody.
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
