//! This proxy's certificate: obtained once with a token and renewed before it expires, or read from files that another program renews.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use waypost_trust::{Claims, Files, FromFiles, Identity, Issued, Joining, KeyPair, Keyring, Own, joining_client};
use waypost_wire::{Certificate, JOIN_PATH, JoinRequest, RENEW_PATH, RenewRequest};

use crate::link::Link;

/// Time limit of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the checks whether the files have changed.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Pause before a failed renewal is repeated.
const RENEWAL_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// The source of this proxy's certificate.
#[derive(Clone, PartialEq, Eq)]
pub enum Certified {
    /// A controller issues it for a token; it is stored in the state directory.
    Joining {
        /// The token; not needed once there is a certificate.
        token: Option<String>,
    },
    /// PEM files, which are read again when they change.
    Files(Files),
}

/// Secrets must not appear in logs.
impl std::fmt::Debug for Certified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Joining { token } => f.debug_struct("Joining").field("token", &token.is_some()).finish(),
            Self::Files(files) => f.debug_tuple("Files").field(files).finish(),
        }
    }
}

/// This proxy's certificate.
#[derive(Debug)]
pub(crate) struct Enrolment {
    name: String,
    certified: Certified,
    folder: PathBuf,
    now: Mutex<Option<Used>>,
}

#[derive(Debug, Clone)]
enum Used {
    /// A certificate that this proxy renews.
    Own(Keyring, Own),
    /// A certificate that another program renews.
    Files(FromFiles),
}

impl Used {
    const fn keyring(&self) -> &Keyring {
        match self {
            Self::Own(keyring, _) => keyring,
            Self::Files(files) => files.keyring(),
        }
    }

    fn is_over(&self) -> bool {
        matches!(self, Self::Own(_, own) if own.is_over(date()))
    }
}

