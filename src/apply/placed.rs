//! What this layer put where: a few bits a path, in a table of hashes.
//!
//! Paths are hostile and many, so neither they nor a hash that could be steered is kept: 128 bits of two randomly keyed SipHashes. What
//! is recorded is never taken back; a path that was removed again is simply not looked at.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use crate::path::EntryPath;

/// An entry of the layer stands here, or stood.
pub(super) const ENTRY: u8 = 1;
/// The layer made what stands here: an entry, an implied parent, a target that left its group.
pub(super) const OWN: u8 = 2;
/// A directory that was made where the layer had replaced something: nothing of the lower tree shows in it.
pub(super) const OPAQUE: u8 = 4;

/// A set of paths with bits.
#[derive(Debug, Default)]
pub(super) struct Placed {
    keys: (RandomState, RandomState),
    bits: HashMap<[u64; 2], u8, BuildHasherDefault<Last>>,
}

impl Placed {
    pub(super) fn mark(&mut self, path: &EntryPath, bits: u8) {
        *self.bits.entry(self.key(path)).or_default() |= bits;
    }

    pub(super) fn has(&self, path: &EntryPath, bit: u8) -> bool {
        self.bits.get(&self.key(path)).is_some_and(|bits| bits & bit != 0)
    }

    fn key(&self, path: &EntryPath) -> [u64; 2] {
        [self.keys.0.hash_one(path.as_bytes()), self.keys.1.hash_one(path.as_bytes())]
    }
}

/// The keys are hashes already: their last eight bytes will do.
#[derive(Debug, Default)]
pub(super) struct Last(u64);

impl Hasher for Last {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk() {
            self.0 = u64::from_ne_bytes(*last);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_add_up_and_paths_are_told_apart() {
        let path = |text: &str| EntryPath::parse(text).unwrap();
        let mut placed = Placed::default();
        placed.mark(&path("a"), OWN);
        placed.mark(&path("a"), OPAQUE);
        assert!(placed.has(&path("a"), OWN) && placed.has(&path("a"), OPAQUE) && !placed.has(&path("a"), ENTRY));
        for number in 0..10_000 {
            placed.mark(&path(&format!("d/{number}")), OWN);
        }
        assert!((0..10_000).all(|number| !placed.has(&path(&format!("e/{number}")), OWN)));
        assert_eq!(placed.bits.len(), 10_001);
    }
}
