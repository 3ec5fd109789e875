//! The state directory of a proxy, which lets it serve without a controller: a ring of configs, the membership, the highest version, and a
//! mark for the config that is being applied.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use waypost_model::lane::{Change, Lane as Objects};
use waypost_model::object::{Digest, Object};
use waypost_model::snapshot::Version;
use waypost_wire::{Lane, ReceivedState};

/// Number of configs that are retained.
const RETAINED_CONFIGS: usize = 5;
/// Number of crashes while a config is being applied after which it is quarantined.
const QUARANTINE_CRASHES: u32 = 2;
const CONFIG_FORMAT: u32 = 1;

/// The first line of a file with objects.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    format: u32,
    cluster: String,
    version: Version,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    track: Option<Lane>,
}

/// Each further line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    lane: Lane,
    object: Box<RawValue>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HighestRecord {
    cluster: String,
    highest: Version,
    digests: BTreeMap<Lane, Digest>,
    quarantined: BTreeSet<Digest>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    config: Digest,
    crashes: u32,
}

/// The state directory of a proxy.
#[derive(Debug)]
pub(crate) struct StateDir {
    folder: PathBuf,
    next: u64,
    quarantined: BTreeSet<Digest>,
    /// The number of crashes so far while this config was being applied.
    crashes: Option<Mark>,
}

/// The state that was found at the start.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The state to serve until a controller is reached.
    pub(crate) received: ReceivedState,
    /// Messages for people about the files.
    pub(crate) notes: Vec<String>,
}

impl StateDir {
    /// Opens or creates the directory, and reads the newest config that is intact and not quarantined.
    pub(crate) fn open(folder: &Path) -> io::Result<(Self, Found)> {
        std::fs::create_dir_all(folder)?;
        let mut found = Found::default();
        // Tests now whether the directory is writable, not with the first snapshot.
        let probe = folder.join(".probe");
        match std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                found.notes.push(format!("the state directory {} is full; free some space: what comes now cannot be kept", folder.display()));
            }
            probed => probed?,
        }
        let record: HighestRecord = read_json(&folder.join("seen.json"), &mut found.notes).unwrap_or_default();
        let mut state = Self { folder: folder.to_owned(), next: 0, quarantined: record.quarantined, crashes: None };
        let crashed_again = state.judge_mark(&mut found.notes);
        found.received = state.restore(&mut found.notes);
        if record.highest >= found.received.highest {
            (found.received.highest, found.received.highest_digests) = (record.highest, record.digests);
        }
        if found.received.cluster.is_empty() {
            found.received.cluster = record.cluster;
        }
        // The quarantine must be saved before anything else is applied, because that removes the mark.
        if crashed_again && let Err(error) = state.files().save_highest(&found.received, &state.quarantined) {
            found.notes.push(format!("the quarantine could not be written to the state directory: {error}"));
        }
        Ok((state, found))
    }

    /// Handles a mark of the previous run: it means that the run ended while it applied that config. Returns whether the config is
    /// quarantined now.
    fn judge_mark(&mut self, notes: &mut Vec<String>) -> bool {
        let Ok(text) = std::fs::read(self.folder.join("applying")) else { return false };
        let Ok(mut mark) = serde_json::from_slice::<Mark>(&text) else { return false };
        mark.crashes += 1;
        let quarantined = mark.crashes >= QUARANTINE_CRASHES && self.quarantined.insert(mark.config);
        if quarantined {
            notes.push(format!("config {} was being applied in {} crashes and is quarantined", mark.config.short(), mark.crashes));
        }
        self.crashes = Some(mark);
        quarantined
    }

    fn restore(&mut self, notes: &mut Vec<String>) -> ReceivedState {
        let ring = ring(&self.folder);
        self.next = ring.last().map_or(0, |(number, _)| number + 1);
        let mut received = ReceivedState { restored: true, ..ReceivedState::default() };
        for (_, path) in ring.into_iter().rev() {
            match waypost_disk::read_exact(&path).map_err(|error| error.to_string()).and_then(|bytes| parse(&bytes.unwrap_or_default())) {
                Ok((head, lanes)) if self.config_digest(head.track, &lanes).is_none_or(|digest| !self.quarantined.contains(&digest)) => {
                    received.lanes = lanes;
                    (received.cluster, received.version, received.highest, received.track) = (head.cluster, head.version, head.version, head.track);
                    break;
                }
                Ok(_) => notes.push(format!("{} is quarantined; the config before it is used", path.display())),
                Err(error) => notes.push(format!("{error}; the config before it is used")),
            }
        }
        let path = self.folder.join("membership.jsonl");
        match waypost_disk::read(&path).map_err(|error| error.to_string()) {
            Ok(None) => {}
            Ok(Some(content)) => {
                notes.extend(content.fallback);
                match parse(&content.bytes) {
                    Ok((head, lanes)) => {
                        // The membership may be unchanged since the proxy followed another cluster, whose versions cannot be compared.
                        if head.cluster == received.cluster || received.cluster.is_empty() {
                            received.highest = received.highest.max(head.version);
                        }
                        received.lanes.extend(lanes);
                    }
                    Err(error) => notes.push(format!("{}: {error}", path.display())),
                }
            }
            Err(error) => notes.push(error),
        }
        received
    }

    fn config_digest(&self, track: Option<Lane>, lanes: &BTreeMap<Lane, Objects>) -> Option<Digest> {
        lanes.get(&track.unwrap_or(Lane::Stable)).map(Objects::digest)
    }

    /// Whether this config is quarantined.
    pub(crate) fn is_quarantined(&self, config: Digest) -> bool {
        self.quarantined.contains(&config)
    }

    /// Quarantines a config: it is never applied again, on this start or a later one.
    pub(crate) fn quarantine(&mut self, config: Digest) {
        self.quarantined.insert(config);
    }

    /// Sets the mark: this config is about to be applied.
    pub(crate) fn begin(&self, config: Digest) -> io::Result<()> {
        let crashes = self.crashes.as_ref().filter(|mark| mark.config == config).map_or(0, |mark| mark.crashes);
        let mark = serde_json::to_vec(&Mark { config, crashes })?;
        std::fs::write(self.folder.join("applying"), mark)
    }

    /// Removes the mark: the config is served.
    pub(crate) fn end(&self) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join("applying")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The writer of the directory's files.
    pub(crate) fn files(&self) -> Files {
        Files { folder: self.folder.clone(), next: self.next }
    }

    /// The quarantined configs.
    pub(crate) fn quarantined(&self) -> &BTreeSet<Digest> {
        &self.quarantined
    }
}

