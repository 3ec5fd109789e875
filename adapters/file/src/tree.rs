//! Reading a directory tree: which files are entries, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
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

/// What editors, package managers and people who switch a file off put behind its name.
const LEFTOVERS: [&str; 20] = [
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

/// Whether a file name can be an entry's: not hidden, and not what editors and package managers leave behind. Whatever stands
/// behind an ending, as in `shop.json.1`, makes a name one of those.
pub(crate) fn is_entry_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let is_swap = lower.rsplit_once(".sw").is_some_and(|(_, last)| last.len() == 1);
    let behind = |ending: &str| lower.find(&format!("{ending}.")).is_some() || lower.contains(&format!("{ending}_")) || lower.contains(&format!("{ending}-"));
    let hidden = name.starts_with(['.', '#']) || name.ends_with(['~', '#']);
    !hidden && !is_swap && name != "4913" && !LEFTOVERS.iter().any(|left| lower.ends_with(left)) && !EXTENSIONS.iter().skip(1).any(|ending| behind(ending))
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
    /// Folders outside in which a change of a link, or of what it leads to, would show.
    pub(crate) linked: BTreeSet<PathBuf>,
}

/// Folders of links and of what they lead to that are looked after; of more of them only a walk finds the changes.
const MOST_LINKED: usize = 1_000;
/// Links that lead to links; more are a loop.
const MOST_LINKS: usize = 40;

/// Lists every file below `folder` that can be an entry. Symbolic links are followed.
pub(crate) fn walk(folder: &Path) -> io::Result<Walk> {
    let mut found = Walk::default();
    descend(folder, 0, &mut found)?;
    let real = std::fs::canonicalize(folder)?;
    found.linked.retain(|linked| !linked.starts_with(folder) && !linked.starts_with(&real));
    Ok(found)
}

/// The folders of every link on the way to a path, and that of the file at its end, or the folder at its end itself.
fn folders_of_links(path: &Path, is_folder: bool, found: &mut BTreeSet<PathBuf>) {
    let mut way = path.to_owned();
    for _ in 0..MOST_LINKS {
        let link = way.ancestors().filter_map(|part| Some((part.to_owned(), std::fs::read_link(part).ok()?))).last();
        let Some((link, target)) = link else { break };
        let folder = link.parent().unwrap_or(Path::new("/")).to_owned();
        let rest = way.strip_prefix(&link).unwrap_or(Path::new("")).to_owned();
        // Joined with nothing, a path would end in a slash.
        let led = folder.join(target);
        way = if rest.as_os_str().is_empty() { led } else { led.join(rest) };
        found.insert(folder);
    }
    let last = if is_folder { Some(way.as_path()) } else { way.parent() };
    found.extend(last.and_then(|last| std::fs::canonicalize(last).ok()));
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
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ELOOP) => continue,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                found.seen.insert(path, (Revision(0), 0));
                continue;
            }
            Err(error) => return Err(error),
        };
        if item.file_type()?.is_symlink() && found.linked.len() < MOST_LINKED {
            folders_of_links(&path, meta.is_dir(), &mut found.linked);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_and_package_managers_leave_is_no_entry() {
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
        assert_eq!(found.seen.len(), 1);
        assert!(found.linked.contains(&at("")) || found.linked.contains(&at(".").canonicalize().unwrap()), "{:?}", found.linked);
        assert!(found.linked.contains(&at("v1")), "{:?}", found.linked);
        std::os::unix::fs::symlink("loop", inside.path().join("loop")).unwrap();
        assert!(walk(inside.path()).is_ok(), "a link to itself");
    }
}
