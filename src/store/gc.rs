//! `gc`: what nothing reaches goes.
//!
//! Kept is what images, keys (Active snapshots and Views), names that a person gave, leases and the caller's own roots reach. An
//! imported layer's name is no root of its own: it is a digest, and can be had again. Candidates are found by reading; each is looked
//! at once more in the short transaction that removes it, so that what was named meanwhile stays. Bytes go last, outside every
//! transaction. Nobody waits for a collection but another one: what it holds meanwhile is a lock of its own.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::time::{Duration, Instant};

use tracing::field::Empty;

use super::Store;
use super::directories::TREES;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::{Held, Subject};
use crate::metadata::{LeaseId, SnapshotRow, Survives, Transaction, Trash, TreeState};
use crate::progress::Context;
use crate::snapshot::Name;
use crate::span::verb;
use crate::tree::TreeId;

/// How long one transaction takes up rows: whoever writes meanwhile waits for that, and for no more.
const SLICE: Duration = Duration::from_millis(2);
/// Between two transactions the others, who were waiting, must have the time to wake up.
const PAUSE: Duration = Duration::from_micros(200);
/// How many trees are deleted before they are taken off the list.
const BATCH: usize = 64;

/// What [`Store::gc`] keeps and does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcOptions {
    /// Committed snapshots that are to be kept, with all below them, beside what the store itself knows to be needed. None by default.
    pub roots: Vec<Name>,
    /// Only says what would go. `false` by default.
    pub dry_run: bool,
    /// Deletes what lies in `lost+found`: trees that no row named, perhaps of containers. `false` by default.
    pub lost_found: bool,
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

    /// What lies in `lost+found` too.
    #[must_use]
    pub fn lost_found(mut self) -> Self {
        self.lost_found = true;
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
    /// Trees whose bytes were deleted, those of snapshots that were removed before included.
    pub trees: u64,
    /// What these trees took, in bytes of disk space; blocks that several trees share are counted in each.
    pub tree_bytes: u64,
    /// What lies in `lost+found`, with what it takes. It stays, unless it was asked for.
    pub lost: Vec<LostTree>,
}

