//! Why something is not trusted.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why something is not trusted, or could not be made.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{what} cannot be used: {reason}")]
    Unusable {
        /// Which one, for people.
        what: String,
        /// Why.
        reason: String,
    },
    /// A token is not one of ours, or not any more.
    #[error("the token is refused: {0}")]
    Token(&'static str),
}

impl TrustError {
    pub(crate) fn unusable(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Unusable { what: what.into(), reason: reason.to_string() }
    }
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    std::fs::read(path).map_err(|source| TrustError::File { path: path.to_owned(), source })
}

/// What is at the bottom of an error: where TLS fails, those above only say that a connection broke off.
pub fn cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(deeper) = deepest.source() {
        deepest = deeper;
    }
    deepest.to_string()
}
