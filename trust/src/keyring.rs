//! The certificate of a program and its trusted authorities. Both are replaced while connections are open; new connections use the new
//! ones.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{KeyUsage, anchor_from_trusted_cert};

use super::authority::fingerprint;
use super::error::TrustError;
use super::identity::Identity;
use super::verify::check;
use super::verify::identity_of;

/// A certificate with its key, and the trusted authorities.
#[derive(Debug)]
pub struct Material {
    certified: Arc<CertifiedKey>,
    anchors: Vec<TrustAnchor<'static>>,
    identity: Identity,
}

impl Material {
    /// Reads PEM: a certificate with the intermediate ones up to its authority, its key, and the trusted authorities.
    ///
    /// # Errors
    /// Names the part that cannot be used, and why.
    pub fn read(chain: &[u8], key: &[u8], authorities: &[u8]) -> Result<Self, TrustError> {
        let certs = |what: &str, pem: &[u8]| {
            let all: Vec<CertificateDer<'static>> =
                CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| TrustError::unusable(what, error))?;
            if all.is_empty() { Err(TrustError::unusable(what, "there is no certificate in it; it has to be PEM")) } else { Ok(all) }
        };
        let chain = certs("the certificate", chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TrustError::unusable("the key", error))?;
        let certified = CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| TrustError::unusable("the certificate with its key", error))?;
        let identity = certified.cert.first().and_then(identity_of).ok_or_else(|| {
            TrustError::unusable(
                "the certificate",
                "it names no program; it needs a URI such as spiffe://waypost/controller/NAME or spiffe://waypost/proxy/NAME",
            )
        })?;
        let anchor = |cert: &CertificateDer<'static>| anchor_from_trusted_cert(cert).map(|anchor| anchor.to_owned());
        let trusted = certs("the authority's certificate", authorities)?;
        let anchors = trusted.iter().map(anchor).collect::<Result<_, _>>().map_err(|error| TrustError::unusable("the authority's certificate", error))?;
        Ok(Self { certified: Arc::new(certified), anchors, identity })
    }

    /// The identity in the certificate.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// The material in use. All clones share it, and use a replacement at once.
#[derive(Debug, Clone)]
pub struct Keyring(Arc<RwLock<Arc<Material>>>);

impl Keyring {
    /// A keyring with this initial material.
    pub fn new(material: Material) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(material))))
    }

    /// The material in use.
    pub fn now(&self) -> Arc<Material> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the material in use.
    pub fn replace(&self, material: Material) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
    }

    /// The TLS settings of the listening side. Programs present certificates; people need none.
    ///
    /// # Errors
    /// rustls reports none for these settings.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TrustError> {
        let versions = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
        let builder = versions.map_err(|error| TrustError::unusable("TLS", error))?.with_client_cert_verifier(Arc::new(Checker(self.clone())));
        let mut config = builder.with_cert_resolver(Arc::new(Own(self.clone())));
        // Every connection is authenticated anew: a resumed one would be trusted for the certificate of an earlier one.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// The TLS settings for connections to a controller, at any address, over HTTP/2.
    ///
    /// # Errors
    /// rustls reports none for these settings.
    pub fn client(&self) -> Result<ClientConfig, TrustError> {
        let mut config = client(Arc::new(Checker(self.clone())))?.with_client_cert_resolver(Arc::new(Own(self.clone())));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// The TLS settings of a program without a certificate, for a controller whose authority has this fingerprint.
///
/// # Errors
/// rustls reports none for these settings.
pub fn joining_client(authority: &str) -> Result<ClientConfig, TrustError> {
    let mut config = client(Arc::new(Pinned(authority.to_owned())))?.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

type WithVerifier = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client(verifier: Arc<dyn ServerCertVerifier>) -> Result<WithVerifier, TrustError> {
    let versions = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    Ok(versions.map_err(|error| TrustError::unusable("TLS", error))?.dangerous().with_custom_certificate_verifier(verifier))
}

/// Presents the program's own certificate.
#[derive(Debug)]
struct Own(Keyring);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.now().certified.clone())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.now().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn provider() -> CryptoProvider {
    default_provider()
}

/// Verifies the certificates of peers against the authorities trusted now.
#[derive(Debug)]
struct Checker(Keyring);

impl ClientCertVerifier for Checker {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>], now: UnixTime) -> Result<ClientCertVerified, Error> {
        check(leaf, others, &self.0.now().anchors, now, KeyUsage::client_auth()).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts only controllers, at any address.
fn controller(identity: &Identity) -> Result<ServerCertVerified, Error> {
    match identity {
        Identity::Controller(_) => Ok(ServerCertVerified::assertion()),
        Identity::Proxy(_) => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
    }
}

impl ServerCertVerifier for Checker {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        controller(&check(leaf, others, &self.0.now().anchors, now, KeyUsage::server_auth())?)
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls12_signature(self, message, cert, signed)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Trusts the one authority with this fingerprint, which the server sends with its own certificate.
#[derive(Debug)]
struct Pinned(String);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority = others.iter().find(|cert| fingerprint(cert) == self.0).ok_or_else(|| unknown.clone())?;
        let anchor = anchor_from_trusted_cert(authority).map_err(|_| unknown)?;
        controller(&check(leaf, &[], &[anchor], now, KeyUsage::server_auth())?)
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
