//! The history: a ring of configs on disk, by number and digest, with the authors' bytes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use waypost_model::lane::{Change, Lane};
use waypost_model::snapshot::Version;

use crate::controller::disk::files::{pack, unpack};
use crate::controller::rules::pins::PinRecord;
use crate::controller::stored::config::{ConfigRecord, StoredConfig};
use crate::controller::stored::entries::{SavedStore, StoredEntries};
use crate::controller::stored::published::{lane_of, objects_of};

/// The ring of configs on disk.
#[derive(Debug)]
pub struct History {
    folder: PathBuf,
    keep: usize,
    records: Vec<ConfigRecord>,
    /// The config that this process added last.
    last: Option<Lane>,
    /// The number of the config that comes next.
    next: u64,
    /// The number of the pinned config, which is never trimmed.
    spare: Option<u64>,
    /// Files that cannot be used, and why.
    damaged: Vec<(String, String)>,
}

impl History {
    /// Opens the ring below the state directory.
    pub fn open(state: &Path, keep: usize) -> Self {
        let folder = state.join("history");
        let mut history = Self { folder, keep: keep.max(1), records: Vec::new(), next: 1, last: None, spare: None, damaged: Vec::new() };
        let mut files = history.files();
        files.sort();
        for file in files {
            match history.read(&file) {
                Ok(config) => history.records.push(config.record),
                Err(error) => {
                    let name = file.file_name().unwrap_or_default().to_string_lossy();
                    history.damaged.push((format!("history/{name}"), error));
                }
            }
        }
        history.next = history.records.last().map_or(1, |last| last.number + 1);
        history
    }