fn date() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Enrolment {
    pub(crate) const fn new(name: String, certified: Certified, folder: PathBuf) -> Self {
        Self { name, certified, folder, now: Mutex::new(None) }
    }

    /// Connects to a controller. For `https` it uses this proxy's certificate, which it obtains first if there is none.
    pub(crate) async fn connect(&self, url: &url::Url) -> Result<Link, String> {
        if url.scheme() != "https" {
            return Link::open(url, None).await;
        }
        let used = match self.used().filter(|used| !used.is_over()) {
            Some(used) => used,
            None => self.begin(url).await?,
        };
        Link::open(url, Some(tls(used.keyring())?)).await
    }

    fn used(&self) -> Option<Used> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn uses(&self, used: Used) -> Used {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(used.clone());
        used
    }

    /// Loads the certificate from disk, or joins.
    async fn begin(&self, url: &url::Url) -> Result<Used, String> {
        let token = match &self.certified {
            Certified::Joining { token } => token,
            Certified::Files(files) => {
                let files = FromFiles::open(files.clone(), Identity::Proxy(self.name.clone())).map_err(|error| error.to_string())?;
                return Ok(self.uses(Used::Files(files)));
            }
        };
        let saved = Own::load(&self.folder).unwrap_or_else(|error| {
            tracing::error!("{error}; joining anew");
            None
        });
        // The token is newer than a certificate of another name or authority.
        let fits = |own: &Own| token.as_ref().is_none_or(|token| self.fits(own, token));
        match (saved.filter(|own| !own.is_over(date()) && fits(own)), token) {
            (Some(own), _) => self.take(own),
            (None, Some(token)) => self.join(url, token).await,
            (None, None) => {
                Err("this proxy has no certificate that is good now; start it once with WAYPOST_JOIN=TOKEN, which `waypost token --join proxy` prints"
                    .to_owned())
            }
        }
    }

    /// Whether a certificate is of this name, and of the authority in the token.
    fn fits(&self, own: &Own, token: &str) -> bool {
        let authority = match Claims::peek(token) {
            Ok(Claims::Join { authority, .. }) => Some(authority),
            _ => None,
        };
        let named = own.material().is_ok_and(|material| material.identity().may_be_proxy(&self.name));
        named && authority.is_none_or(|authority| own.authority() == Some(authority))
    }

    fn take(&self, own: Own) -> Result<Used, String> {
        let material = own.material().map_err(|error| error.to_string())?;
        self.check(material.identity())?;
        Ok(self.uses(Used::Own(Keyring::new(material), own)))
    }

    fn check(&self, identity: &Identity) -> Result<(), String> {
        if identity.may_be_proxy(&self.name) {
            return Ok(());
        }
        Err(format!("the certificate is that of {identity}, and this is proxy {}; start with the --name that it has, or with one of its own", self.name))
    }

    async fn join(&self, url: &url::Url, token: &str) -> Result<Used, String> {
        let authority = match Claims::peek(token).map_err(|error| error.to_string())? {
            Claims::Join { joining: Joining::Proxy, authority, .. } => authority,
            Claims::Join { .. } => return Err("the token lets a controller join; a proxy joins with one that `waypost token --join proxy` prints".to_owned()),
            Claims::Operator { .. } => return Err("the token is an operator's; a proxy joins with one that `waypost token --join proxy` prints".to_owned()),
        };
        let key = KeyPair::joining(&self.folder).or_else(|error| {
            tracing::warn!("{error}; if the answer is lost, the name is taken");
            KeyPair::generate()
        });
        let key = key.map_err(|error| error.to_string())?;
        let request = JoinRequest { token: token.to_owned(), name: self.name.clone(), public_key: key.public().into() };
        let tls = joining_client(&authority).map_err(|error| error.to_string())?;
        let mut link = Link::open(url, Some(Arc::new(tls))).await?;
        let body = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        let own = self.got(&link.ask(JOIN_PATH, body, ANSWER_TIMEOUT).await?, &key)?;
        tracing::info!("joined the cluster as proxy {}", self.name);
        self.take(own)
    }

    /// Validates and stores the certificate that was issued for `key`.
    fn got(&self, answer: &[u8], key: &KeyPair) -> Result<Own, String> {
        let Certificate { chain, authority, from, until, .. } = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
        let own = Own::new(key, Issued { chain, authority, from, until });
        let material = own.material().map_err(|error| error.to_string())?;
        self.check(material.identity())?;
        match own.save(&self.folder) {
            Ok(()) => KeyPair::has_joined(&self.folder),
            Err(error) => tracing::error!("{error}; the certificate is used and will be gone after a restart"),
        }
        Ok(own)
    }

    /// Renews the certificate until dropped, through one of `controllers`.
    pub(crate) async fn renew(self: Arc<Self>, controllers: Vec<url::Url>) {
        loop {
            let wait = match self.used() {
                Some(Used::Own(keyring, own)) => match own.renew_in(date()) {
                    Duration::ZERO => self.renew_now(&controllers, &keyring).await,
                    // The clock may jump, so the wait is limited.
                    left => left.min(RENEWAL_RETRY_PAUSE),
                },
                Some(Used::Files(files)) => {
                    self.look(files);
                    FILE_CHECK_INTERVAL
                }
                None => Duration::from_secs(1),
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Requests the next certificate from the first controller that answers; returns the pause before the next call.
    async fn renew_now(&self, controllers: &[url::Url], keyring: &Keyring) -> Duration {
        let mut last_error = String::new();
        for url in controllers.iter().filter(|url| url.scheme() == "https") {
            match self.renewed(url, keyring).await {
                Ok(()) => {
                    tracing::info!("the certificate was renewed");
                    return Duration::from_secs(1);
                }
                Err(error) => last_error = format!("{url}: {error}"),
            }
        }
        tracing::warn!("the certificate is not renewed yet: {last_error}");
        RENEWAL_RETRY_PAUSE / 6
    }

    async fn renewed(&self, url: &url::Url, keyring: &Keyring) -> Result<(), String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let request = RenewRequest { public_key: key.public().into() };
        let body = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        let answer = Link::open(url, Some(tls(keyring)?)).await?.ask(RENEW_PATH, body, ANSWER_TIMEOUT).await?;
        let own = self.got(&answer, &key)?;
        keyring.replace(own.material().map_err(|error| error.to_string())?);
        self.uses(Used::Own(keyring.clone(), own));
        Ok(())
    }

    /// Reloads the files if they changed.
    fn look(&self, mut files: FromFiles) {
        match files.look() {
            Ok(false) => {}
            Ok(true) => tracing::info!("the certificate was read anew"),
            Err(error) => tracing::warn!("{error}; the certificate that was read before is used"),
        }
        self.uses(Used::Files(files));
    }
}

fn tls(keyring: &Keyring) -> Result<Arc<ClientConfig>, String> {
    keyring.client().map(Arc::new).map_err(|error| error.to_string())
}
