//! What there is, in numbers, and who holds it: images, and everything else that keeps trees and blobs from being collected.
//!
//! All of it is rows: a frozen tree was counted when it was frozen, a blob's size is its descriptor's. Leases of running operations are
//! no holders: a check leases everything there is for as long as it looks.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Row;

use super::connection::failed;
use super::transaction::Reader;
use super::{from_sql, now, parse};
use crate::digest::Digest;
use crate::error::Result;
use crate::tree::TreeId;

/// Numbers of rows, and what their columns add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) references: u64,
    pub(crate) images: u64,
    pub(crate) committed: u64,
    pub(crate) active: u64,
    pub(crate) views: u64,
    pub(crate) layers: u64,
    pub(crate) frozen: u64,
    pub(crate) unmade: u64,
    pub(crate) writable: u64,
    pub(crate) empty: u64,
    pub(crate) building: u64,
    /// Of frozen trees.
    pub(crate) inodes: u64,
    pub(crate) blobs: u64,
    pub(crate) leases: u64,
    pub(crate) trash_trees: u64,
    pub(crate) trash_blobs: u64,
    pub(crate) damaged_trees: u64,
    pub(crate) damaged_blobs: u64,
}

/// An image, whatever its references are, and what it alone would keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    /// In their order.
    pub(crate) references: Vec<String>,
    pub(crate) layers: u64,
    pub(crate) trees: BTreeSet<TreeId>,
    pub(crate) blobs: BTreeSet<Digest>,
}

/// Who holds what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// The bytes of each frozen tree.
    pub(crate) trees: BTreeMap<TreeId, u64>,
    /// The size of each blob.
    pub(crate) blobs: BTreeMap<Digest, u64>,
    /// By the digests of their manifests.
    pub(crate) images: BTreeMap<Digest, Holder>,
    /// What keys, names and leases reach.
    pub(crate) other_trees: BTreeSet<TreeId>,
    pub(crate) other_blobs: BTreeSet<Digest>,
}

