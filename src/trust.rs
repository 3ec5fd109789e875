//! A controller's certificate, and the authority for programs and tokens. The first controller creates the authority, and others receive it when
//! they join; or the certificates come from files that are renewed from outside.

mod tokens;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use waypost_trust::{
    Authority, Claims, Files, FromFiles, Identity, Issued, Joining, KeyPair, Keyring, Own, PublicKey, TrustError, cause, joining_client, own_secret,
    shared_secret,
};
use waypost_wire::{Certificate, JOIN_PATH, JoinRequest};

pub use tokens::{Signer, TokenAnswer, TokenRequest};

/// Interval at which files are checked for changes.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Pause before the next try to renew a certificate; the clock is also checked at this interval.
const RENEWAL_RETRY_PAUSE: Duration = Duration::from_secs(30);
/// Time for which a controller that is still starting is asked for the authority.
const MAX_JOIN_TIME: Duration = Duration::from_secs(60);
const JOIN_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The settings of a controller's certificate.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The controller's name.
    pub name: String,
    /// Host names and addresses in the certificate.
    pub hosts: Vec<String>,
    /// The directory of the certificate.
    pub folder: PathBuf,
    /// Lifetime of a certificate; it is renewed after two thirds of it.
    pub life: Duration,
    /// Where certificates come from.
    pub from: From,
}

/// Where certificates come from.
#[derive(Debug, Clone)]
pub enum From {
    /// From the cluster's own authority, which is created if there are no other controllers.
    Own {
        /// Whether other controllers are known.
        others: bool,
    },
    /// The same; the authority is fetched with a token from one of these controllers, unless it is on disk.
    Joining(Token, Vec<url::Url>),
    /// From files; with the file of the secret that signs tokens, if it is shared.
    Files(Files, Option<PathBuf>),
}

/// A token; it is not shown in logs.
#[derive(Clone)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why a controller has no certificate.
#[derive(Debug, Error)]
pub enum JoinError {
    /// A file or flag cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Other controllers are named, and this one has not joined them.
    #[error(
        "other controllers are named (--peer), and this one has not joined them; start it once with WAYPOST_JOIN=TOKEN, which `waypost token --join controller` prints there, or, if it is the first, once without --peer"
    )]
    Others,
    /// There is an authority on disk, and the token is of another one.
    #[error(
        "{} holds the authority of one cluster, and the token lets in to another; delete that directory to join, or leave the token away to stay", .0.display()
    )]
    Another(PathBuf),
    /// No controller accepted the token.
    #[error("this controller could not join: {0}")]
    Refused(String),
}

/// The time since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whether a token is of another cluster than this authority.
fn is_of_another(token: &str, own: &Authority) -> bool {
    matches!(Claims::peek(token), Ok(Claims::Join { authority, .. }) if authority != own.fingerprint())
}

#[derive(Debug)]
enum Source {
    Own(Keyring, Box<Authority>, Mutex<Own>),
    Files(Mutex<FromFiles>),
}

/// A controller's certificate, and the authority for programs and tokens.
#[derive(Debug)]
pub struct Trust {
    settings: Settings,
    source: Source,
    /// Makes and checks tokens.
    pub signer: Signer,
    /// Whether the authority was created by this start.
    pub is_new: bool,
}

impl Trust {
    /// Loads the certificate and the authority from the directory or the files; otherwise joins; otherwise creates an authority.
    ///
    /// # Errors
    /// The files cannot be used, or no controller accepted the token.
    pub async fn open(settings: Settings) -> Result<Self, JoinError> {
        if let From::Files(files, shared) = &settings.from {
            let signer = Signer::beside_files(shared.as_deref().map_or_else(|| own_secret(&settings.folder), shared_secret)?);
            let files = FromFiles::open(files.clone(), Identity::Controller(settings.name.clone()))?;
            return Ok(Self { source: Source::Files(Mutex::new(files)), signer, settings, is_new: false });
        }
        let stored = Authority::load(&settings.folder)?;
        let is_stored = stored.is_some();
        let (authority, is_new) = match (stored, &settings.from) {
            (Some(own), From::Joining(token, _)) if is_of_another(&token.0, &own) => return Err(JoinError::Another(settings.folder)),
            (Some(own), _) => (own, false),
            (None, From::Joining(token, urls)) => (join(&settings, &token.0, urls).await?, false),
            (None, From::Own { others: true }) => return Err(JoinError::Others),
            (None, _) => (Authority::create(now())?, true),
        };
        if !is_stored {
            authority.save(&settings.folder)?;
            KeyPair::has_joined(&settings.folder);
        }
        let own = issue_own(&authority, &settings)?;
        let keyring = Keyring::new(own.material()?);
        let signer = Signer::of(&authority);
        Ok(Self { source: Source::Own(keyring, Box::new(authority), Mutex::new(own)), signer, settings, is_new })
    }

    /// The certificate to present and the authorities to trust, and every change of them.
    pub fn keyring(&self) -> Keyring {
        match &self.source {
            Source::Own(keyring, ..) => keyring.clone(),
            Source::Files(files) => files.lock().unwrap_or_else(PoisonError::into_inner).keyring().clone(),
        }
    }

