//! Reads a directory tree: which files are entries, and their content.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use waypost_adapter::{Entry, Key, Revision};

/// The possible endings of the file of a key, in the order of preference.
pub(crate) const EXTENSIONS: [&str; 4] = ["", ".json", ".yaml", ".yml"];

/// Maximum depth of the tree; a root has at most four levels.
const MAX_FOLDER_DEPTH: usize = 8;

/// The revision of a file: its modification time in nanoseconds.
pub(crate) fn revision_of(meta: &Metadata) -> Revision {
    let time = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Revision(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Maximum bytes of a file that is read: more than any value may have. A larger one is unreadable, and costs no memory.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A file's content and revision; `None` if it does not exist or is not a file.
pub(crate) fn read_file(path: &Path) -> io::Result<Option<(Bytes, Revision)>> {
    let read = || -> io::Result<Option<(Bytes, Revision)>> {
        let meta = std::fs::metadata(path)?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut content = Vec::new();
        let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other(format!("the file has more than {MAX_FILE_BYTES} bytes, which no value may have")));
        }
        Ok(Some((Bytes::from(content), revision_of(&meta))))
    };
    match read() {
        Err(error) if leads_nowhere(&error) => Ok(None),
        other => other,
    }
}

/// Endings that editors, package managers and people who disable a file append to its name.
const LEFTOVER_ENDINGS: [&str; 20] = [
    ".bak",
    ".backup",
    ".disabled",
    ".dpkg-bak",
    ".dpkg-dist",
    ".dpkg-new",
    ".dpkg-old",
    ".dpkg-tmp",
    ".off",
    ".old",
    ".orig",
    ".part",
    ".rej",
    ".rpmnew",
    ".rpmorig",
    ".rpmsave",
    ".save",
    ".swp",
    ".tmp",
    ".ucf-dist",
];

/// Whether a file name can be that of an entry: not hidden, and not a leftover of an editor or package manager. A name with anything after
/// an ending, such as `shop.json.1`, is a leftover.
pub(crate) fn is_entry_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let is_swap = lower.rsplit_once(".sw").is_some_and(|(_, last)| last.len() == 1);
    let behind = |ending: &str| lower.find(&format!("{ending}.")).is_some() || lower.contains(&format!("{ending}_")) || lower.contains(&format!("{ending}-"));
    let hidden = name.starts_with(['.', '#']) || name.ends_with(['~', '#']);
    !hidden
        && !is_swap
        && name != "4913"
        && !LEFTOVER_ENDINGS.iter().any(|left| lower.ends_with(left))
        && !EXTENSIONS.iter().skip(1).any(|ending| behind(ending))
}

/// The key of a file below the root's directory: its path without a known ending. Bytes that are not UTF-8 become `\xNN`, which no name may
/// contain, so that the key gets a verdict.
pub(crate) fn key_of(root: &str, relative: &Path) -> Option<String> {
    use std::os::unix::ffi::OsStrExt as _;
    let text = &waypost_adapter::escape(relative.as_os_str().as_bytes());
    if !text.split('/').all(is_entry_name) {
        return None;
    }
    let stem = EXTENSIONS.iter().filter(|ending| !ending.is_empty()).find_map(|ending| text.strip_suffix(ending)).unwrap_or(text);
    Some(format!("{root}/{stem}"))
}

/// The result of a walk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// The files by path, with revision and length to detect changes.
    pub(crate) files: BTreeMap<PathBuf, (Revision, u64)>,
    /// The newest modification time of a directory or file.
    pub(crate) newest: Revision,
    /// Folders outside the root in which a change of a link, or of its target, would be visible.
    pub(crate) linked: BTreeSet<PathBuf>,
}

/// Maximum number of folders of links and their targets that are watched; changes in further ones are found only by walks.
const MAX_LINKED_FOLDERS: usize = 1_000;
/// Maximum number of links from link to link; a longer chain counts as a loop.
const MAX_LINK_CHAIN: usize = 40;

/// Lists every file below `folder` that can be an entry. Symbolic links are followed.
pub(crate) fn walk(folder: &Path) -> io::Result<Walk> {
    let mut found = Walk::default();
    descend(folder, &mut Vec::new(), &mut found)?;
    let real = std::fs::canonicalize(folder)?;
    found.linked.retain(|linked| !linked.starts_with(folder) && !linked.starts_with(&real));
    Ok(found)
}

