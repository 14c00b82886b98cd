//! `gc`: what nothing reaches goes.
//!
//! Kept is what images, keys (Active snapshots and Views), names that a person gave, leases and the caller's own roots reach. An
//! imported layer's name is no root of its own: it is a digest, and can be had again. Candidates are found by reading; each is looked
//! at once more in the short transaction that removes it, so that what was named meanwhile stays. Bytes go last, outside every
//! transaction.

use super::Store;
use super::directories::TREES;
use crate::digest::Digest;
use crate::error::Result;
use crate::lock::{Held, Subject};
use crate::metadata::{LeaseId, SnapshotRow, Survives, Trash};
use crate::progress::Context;
use crate::snapshot::Name;
use crate::tree::TreeId;

/// How many rows go in one transaction: as many as take about a millisecond.
const BATCH: usize = 64;

/// What [`Store::gc`] keeps and does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcOptions {
    /// Committed snapshots that are to be kept, with all below them, beside what the store itself knows to be needed. None by default.
    pub roots: Vec<Name>,
    /// Only says what would go. `false` by default.
    pub dry_run: bool,
}

impl GcOptions {
    /// Keeps this snapshot too.
    #[must_use]
    pub fn root(mut self, name: Name) -> Self {
        self.roots.push(name);
        self
    }

    /// Only says what would go.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }
}

/// What [`Store::gc`] removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct GcOutcome {
    /// Names of imported layers, those on top before those below them.
    pub snapshots: Vec<String>,
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// The sizes of these blobs, in bytes.
    pub blob_bytes: u64,
    /// Trees whose bytes were deleted, those of snapshots that were removed before included. In a dry run, those known so far.
    pub trees: u64,
}

impl Store {
    /// Removes what nothing reaches any more, and deletes its bytes. Safe beside every other verb, in this process and others: what is
    /// in use or is being made stays. One collection runs at a time; a second one waits.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// store.remove("web-1")?;
    /// let outcome = store.gc(&Default::default(), &Default::default())?;
    /// assert_eq!(outcome.trees, 1);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Cancelled`: what has gone by then is gone; `Io`.
    pub fn gc(&self, options: &GcOptions, cx: &Context<'_>) -> Result<GcOutcome> {
        let outcome = self.with_reserve(|| self.collect(options, cx))?;
        self.keep_reserve();
        Ok(outcome)
    }

    fn collect(&self, options: &GcOptions, cx: &Context<'_>) -> Result<GcOutcome> {
        let _collection = self.locks().wait_unless(Subject::Collection, &mut || cx.check("gc"))?;
        self.end_dead_leases()?;
        self.locks().sweep()?;
        let mut outcome = GcOutcome::default();
        let garbage = {
            let reader = self.metadata().read()?;
            let roots: Vec<&str> = options.roots.iter().map(Name::as_str).collect();
            reader.unreached_layers(&roots)?
        };
        if options.dry_run {
            return self.would_go(&garbage, outcome);
        }
        for batch in garbage.chunks(BATCH) {
            cx.check("gc")?;
            self.remove_layers(batch, &mut outcome)?;
        }
        self.remove_unused_trees(cx)?;
        self.remove_unused_blobs(cx, &mut outcome)?;
        let deleted = self.delete_trash(cx);
        self.delete_orphans(cx)?;
        self.clear_probes();
        outcome.trees = deleted?;
        Ok(outcome)
    }

    /// Deletes the bytes of what was removed before, and nothing else.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// store.remove("web-1")?;
    /// assert_eq!(store.empty_trash(&Default::default())?, 1);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// Gives the number of trees that were deleted.
    ///
    /// # Errors
    /// `Cancelled`, `Io`.
    pub fn empty_trash(&self, cx: &Context<'_>) -> Result<u64> {
        let _collection = self.locks().wait_unless(Subject::Collection, &mut || cx.check("empty trash"))?;
        let trees = self.with_reserve(|| self.delete_trash(cx))?;
        self.keep_reserve();
        Ok(trees)
    }

    /// The same at the end of a verb that is about something else: to the end, whatever its caller says, but it waits for nobody.
    /// Whoever holds the lock deletes what is there, or the next collection does.
    pub(super) fn empty_trash_if_free(&self) -> Result<()> {
        match self.locks().attempt(Subject::Collection)? {
            Some(_collection) => self.delete_trash(&Context::default()).map(drop),
            None => Ok(()),
        }
    }

    fn would_go(&self, garbage: &[SnapshotRow], mut outcome: GcOutcome) -> Result<GcOutcome> {
        let reader = self.metadata().read()?;
        outcome.snapshots = garbage.iter().map(|row| row.name.clone()).collect();
        for blob in reader.unused_blobs()? {
            outcome.blob_bytes = outcome.blob_bytes.saturating_add(blob.size);
            outcome.blobs.push(blob.digest);
        }
        let unused = reader.unused_trees()?.len() as u64;
        let trash = reader.trash(u32::MAX)?.iter().filter(|trash| matches!(trash, Trash::Tree(_))).count() as u64;
        outcome.trees = unused.saturating_add(trash);
        Ok(outcome)
    }