impl Reader<'_> {
    /// Counts.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let query = "SELECT (SELECT COUNT(*) FROM images), \
             (SELECT COUNT(DISTINCT json_extract(manifest, '$.digest')) FROM images), \
             (SELECT COUNT(*) FROM snapshots WHERE kind = 'committed'), \
             (SELECT COUNT(*) FROM snapshots WHERE kind = 'active'), \
             (SELECT COUNT(*) FROM snapshots WHERE kind = 'view'), \
             (SELECT COUNT(*) FROM snapshots WHERE chain_id IS NOT NULL), \
             (SELECT COUNT(*) FROM trees WHERE state = 'frozen' AND made), \
             (SELECT COUNT(*) FROM trees WHERE NOT made), \
             (SELECT COUNT(*) FROM trees WHERE state = 'writable'), \
             (SELECT COUNT(*) FROM trees WHERE state = 'empty'), \
             (SELECT COUNT(*) FROM trees WHERE state = 'building'), \
             (SELECT COALESCE(SUM(inodes), 0) FROM trees WHERE state = 'frozen'), \
             (SELECT COUNT(*) FROM blobs), \
             (SELECT COUNT(*) FROM leases WHERE name IS NOT NULL AND expires > ?1), \
             (SELECT COUNT(tree) FROM trash), \
             (SELECT COUNT(blob) FROM trash), \
             (SELECT COUNT(*) FROM damaged_trees), \
             (SELECT COUNT(*) FROM damaged_blobs)";
        let fail = |error| failed("count", error);
        let mut statement = self.connection().prepare_cached(query).map_err(fail)?;
        statement.query_row([now()], |row| Ok(counts(row))).map_err(fail)?
    }

    /// Finds out who holds what.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn holdings(&self) -> Result<Holdings> {
        let mut found = Holdings::default();
        self.each("SELECT id, bytes FROM trees WHERE state = 'frozen'", [], |row| {
            found.trees.insert(tree(row, 0)?, number(row, 1)?);
            Ok(())
        })?;
        self.each("SELECT digest, size FROM blobs", [], |row| {
            found.blobs.insert(parse(&text(row, 0)?)?, number(row, 1)?);
            Ok(())
        })?;
        let images = "SELECT json_extract(i.manifest, '$.digest'), i.reference, \
             (SELECT COUNT(*) FROM image_layers l WHERE l.reference = i.reference) FROM images i ORDER BY i.reference";
        self.each(images, [], |row| {
            let image = found.images.entry(parse(&text(row, 0)?)?).or_default();
            image.references.push(text(row, 1)?);
            image.layers = number(row, 2)?;
            Ok(())
        })?;
        let trees = "SELECT DISTINCT json_extract(i.manifest, '$.digest'), s.tree FROM image_layers l \
             JOIN images i ON i.reference = l.reference JOIN snapshots s ON s.id = l.snapshot";
        self.each(trees, [], |row| {
            found.images.entry(parse(&text(row, 0)?)?).or_default().trees.insert(tree(row, 1)?);
            Ok(())
        })?;
        let blobs = "SELECT DISTINCT json_extract(i.manifest, '$.digest'), b.digest FROM image_blobs b \
             JOIN images i ON i.reference = b.reference";
        self.each(blobs, [], |row| {
            found.images.entry(parse(&text(row, 0)?)?).or_default().blobs.insert(parse(&text(row, 1)?)?);
            Ok(())
        })?;
        let others = "WITH RECURSIVE live (id) AS (SELECT id FROM leases WHERE name IS NOT NULL AND expires > ?1), \
             kept (id) AS ( \
                 SELECT id FROM snapshots WHERE chain_id IS NULL \
                 UNION SELECT snapshot FROM leased_snapshots WHERE lease IN (SELECT id FROM live) \
                 UNION SELECT s.parent FROM kept JOIN snapshots s ON s.id = kept.id WHERE s.parent IS NOT NULL \
             ) SELECT tree FROM snapshots WHERE id IN (SELECT id FROM kept) \
             UNION SELECT tree FROM leased_trees WHERE lease IN (SELECT id FROM live) UNION SELECT tree FROM held_trees";
        self.each(others, [now()], |row| {
            found.other_trees.insert(tree(row, 0)?);
            Ok(())
        })?;
        let leased =
            "SELECT digest FROM leased_blobs WHERE lease IN (SELECT id FROM leases WHERE name IS NOT NULL AND expires > ?1)";
        self.each(leased, [now()], |row| {
            found.other_blobs.insert(parse(&text(row, 0)?)?);
            Ok(())
        })?;
        // What is kept of a layer whose blob was dropped is held by whoever holds a tree of it; so is a blob of which one is still to be made.
        let manifests =
            "SELECT b.digest, t.id FROM blobs b JOIN trees t ON t.diff_id = b.diff_id WHERE b.media_type = ?1 OR NOT t.made";
        self.each(manifests, [super::blobs::TREE_MANIFEST], |row| {
            let (digest, tree): (Digest, TreeId) = (parse(&text(row, 0)?)?, tree(row, 1)?);
            for image in found.images.values_mut().filter(|image| image.trees.contains(&tree)) {
                image.blobs.insert(digest.clone());
            }
            if found.other_trees.contains(&tree) {
                found.other_blobs.insert(digest);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Trees of Active snapshots and Views.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn writable_trees(&self) -> Result<Vec<TreeId>> {
        let mut trees = Vec::new();
        self.each("SELECT id FROM trees WHERE state = 'writable'", [], |row| {
            trees.push(tree(row, 0)?);
            Ok(())
        })?;
        Ok(trees)
    }

    fn each(&self, query: &str, values: impl rusqlite::Params, mut take: impl FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let fail = |error| failed("read holdings", error);
        let mut statement = self.connection().prepare_cached(query).map_err(fail)?;
        let mut rows = statement.query(values).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            take(row)?;
        }
        Ok(())
    }
}

fn text(row: &Row<'_>, column: usize) -> Result<String> {
    row.get(column).map_err(|error| failed("read holdings", error))
}

fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    from_sql(row.get(column).map_err(|error| failed("read holdings", error))?)
}

fn tree(row: &Row<'_>, column: usize) -> Result<TreeId> {
    number(row, column).map(TreeId)
}

fn counts(row: &Row<'_>) -> Result<Counts> {
    let number = |column| number(row, column);
    Ok(Counts {
        references: number(0)?,
        images: number(1)?,
        committed: number(2)?,
        active: number(3)?,
        views: number(4)?,
        layers: number(5)?,
        frozen: number(6)?,
        unmade: number(7)?,
        writable: number(8)?,
        empty: number(9)?,
        building: number(10)?,
        inodes: number(11)?,
        blobs: number(12)?,
        leases: number(13)?,
        trash_trees: number(14)?,
        trash_blobs: number(15)?,
        damaged_trees: number(16)?,
        damaged_blobs: number(17)?,
    })
}