/// The files of a state directory, for the thread that writes them.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    next: u64,
}

impl Files {
    /// Adds a config to the ring.
    pub(crate) fn save_config(&mut self, received: &ReceivedState) -> io::Result<()> {
        let configs = received.lanes.iter().filter(|(lane, _)| **lane != Lane::Membership);
        let ring = ring(&self.folder);
        // Old configs are deleted first, so that a full disk gets some space.
        for (_, path) in ring.iter().take((ring.len() + 1).saturating_sub(RETAINED_CONFIGS)) {
            std::fs::remove_file(path)?;
        }
        waypost_disk::write_once_with(&self.folder.join(format!("config-{:010}.jsonl", self.next)), |out| render(out, received, configs))?;
        self.next += 1;
        Ok(())
    }

    /// Writes the membership.
    pub(crate) fn save_membership(&self, received: &ReceivedState) -> io::Result<()> {
        let membership = received.lanes.iter().filter(|(lane, _)| **lane == Lane::Membership);
        waypost_disk::write_with(&self.folder.join("membership.jsonl"), |out| render(out, received, membership))
    }

    /// Writes the record of the highest version: the version, its digests, the cluster and the quarantined configs.
    pub(crate) fn save_highest(&self, received: &ReceivedState, quarantined: &BTreeSet<Digest>) -> io::Result<()> {
        let record = HighestRecord {
            cluster: received.cluster.clone(),
            highest: received.highest,
            digests: received.highest_digests.clone(),
            quarantined: quarantined.clone(),
        };
        waypost_disk::write(&self.folder.join("seen.json"), &serde_json::to_vec(&record)?)
    }
}