    fn remove_layers(&self, batch: &[SnapshotRow], outcome: &mut GcOutcome) -> Result<()> {
        let transaction = self.metadata().write_to_survive(Survives::PowerCut)?;
        let mut removed = Vec::new();
        for row in batch {
            if transaction.is_unreached(row.id)? {
                transaction.remove_snapshot(row)?;
                removed.push(row.name.clone());
            }
        }
        transaction.commit()?;
        outcome.snapshots.extend(removed);
        Ok(())
    }

    fn remove_unused_trees(&self, cx: &Context<'_>) -> Result<()> {
        let unused = self.metadata().read()?.unused_trees()?;
        for batch in unused.chunks(BATCH) {
            cx.check("gc")?;
            let transaction = self.metadata().write_to_survive(Survives::PowerCut)?;
            for &tree in batch {
                if transaction.tree_is_unused(tree)? {
                    transaction.trash_tree(tree)?;
                }
            }
            transaction.commit()?;
        }
        Ok(())
    }

    fn remove_unused_blobs(&self, cx: &Context<'_>, outcome: &mut GcOutcome) -> Result<()> {
        let unused = self.metadata().read()?.unused_blobs()?;
        for batch in unused.chunks(BATCH) {
            cx.check("gc")?;
            let transaction = self.metadata().write_to_survive(Survives::PowerCut)?;
            let mut removed = Vec::new();
            for blob in batch {
                if transaction.blob_is_unused(&blob.digest)? {
                    transaction.trash_blob(&blob.digest)?;
                    removed.push(blob);
                }
            }
            transaction.commit()?;
            for blob in removed {
                outcome.blob_bytes = outcome.blob_bytes.saturating_add(blob.size);
                outcome.blobs.push(blob.digest.clone());
            }
        }
        Ok(())
    }

    /// Under the collection's lock. What cannot be deleted keeps nothing else from going; the first such failure is told at the end.
    fn delete_trash(&self, cx: &Context<'_>) -> Result<u64> {
        let trash = self.metadata().read()?.trash(u32::MAX)?;
        let mut trees = 0u64;
        let mut failed = Ok(());
        for batch in trash.chunks(BATCH) {
            let mut gone = Vec::new();
            for trash in batch {
                if let Err(cancelled) = cx.check("gc") {
                    self.forget_trees(&gone)?;
                    return Err(cancelled);
                }
                let deleted = match trash {
                    Trash::Tree(tree) => self.backend().remove(*tree).map(|()| gone.push(*tree)),
                    Trash::Blob(digest) => self.delete_trash_blob(digest),
                };
                if let Err(error) = deleted {
                    tracing::warn!(?trash, %error, "what was removed cannot be deleted");
                    failed = failed.and(Err(error));
                }
            }
            self.forget_trees(&gone)?;
            trees = trees.saturating_add(gone.len() as u64);
        }
        failed.map(|()| trees)
    }

    /// Deletes the bytes of a tree that is in the trash. Its number never comes back, so nobody can be waiting for it.
    pub(super) fn delete_trash_tree(&self, tree: TreeId) -> Result<()> {
        self.backend().remove(tree)?;
        self.forget_trees(&[tree])
    }

    /// Takes trees off the list whose bytes are gone. First that is made durable: a tree that came back after a power cut, and that
    /// no list names any more, would be taken for a container's data.
    fn forget_trees(&self, gone: &[TreeId]) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        self.directory().child(TREES.as_bytes())?.sync()?;
        // Once more after a power cut does no harm.
        let transaction = self.metadata().write_to_survive(Survives::Process)?;
        for &tree in gone {
            transaction.forget_trash(&Trash::Tree(tree))?;
        }
        transaction.commit()
    }

    /// Deletes the file of a blob that is in the trash. In the transaction: the same bytes may be coming in again.
    fn delete_trash_blob(&self, digest: &Digest) -> Result<()> {
        let transaction = self.metadata().write_to_survive(Survives::Process)?;
        if transaction.is_trash(digest)? {
            self.inner.content.remove(digest)?;
            transaction.forget_trash(&Trash::Blob(digest.clone()))?;
        }
        transaction.commit()
    }

    /// Ends the leases of dead processes and those whose time is over: what was being built under them goes to the trash, what they
    /// kept can be collected. Gives the trees that went.
    pub(super) fn end_dead_leases(&self) -> Result<Vec<TreeId>> {
        let leases = self.metadata().read()?.leases()?;
        let mut trees = Vec::new();
        for lease in leases {
            let _held: Option<Held> = match lease.expires {
                Some(_) if lease.has_expired() => None,
                Some(_) => continue,
                None => match self.locks().attempt(Subject::Lease(lease.id.0))? {
                    Some(held) => Some(held),
                    None => continue,
                },
            };
            trees.extend(self.end_dead_lease(lease.id)?);
        }
        Ok(trees)
    }

    fn end_dead_lease(&self, lease: LeaseId) -> Result<Vec<TreeId>> {
        let transaction = self.metadata().write_to_survive(Survives::Process)?;
        let trees = transaction.trees_built_under(lease)?;
        transaction.remove_lease(lease)?;
        transaction.commit()?;
        Ok(trees)
    }
}
