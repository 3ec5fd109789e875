//! A directory of JSON or YAML files as a store: the embedded default.
//!
//! `routes/shop`, `routes/shop.json` and `routes/shop.yaml` are the key `routes/shop`. Hidden files and leftovers of editors are ignored.
//! Writes go through a temporary file and a rename, under a lock.

mod failed;
mod source;
mod tree;

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use waypost_adapter::{Adapter, AdapterError, Entry, ErrorKind, Expected, Key, PutIf, Revision, Source};

use crate::failed::failed;
use crate::source::FileSource;
use crate::tree::{EXTENSIONS, is_entry_name, read_file, revision_of};

/// A directory whose subdirectories are roots.
#[derive(Debug, Clone)]
pub struct FileAdapter {
    base: PathBuf,
}

impl FileAdapter {
    /// An adapter for the roots below `base`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    /// The path of a key without an extension; refuses keys whose path would leave the directory.
    fn path(&self, key: &Key) -> Result<PathBuf, AdapterError> {
        if let Some((stem, ending)) = ending_of(key) {
            let base = self.base.display().to_string();
            return Err(AdapterError::new(
                ErrorKind::Refused,
                base,
                format!("{key} ends in {ending}, which a directory takes from the names of its files"),
                format!("write {stem}"),
            ));
        }
        let text = std::str::from_utf8(key.bytes()).ok().filter(|text| text.split('/').all(|part| !part.is_empty() && is_entry_name(part)));
        text.map(|text| self.base.join(text)).ok_or_else(|| {
            AdapterError::new(
                ErrorKind::Refused,
                self.base.display().to_string(),
                format!("{key} is no name of an entry's file"),
                "use letters, digits, '.', '_' and '-', and no ending of backups such as .bak",
            )
        })
    }

    /// The file that has a key's value now, if there is one.
    fn existing(&self, key: &Key) -> Result<Option<PathBuf>, AdapterError> {
        let path = self.path(key)?;
        let with = |extension: &str| PathBuf::from(format!("{}{extension}", path.display()));
        Ok(EXTENSIONS.iter().map(|extension| with(extension)).find(|path| path.is_file()))
    }

    fn read(&self, key: &Key) -> Result<Option<Entry>, AdapterError> {
        let Some(path) = self.existing(key)? else { return Ok(None) };
        Ok(read_file(&path).map_err(|error| failed(&path, &error))?.map(|(value, revision)| Entry { key: key.clone(), value, revision, unreadable: None }))
    }

    fn write(&self, key: &Key, value: &Bytes) -> Result<Revision, AdapterError> {
        use std::io::Write as _;
        let path = self.existing(key)?.map_or_else(|| self.path(key), Ok)?;
        let folder = path.parent().unwrap_or(&self.base).to_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
        let write = || {
            self.make(&folder)?;
            let before = std::fs::metadata(&path).map(|meta| revision_of(&meta)).ok();
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(value)?;
            // If both writes fall into one tick of the file system's clock, the second still gets a higher revision.
            if let Some(before) = before.filter(|before| file.metadata().is_ok_and(|meta| revision_of(&meta) <= *before)) {
                file.set_modified(UNIX_EPOCH + Duration::from_nanos(before.0 + 1))?;
            }
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            std::fs::metadata(&path)
        };
        write().map(|meta| revision_of(&meta)).map_err(|error| failed(&path, &error))
    }

    /// Creates a folder inside the directory, but not the directory itself, so that a mistyped path is reported.
    fn make(&self, folder: &Path) -> std::io::Result<()> {
        if !self.base.is_dir() {
            return Err(std::io::Error::new(std::io::ErrorKind::NotFound, format!("{} is no directory", self.base.display())));
        }
        std::fs::create_dir_all(folder)
    }

    /// Runs `work` under the lock that excludes writes of other processes through an adapter below the same root.
    async fn locked<T: Send + 'static>(&self, key: &Key, work: impl FnOnce(&Self) -> Result<T, AdapterError> + Send + 'static) -> Result<T, AdapterError> {
        let this = self.clone();
        let folder = self.path(key)?.parent().unwrap_or(&self.base).to_owned();
        let task = tokio::task::spawn_blocking(move || {
            let lock = folder.join(".lock");
            let lock_file = this.make(&folder).and_then(|()| std::fs::File::create(&lock)).and_then(|file| file.lock().map(|()| file));
            let _guard = lock_file.map_err(|error| failed(&lock, &error))?;
            work(&this)
        });
        task.await.unwrap_or_else(|error| Err(failed(&self.base, &std::io::Error::other(error))))
    }
}

/// For a key that ends like a file name: the key without the ending, and the ending.
fn ending_of(key: &Key) -> Option<(String, &'static str)> {
    let text = key.to_string();
    EXTENSIONS.iter().filter(|ending| !ending.is_empty()).find_map(|ending| Some((text.strip_suffix(ending)?.to_owned(), *ending)))
}

#[async_trait]
impl Adapter for FileAdapter {
    fn source(&self, root: &str) -> Box<dyn Source> {
        Box::new(FileSource::new(self.base.join(root), root.to_owned()))
    }

    fn only_counts_up(&self) -> bool {
        // A restored directory has the revisions of its files, which may be lower.
        false
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, AdapterError> {
        self.read(key)
    }

    async fn put(&self, key: &Key, value: Bytes) -> Result<Revision, AdapterError> {
        let own = key.clone();
        self.locked(key, move |this| this.write(&own, &value)).await
    }

    async fn put_if(&self, key: &Key, value: Bytes, expected: Expected) -> Result<PutIf, AdapterError> {
        let own = key.clone();
        let write = move |this: &Self| {
            let fits = match (this.read(&own)?, expected) {
                (None, Expected::Absent) => true,
                (Some(entry), Expected::At(revision)) => entry.revision == revision,
                _ => false,
            };
            if fits { this.write(&own, &value).map(PutIf::Written) } else { Ok(PutIf::Conflict) }
        };
        self.locked(key, write).await
    }

    async fn delete(&self, key: &Key) -> Result<(), AdapterError> {
        let own = key.clone();
        let remove = move |this: &Self| match this.existing(&own)? {
            Some(path) => std::fs::remove_file(&path).map_err(|error| failed(&path, &error)),
            None => Ok(()),
        };
        self.locked(key, remove).await
    }
}