fn ring(folder: &Path) -> Vec<(u64, PathBuf)> {
    let items = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("config-")?.strip_suffix(".jsonl")?.parse().ok();
    let mut ring: Vec<(u64, PathBuf)> = items.map(|item| item.path()).filter_map(|path| Some((number(&path)?, path))).collect();
    ring.sort();
    ring
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path, notes: &mut Vec<String>) -> Option<T> {
    let content = waypost_disk::read(path).map_err(|error| notes.push(error.to_string())).ok()??;
    notes.extend(content.fallback);
    serde_json::from_slice(&content.bytes).map_err(|error| notes.push(format!("{}: {error}", path.display()))).ok()
}

fn render<'a>(out: &mut dyn Write, received: &ReceivedState, lanes: impl Iterator<Item = (&'a Lane, &'a Objects)>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Head { format: CONFIG_FORMAT, cluster: received.cluster.clone(), version: received.version, track: received.track })?;
    out.write_all(b"\n")?;
    for (lane, objects) in lanes {
        for object in objects.objects() {
            serde_json::to_writer(&mut *out, &Line { lane: *lane, object: RawValue::from_string(object.bytes().to_owned())? })?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<(Head, BTreeMap<Lane, Objects>), String> {
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let head: Head = serde_json::from_slice(lines.next().unwrap_or_default()).map_err(|error| format!("no head: {error}"))?;
    if head.format != CONFIG_FORMAT {
        return Err(format!("format {} is of a newer release", head.format));
    }
    let mut changes: BTreeMap<Lane, Vec<Change>> = BTreeMap::new();
    for line in lines {
        let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        changes.entry(line.lane).or_default().push(Change::Put(Object::read(line.object.get())?));
    }
    Ok((head, changes.into_iter().map(|(lane, changes)| (lane, Objects::default().with(changes))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(sequence: u64, name: &str) -> ReceivedState {
        let object = |kind: &str| Object::read(&format!(r#"{{"kind":"{kind}","minLevel":1,"name":"{name}","spec":{{}}}}"#)).unwrap();
        let lane = |kind: &str| Objects::default().with([Change::Put(object(kind))]);
        let version = Version { epoch: 1, sequence };
        ReceivedState {
            cluster: "c".to_owned(),
            highest: version,
            version,
            lanes: BTreeMap::from([(Lane::Stable, lane("route")), (Lane::Membership, lane("endpoint"))]),
            track: Some(Lane::Stable),
            restored: false,
            highest_digests: BTreeMap::new(),
        }
    }

    fn route(folder: &Path) -> (String, ReceivedState) {
        let (_, found) = StateDir::open(folder).unwrap();
        let name = found.received.lanes.get(&Lane::Stable).and_then(|lane| lane.objects().next()).map(|object| object.name().to_owned());
        (name.unwrap_or_default(), found.received)
    }

    #[test]
    fn a_proxy_starts_from_the_newest_config_that_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (state, found) = StateDir::open(folder.path()).unwrap();
        assert!(found.received.lanes.is_empty());
        let mut files = state.files();
        for n in 1..=7 {
            let received = received(n, &format!("r{n}"));
            files.save_config(&received).unwrap();
            files.save_membership(&received).unwrap();
            files.save_highest(&received, state.quarantined()).unwrap();
        }
        assert_eq!(ring(folder.path()).len(), RETAINED_CONFIGS);
        let (name, restored) = route(folder.path());
        assert_eq!(name, "r7");
        assert!(restored.restored && restored.lanes.len() == 2);
        assert_eq!(restored.highest, Version { epoch: 1, sequence: 7 });
        let newest = ring(folder.path()).pop().unwrap().1;
        std::fs::write(&newest, b"garbage").unwrap();
        std::fs::write(folder.path().join("seen.json"), b"garbage").unwrap();
        let (name, restored) = route(folder.path());
        assert_eq!(name, "r6");
        assert_eq!(restored.highest, Version { epoch: 1, sequence: 7 }, "the membership and the older file still tell");
    }

    /// The lanes are written separately; the digests of the highest version tell whether they belong together.
    #[test]
    fn the_restored_version_is_the_one_whose_lanes_are_all_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (state, _) = StateDir::open(folder.path()).unwrap();
        let mut files = state.files();
        let digests = |received: &ReceivedState| received.lanes.iter().map(|(lane, objects)| (*lane, objects.digest())).collect();
        files.save_config(&received(1, "a")).unwrap();
        let later = ReceivedState {
            highest_digests: digests(&received(1, "a")),
            version: Version { epoch: 1, sequence: 4 },
            highest: Version { epoch: 1, sequence: 4 },
            ..received(1, "a")
        };
        files.save_membership(&later).unwrap();
        files.save_highest(&later, state.quarantined()).unwrap();
        assert_eq!(route(folder.path()).1.newest(), later.highest);
        let lost = ReceivedState { highest_digests: digests(&received(5, "b")), highest: Version { epoch: 1, sequence: 5 }, ..later };
        files.save_highest(&lost, state.quarantined()).unwrap();
        assert_eq!(route(folder.path()).1.newest(), Version { epoch: 1, sequence: 1 }, "a later config never came to the disk");
        // The membership may be up to five seconds old.
        files.save_config(&received(9, "c")).unwrap();
        assert_eq!(route(folder.path()).1.newest(), Version { epoch: 1, sequence: 8 }, "less than what has 9 whole");
    }

    /// Files of the first release are still readable, and the present format is the same.
    #[test]
    fn the_files_have_their_golden_forms() {
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/state/golden-1");
        let folder = tempfile::tempdir().unwrap();
        let (state, _) = StateDir::open(folder.path()).unwrap();
        let received =
            ReceivedState { highest_digests: BTreeMap::from([(Lane::Stable, received(3, "shop").lanes[&Lane::Stable].digest())]), ..received(3, "shop") };
        let mut files = state.files();
        files.save_config(&received).unwrap();
        files.save_membership(&received).unwrap();
        files.save_highest(&received, &BTreeSet::from([Digest::of(b"bad")])).unwrap();
        for name in ["config-0000000000.jsonl", "membership.jsonl", "seen.json"] {
            let now = std::fs::read_to_string(folder.path().join(name)).unwrap();
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::create_dir_all(&golden).unwrap();
                std::fs::write(golden.join(name), &now).unwrap();
            }
            assert_eq!(now, std::fs::read_to_string(golden.join(name)).unwrap(), "{name}: the form changed: keep the old file, add a new one");
        }
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(&golden).unwrap().flatten() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let (state, found) = StateDir::open(copy.path()).unwrap();
        assert_eq!(
            (found.received.version, found.received.cluster.as_str(), &found.received.highest_digests),
            (received.version, "c", &received.highest_digests)
        );
        assert!(found.notes.is_empty() && state.is_quarantined(Digest::of(b"bad")));
    }

    #[test]
    fn a_config_that_crashes_the_proxy_twice_is_quarantined() {
        let folder = tempfile::tempdir().unwrap();
        let (state, _) = StateDir::open(folder.path()).unwrap();
        let mut files = state.files();
        files.save_config(&received(1, "good")).unwrap();
        let bad = received(2, "bad");
        files.save_config(&bad).unwrap();
        let digest = bad.lanes[&Lane::Stable].digest();
        state.begin(digest).unwrap();
        let (state, _) = StateDir::open(folder.path()).unwrap();
        assert!(!state.is_quarantined(digest), "once may be chance");
        state.begin(digest).unwrap();
        let (state, found) = StateDir::open(folder.path()).unwrap();
        assert!(state.is_quarantined(digest));
        assert!(found.notes.iter().any(|note| note.contains("quarantined")));
        state.begin(received(1, "good").lanes[&Lane::Stable].digest()).unwrap();
        state.end().unwrap();
        assert!(StateDir::open(folder.path()).unwrap().0.is_quarantined(digest), "also when no controller came in between");
        assert_eq!(route(folder.path()).0, "good");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_refused_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(StateDir::open(&file.join("x")).is_err());
    }
}
