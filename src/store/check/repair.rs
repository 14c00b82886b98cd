//! What a check found damaged is made anew from its blob, or it is said what is to be done.
//!
//! A tree that others may have mounted is never touched: a new one is unpacked, and takes its place in the rows in one transaction.
//! Parents come before their children, because a layer is unpacked over what is below it.

use std::collections::BTreeSet;

use super::findings::Amendment;
use super::structure::{is_proven, reason};
use super::trees::{gives, is_of_stream};
use super::{Check, OP, Remedy, Seen};
use crate::content::Blob;
use crate::digest::DiffId;
use crate::error::{ErrorKind, Result};
use crate::lock::Subject;
use crate::metadata::{LeaseId, SnapshotRow, Unpacked};
use crate::parallel::Crew;
use crate::progress::Context;
use crate::span::verb;
use crate::store::layer::wrong_diff_id;
use crate::store::layer_reader::LayerReader;
use crate::store::make::{Plan, without_limits};
use crate::store::supply::Supply;
use crate::sys::durable::SyncPoint;
use crate::tree::{Applied, Ids, TreeId};

/// Why a tree could not be mended.
type Hindrance = String;

impl Check<'_> {
    /// Mends what can be mended, and notes in each finding what became of it.
    pub(super) fn repair(&self, seen: &Seen) -> Result<()> {
        let mut damaged: BTreeSet<TreeId> = self.store.metadata().read()?.damaged_trees()?;
        damaged.extend(seen.damaged_trees.keys());
        let order = self.store.metadata().read()?.all_snapshots()?;
        let mut done = BTreeSet::new();
        for tree in order.into_iter().map(|(_, tree)| tree) {
            if !damaged.contains(&tree) || !done.insert(tree) {
                continue;
            }
            self.cx.check(OP)?;
            match self.mend(tree, &damaged)? {
                Ok(()) => {
                    damaged.remove(&tree);
                    self.note(|finding| finding.tree == Some(tree), &Remedy::Mended);
                }
                Err(hint) => self.note(|finding| finding.tree == Some(tree), &Remedy::Stays { hint }),
            }
        }
        self.mend_rows()?;
        for digest in seen.damaged_blobs.keys() {
            let whole = self.whole_tree_of(seen, digest)?;
            let again = self.import_again(&self.store.metadata().read()?.hit_by_blob(digest, 1)?.images);
            let hint = if whole { format!("the tree that came of it is whole; {again}") } else { again };
            self.note(|finding| finding.blob.as_ref() == Some(digest), &Remedy::Stays { hint });
        }
        Ok(())
    }

    fn note(&self, of: impl Fn(&super::Finding) -> bool, remedy: &Remedy) {
        self.outcome().findings.iter_mut().filter(|finding| of(finding)).for_each(|finding| finding.remedy = remedy.clone());
    }

    fn import_again(&self, images: &[String]) -> String {
        match images.first() {
            Some(image) => format!("import {} again", image.escape_debug()),
            None => "no image needs it".to_owned(),
        }
    }

    /// Whether a damaged blob's layer is unpacked, and that tree was found whole.
    fn whole_tree_of(&self, seen: &Seen, digest: &crate::digest::Digest) -> Result<bool> {
        let reader = self.store.metadata().read()?;
        let Some(diff_id) = reader.blob(digest).ok().flatten().and_then(|row| row.diff_id) else { return Ok(false) };
        for tree in &seen.whole_trees {
            if reader.tree(*tree)?.is_some_and(|row| row.diff_id.as_ref() == Some(&diff_id)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Unpacks a tree anew and puts it in the place of the damaged one.
    fn mend(&self, tree: TreeId, damaged: &BTreeSet<TreeId>) -> Result<std::result::Result<(), Hindrance>> {
        let (layer, ids, images) = {
            let reader = self.store.metadata().read()?;
            let layers: Vec<SnapshotRow> = reader.snapshots_on(tree).unwrap_or_default();
            // Of several, one below which all is whole.
            let mut candidates = Vec::new();
            for row in layers.into_iter().filter(is_proven) {
                let chain = row.parent.map_or(Ok(Vec::new()), |parent| reader.chain(parent))?;
                candidates.push((chain.iter().any(|below| damaged.contains(below)), row, chain));
            }
            candidates.sort_by_key(|(hindered, ..)| *hindered);
            let ids = reader.tree(tree).ok().flatten().and_then(|row| row.ids).unwrap_or(self.store.ids());
            (candidates.into_iter().next(), ids, reader.hit_by_tree(tree, 1)?.images)
        };
        let Some((hindered, row, chain)) = layer else {
            return Ok(Err("no layer was unpacked to it, so no blob covers it".to_owned()));
        };
        let Some(diff_id) = row.diff_id.clone() else { return Ok(Err("it is of no layer".to_owned())) };
        if hindered {
            return Ok(Err("a tree below it is damaged and could not be mended".to_owned()));
        }
        if self.store.backend().is_whole() {
            let verb = verb!("repair", chain_id = row.name.as_str(), tree = tree.0);
            let build = |lease| self.build_again(lease, &row, &diff_id, ids);
            return match verb.run(|_| self.remake(tree, &row, &diff_id, ids, build)) {
                Ok(()) => Ok(Ok(())),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    Ok(Err(format!("{}; {}", reason(&error), self.import_again(&images))))
                }
                Err(error) => Err(error),
            };
        }
        let mut hindrance = "its blob is gone".to_owned();
        for kept in self.store.metadata().read()?.blobs_of(&diff_id)? {
            let Ok(Some(blob)) = self.store.content().blob(&kept.digest) else { continue };
            let verb = verb!("repair", chain_id = row.name.as_str(), digest = %kept.digest, tree = tree.0);
            let unpack = |lease| self.unpack_again(lease, &chain, &diff_id, &blob, ids);
            match verb.run(|_| self.remake(tree, &row, &diff_id, ids, unpack)) {
                Ok(()) => return Ok(Ok(())),
                // Bytes that are the layer are not what stood in the way.
                Err(error) if !is_of_stream(&error) || gives(&blob, &diff_id, self.cx) => return Err(error),
                Err(error) => hindrance = format!("its blob does not give the layer ({})", reason(&error)),
            }
        }
        Ok(Err(format!("{hindrance}; {}", self.import_again(&images))))
    }

    /// Rows that follow from others.
    fn mend_rows(&self) -> Result<()> {
        let amendments: Vec<Amendment> = self.outcome().findings.iter().filter_map(|finding| finding.amendment.clone()).collect();
        for amendment in amendments {
            let transaction = self.store.metadata().write()?;
            match &amendment {
                Amendment::Root(snapshot, root) => transaction.set_root(*snapshot, root)?,
                Amendment::Size(digest, size) => transaction.set_blob_size(digest, *size)?,
            }
            transaction.commit()?;
            self.note(|finding| finding.amendment.as_ref() == Some(&amendment), &Remedy::Mended);
        }
        Ok(())
    }
}

impl Check<'_> {
    /// Unpacks a layer once more and has everything that stands on `old` stand on that.
    fn remake(
        &self,
        old: TreeId,
        row: &SnapshotRow,
        diff_id: &DiffId,
        ids: Ids,
        fill: impl FnOnce(LeaseId) -> Result<(TreeId, Applied)>,
    ) -> Result<()> {
        let (store, cx) = (self.store, self.cx);
        let _unpacking = store.locks().wait_unless(Subject::Layer(diff_id), &mut || cx.check(OP))?;
        let now = store.metadata().read()?.snapshot_by_id(row.id)?;
        if now.is_none_or(|now| now.tree != old) {
            // Somebody else mended or removed it.
            return Ok(());
        }
        let lease = store.lease()?;
        let (new, applied) = fill(lease.id())?;
        let named = (|| {
            if applied.empty {
                store.backend().remove(new)?;
            } else if let Err(error) = store.backend().share(old, new, self.cx) {
                cx.check(OP)?;
                tracing::debug!(%error, %old, %new, "what is sound in both trees is not shared");
            }
            let transaction = store.metadata().write()?;
            transaction.finish_tree(new, lease.id(), &Unpacked { diff_id, ids, applied: &applied })?;
            // This check's own hold on it is no reason to keep it.
            transaction.unlease_tree(self.lease.id(), old)?;
            let gone = transaction.replace_tree(old, new)?;
            transaction.commit()?;
            Ok(gone)
        })();
        if named.is_err() {
            store.discard(new);
        }
        let released = lease.release();
        if named? {
            store.delete_trash_tree(old)?;
        }
        released
    }

    fn unpack_again(&self, lease: LeaseId, chain: &[TreeId], diff_id: &DiffId, blob: &Blob, ids: Ids) -> Result<(TreeId, Applied)> {
        let tree = self.store.new_tree(lease)?;
        let quiet = Context::new(self.cx.progress());
        let (supply, crew) = (Supply::stored(blob.clone()), Crew::new(self.store.parallelism()));
        let mut layer = LayerReader::open(&supply, None, diff_id.0.algorithm(), without_limits(), &crew, &quiet)?;
        let applied = self.store.backend().apply(tree, chain, &mut layer, ids, &quiet)?;
        let found = layer.diff_id()?;
        if found == *diff_id {
            return Ok((tree, applied));
        }
        self.store.discard(tree);
        Err(wrong_diff_id(diff_id, &found))
    }

    /// The same of a tree that holds what is below it, too.
    fn build_again(&self, lease: LeaseId, row: &SnapshotRow, diff_id: &DiffId, ids: Ids) -> Result<(TreeId, Applied)> {
        let quiet = Context::new(self.cx.progress());
        let plan = Plan::of(&self.store.metadata().read()?, row.parent)?;
        let layers: Vec<(&DiffId, Ids)> = [(diff_id, ids)].into_iter().chain(plan.layers()).collect();
        let mut built = self.store.build(lease, plan.base, &layers, &quiet)?;
        built.unsynced.take().map_or(Ok(()), SyncPoint::sync)?;
        let mut applied = built.applied.clone();
        applied.usage = self.store.backend().usage(built.tree)?;
        // It is the caller's from here on.
        built.is_named = true;
        Ok((built.tree, applied))
    }
}
