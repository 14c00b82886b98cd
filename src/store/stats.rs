//! `stats`: how much there is of everything, for operators.
//!
//! What the database knows costs a few queries, whatever the size of the trees; what only the disk knows is walked where that is asked for.

mod prometheus;

use serde::Serialize;
use tracing::field::Empty;

use super::Store;
use super::directories::LOST;
use super::disk_usage::{Held, add_up};
use crate::error::{ErrorKind, Result};
use crate::metadata::{DATABASE, LOG, Trash};
use crate::progress::Context;
use crate::snapshot::Usage;
use crate::span::verb;
use crate::tree::TreeId;

/// How much there is of everything in a store. Serialized, and as [Prometheus text](Stats::to_prometheus), for monitoring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The store's directory.
    pub store: String,
    /// `overlay`, `copy`…
    pub backend: String,
    /// Images, each once however many references it has.
    pub images: u64,
    /// References of images.
    pub references: u64,
    /// Snapshots by kind.
    pub snapshots: SnapshotCounts,
    /// How many of the Committed ones an import made, under their chain ids.
    pub layers: u64,
    /// Trees by state.
    pub trees: TreeCounts,
    /// Inodes of frozen trees, as they were counted when these were frozen.
    pub tree_inodes: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes that exactly one image holds: see [`DiskUsage`](super::DiskUsage).
    pub exclusive: Held,
    /// Bytes that an image and something else hold, each once.
    pub shared: Held,
    /// Bytes that keys, names and leases hold, and no image.
    pub kept: Held,
    /// Bytes that nothing holds: the next collection takes them.
    pub unused: Held,
    /// All bytes of frozen trees and of blobs: the sum of the four above.
    pub total: Held,
    /// Leases with a name whose time is not over.
    pub leases: u64,
    /// Unfinished ingests, and what is left of blobs that are being deleted: files in `ingest`.
    pub ingests: u64,
    /// Bytes allocated for them.
    pub ingest_bytes: u64,
    /// What was removed, and not yet deleted.
    pub trash: TrashCounts,
    /// Trees in `lost+found`.
    pub lost: u64,
    /// Trees and blobs that a [check](Store::check) found damaged and that are not mended.
    pub damaged: TrashCounts,
    /// Bytes allocated for the database and its log.
    pub database_bytes: u64,
    /// What only the disk knows, where it was [measured](Store::measure_stats).
    pub measured: Option<Measured>,
}

/// Numbers of snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SnapshotCounts {
    /// Frozen, imported layers among them.
    pub committed: u64,
    /// Writable.
    pub active: u64,
    /// Read-only.
    pub view: u64,
}

/// Numbers of trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TreeCounts {
    /// What something committed stands on, or may.
    pub frozen: u64,
    /// Of layers in the middle of images on the copy backend, to be made when they are asked for: they take no space.
    pub unmade: u64,
    /// Of Active snapshots and Views.
    pub writable: u64,
    /// Layers that change nothing: they take no space.
    pub empty: u64,
    /// Being unpacked now.
    pub building: u64,
}

/// Numbers of trees and blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TrashCounts {
    /// Trees.
    pub trees: u64,
    /// Blobs.
    pub blobs: u64,
}

/// What trees take that the database does not know, walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Measured {
    /// Trees of Active snapshots and Views.
    pub writable: Usage,
    /// Trees that were removed, and not yet deleted.
    pub trash: Usage,
    /// Trees in `lost+found`.
    pub lost: Usage,
}

impl Store {
    /// How much there is of everything. Quick: one state of the database, and the names in `ingest` and `lost+found`; no tree is walked.
    /// Each frozen tree was counted when it was frozen, a blob's bytes are its size.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// let stats = store.stats()?;
    /// assert_eq!((stats.snapshots.active, stats.images), (1, 0));
    /// println!("{}", stats.to_prometheus());
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn stats(&self) -> Result<Stats> {
        verb!("stats").run(|_| self.count_rows())
    }

