//! The cluster's own authority: it issues certificates for programs, and has the secret that signs tokens.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::error::{TrustError, read};
use super::identity::Identity;
use super::secret::write_secret;

const CERT_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca-key.pem";
const SECRET_FILE: &str = "secret";
const JOINING_KEY_FILE: &str = "joining-key.pem";
/// Lifetime of the authority's own certificate.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How far before its creation the validity of a certificate begins, because clocks differ and jump.
pub(crate) const CLOCK_SLACK: Duration = Duration::from_secs(2 * 3_600);

/// Issues certificates. Only controllers have it, because it can admit any program.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Its certificate, PEM.
    cert: String,
    /// Its key, PEM.
    key: String,
    /// The secret that signs tokens, base64.
    secret: String,
}

/// Secrets must not appear in logs.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issued {
    /// The certificate followed by the authority's, PEM.
    pub chain: String,
    /// The authority's certificate alone, as the trust anchor, PEM.
    pub authority: String,
    /// When it was issued, in seconds since 1970.
    pub from: u64,
    /// When it expires, in seconds since 1970.
    pub until: u64,
}

/// A key pair that a program generates for itself; the private half never leaves the machine.
pub struct KeyPair(rcgen::KeyPair);

impl KeyPair {
    /// A new key pair (ECDSA over P-256).
    ///
    /// # Errors
    /// The system cannot supply random bytes.
    pub fn generate() -> Result<Self, TrustError> {
        Ok(Self(rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| TrustError::unusable("a new key", error))?))
    }

    /// The key pair with which a program joins: the one that an earlier attempt, whose answer may have been lost, stored in a directory, or
    /// a new one, which is then stored there.
    ///
    /// # Errors
    /// The system cannot supply random bytes, or the disk refuses.
    pub fn joining(folder: &Path) -> Result<Self, TrustError> {
        let path = folder.join(JOINING_KEY_FILE);
        let stored = || rcgen::KeyPair::from_pem(std::str::from_utf8(&read(&path).ok()?).ok()?).ok();
        if let Some(key) = stored() {
            return Ok(Self(key));
        }
        let key = Self::generate()?;
        write_secret(&path, key.private_pem().as_bytes())?;
        Ok(key)
    }

    /// Deletes the stored joining key after the program has joined: the key is stored with the certificate now, or not needed any more.
    pub fn has_joined(folder: &Path) {
        // If it cannot be deleted, the next attempt to join uses it, which does no harm.
        std::fs::remove_file(folder.join(JOINING_KEY_FILE)).unwrap_or_default();
    }

    /// The private half, PEM.
    pub fn private_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public half, for the certificate.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.der_bytes().to_vec())
    }
}

/// A public key for a certificate: an uncompressed point of P-256, as base64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(Vec<u8>);

impl TryFrom<String> for PublicKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let bytes = STANDARD.decode(text).map_err(|_| "the public key is not base64")?;
        let point = bytes.len() == 65 && bytes.first() == Some(&4);
        if point { Ok(Self(bytes)) } else { Err("the public key is not an uncompressed point of P-256") }
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        STANDARD.encode(key.0)
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    /// A new authority, valid from `now` (since 1970).
    ///
    /// # Errors
    /// The system cannot supply random bytes.
    pub fn create(now: Duration) -> Result<Self, TrustError> {
        let failed = |error: rcgen::Error| TrustError::unusable("a new authority", error);
        let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = own_params(&key);
        (params.not_before, params.not_after) = (date(now.saturating_sub(CLOCK_SLACK)), date(now + AUTHORITY_LIFETIME));
        let cert = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { cert, key: key.serialize_pem(), secret: new_secret()? })
    }

    /// Reads an authority from the JSON of another controller.
    ///
    /// # Errors
    /// The JSON is not an authority, or the authority cannot be used.
    pub fn read(json: &[u8]) -> Result<Self, TrustError> {
        serde_json::from_slice::<Self>(json).map_err(|error| TrustError::unusable("the authority", error))?.usable()
    }

    /// Loads the authority from a directory; `None` if there is none.
    ///
    /// # Errors
    /// Its files cannot be read or used.
    pub fn load(folder: &Path) -> Result<Option<Self>, TrustError> {
        if !folder.join(KEY_FILE).exists() {
            return Ok(None);
        }
        let text = |name: &str| read(&folder.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        let this = Self { cert: text(CERT_FILE)? + "\n", key: text(KEY_FILE)? + "\n", secret: text(SECRET_FILE)? };
        this.usable().map(Some)
    }

    fn usable(self) -> Result<Self, TrustError> {
        self.issuer()?;
        read_secret(&self.secret)?;
        Ok(self)
    }

    /// Stores it in a directory; only the owner may read the files.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, folder: &Path) -> Result<(), TrustError> {
        write_secret(&folder.join(CERT_FILE), self.cert.as_bytes())?;
        write_secret(&folder.join(SECRET_FILE), self.secret.as_bytes())?;
        // The key is written last: if it exists, the other files do as well.
        write_secret(&folder.join(KEY_FILE), self.key.as_bytes())
    }

    /// The secret that signs tokens.
    pub fn secret(&self) -> Vec<u8> {
        STANDARD.decode(&self.secret).unwrap_or_default()
    }

    /// Its certificate, PEM.
    pub fn cert(&self) -> &str {
        &self.cert
    }

    /// SHA-256 of its certificate, in hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).map(|cert| fingerprint(&cert)).unwrap_or_default()
    }

    fn issuer(&self) -> Result<Issuer<'static, rcgen::KeyPair>, TrustError> {
        let key = rcgen::KeyPair::from_pem(&self.key).map_err(|error| TrustError::unusable("the authority's key", error))?;
        Ok(Issuer::new(own_params(&key), key))
    }

    /// Issues a certificate for a program, valid for `life` from `now` (since 1970), also for these host names and addresses.
    ///
    /// # Errors
    /// A name is not valid in a certificate.
    pub fn issue(&self, identity: &Identity, key: &PublicKey, hosts: &[String], now: Duration, life: Duration) -> Result<Issued, TrustError> {
        let failed = |error: rcgen::Error| TrustError::unusable(format!("a certificate for {identity}"), error);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&identity.to_string());
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into().map_err(failed)?)];
        for host in hosts {
            params.subject_alt_names.push(match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(host.as_str().try_into().map_err(failed)?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (date(now.saturating_sub(CLOCK_SLACK)), date(now + life));
        let cert = params.signed_by(key, &self.issuer()?).map_err(failed)?.pem();
        Ok(Issued { chain: cert + &self.cert, authority: self.cert.clone(), from: now.as_secs(), until: (now + life).as_secs() })
    }
}

/// 32 random bytes, base64.
///
/// # Errors
/// The system cannot supply random bytes.
pub fn new_secret() -> Result<String, TrustError> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|error| TrustError::unusable("a new secret", error))?;
    Ok(STANDARD.encode(secret))
}

