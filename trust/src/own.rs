//! A program's own certificate, stored on its disk.

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::authority::{CLOCK_SLACK, fingerprint};
use super::authority::{Issued, KeyPair};
use super::error::TrustError;
use super::keyring::Material;
use super::secret::{load_secret, write_secret};

const OWN_FILE: &str = "own.json";

/// A program's certificate with its key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Own {
    /// The private key, PEM.
    key: String,
    /// The certificate.
    issued: Issued,
}

/// Secrets must not appear in logs.
impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("until", &self.issued.until).finish_non_exhaustive()
    }
}

impl Own {
    /// A key pair with the certificate that was issued for it.
    pub fn new(key: &KeyPair, issued: Issued) -> Self {
        Self { key: key.private_pem(), issued }
    }

    /// Loads the certificate from a directory; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn load(folder: &Path) -> Result<Option<Self>, TrustError> {
        load_secret(&folder.join(OWN_FILE))
    }

    /// Stores the certificate in a directory; only the owner may read the file.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, folder: &Path) -> Result<(), TrustError> {
        write_secret(&folder.join(OWN_FILE), &serde_json::to_vec(self).unwrap_or_default())
    }

    /// The certificate as TLS material.
    ///
    /// # Errors
    /// The certificate or its key cannot be used.
    pub fn material(&self) -> Result<Material, TrustError> {
        Material::read(self.issued.chain.as_bytes(), self.key.as_bytes(), self.issued.authority.as_bytes())
    }

    /// SHA-256 of the certificate of its authority.
    pub fn authority(&self) -> Option<String> {
        CertificateDer::from_pem_slice(self.issued.authority.as_bytes()).ok().map(|cert| fingerprint(&cert))
    }

    /// Whether it has expired at `now` (since 1970).
    pub const fn is_over(&self, now: Duration) -> bool {
        now.as_secs() >= self.issued.until
    }

    /// Time from `now` until renewal: when two thirds of its lifetime have passed, or at once if it is not valid yet because the clock was
    /// set back.
    pub const fn renew_in(&self, now: Duration) -> Duration {
        if now.as_secs() + CLOCK_SLACK.as_secs() < self.issued.from {
            return Duration::ZERO;
        }
        let due = self.issued.from + self.issued.until.saturating_sub(self.issued.from) * 2 / 3;
        Duration::from_secs(due.saturating_sub(now.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Identity};

    #[test]
    fn what_was_kept_is_used_again_and_renewed_in_time() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Own::load(folder.path()).unwrap().is_none());
        let (made, key) = (Duration::from_secs(1_800_000_000), KeyPair::generate().unwrap());
        let identity = Identity::Proxy("p1".to_owned());
        let issued = Authority::create(made).unwrap().issue(&identity, &key.public(), &[], made, Duration::from_secs(300)).unwrap();
        let own = Own::new(&key, issued);
        own.save(folder.path()).unwrap();
        let again = Own::load(folder.path()).unwrap().unwrap();
        assert_eq!(again.material().unwrap().identity(), &identity);
        assert_eq!(again.renew_in(made), Duration::from_secs(200));
        assert_eq!(again.renew_in(made + Duration::from_secs(250)), Duration::ZERO);
        assert_eq!(again.renew_in(made - Duration::from_secs(8 * 3_600)), Duration::ZERO, "the clock was put back");
        assert!(!again.is_over(made + Duration::from_secs(299)) && again.is_over(made + Duration::from_secs(300)));
        assert!(!format!("{again:?}").contains("PRIVATE"));
        std::fs::write(folder.path().join(OWN_FILE), "{").unwrap();
        assert!(Own::load(folder.path()).unwrap_err().to_string().contains("own.json cannot be used"));
    }
}
