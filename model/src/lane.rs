//! A lane: all objects of one config (C) or of the membership (M), in 256 buckets with a digest each.
//!
//! Lanes share a bucket until it changes, so a lane of many thousand objects is copied, compared and digested by its buckets.

use std::cmp::Ordering;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::object::{Digest, Object};

/// Number of buckets: one for each first byte of SHA-256("kind/name").
pub const BUCKETS: usize = 256;

/// The bucket of `kind/name`.
pub fn bucket_of(path: &str) -> u8 {
    Sha256::digest(path.as_bytes()).first().copied().unwrap_or_default()
}

/// The objects of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Sorted by `kind/name`. A change copies the bucket; copying a vector of pointers is cheap, copying a tree of names is not.
    objects: Vec<Arc<Object>>,
    digest: Digest,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { objects: Vec::new(), digest: Digest::of(b"") }
    }
}

impl Bucket {
    /// Its objects, sorted by `kind/name`.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.iter()
    }

    /// The position of `kind/name`, or where it would be inserted.
    fn find(&self, path: &str) -> Result<usize, usize> {
        self.objects.binary_search_by(|object| object.path().cmp(path))
    }

    fn get(&self, path: &str) -> Option<&Arc<Object>> {
        self.objects.get(self.find(path).ok()?)
    }

    /// Puts an object; returns whether it is new.
    fn put(&mut self, object: Arc<Object>) -> bool {
        let found = self.find(object.path());
        match found.ok().and_then(|at| self.objects.get_mut(at)) {
            Some(slot) => *slot = object,
            None => self.objects.insert(found.unwrap_or_else(|at| at), object),
        }
        found.is_err()
    }

    /// Removes an object; returns whether it was present.
    fn remove(&mut self, path: &str) -> bool {
        let found = self.find(path);
        found.map(|at| self.objects.remove(at)).is_ok()
    }

    /// The objects of one kind, which are adjacent; `prefix` is the kind with a slash.
    fn of_kind(&self, prefix: &str) -> &[Arc<Object>] {
        let rest = self.objects.split_at(self.objects.partition_point(|object| object.path() < prefix)).1;
        rest.split_at(rest.partition_point(|object| object.path().starts_with(prefix))).0
    }

    /// Appends the changes that turn `self` into `newer`, deletions first. Most objects are the same in both.
    fn changes_to(&self, newer: &Self, changes: &mut Vec<Change>) {
        let (mut old, mut new) = (self.objects.iter().peekable(), newer.objects.iter().peekable());
        let mut fresh = Vec::new();
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(was), Some(is)) if Arc::ptr_eq(was, is) => Ordering::Equal,
                (Some(was), Some(is)) => was.path().cmp(is.path()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let was = if order.is_le() { old.next() } else { None };
            let is = if order.is_ge() { new.next() } else { None };
            match (was, is) {
                (Some(was), Some(is)) if was.digest() == is.digest() => {}
                (_, Some(is)) => fresh.push(Change::Put(is.clone())),
                (Some(was), None) => changes.push(Change::Delete(was.path().to_owned())),
                (None, None) => break,
            }
        }
        changes.append(&mut fresh);
    }

    fn digest_again(&mut self) {
        self.digest = self.digest_of_objects();
    }

    fn digest_of_objects(&self) -> Digest {
        let mut lines = Vec::with_capacity(self.objects.len() * 128);
        for object in &self.objects {
            lines.extend_from_slice(object.path().as_bytes());
            lines.push(b' ');
            lines.extend_from_slice(&object.digest().hex());
            lines.push(b'\n');
        }
        Digest::of(&lines)
    }
}

/// An immutable set of objects. Cloning shares everything.
#[derive(Debug, Clone)]
pub struct Lane {
    buckets: Arc<Vec<Arc<Bucket>>>,
    digest: Digest,
    length: usize,
}

impl Default for Lane {
    fn default() -> Self {
        // All 256 share one empty bucket: a bucket is copied before it changes.
        let empty = Arc::new(Bucket::default());
        Self::from_buckets((0..BUCKETS).map(|_| empty.clone()).collect(), 0)
    }
}

impl PartialEq for Lane {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Lane {
    fn from_buckets(buckets: Vec<Arc<Bucket>>, length: usize) -> Self {
        let digest = Digest::of_all(buckets.iter().map(|bucket| bucket.digest.bytes().as_slice()));
        Self { buckets: Arc::new(buckets), digest, length }
    }

    /// SHA-256 over the 256 bucket digests.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The number of objects.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no objects.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The 256 bucket digests.
    pub fn bucket_digests(&self) -> Vec<Digest> {
        self.buckets.iter().map(|bucket| bucket.digest).collect()
    }

    /// The bucket with this number.
    pub fn bucket(&self, number: u8) -> Option<&Arc<Bucket>> {
        self.buckets.get(usize::from(number))
    }

    /// Whether the bucket's objects still match their digests, and the bucket its own.
    pub fn is_sound(&self, number: u8) -> bool {
        let sound = |bucket: &Arc<Bucket>| bucket.objects.iter().all(|object| object.is_sound()) && bucket.digest_of_objects() == bucket.digest;
        self.bucket(number).is_none_or(sound)
    }

    /// This lane without the buckets that do not match their digests.
    pub fn sound(&self) -> Self {
        self.without_buckets((0..=u8::MAX).filter(|number| !self.is_sound(*number)))
    }

    /// The object at `kind/name`.
    pub fn get(&self, path: &str) -> Option<&Arc<Object>> {
        self.bucket(bucket_of(path))?.get(path)
    }

    /// All objects, in no particular order.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.buckets.iter().flat_map(|bucket| bucket.objects())
    }

