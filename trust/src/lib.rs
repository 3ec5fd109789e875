//! Who is who between controllers, proxies and operators: certificates with names in them, tokens with roles, and the TLS
//! that checks both. No sockets and no clock of its own: time is an input, but where rustls brings it.
//!
//! A certificate carries the identity of a program as a URI (SPIFFE form): `spiffe://waypost/proxy/edge-1`,
//! `spiffe://waypost/controller/c1`. Programs check that, and not the address under which they found each other; people's tools
//! check the address, as with any server.

mod authority;
mod files;
mod identity;
mod keyring;
mod own;
mod token;
mod verify;

pub use authority::{Authority, Issued, KeyPair, PublicKey, new_secret, own_secret, shared_secret};
pub use files::{Files, FromFiles};
pub use identity::Identity;
pub use keyring::{Keyring, Material, joining_client};
pub use own::Own;
pub use token::{Claims, Joining, Role};
pub use verify::identity_of;

use std::path::PathBuf;

use thiserror::Error;

/// Why something is not trusted, or could not be made.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{what} cannot be used: {reason}")]
    Unusable {
        /// Which one, for people.
        what: String,
        /// Why.
        reason: String,
    },
    /// A token is not one of ours, or not any more.
    #[error("the token is refused: {0}")]
    Token(&'static str),
}

impl TrustError {
    fn unusable(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Unusable { what: what.into(), reason: reason.to_string() }
    }
}

/// Reads a file.
fn read(path: &std::path::Path) -> Result<Vec<u8>, TrustError> {
    std::fs::read(path).map_err(|source| TrustError::File { path: path.to_owned(), source })
}

/// What [`write_secret`] kept as JSON; nothing if there is no such file.
///
/// # Errors
/// It cannot be read, or is something else.
pub fn load_secret<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Result<Option<T>, TrustError> {
    if !path.exists() {
        return Ok(None);
    }
    serde_json::from_slice(&read(path)?).map(Some).map_err(|error| TrustError::unusable(path.display().to_string(), error))
}

/// Writes a file that only its owner may read, whole or not at all; its directory is made if it is not there.
///
/// # Errors
/// The disk refuses.
pub fn write_secret(path: &std::path::Path, content: &[u8]) -> Result<(), TrustError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |source| TrustError::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

/// What is at the bottom of an error: where TLS fails, those above only say that a connection broke off.
pub fn cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(deeper) = deepest.source() {
        deepest = deeper;
    }
    deepest.to_string()
}
