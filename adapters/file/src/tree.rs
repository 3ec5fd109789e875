//! Reading a directory tree: which files are entries, and what they hold.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use waypost_adapter::{Entry, Key, Revision};

/// The endings of a file that holds a key, in the order of preference.
pub(crate) const EXTENSIONS: [&str; 4] = ["", ".json", ".yaml", ".yml"];

/// How deep a tree may be: a root has at most four levels.
const DEPTH: usize = 8;

/// The revision of a file: when it was last changed, in nanoseconds.
pub(crate) fn revision_of(meta: &Metadata) -> Revision {
    let time = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Revision(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// A file's content and revision; `None` if it is not there (any more) or not a file.
pub(crate) fn read_file(path: &Path) -> io::Result<Option<(Bytes, Revision)>> {
    let read = || -> io::Result<Option<(Bytes, Revision)>> {
        let meta = std::fs::metadata(path)?;
        if !meta.is_file() {
            return Ok(None);
        }
        Ok(Some((Bytes::from(std::fs::read(path)?), revision_of(&meta))))
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

/// Whether a file name can be an entry's: not hidden, not what editors leave behind.
pub(crate) fn is_entry_name(name: &str) -> bool {
    !name.starts_with('.') && !name.ends_with('~') && !name.ends_with(".swp") && name != "4913"
}

/// The key of a file below the root's directory: its path without a known ending. Bytes that are not UTF-8 become
/// `\xNN`, which no name may contain, so that the key gets its verdict.
pub(crate) fn key_of(root: &str, relative: &Path) -> Option<String> {
    use std::os::unix::ffi::OsStrExt as _;
    let text = &waypost_adapter::escape(relative.as_os_str().as_bytes());
    if !text.split('/').all(is_entry_name) {
        return None;
    }
    let stem = EXTENSIONS.iter().filter(|ending| !ending.is_empty()).find_map(|ending| text.strip_suffix(ending)).unwrap_or(text);
    Some(format!("{root}/{stem}"))
}

/// All entries of one walk, by key, and the paths that were seen with their revisions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Paths, sorted, with what tells a change apart.
    pub(crate) seen: BTreeMap<PathBuf, (Revision, u64)>,
    /// The newest change of a directory or file.
    pub(crate) newest: Revision,
}

/// Lists every file below `folder` that can be an entry. Symbolic links are followed.
pub(crate) fn walk(folder: &Path) -> io::Result<Walk> {
    let mut found = Walk::default();
    descend(folder, 0, &mut found)?;
    Ok(found)
}

fn descend(folder: &Path, depth: usize, found: &mut Walk) -> io::Result<()> {
    found.newest = found.newest.max(revision_of(&std::fs::metadata(folder)?));
    for item in std::fs::read_dir(folder)? {
        let item = item?;
        if !is_entry_name(&item.file_name().to_string_lossy()) {
            continue;
        }
        let path = item.path();
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                found.seen.insert(path, (Revision(0), 0));
                continue;
            }
            Err(error) => return Err(error),
        };
        if meta.is_dir() && depth < DEPTH {
            match descend(&path, depth + 1, found) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Part of every new file system, and nobody's to read. Of any other folder a listing without what is in it
                // would tell that as gone.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.ends_with("lost+found") => {}
                other => other?,
            }
        } else if meta.is_file() {
            found.newest = found.newest.max(revision_of(&meta));
            found.seen.insert(path, (revision_of(&meta), meta.len()));
        }
    }
    Ok(())
}

/// The entry of a key from the files that claim it: the first in the order of preference, and a word about the rest.
pub(crate) fn entry_of(key: &str, paths: &[PathBuf]) -> Option<Entry> {
    let mut found = paths.iter().filter_map(|path| match read_file(path) {
        Ok(None) => None,
        Ok(Some((value, revision))) => Some(Entry { key: Key::from(key.to_owned()), value, revision, unreadable: None }),
        Err(error) => Some(Entry { unreadable: Some(format!("{}: {error}", path.display())), ..Entry::new(key.to_owned(), Bytes::new(), 0) }),
    });
    let first = found.next()?;
    let rest = found.count();
    if rest == 0 {
        return Some(first);
    }
    let names: Vec<String> = paths.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
    let told = format!("the name is there more than once: {}; keep one file", names.join(", "));
    Some(Entry { unreadable: Some(told), value: Bytes::new(), ..first })
}
