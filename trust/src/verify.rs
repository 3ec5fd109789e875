//! Verification of a certificate: its authority, its validity and its identity.

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, Error};
use webpki::{EndEntityCert, KeyUsage};

use super::identity::Identity;

/// The identity in a certificate that was verified before.
pub fn identity_of(leaf: &CertificateDer<'_>) -> Option<Identity> {
    let cert = EndEntityCert::try_from(leaf).ok()?;
    cert.valid_uri_names().find_map(Identity::of_uri)
}

/// Verifies a chain against the trusted authorities; returns the identity in the certificate.
pub(crate) fn check(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<Identity, Error> {
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let cert = EndEntityCert::try_from(leaf).map_err(tls_error)?;
    cert.verify_for_usage(algorithms.all, anchors, others, now, usage, None, None).map_err(tls_error)?;
    identity_of(leaf).ok_or(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
}

/// The error in rustls' terms, so that the peer gets a reason that its operator can act on.
fn tls_error(error: webpki::Error) -> Error {
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