    /// The cluster's own authority, if it has one.
    pub fn authority(&self) -> Option<&Authority> {
        match &self.source {
            Source::Own(_, authority, _) => Some(authority),
            Source::Files(_) => None,
        }
    }

    /// A certificate for a program, if the authority is the cluster's own.
    pub fn issue(&self, identity: &Identity, key: &PublicKey) -> Option<Result<Issued, TrustError>> {
        Some(self.authority()?.issue(identity, key, &[], now(), self.settings.life))
    }

    /// Renews the certificate until dropped.
    pub async fn renew(&self) {
        loop {
            let wait = match &self.source {
                Source::Own(keyring, authority, own) => self.renew_own(keyring, authority, own),
                Source::Files(files) => look(files),
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn renew_own(&self, keyring: &Keyring, authority: &Authority, own: &Mutex<Own>) -> Duration {
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        let left = own.renew_in(now());
        if left > Duration::ZERO {
            return left.min(RENEWAL_RETRY_PAUSE);
        }
        let made = issue_own(authority, &self.settings).and_then(|next| Ok((next.material()?, next)));
        match made {
            Ok((material, next)) => {
                keyring.replace(material);
                *own = next;
                tracing::info!("the controller's certificate was renewed");
                Duration::from_secs(1)
            }
            Err(error) => {
                tracing::error!("the controller's certificate is not renewed: {error}");
                RENEWAL_RETRY_PAUSE
            }
        }
    }
}

fn issue_own(authority: &Authority, settings: &Settings) -> Result<Own, TrustError> {
    let key = KeyPair::generate()?;
    let identity = Identity::Controller(settings.name.clone());
    let issued = authority.issue(&identity, &key.public(), &settings.hosts, now(), settings.life)?;
    Ok(Own::new(&key, issued))
}

fn look(files: &Mutex<FromFiles>) -> Duration {
    match files.lock().unwrap_or_else(PoisonError::into_inner).look() {
        Ok(false) => {}
        Ok(true) => tracing::info!("the certificate was read anew"),
        Err(error) => tracing::warn!("{error}; the certificate that was read before is used"),
    }
    FILE_CHECK_INTERVAL
}

/// Fetches the authority of the cluster from another controller.
async fn join(settings: &Settings, token: &str, urls: &[url::Url]) -> Result<Authority, JoinError> {
    let refused = |why: &str| JoinError::Refused(why.to_owned());
    let Claims::Join { authority, joining: Joining::Controller, .. } = Claims::peek(token)? else {
        return Err(refused("the token lets no controller in; `waypost token --join controller` prints one that does"));
    };
    let client = joining_client(&authority)?;
    let client = reqwest::Client::builder().no_proxy().https_only(true).tls_backend_preconfigured(client).timeout(Duration::from_secs(5)).build();
    let client = client.map_err(|error| refused(&error.to_string()))?;
    // Nothing is certified with it; it identifies a repeated request after a lost answer.
    let key = KeyPair::joining(&settings.folder)?;
    let body = JoinRequest { token: token.to_owned(), name: settings.name.clone(), public_key: key.public().into() };
    let begun = std::time::Instant::now();
    loop {
        let mut message = "no other controller is named; write --peer https://HOST:PORT".to_owned();
        for url in urls {
            match ask(&client, url, &body).await {
                Ok(authority) => return Ok(authority),
                Err(Answer { last: true, message }) => return Err(JoinError::Refused(format!("{url}: {message}"))),
                Err(Answer { message: now, .. }) => message = format!("{url}: {now}"),
            }
        }
        if urls.is_empty() || begun.elapsed() > MAX_JOIN_TIME {
            return Err(JoinError::Refused(message));
        }
        tracing::warn!("not joined yet: {message}");
        tokio::time::sleep(JOIN_RETRY_PAUSE).await;
    }
}

/// Why there is no authority, and whether another try is useless.
struct Answer {
    last: bool,
    /// The reason.
    message: String,
}

async fn ask(client: &reqwest::Client, url: &url::Url, body: &JoinRequest) -> Result<Authority, Answer> {
    let again = |message: String| Answer { last: false, message };
    let target = url.join(JOIN_PATH).map_err(|error| again(error.to_string()))?;
    let response = client.post(target).json(body).send().await.map_err(|error| again(cause(&error)))?;
    let status = response.status();
    let bytes = response.bytes().await.map_err(|error| again(error.to_string()))?;
    if !status.is_success() {
        return Err(Answer { last: status.is_client_error(), message: String::from_utf8_lossy(&bytes).into_owned() });
    }
    let last = |message: String| Answer { last: true, message };
    let certificate: Certificate = serde_json::from_slice(&bytes).map_err(|error| last(error.to_string()))?;
    let keys = certificate.keys.ok_or_else(|| last("the controller did not tell its authority; is it the same release?".to_owned()))?;
    Authority::read(keys.get().as_bytes()).map_err(|error| last(error.to_string()))
}
