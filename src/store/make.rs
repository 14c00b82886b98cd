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

/// A tree that nobody names yet.
pub(super) struct Built {
    pub(super) tree: TreeId,
    /// A number that was needed on the way, under which there is nothing any more.
    pub(super) spare: TreeId,
    pub(super) applied: Applied,
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
                return verb.count(cx, |_, cx| self.make(unmade, snapshot, &plan, cx)).map(|()| true);
            }
        }
    }

    fn make(&self, unmade: TreeId, snapshot: Option<SnapshotId>, plan: &Plan, cx: &Context<'_>) -> Result<()> {
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
            self.make_under(lease.id(), unmade, plan, &quiet)
        })();
        let released = lease.release();
        made.and(released)
    }

    fn make_under(&self, lease: LeaseId, unmade: TreeId, plan: &Plan, cx: &Context<'_>) -> Result<()> {
        let Some(top) = plan.unmade.first() else { return Ok(()) };
        let Some(diff_id) = &top.diff_id else { return Ok(()) };
        let layers: Vec<(&DiffId, Ids)> = plan.unmade.iter().filter_map(of_row).collect();
        let point = self.sync_point()?;
        let built = self.build(lease, plan.base, &layers, cx)?;
        let named = (|| {
            self.sync_if_asked(point)?;
            let mut applied = top.clone().into_applied();
            applied.usage = self.backend().usage(built.tree)?;
            let transaction = self.write_durably()?;
            let ids = top.ids.unwrap_or_default();
            transaction.finish_tree(built.tree, lease, &Unpacked { diff_id, ids, applied: &applied })?;
            transaction.forget_tree(built.spare)?;
            transaction.replace_tree(unmade, built.tree)?;
            transaction.commit()
        })();
        named.inspect_err(|_| self.discard(built.tree))
    }

    /// Makes a tree of these layers, topmost first, over a copy of another one. Nothing is named, nor need anything be durable; on an
    /// error nothing is left.
    pub(super) fn build(&self, lease: LeaseId, base: Option<TreeId>, layers: &[(&DiffId, Ids)], cx: &Context<'_>) -> Result<Built> {
        let (tree, spare) = (self.new_tree(lease)?, self.new_tree(lease)?);
        let mut built = Built { tree, spare, applied: Applied::new(Default::default()) };
        let done = (|| {
            self.backend().copy(tree, base.as_slice(), cx)?;
            let crew = Crew::new(self.parallelism());
            for &(diff_id, ids) in layers.iter().rev() {
                built.applied = self.unpack_beside(spare, tree, diff_id, ids, &crew, cx)?;
                if !built.applied.empty {
                    self.backend().merge(spare, tree, &built.applied, ids, cx)?;
                }
            }
            Ok(())
        })();
        (built.applied.facts, built.applied.markers) = Default::default();
        match done {
            Ok(()) => Ok(built),
            Err(error) => {
                self.discard(spare);
                self.discard(tree);
                Err(error)
            }
        }
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

/// A layer as its row has it.
fn of_row(row: &TreeRow) -> Option<(&DiffId, Ids)> {
    row.diff_id.as_ref().map(|diff_id| (diff_id, row.ids.unwrap_or_default()))
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
