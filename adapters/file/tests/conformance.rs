//! The conformance suite against a real directory, and the cases that only directories have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use waypost_adapter_file::FileAdapter;
use waypost_testkit::Mirror;
use waypost_testkit::conformance::{self, RECOVERY_TIME, ROOT, Store};

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(ROOT)).unwrap();
    let store: Store = Arc::new(FileAdapter::new(folder.path()));
    (folder, store)
}

/// One test of the shared suite, with its own directory.
macro_rules! conforms {
    ($name:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let (folder, store) = store();
            conformance::$name(store).await;
            drop(folder);
        }
    };
}

conforms!(ordinary_life);
conforms!(burst_of_ten_thousand_keys);
conforms!(binary_and_empty_values);
conforms!(prefix_boundaries);
conforms!(whole_tree_deleted);
conforms!(put_if_raced_by_sixteen_writers);
conforms!(idle_is_told);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endings_are_no_part_of_the_key_and_two_files_of_one_name_are_reported() {
    let (folder, store) = store();
    let root = folder.path().join(ROOT);
    std::fs::create_dir(root.join("routes")).unwrap();
    std::fs::write(root.join("routes/a.yaml"), "rules: []").unwrap();
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the key without its ending", |mirror| mirror.entry("waypost/routes/a").is_some()).await;
    std::fs::write(root.join("routes/a.json"), "{}").unwrap();
    mirror.until(RECOVERY_TIME, "a word about both", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.unreadable.is_some())).await;
    let message = mirror.entry("waypost/routes/a").unwrap().unreadable.unwrap();
    assert_eq!(message, "the name is there more than once: a.json, a.yaml; keep one file");
    std::fs::remove_file(root.join("routes/a.json")).unwrap();
    mirror.until(RECOVERY_TIME, "the one that is left", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.unreadable.is_none())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_written_file_is_read_when_its_writer_closes_it() {
    use std::io::Write as _;
    let (folder, store) = store();
    let path = folder.path().join(ROOT).join("current");
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "a first Reset", |mirror| mirror.counts().0 == 1).await;
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"first half ").unwrap();
    file.flush().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(mirror.entry("waypost/current"), None);
    file.write_all(b"second half").unwrap();
    drop(file);
    mirror.until(RECOVERY_TIME, "the whole", |mirror| mirror.entry("waypost/current").is_some_and(|entry| entry.value == "first half second half")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_editors_rename_and_its_leftovers_are_one_change() {
    let (folder, store) = store();
    let root = folder.path().join(ROOT);
    std::fs::write(root.join("current"), "a").unwrap();
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the file", |mirror| mirror.entry("waypost/current").is_some()).await;
    for leftover in [".current.swp", "current~", "4913"] {
        std::fs::write(root.join(leftover), "x").unwrap();
    }
    std::fs::rename(root.join("current"), root.join("current~")).unwrap();
    std::fs::write(root.join("current"), "b").unwrap();
    mirror.until(RECOVERY_TIME, "the new content", |mirror| mirror.entry("waypost/current").is_some_and(|entry| entry.value == "b")).await;
    assert_eq!(mirror.values().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symbolic_link_that_is_swapped_changes_all_files_at_once_as_config_maps_do() {
    let (folder, store) = store();
    let root = folder.path().join(ROOT);
    for (version, content) in [("..v1", "one"), ("..v2", "two")] {
        std::fs::create_dir_all(root.join(version).join("routes")).unwrap();
        std::fs::write(root.join(version).join("routes/a"), content).unwrap();
    }
    std::os::unix::fs::symlink("..v1", root.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/routes", root.join("routes")).unwrap();
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the first content", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.value == "one")).await;
    std::os::unix::fs::symlink("..v2", root.join("..new")).unwrap();
    std::fs::rename(root.join("..new"), root.join("..data")).unwrap();
    mirror.until(RECOVERY_TIME, "the second content", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.value == "two")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_targets_of_links_that_lead_outside_are_watched_for_changes() {
    let (folder, store) = store();
    let root = folder.path().join(ROOT);
    let outside = tempfile::tempdir().unwrap();
    let at = |path: &str| outside.path().join(path);
    for version in ["v1", "v2"] {
        std::fs::create_dir_all(at(version)).unwrap();
        std::fs::write(at(version).join("b.json"), format!("\"{version}\"")).unwrap();
    }
    std::fs::create_dir_all(at("routes")).unwrap();
    std::fs::write(at("a.json"), "\"one\"").unwrap();
    std::os::unix::fs::symlink("v1", at("current")).unwrap();
    std::fs::create_dir_all(root.join("backends")).unwrap();
    std::os::unix::fs::symlink(at("a.json"), root.join("backends/a.json")).unwrap();
    std::os::unix::fs::symlink(at("current/b.json"), root.join("backends/b.json")).unwrap();
    std::os::unix::fs::symlink(at("routes"), root.join("routes")).unwrap();
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    let is = |key: &'static str, content: &'static str| move |mirror: &Mirror| mirror.entry(key).is_some_and(|entry| entry.value == content);
    mirror.until(RECOVERY_TIME, "both files", |mirror| mirror.values().len() == 2).await;
    for round in ["\"two\"", "\"three\""] {
        std::fs::write(at("a.json"), round).unwrap();
        mirror.until(RECOVERY_TIME, "the file that a link leads to", is("waypost/backends/a", round)).await;
    }
    std::fs::write(at("routes/r.json"), "{}").unwrap();
    mirror.until(RECOVERY_TIME, "a file in the folder that a link leads to", is("waypost/routes/r", "{}")).await;
    std::os::unix::fs::symlink("v2", at("next")).unwrap();
    std::fs::rename(at("next"), at("current")).unwrap();
    mirror.until(RECOVERY_TIME, "a link on the way that was swapped", is("waypost/backends/b", "\"v2\"")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_may_come_go_and_move_with_everything_in_them() {
    let (folder, store) = store();
    let root = folder.path().join(ROOT);
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "a first Reset", |mirror| mirror.counts().0 == 1).await;
    let outside = folder.path().join("outside");
    std::fs::create_dir_all(outside.join("shop")).unwrap();
    for number in 0..100 {
        std::fs::write(outside.join(format!("shop/e{number}")), "10.0.0.1:80").unwrap();
    }
    std::fs::rename(&outside, root.join("endpoints")).unwrap();
    mirror.until(RECOVERY_TIME, "all of them", |mirror| mirror.values().len() == 100).await;
    std::fs::rename(root.join("endpoints/shop"), root.join("endpoints/next")).unwrap();
    mirror.until(RECOVERY_TIME, "their new names", |mirror| mirror.values().len() == 100 && mirror.entry("waypost/endpoints/next/e0").is_some()).await;
    std::fs::remove_dir_all(root.join("endpoints")).unwrap();
    mirror.until(RECOVERY_TIME, "nothing", |mirror| mirror.values().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_there_is_named_and_read_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let store: Store = Arc::new(FileAdapter::new(folder.path()));
    let error = store.source(ROOT).next().await.unwrap_err();
    assert!(error.to_string().contains("create the directory"), "{error}");
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    std::fs::create_dir(folder.path().join(ROOT)).unwrap();
    std::fs::write(folder.path().join(ROOT).join("current"), "x").unwrap();
    mirror.until(RECOVERY_TIME, "the file", |mirror| mirror.entry("waypost/current").is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_is_a_link_may_be_swapped_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    for (version, content) in [("v1", "one"), ("v2", "two"), ("v3", "three")] {
        std::fs::create_dir_all(folder.path().join(version).join("routes")).unwrap();
        std::fs::write(folder.path().join(version).join("routes/a"), content).unwrap();
    }
    let swap = |version: &str| {
        std::os::unix::fs::symlink(version, folder.path().join("new")).unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join(ROOT)).unwrap();
    };
    swap("v1");
    let store: Store = Arc::new(FileAdapter::new(folder.path()));
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    let is = |content: &'static str| move |mirror: &Mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.value == content);
    mirror.until(RECOVERY_TIME, "the first", is("one")).await;
    swap("v2");
    mirror.until(RECOVERY_TIME, "the second", is("two")).await;
    swap("v3");
    mirror.until(RECOVERY_TIME, "the third", is("three")).await;
    std::fs::write(folder.path().join("v3/routes/a"), "changed").unwrap();
    mirror.until(RECOVERY_TIME, "a change in it, by the watch", is("changed")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_not_text_get_a_key_of_their_own() {
    use std::os::unix::ffi::OsStrExt as _;
    let (folder, store) = store();
    std::fs::create_dir(folder.path().join(ROOT).join("routes")).unwrap();
    std::fs::write(folder.path().join(ROOT).join("routes").join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "x").unwrap();
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the strange key", |mirror| mirror.entry("waypost/routes/\\xff\\xfe").is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writes_in_the_same_moment_are_two_revisions() {
    use waypost_adapter::{Expected, PutIf};
    let (_folder, store) = store();
    let mut last = store.put(&conformance::key("leader"), "0".into()).await.unwrap();
    for number in 1..200 {
        let PutIf::Written(next) = store.put_if(&conformance::key("leader"), number.to_string().into(), Expected::At(last)).await.unwrap() else {
            panic!("nobody else writes")
        };
        assert!(next > last);
        last = next;
    }
}
