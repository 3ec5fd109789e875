//! Reads a certificate and its key from files.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use waypost_model::resource::CertificateFiles;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Bytes of a file. A chain has a few kilobytes.
const FILE_BYTES: u64 = 1024 * 1024;
/// Names of one certificate that are looked at. Authorities issue at most a hundred.
const NAMES: usize = 1_000;

/// A certificate that can be used.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    /// The hosts that it is for, in lower case; wildcards begin with `*.`.
    pub(super) hosts: Vec<String>,
    begins: i64,
    /// When it ends, in seconds since 1970.
    pub(super) ends: i64,
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// One word for programs.
    pub(super) reason: &'static str,
    /// One sentence for people.
    pub(super) message: String,
}

/// What changes when a file is written or replaced, also by a symbolic link on its path; nothing if it cannot be looked at.
pub(super) type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The stamp of a file.
pub(super) fn stamp(path: &str) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

impl Loaded {
    /// Whether it is not valid any more.
    pub(super) fn has_ended(&self, now: SystemTime) -> bool {
        seconds(now) > self.ends
    }

    /// Why clients refuse it at this time.
    pub(super) fn problem_at(&self, now: SystemTime, files: &CertificateFiles) -> Option<Problem> {
        let cert = files.cert.as_str();
        let date = |seconds: i64| httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
        if self.has_ended(now) {
            return Some(Problem { reason: "Expired", message: format!("the certificate in {cert} ended on {}; renew it", date(self.ends)) });
        }
        let message = || format!("the certificate in {cert} is not valid before {}; check this machine's clock", date(self.begins));
        (seconds(now) < self.begins).then(|| Problem { reason: "NotYetValid", message: message() })
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
}

/// Reads both files.
pub(super) fn load(files: &CertificateFiles) -> Result<Loaded, Problem> {
    let (cert, key) = (files.cert.as_str(), files.key.as_str());
    let invalid = |message: String| Problem { reason: "Invalid", message };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&read(cert)?).collect::<Result<_, _>>().map_err(|error| invalid(format!("{cert} is not PEM: {error}")))?;
    let Some(leaf) = chain.first() else {
        return Err(invalid(format!("{cert} has no certificate; it begins with -----BEGIN CERTIFICATE-----")));
    };
    let (hosts, begins, ends) = described(leaf).map_err(|error| invalid(format!("the first certificate in {cert} cannot be read: {error}")))?;
    let text = read(key)?;
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        let is_encrypted = text.windows(9).any(|window| window == b"ENCRYPTED");
        invalid(if is_encrypted { format!("the key in {key} is encrypted; write it without a passphrase") } else { format!("{key} has no private key in PEM") })
    })?;
    let certified = CertifiedKey::from_der(chain, private, &default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            Problem { reason: "KeyMismatch", message: format!("the key in {key} is not that of the certificate in {cert}; write both of one pair") }
        }
        other => invalid(format!("the key in {key} cannot be used: {other}")),
    })?;
    Ok(Loaded { key: Arc::new(certified), hosts, begins, ends })
}

/// The hosts that a certificate is for, and when it is valid.
fn described(leaf: &CertificateDer<'_>) -> Result<(Vec<String>, i64, i64), String> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let dns = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    });
    let validity = parsed.validity();
    Ok((dns.take(NAMES).collect(), validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The content of a regular file; anything else, such as a pipe, could make the proxy wait.
fn read(path: &str) -> Result<Vec<u8>, Problem> {
    let problem = |message: String| Problem { reason: "FileNotReadable", message };
    let unreadable = |error: std::io::Error| problem(format!("{path} cannot be read: {error}; the proxy runs as a user that must be able to"));
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(problem(format!("{path} is not a regular file")));
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > FILE_BYTES {
        return Err(problem(format!("{path} has more than {FILE_BYTES} bytes")));
    }
    Ok(content)
}
