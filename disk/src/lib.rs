//! Files that survive a crash. Each is written completely or not at all, has a checksum, and its previous generation stays beside it.
//!
//! The first line is `waypost 1 sha256 <hex>`, the digest of the rest. A file that is torn or was changed is not used; its previous
//! generation (`<name>.previous`) is.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

const MAGIC: &str = "waypost 1 sha256 ";

/// Why a file could not be used.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The operating system reported an error.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The content does not match the checksum.
    #[error("{path}: the checksum does not fit; the file is torn or was changed by hand")]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
}

/// The content of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// The bytes as they were written.
    pub bytes: Vec<u8>,
    /// Why the bytes are not the newest generation; `None` if they are.
    pub fallback: Option<String>,
}

fn beside(path: &Path, prefix: &str, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}{name}{suffix}"))
}

/// The header line of a file whose content has this digest.
fn head(digest: &[u8]) -> Vec<u8> {
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    [MAGIC.as_bytes(), digest.as_bytes(), b"\n"].concat()
}

/// Writes `bytes` so that after a crash the file has either them or its previous content. Creates missing folders.
///
/// # Errors
/// The disk refused; the previous content stays.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// Like [`fn@write`], for the output of `content`, which is never in memory as a whole.
///
/// # Errors
/// The disk refused; the previous content stays.
pub fn write_with(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    write_one(path, content, true)
}

/// Like [`fn@write`], without a previous generation: for files that are generations themselves.
///
/// # Errors
/// The disk refused; the previous content stays.
pub fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_once_with(path, |out| out.write_all(bytes))
}

/// Like [`write_once`], for the output of `content`, which is never in memory as a whole.
///
/// # Errors
/// The disk refused; the previous content stays.
pub fn write_once_with(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    write_one(path, content, false)
}

/// A writer that computes the digest of the bytes it passes on.
struct Digested<W> {
    inner: W,
    digest: Sha256,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_one(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>, keep: bool) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = beside(path, ".", ".new");
    let mut out = Digested { inner: BufWriter::new(File::create(&temporary)?), digest: Sha256::new() };
    // A placeholder: the digest is known only at the end, and then replaces it.
    out.inner.write_all(&head(&[0; 32]))?;
    content(&mut out)?;
    let digest = out.digest.finalize();
    let mut file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&head(&digest))?;
    file.sync_all()?;
    if keep && path.exists() {
        fs::rename(path, beside(path, "", ".previous"))?;
    }
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Reads the newest intact generation of a file; `None` if the file does not exist in any generation.
///
/// # Errors
/// Files exist, but none of them can be used.
pub fn read(path: &Path) -> Result<Option<Content>, ReadError> {
    let newest = read_exact(path);
    if let Ok(Some(bytes)) = newest {
        return Ok(Some(Content { bytes, fallback: None }));
    }
    match (read_exact(&beside(path, "", ".previous")), newest) {
        (Ok(Some(bytes)), Err(error)) => Ok(Some(Content { bytes, fallback: Some(format!("{error}; the generation before it is used")) })),
        (Ok(Some(bytes)), Ok(_)) => Ok(Some(Content { bytes, fallback: Some(format!("{} is missing; the generation before it is used", path.display())) })),
        (_, Err(error)) => Err(error),
        (Err(error), Ok(_)) => Err(error),
        (Ok(None), Ok(_)) => Ok(None),
    }
}

/// Reads one file; `None` if it does not exist.
///
/// # Errors
/// The file exists and cannot be used.
pub fn read_exact(path: &Path) -> Result<Option<Vec<u8>>, ReadError> {
    let mut bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ReadError::Io { path: path.to_owned(), source }),
    };
    let length = head(&[0; 32]).len().min(bytes.len());
    let body = bytes.split_off(length);
    if bytes == head(&Sha256::digest(&body)) { Ok(Some(body)) } else { Err(ReadError::Corrupt { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_file_costs_at_most_the_last_generation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a").join("state.json");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), Some(Content { bytes: b"two".to_vec(), fallback: None }));
        for damage in [&b""[..], b"garbage", b"waypost 1 sha256 00\ntwo"] {
            fs::write(&path, damage).unwrap();
            let found = read(&path).unwrap().unwrap();
            assert_eq!(found.bytes, b"one");
            assert!(found.fallback.unwrap().contains("checksum"));
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().bytes, b"one");
        fs::write(folder.path().join("a").join("state.json.previous"), b"garbage").unwrap();
        assert!(matches!(read(&path), Err(ReadError::Corrupt { .. })));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        write_once(&path, b"content").unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).unwrap();
            assert!(read_exact(&path).is_err(), "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&path, &flipped).unwrap();
            assert!(read_exact(&path).is_err(), "flipped at {at}");
        }
    }
}
