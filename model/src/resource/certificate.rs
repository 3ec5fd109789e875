//! Certificates: what HTTPS listeners show to clients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A certificate with its private key. Proxies read both themselves; neither is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "camelCase",
    expecting = "a certificate, such as {\"files\":{\"cert\":\"/etc/waypost/tls/shop.crt\",\"key\":\"/etc/waypost/tls/shop.key\"}}"
)]
pub struct Certificate {
    /// Where every proxy finds it.
    pub files: CertificateFiles,
}

/// Two files on the machine of each proxy. The proxy checks both once a second, and reads them again when one has changed or a symbolic link on its
/// path leads to another file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "two files, such as {\"cert\":\"/etc/waypost/tls/shop.crt\",\"key\":\"/etc/waypost/tls/shop.key\"}")]
pub struct CertificateFiles {
    /// The certificate and then the intermediate ones, in PEM.
    pub cert: FilePath,
    /// The private key in PEM: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: FilePath,
}

/// An absolute path of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilePath(String);

/// Bytes of a path that Linux accepts (PATH_MAX, with its NUL).
const PATH_BYTES: usize = 4_095;

impl FilePath {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FilePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if !text.starts_with('/') || text.ends_with('/') {
            return Err(format!("{text:?} is not the absolute path of a file; write it as in \"/etc/waypost/tls/shop.crt\""));
        }
        if text.len() > PATH_BYTES || text.contains('\0') {
            return Err(format!("a path has at most {PATH_BYTES} bytes and no NUL; this one has {} bytes", text.len()));
        }
        Ok(Self(text))
    }
}

impl From<FilePath> for String {
    fn from(path: FilePath) -> Self {
        path.0
    }
}

impl JsonSchema for FilePath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FilePath".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^/", "examples": ["/etc/waypost/tls/shop.crt"] })
    }
}
