//! Trees that an import left unmade are made when somebody asks for them.
//!
//! Where trees are [whole](crate::backend::Backend::is_whole), the import of an image makes the topmost alone; rows without a tree stand
//! for those below it. One of these is made from the nearest tree below it that is there, and the blobs of the layers in between.
//!
//! Invariant: a tree takes the place of its row in one transaction, durable, and after each of its layers was read to its end and found to
//! be that of its diff id. One makes it, others wait for him. While a row is unmade, its layer's blob stays.

use tracing::field::Empty;

use crate::content::Blob;
use crate::digest::DiffId;
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Subject;
use crate::metadata::{LeaseId, Reader, SnapshotId, Survives, TreeRow, TreeState, Unpacked};
use crate::parallel::Crew;
use crate::progress::Context;
use crate::span::verb;
use crate::store::Store;
use crate::store::layer::wrong_diff_id;
use crate::store::layer_reader::LayerReader;
use crate::store::supply::Supply;
use crate::sys::durable::SyncPoint;
use crate::tar::Limits;
use crate::tree::{Applied, Ids, TreeId};

const OP: &str = "make tree";

/// What a tree is to be made of.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The nearest tree below that is there.
    pub(super) base: Option<TreeId>,
    /// The layers above it whose trees are not, topmost first.
    pub(super) unmade: Vec<TreeRow>,
}

/// A tree of several layers that nobody names yet: it goes when this is dropped.
#[derive(Debug)]
#[must_use = "the tree goes when this is dropped"]
pub(super) struct Built {
    store: Store,
    pub(super) tree: TreeId,
    /// The number under which layers are unpacked on the way; there is nothing any more.
    spare: TreeId,
    /// What the topmost layer came to.
    pub(super) applied: Applied,
    /// Before it was written.
    pub(super) unsynced: Option<SyncPoint>,
    pub(super) is_named: bool,
}

impl Drop for Built {
    fn drop(&mut self) {
        if !self.is_named {
            self.store.discard(self.spare);
            self.store.discard(self.tree);
        }
    }
}

impl Plan {
    /// What a snapshot's tree is to be made of; nothing where it is there.
    pub(super) fn of(reader: &Reader<'_>, snapshot: Option<SnapshotId>) -> Result<Self> {
        let (mut plan, mut next) = (Self::default(), snapshot);
        while let Some(id) = next {
            let Some(row) = reader.snapshot_by_id(id)? else { break };
            match row.tree_state {
                TreeState::Empty => {}
                TreeState::Unmade => plan.unmade.extend(reader.tree(row.tree)?),
                TreeState::Building | TreeState::Writable | TreeState::Frozen => {
                    plan.base = Some(row.tree);
                    break;
                }
            }
            next = row.parent.filter(|_| !row.cut);
        }
        Ok(plan)
    }

    fn top(&self) -> Option<TreeId> {
        self.unmade.first().map(|row| row.id)
    }

    /// The layers of these trees, topmost first.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&DiffId, Ids)> {
        self.unmade.iter().filter_map(|row| Some((row.diff_id.as_ref()?, row.ids.unwrap_or_default())))
    }
}

impl Store {
    /// Has the tree made that shows what a committed snapshot is, and says whether it was not there when this began: what was read of
    /// rows before is out of date then. As durable as an import when it returns.
    ///
    /// # Errors
    /// `NotFound` where the snapshot is removed meanwhile; `Corrupt` where a blob that it takes is gone or damaged; `PermissionDenied` in a
    /// store that cannot be written; `Cancelled`, `NoSpace`, `Io`.
    pub(super) fn ensure_made(&self, op: &'static str, snapshot: Option<SnapshotId>, cx: &Context<'_>) -> Result<bool> {
        if !self.backend().is_whole() || snapshot.is_none() {
            return Ok(false);
        }
        let mut was_unmade = false;
        loop {
            let Some(unmade) = Plan::of(&self.metadata().read()?, snapshot)?.top() else { return Ok(was_unmade) };
            self.refuse_read_only(op).map_err(|error| {
                let reason = format!("{}; the tree was left to be made when it is asked for", error.reason().unwrap_or_default());
                error.because(reason)
            })?;
            was_unmade = true;
            let _making = self.locks().wait_unless(Subject::Tree(unmade), &mut || cx.check(op))?;
            // Somebody else may have made it meanwhile.
            let plan = Plan::of(&self.metadata().read()?, snapshot)?;
            if plan.top() == Some(unmade) {
                let verb = verb!("make tree", tree = unmade.0, layers = plan.unmade.len(), bytes = Empty, entries = Empty);
                return verb.count(cx, |_, cx| self.make(snapshot, &plan, cx)).map(|()| true);
            }
        }
    }

    fn make(&self, snapshot: Option<SnapshotId>, plan: &Plan, cx: &Context<'_>) -> Result<()> {
        let lease = self.lease()?;
        let quiet = Context::new(cx.progress());
        let made = (|| {
            let transaction = self.metadata().write_to_survive(Survives::Process)?;
            let row = snapshot.map_or(Ok(None), |id| transaction.snapshot_by_id(id))?;
            let Some(row) = row else { return Err(Error::new(ErrorKind::NotFound, OP).because("it was removed meanwhile")) };
            let trees: Vec<TreeId> = plan.base.into_iter().chain(plan.unmade.iter().map(|row| row.id)).collect();
            transaction.refuse_damaged(OP, &row.name, &trees)?;
            transaction.lease_snapshot(lease.id(), row.id)?;
            transaction.commit()?;
            let layers: Vec<_> = plan.layers().collect();
            let built = self.build(lease.id(), plan.base, &layers, &quiet)?;
            self.put(lease.id(), plan, built)
        })();
        let released = lease.release();
        made.and(released)
    }