/// Adds the folder of every link on the way to a path, and the folder of the file at its end, or the folder at its end itself.
fn folders_of_links(path: &Path, is_folder: bool, found: &mut BTreeSet<PathBuf>) {
    let mut way = path.to_owned();
    for _ in 0..MAX_LINK_CHAIN {
        let link = way.ancestors().filter_map(|part| Some((part.to_owned(), std::fs::read_link(part).ok()?))).last();
        let Some((link, target)) = link else { break };
        let folder = link.parent().unwrap_or(Path::new("/")).to_owned();
        let rest = way.strip_prefix(&link).unwrap_or(Path::new("")).to_owned();
        // Joining an empty path would append a slash.
        let led = folder.join(target);
        way = if rest.as_os_str().is_empty() { led } else { led.join(rest) };
        found.insert(folder);
    }
    let last = if is_folder { Some(way.as_path()) } else { way.parent() };
    found.extend(last.and_then(|last| std::fs::canonicalize(last).ok()));
}

/// Adds what is in a folder; `above` are the folders on the way to it, as device and number, so that a link to one of them is no way round.
fn descend(folder: &Path, above: &mut Vec<(u64, u64)>, found: &mut Walk) -> io::Result<()> {
    let own = std::fs::metadata(folder)?;
    let identity = (own.dev(), own.ino());
    if above.contains(&identity) {
        return Ok(());
    }
    found.newest = found.newest.max(revision_of(&own));
    above.push(identity);
    let result = list(folder, above, found);
    above.pop();
    result
}

fn list(folder: &Path, above: &mut Vec<(u64, u64)>, found: &mut Walk) -> io::Result<()> {
    for item in std::fs::read_dir(folder)? {
        let item = item?;
        if !is_entry_name(&item.file_name().to_string_lossy()) {
            continue;
        }
        let path = item.path();
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) if leads_nowhere(&error) => continue,
            // It gets a verdict of its own, and costs no other key anything.
            Err(_) => {
                found.files.insert(path, (Revision(0), 0));
                continue;
            }
        };
        if item.file_type()?.is_symlink() && found.linked.len() < MAX_LINKED_FOLDERS {
            folders_of_links(&path, meta.is_dir(), &mut found.linked);
        }
        if meta.is_dir() && above.len() <= MAX_FOLDER_DEPTH {
            match descend(&path, above, found) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // This folder is part of every new file system and readable only by root. For any other unreadable folder, a listing
                // without its content would look like a deletion of the content.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.ends_with("lost+found") => {}
                other => other?,
            }
        } else if meta.is_file() {
            found.newest = found.newest.max(revision_of(&meta));
            found.files.insert(path, (revision_of(&meta), meta.len()));
        }
    }
    Ok(())
}

/// Whether a link leads to nothing that there is.
fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) || matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENAMETOOLONG))
}

/// The entry of a key from its files: the first in the order of preference; unreadable with a message if there are several.
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
    let message = format!("the name is there more than once: {}; keep one file", names.join(", "));
    Some(Entry { unreadable: Some(message), value: Bytes::new(), ..first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_editors_and_package_managers_are_no_entries() {
        for name in ["shop", "shop.json", "shop.yml", "app.1", "v1.2", "10.0.0.5:8080", "old", "bak", "a.swan", "json", "my.jsonish"] {
            assert!(is_entry_name(name), "{name}");
        }
        for name in [
            ".shop.json.swp",
            "shop.json~",
            "#shop.json#",
            ".#shop",
            "shop.bak",
            "shop.json.bak",
            "shop.json.BAK",
            "shop.json.1",
            "shop.yaml.rpmsave",
            "shop.dpkg-dist",
            "shop.json.off.bak",
            "shop.swo",
            "shop.orig",
            "shop.json.2026-11-28",
            "shop.json_old",
            "4913",
        ] {
            assert!(!is_entry_name(name), "{name}");
        }
    }

    #[test]
    fn every_link_on_the_way_is_looked_after() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |path: &str| outside.path().canonicalize().unwrap().join(path);
        std::fs::create_dir_all(at("v1")).unwrap();
        std::fs::write(at("v1/shop.json"), "{}").unwrap();
        std::os::unix::fs::symlink("v1", at("current")).unwrap();
        std::os::unix::fs::symlink(at("current/shop.json"), inside.path().join("shop.json")).unwrap();
        let found = walk(inside.path()).unwrap();
        assert_eq!(found.files.len(), 1);
        assert!(found.linked.contains(&at("")) || found.linked.contains(&at(".").canonicalize().unwrap()), "{:?}", found.linked);
        assert!(found.linked.contains(&at("v1")), "{:?}", found.linked);
        std::os::unix::fs::symlink("loop", inside.path().join("loop")).unwrap();
        assert!(walk(inside.path()).is_ok(), "a link to itself");
    }
}
