//! Checking a certificate: that the authority made it, that its time has not run out, and whose it is.

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, Error};
use webpki::{EndEntityCert, KeyUsage};

use super::identity::Identity;

/// The identity in a certificate that was checked already.
pub fn identity_of(leaf: &CertificateDer<'_>) -> Option<Identity> {
    let cert = EndEntityCert::try_from(leaf).ok()?;
    cert.valid_uri_names().find_map(Identity::of_uri)
}

/// Checks a chain against what is trusted; returns whose it is.
pub(crate) fn check(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<Identity, Error> {
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let cert = EndEntityCert::try_from(leaf).map_err(told)?;
    cert.verify_for_usage(algorithms.all, anchors, others, now, usage, None, None).map_err(told)?;
    identity_of(leaf).ok_or(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
}

/// In rustls' words, so that the other side is told what it can mend.
fn told(error: webpki::Error) -> Error {
    use webpki::Error as E;
    Error::InvalidCertificate(match error {
        E::CertExpired { .. } => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::BadDer | E::TrailingData(_) => CertificateError::BadEncoding,
        _ => CertificateError::ApplicationVerificationFailure,
    })
}
