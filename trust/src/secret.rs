//! Files that only their owner may read.

use std::path::Path;

use crate::error::{TrustError, read};

/// What [`write_secret`] kept as JSON; nothing if there is no such file.
///
/// # Errors
/// It cannot be read, or is something else.
pub fn load_secret<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, TrustError> {
    if !path.exists() {
        return Ok(None);
    }
    serde_json::from_slice(&read(path)?).map(Some).map_err(|error| TrustError::unusable(path.display().to_string(), error))
}

/// Writes a file that only its owner may read, whole or not at all; its directory is made if it is not there.
///
/// # Errors
/// The disk refuses.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), TrustError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |source| TrustError::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}
