//! `disk usage`: what images take, alone and together.
//!
//! Each tree and each blob counts once, for one of four: the one image that needs it, several, keys, names and leases alone, or nobody.
//! All is read from the database in one state of it; no tree is walked.

use serde::Serialize;

use super::Store;
use crate::digest::Digest;
use crate::error::Result;
use crate::metadata::Holdings;
use crate::span::verb;

/// Bytes of trees and of blobs.
///
/// A tree's are those that the disk has allocated for it, each inode once (all whiteouts of a tree are one), as they were counted when it
/// was frozen; what a file system shares between trees (reflinks of the copy backend) counts in each. A blob's are its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Held {
    /// Of unpacked layers and committed snapshots.
    pub trees: u64,
    /// Of manifests, configs, and layers as they came.
    pub blobs: u64,
}

impl Held {
    /// Both together.
    pub fn bytes(&self) -> u64 {
        self.trees.saturating_add(self.blobs)
    }

    /// The sum of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { trees: self.trees.saturating_add(other.trees), blobs: self.blobs.saturating_add(other.blobs) }
    }

    fn add(&mut self, other: Self) {
        *self = self.and(other);
    }
}

/// What one image takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ImageUsage {
    /// Its references, in their order: they are one image here.
    pub references: Vec<String>,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// How many layers it has.
    pub layers: u64,
    /// What it alone holds: [`untag`](Store::untag) of all its references and [`gc`](Store::gc) would free it.
    pub unique: Held,
    /// What other images, keys, names or leases hold as well.
    pub shared: Held,
}

/// What all images take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DiskUsage {
    /// In the order of their first references.
    pub images: Vec<ImageUsage>,
    /// What one image holds, and nothing else: the sum of the images' `unique`.
    pub exclusive: Held,
    /// What an image holds and something else does as well, each once.
    pub shared: Held,
    /// What keys, names and leases hold, and no image: committed snapshots of one's own. What is being written is not in it.
    pub kept: Held,
    /// What nothing holds any more: the next collection takes it.
    pub unused: Held,
    /// All trees that are frozen, and all blobs: the sum of the four above.
    pub total: Held,
}

impl Store {
    /// What each image takes, unique and shared, and what all take together. Quick: from the database alone. Trees that are being written
    /// ([`usage`](Self::usage)), what was removed and not yet deleted, and unfinished ingests are not in it ([`stats`](Self::stats)).
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// let usage = store.disk_usage()?;
    /// for image in &usage.images {
    ///     println!("{}: {} bytes alone, {} shared", image.references[0], image.unique.bytes(), image.shared.bytes());
    /// }
    /// assert_eq!(usage.total.bytes(), 0);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        verb!("disk usage").run(|_| Ok(add_up(&self.metadata().read()?.holdings()?)))
    }
}

/// Who holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holders {
    OneImage,
    Several,
    Others,
    Nobody,
}

impl Holders {
    fn of(images: usize, others: bool) -> Self {
        match (images, others) {
            (0, false) => Self::Nobody,
            (0, true) => Self::Others,
            (1, false) => Self::OneImage,
            _ => Self::Several,
        }
    }
}

pub(super) fn add_up(found: &Holdings) -> DiskUsage {
    let mut images: Vec<ImageUsage> = Vec::new();
    let mut tree_images: std::collections::HashMap<_, usize> = std::collections::HashMap::new();
    let mut blob_images: std::collections::HashMap<_, usize> = std::collections::HashMap::new();
    for image in found.images.values() {
        for tree in &image.trees {
            let count = tree_images.entry(tree).or_default();
            *count = count.saturating_add(1);
        }
        for blob in &image.blobs {
            let count = blob_images.entry(blob).or_default();
            *count = count.saturating_add(1);
        }
    }
    let of_tree = |tree| Holders::of(tree_images.get(tree).copied().unwrap_or_default(), found.other_trees.contains(tree));
    let of_blob = |blob| Holders::of(blob_images.get(blob).copied().unwrap_or_default(), found.other_blobs.contains(blob));
    for (manifest, image) in &found.images {
        let (mut unique, mut shared) = (Held::default(), Held::default());
        let mut add = |holders, held: Held| if holders == Holders::OneImage { unique.add(held) } else { shared.add(held) };
        for tree in &image.trees {
            add(of_tree(tree), Held { trees: found.trees.get(tree).copied().unwrap_or_default(), blobs: 0 });
        }
        for blob in &image.blobs {
            add(of_blob(blob), Held { trees: 0, blobs: found.blobs.get(blob).copied().unwrap_or_default() });
        }
        let references = image.references.clone();
        images.push(ImageUsage { references, manifest: manifest.clone(), layers: image.layers, unique, shared });
    }
    images.sort_by(|one, other| one.references.cmp(&other.references));
    let mut usage = DiskUsage { images, ..DiskUsage::default() };
    let trees = found.trees.iter().map(|(tree, &bytes)| (of_tree(tree), Held { trees: bytes, blobs: 0 }));
    let blobs = found.blobs.iter().map(|(blob, &bytes)| (of_blob(blob), Held { trees: 0, blobs: bytes }));
    for (holders, held) in trees.chain(blobs) {
        usage.total.add(held);
        match holders {
            Holders::OneImage => usage.exclusive.add(held),
            Holders::Several => usage.shared.add(held),
            Holders::Others => usage.kept.add(held),
            Holders::Nobody => usage.unused.add(held),
        }
    }
    usage
}