/// A tree that was found without a row, after a power cut or in a database that was put back: perhaps a container's data. It lies in
/// the store's `lost+found` under the name that it had in `trees`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct LostTree {
    /// Its name in `lost+found`.
    pub name: String,
    /// Inodes.
    pub inodes: u64,
    /// Disk space, in bytes.
    pub bytes: u64,
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
        let verb = verb!(
            "gc",
            dry_run = options.dry_run,
            snapshots = Empty,
            blobs = Empty,
            blob_bytes = Empty,
            trees = Empty,
            tree_bytes = Empty
        );
        verb.run(|span| {
            self.refuse_read_only("gc")?;
            let outcome = self.with_reserve(|| self.collect(options, cx))?;
            self.keep_reserve();
            span.record("snapshots", outcome.snapshots.len());
            span.record("blobs", outcome.blobs.len());
            span.record("blob_bytes", outcome.blob_bytes);
            span.record("trees", outcome.trees);
            span.record("tree_bytes", outcome.tree_bytes);
            Ok(outcome)
        })
    }

    fn collect(&self, options: &GcOptions, cx: &Context<'_>) -> Result<GcOutcome> {
        let _collection = self.locks().wait_unless(Subject::Collection, &mut || cx.check("gc"))?;
        self.end_dead_leases()?;
        self.locks().sweep()?;
        if !options.dry_run {
            self.find_lost_trees()?;
        }
        let mut outcome = GcOutcome { lost: self.lost_trees()?, ..GcOutcome::default() };
        let garbage = {
            let reader = self.metadata().read()?;
            let roots: Vec<&str> = options.roots.iter().map(Name::as_str).collect();
            reader.unreached_layers(&roots)?
        };
        if options.dry_run {
            return self.would_go(&garbage, outcome);
        }
        self.in_slices(&garbage, cx, &mut |transaction, row| {
            if transaction.is_unreached(row.id)? {
                transaction.remove_snapshot(row)?;
                outcome.snapshots.push(row.name.clone());
            }
            Ok(())
        })?;
        self.remove_unused_trees(cx)?;
        self.remove_unused_blobs(cx, &mut outcome)?;
        self.seal()?;
        let deleted = self.delete_trash(cx);
        self.delete_orphans(cx)?;
        self.clear_probes();
        if options.lost_found {
            self.delete_lost_trees(cx)?;
        }
        (outcome.trees, outcome.tree_bytes) = deleted?;
        Ok(outcome)
    }

    /// Has the batches survive a power cut that went before: rows die before their bytes. One wait for the disk instead of one for each.
    fn seal(&self) -> Result<()> {
        let transaction = self.metadata().write_to_survive(Survives::PowerCut)?;
        // Any change will do that is one: numbers of leases never come back.
        let lease = transaction.insert_lease()?;
        transaction.remove_lease(lease)?;
        transaction.commit()
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
        verb!("empty trash", trees = Empty, tree_bytes = Empty).run(|span| {
            self.refuse_read_only("empty trash")?;
            let _collection = self.locks().wait_unless(Subject::Collection, &mut || cx.check("empty trash"))?;
            let (trees, bytes) = self.with_reserve(|| self.delete_trash(cx))?;
            self.keep_reserve();
            span.record("trees", trees);
            span.record("tree_bytes", bytes);
            Ok(trees)
        })
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
        let mut leaving: HashMap<TreeId, u64> = HashMap::new();
        for row in garbage {
            leaving.entry(row.tree).and_modify(|users| *users = users.saturating_add(1)).or_insert(1);
        }
        let mut trees: BTreeSet<TreeId> = reader.unused_trees()?.into_iter().collect();
        for (&tree, &users) in &leaving {
            if reader.tree_users(tree)? == users && !reader.tree_is_leased(tree)? {
                trees.insert(tree);
            }
        }
        trees.extend(reader.trash(u32::MAX)?.iter().filter_map(|trash| match trash {
            Trash::Tree(tree) => Some(*tree),
            Trash::Blob(_) => None,
        }));
        for tree in trees.into_iter().filter(|&tree| tree != TreeId::EMPTY) {
            let is_nowhere = reader.tree(tree)?.is_some_and(|row| matches!(row.state, TreeState::Empty | TreeState::Unmade));
            if !is_nowhere {
                outcome.trees = outcome.trees.saturating_add(1);
                outcome.tree_bytes = outcome.tree_bytes.saturating_add(self.bytes_of(tree));
            }
        }
        Ok(outcome)
    }

    /// What a tree takes, as far as that can be told.
    fn bytes_of(&self, tree: TreeId) -> u64 {
        self.backend().usage(tree).map_or(0, |usage| usage.bytes)
    }

    /// Does something to each of many rows, in transactions that are short enough for those who wait.
    fn in_slices<T>(&self, rows: &[T], cx: &Context<'_>, each: &mut dyn FnMut(&Transaction<'_>, &T) -> Result<()>) -> Result<()> {
        let mut rest = rows.iter().peekable();
        while rest.peek().is_some() {
            cx.check("gc")?;
            let transaction = self.metadata().write_to_survive(Survives::Process)?;
            let began = Instant::now();
            for row in rest.by_ref() {
                each(&transaction, row)?;
                if began.elapsed() >= SLICE {
                    break;
                }
            }
            transaction.commit()?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn remove_unused_trees(&self, cx: &Context<'_>) -> Result<()> {
        let unused = self.metadata().read()?.unused_trees()?;
        self.in_slices(&unused, cx, &mut |transaction, &tree| {
            if transaction.tree_is_unused(tree)? {
                transaction.trash_tree(tree)?;
            }
            Ok(())
        })
    }

    fn remove_unused_blobs(&self, cx: &Context<'_>, outcome: &mut GcOutcome) -> Result<()> {
        let unused = self.metadata().read()?.unused_blobs()?;
        self.in_slices(&unused, cx, &mut |transaction, blob| {
            if transaction.blob_is_unused(&blob.digest)? {
                transaction.trash_blob(&blob.digest)?;
                outcome.blob_bytes = outcome.blob_bytes.saturating_add(blob.size);
                outcome.blobs.push(blob.digest.clone());
            }
            Ok(())
        })
    }

    /// Under the collection's lock. What cannot be deleted keeps nothing else from going; the first such failure is told at the end.
    /// Gives the number of trees, and what they took.
    fn delete_trash(&self, cx: &Context<'_>) -> Result<(u64, u64)> {
        let (mut trees, mut blobs) = (Vec::new(), Vec::new());
        for trash in self.metadata().read()?.trash(u32::MAX)? {
            match trash {
                Trash::Tree(tree) => trees.push(tree),
                Trash::Blob(digest) => blobs.push(digest),
            }
        }
        let mut failed = Ok(());
        let mut fail = |what: &dyn Display, error: Error| {
            tracing::warn!(%what, %error, "what was removed cannot be deleted");
            if failed.is_ok() {
                failed = Err(error);
            }
        };
        let (mut count, mut bytes) = (0_u64, 0_u64);
        for batch in trees.chunks(BATCH) {
            let mut gone = Vec::new();
            for &tree in batch {
                if let Err(cancelled) = cx.check("gc") {
                    self.forget_trees(&gone)?;
                    return Err(cancelled);
                }
                let taken = self.bytes_of(tree);
                match self.backend().remove(tree) {
                    Ok(()) => {
                        gone.push(tree);
                        bytes = bytes.saturating_add(taken);
                    }
                    Err(error) => fail(&tree, error),
                }
            }
            self.forget_trees(&gone)?;
            count = count.saturating_add(gone.len() as u64);
        }
        self.delete_trash_blobs(&blobs, &mut fail, cx)?;
        failed.map(|()| (count, bytes))
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

    /// Deletes the files of blobs that are in the trash. Their names go in the transaction, because the same bytes may be coming in
    /// again; their bytes, of which there may be many, when nobody waits for them.
    fn delete_trash_blobs(&self, blobs: &[Digest], fail: &mut dyn FnMut(&dyn Display, Error), cx: &Context<'_>) -> Result<()> {
        let mut aside = Vec::new();
        let done = self.in_slices(blobs, cx, &mut |transaction, digest| {
            if !transaction.is_trash(digest)? {
                return Ok(());
            }
            match self.content().set_aside(digest) {
                Ok(bytes) => aside.extend(bytes),
                Err(error) => {
                    fail(digest, error);
                    return Ok(());
                }
            }
            transaction.forget_trash(&Trash::Blob(digest.clone()))
        });
        // Those too whose rows stay because a transaction failed: nobody finds them by their names any more.
        for bytes in aside {
            self.content().delete(&bytes)?;
        }
        done
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

    pub(super) fn end_dead_lease(&self, lease: LeaseId) -> Result<Vec<TreeId>> {
        let transaction = self.metadata().write_to_survive(Survives::Process)?;
        // Somebody may have renewed it meanwhile.
        if transaction.lease_by_id(lease)?.is_none_or(|now| now.expires.is_some() && !now.has_expired()) {
            return Ok(Vec::new());
        }
        let trees = transaction.trees_built_under(lease)?;
        transaction.remove_lease(lease)?;
        transaction.commit()?;
        Ok(trees)
    }
}
