//! A certificate from files that another program renews, such as cert-manager.

use std::path::PathBuf;

use super::error::{TrustError, read};
use super::identity::Identity;
use super::keyring::{Keyring, Material};

/// The paths of the files, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate and the intermediate certificates up to its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The trusted authorities.
    pub ca: PathBuf,
}

/// The content of the files: the certificate, its key, the authorities.
type Content = [Vec<u8>; 3];

/// A keyring that is reloaded when its files change.
#[derive(Clone)]
pub struct FromFiles {
    files: Files,
    content: Content,
    keyring: Keyring,
    identity: Identity,
    /// Why the present content of the files is not used.
    refused: Option<String>,
}

/// Secrets must not appear in logs.
impl std::fmt::Debug for FromFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FromFiles").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Files {
    fn content(&self) -> Result<Content, TrustError> {
        Ok([read(&self.cert)?, read(&self.key)?, read(&self.ca)?])
    }
}

fn material([chain, key, authorities]: &Content, wanted: &Identity) -> Result<Material, TrustError> {
    let material = Material::read(chain, key, authorities)?;
    // A proxy on the same machine may use the controller's files.
    let fits = material.identity() == wanted || matches!((material.identity(), wanted), (Identity::Controller(_), Identity::Proxy(_)));
    let mismatch = || TrustError::unusable("the certificate", format!("it is that of {}, and this is {wanted}", material.identity()));
    if fits { Ok(material) } else { Err(mismatch()) }
}

impl FromFiles {
    /// Reads the files. The certificate must be that of `identity`; a proxy may also use that of a controller.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn open(files: Files, identity: Identity) -> Result<Self, TrustError> {
        let content = files.content()?;
        let keyring = Keyring::new(material(&content, &identity)?);
        Ok(Self { files, content, keyring, identity, refused: None })
    }

    /// The keyring with the content in use.
    pub const fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Reloads the files if they changed; returns whether they did.
    ///
    /// # Errors
    /// The content cannot be used (the files may be replaced one after the other); the content read before stays in use. The same error is
    /// returned only once.
    pub fn look(&mut self) -> Result<bool, TrustError> {
        match self.take() {
            Ok(new) => {
                self.refused = None;
                Ok(new)
            }
            Err(error) if self.refused.replace(error.to_string()).is_some_and(|before| before == error.to_string()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn take(&mut self) -> Result<bool, TrustError> {
        let content = self.files.content()?;
        if content == self.content {
            return Ok(false);
        }
        self.keyring.replace(material(&content, &self.identity)?);
        self.content = content;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Authority, Identity, KeyPair};

    #[test]
    fn files_that_change_are_used_and_those_that_do_not_fit_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let p1 = Identity::Proxy("p1".to_owned());
        let files = Files { cert: folder.path().join("tls.crt"), key: folder.path().join("tls.key"), ca: folder.path().join("ca.crt") };
        assert!(FromFiles::open(files.clone(), p1.clone()).unwrap_err().to_string().contains("tls.crt"));
        let authority = Authority::create(Duration::from_secs(1_800_000_000)).unwrap();
        let write = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let identity = Identity::Proxy(name.to_owned());
            let issued = authority.issue(&identity, &key.public(), &[], Duration::from_secs(1_800_000_000), Duration::from_secs(60)).unwrap();
            std::fs::write(&files.cert, issued.chain).unwrap();
            std::fs::write(&files.key, key.private_pem()).unwrap();
            std::fs::write(&files.ca, authority.cert()).unwrap();
        };
        write("p1");
        let mut used = FromFiles::open(files.clone(), p1.clone()).unwrap();
        assert!(!used.look().unwrap() && used.keyring().now().identity() == &p1);
        let keyring = used.keyring().clone();
        let before = keyring.now();
        write("p1");
        assert!(used.look().unwrap() && !std::sync::Arc::ptr_eq(&before, &keyring.now()));
        let second = keyring.now();
        write("p2");
        assert!(used.look().unwrap_err().to_string().contains("it is that of proxy p2, and this is proxy p1"));
        assert!(!used.look().unwrap(), "it is said once");
        write("p1");
        used.look().unwrap();
        let third = keyring.now();
        assert!(!std::sync::Arc::ptr_eq(&second, &third));
        std::fs::write(&files.key, KeyPair::generate().unwrap().private_pem()).unwrap();
        assert!(used.look().unwrap_err().to_string().contains("the certificate with its key cannot be used"));
        assert!(std::sync::Arc::ptr_eq(&third, &keyring.now()));
    }
}