    /// All objects of one kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Arc<Object>> {
        let prefix = format!("{kind}/");
        self.buckets.iter().flat_map(move |bucket| bucket.of_kind(&prefix))
    }

    /// This lane with `changes` applied.
    pub fn with(&self, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut buckets = self.buckets.as_ref().clone();
        let mut touched = [false; BUCKETS];
        let mut length = self.length;
        for change in changes {
            let number = usize::from(bucket_of(change.path()));
            let (Some(bucket), Some(touched)) = (buckets.get_mut(number), touched.get_mut(number)) else { continue };
            let bucket = Arc::make_mut(bucket);
            *touched = true;
            match change {
                Change::Put(object) => length += usize::from(bucket.put(object)),
                Change::Delete(path) => length -= usize::from(bucket.remove(&path)),
            }
        }
        for (bucket, _) in buckets.iter_mut().zip(touched).filter(|(_, touched)| *touched) {
            Arc::make_mut(bucket).digest_again();
        }
        Self::from_buckets(buckets, length)
    }

    /// This lane without the objects of `numbers`.
    pub fn without_buckets(&self, numbers: impl IntoIterator<Item = u8>) -> Self {
        let mut buckets = self.buckets.as_ref().clone();
        for number in numbers {
            if let Some(bucket) = buckets.get_mut(usize::from(number)) {
                *bucket = Arc::new(Bucket::default());
            }
        }
        let length = buckets.iter().map(|bucket| bucket.objects.len()).sum();
        Self::from_buckets(buckets, length)
    }

    /// The changes that turn `self` into `newer`.
    pub fn changes_to(&self, newer: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (old, new) in self.buckets.iter().zip(newer.buckets.iter()).filter(|(old, new)| old.digest != new.digest) {
            old.changes_to(new, &mut changes);
        }
        changes
    }

    /// The numbers of the buckets whose digests differ from `digests`; all of them if `digests` are not 256.
    pub fn differing(&self, digests: &[Digest]) -> Vec<u8> {
        let whole = digests.len() == BUCKETS;
        let differs = |number: usize, bucket: &Bucket| !whole || digests.get(number) != Some(&bucket.digest);
        let found = self.buckets.iter().enumerate().filter(|(number, bucket)| differs(*number, bucket));
        found.filter_map(|(number, _)| u8::try_from(number).ok()).collect()
    }
}

/// One change from a lane to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Put this object.
    Put(Arc<Object>),
    /// Remove the object at this `kind/name`.
    Delete(String),
}

impl Change {
    /// `kind/name`.
    pub fn path(&self) -> &str {
        match self {
            Self::Put(object) => object.path(),
            Self::Delete(path) => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(name: &str, value: u8) -> Arc<Object> {
        Object::read(&format!(r#"{{"kind":"route","name":"{name}","spec":{value}}}"#)).unwrap()
    }

    #[test]
    fn the_digest_is_that_of_the_documented_lines() {
        let lane = Lane::default().with([Change::Put(object("a", 1)), Change::Put(object("a-b", 1))]);
        let lines = |name: &str| format!("route/{name} {}\n", object(name, 1).digest());
        let mut all = vec![String::new(); BUCKETS];
        all[usize::from(bucket_of("route/a"))].push_str(&lines("a"));
        all[usize::from(bucket_of("route/a-b"))].push_str(&lines("a-b"));
        let digests: Vec<Digest> = all.iter().map(|lines| Digest::of(lines.as_bytes())).collect();
        assert_eq!(lane.bucket_digests(), digests);
        assert_eq!(lane.digest(), Digest::of_all(digests.iter().map(|d| d.bytes().as_slice())));
    }

    #[test]
    fn an_object_that_does_not_match_its_digest_is_found_and_left_out() {
        let lane = Lane::default().with([Change::Put(object("a", 1)), Change::Put(object("b", 1))]);
        assert!((0..=u8::MAX).all(|number| lane.is_sound(number)) && lane.sound() == lane);
        let broken = Arc::new(object("a", 1).with_bytes_of(&object("a", 2)));
        let drifted = lane.with([Change::Put(broken)]);
        assert_eq!(drifted.digest(), lane.digest(), "digests alone do not tell");
        assert!(!drifted.is_sound(bucket_of("route/a")) && drifted.is_sound(bucket_of("route/b")));
        assert_eq!(drifted.sound().objects().map(|object| object.path()).collect::<Vec<_>>(), ["route/b"]);
        assert_ne!(drifted.sound().digest(), lane.digest());
    }

    proptest! {
        #[test]
        fn a_delta_leads_to_the_same_lane_as_building_it_anew(steps in prop::collection::vec((0u8..40, prop::option::of(0u8..4)), 0..120), cut in 0usize..120) {
            let change = |(name, value): &(u8, Option<u8>)| match value {
                Some(value) => Change::Put(object(&name.to_string(), *value)),
                None => Change::Delete(format!("route/{name}")),
            };
            let cut = cut.min(steps.len());
            let before = Lane::default().with(steps[..cut].iter().map(change));
            let after = before.with(steps[cut..].iter().map(change));
            let fresh = Lane::default().with(after.objects().cloned().map(Change::Put));
            prop_assert_eq!(&after, &fresh);
            prop_assert_eq!(after.len(), after.objects().count());
            prop_assert_eq!(&before.with(before.changes_to(&after)), &after);
            let differing = after.differing(&before.bucket_digests());
            let filled = before.without_buckets(differing.iter().copied()).with(
                differing.iter().filter_map(|n| after.bucket(*n)).flat_map(|b| b.objects()).cloned().map(Change::Put));
            prop_assert_eq!(&filled, &after);
        }
    }
}
