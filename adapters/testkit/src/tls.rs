//! An authority for tests, with a certificate for a server and one for a client, as files and as settings.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use waypost_adapter::Tls;

/// Certificates of one test.
#[derive(Debug)]
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificates {
    /// Issues all of them, for 127.0.0.1 and localhost.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        write("ca.pem", &authority.pem());
        for name in ["server", "client"] {
            let (certificate, key) = issue(&authority, name);
            write(&format!("{name}.pem"), &certificate);
            write(&format!("{name}-key.pem"), &key);
            write(&format!("{name}-both.pem"), &format!("{key}{certificate}"));
        }
        Self { folder }
    }

    /// The folder with `ca.pem`, `server.pem`, `server-key.pem`, `client.pem` and `client-key.pem`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path of one of the files, as text.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::read_to_string(path).expect("a file")
    }

    /// The TLS settings of a client that trusts the authority and has a certificate of it.
    pub fn client(&self) -> Tls {
        Tls { ca: Some(self.read("ca.pem")), identity: Some((self.read("client.pem"), self.read("client-key.pem"))) }
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

fn issue(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}