    fn files(&self) -> Vec<PathBuf> {
        let items = std::fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|item| item.path());
        items.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("C"))).collect()
    }

    fn file(&self, number: u64) -> PathBuf {
        self.folder.join(format!("C{number:010}.json.gz"))
    }

    fn read(&self, file: &Path) -> Result<StoredConfig, String> {
        let bytes = waypost_disk::read_exact(file).map_err(|error| error.to_string())?.unwrap_or_default();
        unpack(&bytes).map_err(|error| error.to_string())
    }

    /// Files that could not be used when it was opened, and why.
    pub fn damaged(&self) -> &[(String, String)] {
        &self.damaged
    }

    /// All configs, oldest first.
    pub fn records(&self) -> &[ConfigRecord] {
        &self.records
    }

    /// The authors' entries of a config.
    ///
    /// # Errors
    /// There is no such config, or its file cannot be used.
    pub fn entries(&self, number: u64) -> Result<Vec<SavedStore>, String> {
        let exists = self.records.iter().any(|record| record.number == number);
        if !exists {
            return Err(format!("there is no config C{number}; `waypost history` lists those there are"));
        }
        let config = self.read(&self.file(number))?;
        Ok(config.stores.into_iter().map(StoredEntries::into_store).collect())
    }

    /// The objects of a config.
    ///
    /// # Errors
    /// There is no such config, or its file cannot be used.
    pub fn lane(&self, number: u64) -> Result<Lane, String> {
        let record = self.records.iter().find(|record| record.number == number);
        let record = record.ok_or_else(|| format!("there is no config C{number}; `waypost history` lists those there are"))?;
        let config = self.read(&self.file(number))?;
        let lane = lane_of(&config.objects)?;
        if lane.digest().to_string() == record.digest {
            Ok(lane)
        } else {
            Err(format!("the file of C{number} does not hold its objects; export it and write it to the store"))
        }
    }

    /// The objects of the pinned config.
    ///
    /// # Errors
    /// There is no such config, its file cannot be used, or it is another one under that number.
    pub fn pinned_lane(&self, mark: &PinRecord) -> Result<Lane, String> {
        let lane = self.lane(mark.config)?;
        if mark.digest.is_none_or(|digest| digest == lane.digest()) {
            Ok(lane)
        } else {
            Err(format!("C{} is another config here than the one that was meant", mark.config))
        }
    }

    /// The configs that are not among `present` (digests by number); oldest first.
    pub fn missing(&self, present: &BTreeMap<u64, String>) -> Vec<ConfigRecord> {
        self.records.iter().filter(|record| present.get(&record.number) != Some(&record.digest)).cloned().collect()
    }

    /// The content of a config's file, for another controller.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn content(&self, number: u64) -> Result<Vec<u8>, String> {
        let bytes = waypost_disk::read_exact(&self.file(number)).map_err(|error| error.to_string())?;
        bytes.ok_or_else(|| format!("the file of C{number} has gone"))
    }

    /// Takes over a config from a controller that does not lead. It neither replaces a config of ours that is as new, nor displaces a newer one from
    /// a full ring.
    ///
    /// # Errors
    /// It is not what it says it is, or the disk refused.
    pub fn learn(&mut self, number: u64, digest: &str, content: &[u8]) -> Result<(), String> {
        let existing = self.records.iter().find(|record| record.number == number);
        let full = self.records.len() >= self.keep && self.records.first().is_some_and(|oldest| number < oldest.number);
        if full || self.spare == Some(number) && existing.is_some() {
            return Ok(());
        }
        let config: StoredConfig = unpack(content).map_err(|error| format!("C{number} cannot be read: {error}"))?;
        if existing.is_some_and(|existing| existing.version >= config.record.version) { Ok(()) } else { self.adopt(number, digest, content) }
    }

    /// Takes over a config from the leader. It replaces any config of ours with the same number.
    ///
    /// # Errors
    /// It is not what it says it is, or the disk refused.
    pub fn adopt(&mut self, number: u64, digest: &str, content: &[u8]) -> Result<(), String> {
        let config: StoredConfig = unpack(content).map_err(|error| format!("C{number} cannot be read: {error}"))?;
        if config.record.number != number || config.record.digest != digest || lane_of(&config.objects)?.digest().to_string() != digest {
            return Err(format!("what came as C{number} is another config"));
        }
        self.make_room().map_err(|error| error.to_string())?;
        waypost_disk::write_once(&self.file(number), content).map_err(|error| error.to_string())?;
        self.records.retain(|record| record.number != number);
        self.records.push(config.record);
        self.records.sort_by_key(|record| record.number);
        self.next = self.records.last().map_or(1, |last| last.number + 1);
        self.last = None;
        Ok(())
    }

    /// Makes room for one config. Old files are deleted before the new one is written, which relieves a full disk.
    fn make_room(&mut self) -> io::Result<()> {
        while self.records.len() >= self.keep
            && let Some(oldest) = self.records.iter().position(|record| Some(record.number) != self.spare)
        {
            let number = self.records.get(oldest).map(|record| record.number).unwrap_or_default();
            match std::fs::remove_file(self.file(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => drop(self.records.remove(oldest)),
            }
        }
        Ok(())
    }

    /// Keeps a config from being trimmed.
    pub const fn spare(&mut self, number: Option<u64>) {
        self.spare = number;
    }

    /// Adds a config, unless it equals the last one or the spared one. Returns its number.
    ///
    /// # Errors
    /// The disk refused; the config is to be added again later.
    pub fn add(&mut self, version: Version, config: &Lane, at: u64, stores: &[SavedStore]) -> io::Result<u64> {
        let digest = config.digest().to_string();
        let same = self.records.iter().rev().find(|record| record.digest == digest);
        let last = self.records.last().map(|last| last.number);
        if let Some(same) = same.filter(|same| Some(same.number) == last || Some(same.number) == self.spare) {
            self.last = Some(config.clone());
            return Ok(same.number);
        }
        let line = |change: &Change| match change {
            Change::Put(object) => format!("put {}", object.path()),
            Change::Delete(path) => format!("delete {path}"),
        };
        // After a restart, or after a config of another controller was adopted, the last config is on disk only.
        let before = self.last.clone().or_else(|| self.lane(last?).ok()).unwrap_or_default();
        let changes = before.changes_to(config);
        let mut lines: Vec<String> = changes.iter().take(20).map(line).collect();
        if changes.len() > lines.len() {
            lines.push(format!("and {} more", changes.len() - lines.len()));
        }
        let number = self.next;
        let record = ConfigRecord { number, digest, at, version, objects: config.len(), changes: lines };
        self.make_room()?;
        let stores = stores.iter().map(StoredEntries::of).collect();
        let objects = objects_of(config);
        waypost_disk::write_once(&self.file(number), &pack(&StoredConfig { record: record.clone(), stores, objects })?)?;
        self.records.push(record);
        self.next = number + 1;
        self.last = Some(config.clone());
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use waypost_model::compile::{EntryInput, SavedEntry, Written};
    use waypost_model::object::Object;

    use super::*;
    use crate::controller::rules::pins::Reason;

    fn saved(key: &str, value: &[u8], good: Option<&[u8]>) -> SavedEntry {
        let written = |value: &[u8], revision| Written { value: value.into(), revision };
        SavedEntry { input: EntryInput { key: key.to_owned(), written: written(value, 2), unreadable: None }, last_good: good.map(|value| written(value, 1)) }
    }

    #[test]
    fn a_pinned_config_stays_in_the_history() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path(), 3);
        let add = |history: &mut History, n: u64| {
            let object = Object::read(&format!(r#"{{"kind":"route","name":"r{n}"}}"#)).unwrap();
            history.add(Version { epoch: 1, sequence: n }, &Lane::default().with([Change::Put(object)]), n, &[]).unwrap()
        };
        assert_eq!(add(&mut history, 1), 1);
        history.spare(Some(1));
        (2..=6).for_each(|n| assert_eq!(add(&mut history, n), n));
        assert_eq!(history.records().iter().map(|record| record.number).collect::<Vec<_>>(), [1, 5, 6]);
        assert_eq!(add(&mut history, 1), 1, "it is known again");
        assert!(History::open(folder.path(), 3).lane(1).is_ok());
    }

    #[test]
    fn the_history_keeps_the_last_configs_and_their_authors_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path(), 3);
        let mut lane = Lane::default();
        for n in 1..=5 {
            let object = waypost_model::object::Object::read(&format!(r#"{{"kind":"route","name":"r{n}"}}"#)).unwrap();
            lane = lane.with([Change::Put(object)]);
            let stores = vec![("s".to_owned(), vec![saved(&format!("routes/r{n}"), b"v", None)])];
            assert_eq!(history.add(Version { epoch: 1, sequence: n }, &lane, n, &stores).unwrap(), n);
            assert_eq!(history.add(Version { epoch: 1, sequence: n }, &lane, n, &stores).unwrap(), n, "the same again");
        }
        let mut history = History::open(folder.path(), 3);
        assert_eq!(history.records().iter().map(|record| record.number).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(history.records()[2].changes, ["put route/r5"]);
        assert_eq!(history.entries(4).unwrap()[0].1[0].input.key, "routes/r4");
        let four: Vec<String> = history.lane(4).unwrap().objects().map(|object| object.name().to_owned()).collect();
        assert_eq!(four.len(), 4, "C4 had r1 to r4: {four:?}");
        assert!(history.entries(1).unwrap_err().contains("waypost history"));
        let less = lane.with([Change::Delete("route/r2".to_owned())]);
        assert_eq!(history.add(Version { epoch: 2, sequence: 1 }, &less, 9, &[]).unwrap(), 6);
        assert_eq!(history.records()[2].changes, ["delete route/r2"], "a restart does not make everything new");
    }

    #[test]
    fn a_config_of_a_controller_that_does_not_lead_replaces_nothing_newer() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut ours, mut theirs) = (History::open(here.path(), 3), History::open(there.path(), 3));
        let add = |history: &mut History, epoch, n: u64| {
            let object = Object::read(&format!(r#"{{"kind":"route","name":"e{epoch}-{n}"}}"#)).unwrap();
            history.add(Version { epoch, sequence: n }, &Lane::default().with([Change::Put(object)]), n, &[]).unwrap()
        };
        let names = |history: &History| history.records().iter().map(|record| record.changes.last().unwrap().clone()).collect::<Vec<_>>();
        // Both went on from C1, each with a C2 of its own; only the other one has a C3.
        add(&mut ours, 2, 1);
        add(&mut ours, 2, 2);
        let mark = PinRecord { reason: Reason::Frozen, config: 2, by: "alice".to_owned(), at: 1, until: None, digest: Some(ours.lane(2).unwrap().digest()) };
        (1..=3).for_each(|n| assert_eq!(add(&mut theirs, 1, n), n));
        let learn = |ours: &mut History, theirs: &History| {
            for record in theirs.records() {
                ours.learn(record.number, &record.digest, &theirs.content(record.number).unwrap()).unwrap();
            }
        };
        let before = names(&ours);
        learn(&mut ours, &theirs);
        assert_eq!((names(&ours)[..2].to_vec(), ours.records().len()), (before, 3));
        assert!(ours.pinned_lane(&mark).is_ok() && theirs.pinned_lane(&mark).unwrap_err().contains("another config"));
        // A full ring does not make room for an older config.
        (4..=5).for_each(|n| assert_eq!(add(&mut ours, 2, n), n));
        let before = names(&ours);
        learn(&mut ours, &theirs);
        assert_eq!(names(&ours), before);
    }

    #[test]
    fn another_controller_gets_the_same_configs_under_the_same_numbers() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut leader, mut follower) = (History::open(here.path(), 3), History::open(there.path(), 3));
        let add = |history: &mut History, n: u64| {
            let object = Object::read(&format!(r#"{{"kind":"route","name":"r{n}"}}"#)).unwrap();
            history.add(Version { epoch: 1, sequence: n }, &Lane::default().with([Change::Put(object)]), n, &[]).unwrap()
        };
        (1..=4).for_each(|n| assert_eq!(add(&mut leader, n), n));
        assert_eq!(add(&mut follower, 9), 1, "it led alone once");
        let numbers = |history: &History| history.records().iter().map(|record| (record.number, record.digest.clone())).collect();
        for record in leader.missing(&numbers(&follower)) {
            follower.adopt(record.number, &record.digest, &leader.content(record.number).unwrap()).unwrap();
        }
        assert!(leader.missing(&numbers(&follower)).is_empty());
        let again = History::open(there.path(), 3);
        assert_eq!(again.lane(3).unwrap(), leader.lane(3).unwrap());
        assert_eq!(add(&mut follower, 5), 5, "it goes on from there");
        let mut changes = follower.records().last().unwrap().changes.clone();
        changes.sort();
        assert_eq!(changes, ["delete route/r4", "put route/r5"], "and tells what differs from that");
        let content = leader.content(3).unwrap();
        assert!(follower.adopt(4, &leader.records()[1].digest, &content).unwrap_err().contains("another config"));
        assert!(follower.adopt(4, "x", b"garbage").unwrap_err().contains("cannot be read"));
    }
}