    /// Puts a tree of all layers of a snapshot in the place of the row that stands for it, unless somebody else has made it: then it goes.
    pub(super) fn put_unless_made(&self, lease: LeaseId, snapshot: SnapshotId, built: Built, cx: &Context<'_>) -> Result<()> {
        let Some(unmade) = Plan::of(&self.metadata().read()?, Some(snapshot))?.top() else { return Ok(()) };
        let _making = self.locks().wait_unless(Subject::Tree(unmade), &mut || cx.check(OP))?;
        let plan = Plan::of(&self.metadata().read()?, Some(snapshot))?;
        if plan.top() == Some(unmade) { self.put(lease, &plan, built) } else { Ok(()) }
    }

    fn put(&self, lease: LeaseId, plan: &Plan, mut built: Built) -> Result<()> {
        let Some((top, (diff_id, ids))) = plan.unmade.first().zip(plan.layers().next()) else { return Ok(()) };
        built.unsynced.take().map_or(Ok(()), |point| self.sync_if_asked(point, false))?;
        let mut applied = top.clone().into_applied();
        applied.usage = self.backend().usage(built.tree)?;
        let transaction = self.write_durably()?;
        transaction.finish_tree(built.tree, lease, &Unpacked { diff_id, ids, applied: &applied })?;
        transaction.forget_tree(built.spare)?;
        transaction.replace_tree(top.id, built.tree)?;
        transaction.commit()?;
        built.is_named = true;
        Ok(())
    }

    /// Makes a tree of these layers, topmost first, over a copy of another one. Nothing is named, nor need anything be durable; on an
    /// error nothing is left.
    pub(super) fn build(&self, lease: LeaseId, base: Option<TreeId>, layers: &[(&DiffId, Ids)], cx: &Context<'_>) -> Result<Built> {
        let unsynced = Some(self.sync_point()?);
        let (tree, spare) = (self.new_tree(lease)?, self.new_tree(lease)?);
        let (store, applied) = (self.clone(), Applied::new(Default::default()));
        let mut built = Built { store, tree, spare, applied, unsynced, is_named: false };
        self.backend().copy(tree, base.as_slice(), cx)?;
        let crew = Crew::new(self.parallelism());
        for &(diff_id, ids) in layers.iter().rev() {
            built.applied = self.unpack_beside(spare, tree, diff_id, ids, &crew, cx)?;
            if !built.applied.empty {
                self.backend().merge(spare, tree, &built.applied, ids, cx)?;
            }
        }
        (built.applied.facts, built.applied.markers) = Default::default();
        Ok(built)
    }

    /// Unpacks what a layer changes from whichever blob gives the layer.
    fn unpack_beside(
        &self,
        change: TreeId,
        below: TreeId,
        diff_id: &DiffId,
        ids: Ids,
        crew: &Crew,
        cx: &Context<'_>,
    ) -> Result<Applied> {
        let lacks = |reason: &str| {
            Error::new(ErrorKind::Corrupt, OP)
                .at(diff_id.to_string())
                .because(format!("the tree was not made yet, and {reason}"))
                .with_hint("import the image again")
        };
        let mut failed = lacks("the blob of a layer that it takes is gone");
        for row in self.metadata().read()?.blobs_of(diff_id)? {
            let Some(blob) = self.content().blob(&row.digest)? else { continue };
            match self.unpack_blob(change, below, blob, diff_id, ids, crew, cx) {
                Err(error) if is_of_bytes(&error) => {
                    failed = lacks("the blob of a layer that it takes does not give the layer").with_source(error);
                }
                done => return done,
            }
        }
        Err(failed)
    }

    #[allow(clippy::too_many_arguments)]
    fn unpack_blob(
        &self,
        change: TreeId,
        below: TreeId,
        blob: Blob,
        diff_id: &DiffId,
        ids: Ids,
        crew: &Crew,
        cx: &Context<'_>,
    ) -> Result<Applied> {
        let supply = Supply::stored(blob);
        let mut layer = LayerReader::open(&supply, None, diff_id.0.algorithm(), without_limits(), crew, cx)?;
        let applied = self.backend().apply_ahead(change, Some(&[below]), &mut layer, ids, cx)?;
        let applied = applied.ok_or_else(|| Error::new(ErrorKind::Unsupported, OP).because("the backend unpacked nothing"))?;
        let found = layer.diff_id()?;
        if found == *diff_id { Ok(applied) } else { Err(wrong_diff_id(diff_id, &found)) }
    }
}

/// Whether an error is one of bytes that are not the layer's.
fn is_of_bytes(error: &Error) -> bool {
    use ErrorKind::{Corrupt, DigestMismatch, InvalidLayer, LimitExceeded};
    matches!(error.kind(), InvalidLayer | DigestMismatch | LimitExceeded | Corrupt)
}

/// What was let in already.
pub(super) fn without_limits() -> Limits {
    let mut limits = Limits::default();
    (limits.entries, limits.unpacked_bytes, limits.xattr_bytes) = (u64::MAX, u64::MAX, usize::MAX);
    (limits.sparse_segments, limits.header_bytes) = (usize::MAX, limits.header_bytes.max(1 << 24));
    limits
}
