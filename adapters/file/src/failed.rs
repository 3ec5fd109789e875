//! Errors of file operations, with their remedies.

use std::path::Path;

use waypost_adapter::{AdapterError, ErrorKind};

/// The error of a file operation, with its remedy.
pub(crate) fn failed(path: &Path, error: &std::io::Error) -> AdapterError {
    use std::io::ErrorKind as Io;
    let (kind, remedy) = match error.kind() {
        Io::PermissionDenied | Io::ReadOnlyFilesystem => (ErrorKind::Denied, "let this user read the directory, and write it where it is written"),
        Io::NotFound => (ErrorKind::Unreachable, "create the directory, or correct the path of --store"),
        Io::StorageFull => (ErrorKind::Refused, "free some space on the disk"),
        _ => (ErrorKind::Unreachable, "look at the disk"),
    };
    AdapterError::new(kind, path.display().to_string(), error.to_string(), remedy)
}