/// Decodes a secret, and refuses one that is short enough to be guessed.
fn read_secret(text: &str) -> Result<Vec<u8>, TrustError> {
    let secret = STANDARD.decode(text.trim()).map_err(|error| TrustError::unusable("the secret of tokens", error))?;
    if secret.len() >= 32 {
        Ok(secret)
    } else {
        Err(TrustError::unusable("the secret of tokens", "it has less than 32 bytes; `head -c 32 /dev/urandom | base64` makes one"))
    }
}

/// The secret that signs tokens, from a file: for clusters whose certificates are issued by others.
///
/// # Errors
/// The file cannot be read or used.
pub fn shared_secret(file: &Path) -> Result<Vec<u8>, TrustError> {
    read_secret(&String::from_utf8_lossy(&read(file)?))
}

/// The secret that signs tokens, for a single controller: created once, and stored in a directory.
///
/// # Errors
/// The file cannot be read or used, or the disk refuses.
pub fn own_secret(folder: &Path) -> Result<Vec<u8>, TrustError> {
    let path = folder.join(SECRET_FILE);
    if !path.exists() {
        write_secret(&path, new_secret()?.as_bytes())?;
    }
    shared_secret(&path)
}

/// SHA-256 of a certificate, in hexadecimal digits.
pub(crate) fn fingerprint(cert: &CertificateDer<'_>) -> String {
    hex(cert)
}

/// SHA-256, in hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn own_params(key: &rcgen::KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    // The authorities of two clusters have different names, so that the error for the wrong one names it instead of a bad signature.
    params.distinguished_name = common_name(&format!("waypost authority {:.8}", hex(key.public_key_raw())));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

pub(crate) fn date(since_1970: Duration) -> OffsetDateTime {
    i64::try_from(since_1970.as_secs()).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_asks_with_the_same_key_until_it_has_joined() {
        let folder = tempfile::tempdir().unwrap();
        let public = || KeyPair::joining(folder.path()).unwrap().public();
        let first = public();
        assert_eq!(public(), first, "also after a restart");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(folder.path().join(JOINING_KEY_FILE)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        KeyPair::has_joined(folder.path());
        let second = public();
        assert_ne!(second, first);
        std::fs::write(folder.path().join(JOINING_KEY_FILE), "torn").unwrap();
        assert_ne!(public(), second, "what is torn is made anew");
    }

    #[test]
    fn an_authority_is_the_same_after_it_was_kept_and_shows_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Authority::load(folder.path()).unwrap().is_none());
        let authority = Authority::create(Duration::from_secs(1_800_000_000)).unwrap();
        authority.save(folder.path()).unwrap();
        let again = Authority::load(folder.path()).unwrap().unwrap();
        assert_eq!((again.fingerprint(), again.secret()), (authority.fingerprint(), authority.secret()));
        assert_eq!(authority.secret().len(), 32);
        let shown = format!("{authority:?}");
        assert!(!shown.contains(&authority.secret) && !shown.contains("PRIVATE"), "{shown}");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode() & 0o077, 0);
        std::fs::write(folder.path().join(SECRET_FILE), "c2hvcnQ=").unwrap();
        assert!(Authority::load(folder.path()).unwrap_err().to_string().contains("less than 32 bytes"));
        std::fs::write(folder.path().join(KEY_FILE), "garbage").unwrap();
        assert!(Authority::load(folder.path()).unwrap_err().to_string().contains("the authority's key cannot be used"));
    }
}
