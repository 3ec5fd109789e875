//! A certificate to try HTTPS with: nobody trusts it but those who are told to.

use std::time::Duration;

use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256};

use crate::authority::{common_name, date};
use crate::error::TrustError;

/// So long it is valid.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3_600);

/// A certificate for these hosts and addresses that signs itself, valid from `now` (since 1970), and its key, both PEM.
///
/// # Errors
/// A host is no host name, or the system cannot supply random bytes.
pub fn trial_certificate(hosts: &[&str], now: Duration) -> Result<(String, String), TrustError> {
    let failed = |error: rcgen::Error| TrustError::unusable("a certificate to try", error);
    let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).map_err(failed)?;
    params.distinguished_name = common_name("waypost trial");
    (params.not_before, params.not_after) = (date(now.saturating_sub(Duration::from_secs(3_600))), date(now + LIFETIME));
    Ok((params.self_signed(&key).map_err(failed)?.pem(), key.serialize_pem()))
}