    /// The same, and what only the disk knows: trees that are being written, that wait to be deleted, or that lie in `lost+found` are
    /// walked. What is written or deleted meanwhile counts or does not.
    ///
    /// # Errors
    /// As [`stats`](Self::stats); `Cancelled`.
    pub fn measure_stats(&self, cx: &Context<'_>) -> Result<Stats> {
        verb!("measure stats", bytes = Empty, entries = Empty).run(|span| {
            let mut stats = self.count_rows()?;
            let measured = self.measure(cx)?;
            let (mut inodes, mut bytes) = (0_u64, 0_u64);
            for usage in [measured.writable, measured.trash, measured.lost] {
                (inodes, bytes) = (inodes.saturating_add(usage.inodes), bytes.saturating_add(usage.bytes));
            }
            span.record("bytes", bytes);
            span.record("entries", inodes);
            stats.measured = Some(measured);
            Ok(stats)
        })
    }

    fn count_rows(&self) -> Result<Stats> {
        let (counts, usage) = {
            let reader = self.metadata().read()?;
            (reader.counts()?, add_up(&reader.holdings()?))
        };
        let (ingests, ingest_bytes) = self.content().ingesting()?;
        let mut database_bytes = 0_u64;
        for name in [DATABASE, LOG] {
            let bytes = self.directory().stat(name.as_bytes())?.map_or(0, |stat| stat.blocks.saturating_mul(512));
            database_bytes = database_bytes.saturating_add(bytes);
        }
        let lost = match self.directory().try_child(LOST)? {
            Some(lost) => lost.entries()?.count() as u64,
            None => 0,
        };
        Ok(Stats {
            store: self.root().display().to_string(),
            backend: self.backend().name().to_owned(),
            images: counts.images,
            references: counts.references,
            snapshots: SnapshotCounts { committed: counts.committed, active: counts.active, view: counts.views },
            layers: counts.layers,
            trees: TreeCounts {
                frozen: counts.frozen,
                unmade: counts.unmade,
                writable: counts.writable,
                empty: counts.empty,
                building: counts.building,
            },
            tree_inodes: counts.inodes,
            blobs: counts.blobs,
            exclusive: usage.exclusive,
            shared: usage.shared,
            kept: usage.kept,
            unused: usage.unused,
            total: usage.total,
            leases: counts.leases,
            ingests,
            ingest_bytes,
            trash: TrashCounts { trees: counts.trash_trees, blobs: counts.trash_blobs },
            lost,
            damaged: TrashCounts { trees: counts.damaged_trees, blobs: counts.damaged_blobs },
            database_bytes,
            measured: None,
        })
    }

    fn measure(&self, cx: &Context<'_>) -> Result<Measured> {
        let (writable, trash) = {
            let reader = self.metadata().read()?;
            (reader.writable_trees()?, reader.trash(u32::MAX)?)
        };
        let trash: Vec<TreeId> = trash
            .into_iter()
            .filter_map(|trash| match trash {
                Trash::Tree(tree) => Some(tree),
                Trash::Blob(_) => None,
            })
            .collect();
        let mut lost = Usage::default();
        for tree in self.lost_trees()? {
            cx.check("stats")?;
            add(&mut lost, Usage::new(tree.inodes, tree.bytes));
        }
        Ok(Measured { writable: self.walk_trees(&writable, cx)?, trash: self.walk_trees(&trash, cx)?, lost })
    }

    fn walk_trees(&self, trees: &[TreeId], cx: &Context<'_>) -> Result<Usage> {
        let mut sum = Usage::default();
        for &tree in trees {
            cx.check("stats")?;
            match self.backend().usage(tree) {
                Ok(usage) => add(&mut sum, usage),
                // It was deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }
}

fn add(sum: &mut Usage, usage: Usage) {
    *sum = Usage::new(sum.inodes.saturating_add(usage.inodes), sum.bytes.saturating_add(usage.bytes));
}
