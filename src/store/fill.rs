//! [`Filled`]: a layer that is unpacked, before it has a name.
//!
//! Invariant: a tree that nobody names goes with its `Filled`; nothing of it need be durable until it is named.

use std::os::fd::AsFd as _;

use crate::digest::{Algorithm, DiffId};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{LeaseId, Survives, Transaction};
use crate::progress::Context;
use crate::snapshot::Usage;
use crate::store::Store;
use crate::store::directories::TREES;
use crate::store::layer::LayerBytes;
use crate::store::layer_reader::LayerReader;
use crate::sys::durable::SyncPoint;
use crate::sys::{write_back, write_order};
use crate::tree::{Applied, TreeId};

/// A layer in a tree that nobody names: the tree goes when this is dropped.
#[derive(Debug)]
#[must_use = "the tree goes when this is dropped"]
pub(super) struct Filled {
    store: Store,
    pub(super) tree: TreeId,
    pub(super) applied: Applied,
    pub(super) diff_id: DiffId,
    /// Bytes of the uncompressed stream.
    pub(super) size: u64,
    /// Before it was written, where that is not durable yet.
    pub(super) unsynced: Option<SyncPoint>,
    pub(super) is_named: bool,
    /// What it was unpacked over; `None` where that was guessed.
    chain: Option<Vec<TreeId>>,
}

/// How a layer is unpacked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// To a tree that is durable at once.
    Tree,
    /// As the backend does it ahead.
    Ahead,
}

impl Filled {
    /// Unpacks a layer into a new tree, to the end of its stream. Nothing is named, nor need anything be durable.
    pub(super) fn over(
        store: &Store,
        lease: LeaseId,
        bytes: &LayerBytes<'_>,
        algorithm: Algorithm,
        chain: &[TreeId],
        cx: &Context<'_>,
    ) -> Result<Self> {
        store.choose_write_back(cx);
        let how = if store.unpacks_in_place() { How::Ahead } else { How::Tree };
        let filled = Self::make(store, lease, bytes, algorithm, Some(chain), how, cx)?;
        filled.ok_or_else(|| Error::new(ErrorKind::Unsupported, "import layer").because("the backend unpacked nothing"))
    }

    /// The same, but where trees are whole it is what the layer changes alone, to be merged into the tree of the chain.
    pub(super) fn beside(
        store: &Store,
        lease: LeaseId,
        bytes: &LayerBytes<'_>,
        algorithm: Algorithm,
        chain: &[TreeId],
        cx: &Context<'_>,
    ) -> Result<Self> {
        let filled = Self::make(store, lease, bytes, algorithm, Some(chain), How::Ahead, cx)?;
        filled.ok_or_else(|| Error::new(ErrorKind::Unsupported, "import layer").because("the backend unpacked nothing"))
    }

    /// The same by guesses, before it is known what it stands on; `None` where the layer cannot be unpacked so.
    pub(super) fn ahead(
        store: &Store,
        lease: LeaseId,
        bytes: &LayerBytes<'_>,
        algorithm: Algorithm,
        cx: &Context<'_>,
    ) -> Result<Option<Self>> {
        match store.backend().unpacks_ahead() {
            true => Self::make(store, lease, bytes, algorithm, None, How::Ahead, cx),
            false => Ok(None),
        }
    }

    fn make(
        store: &Store,
        lease: LeaseId,
        bytes: &LayerBytes<'_>,
        algorithm: Algorithm,
        chain: Option<&[TreeId]>,
        how: How,
        cx: &Context<'_>,
    ) -> Result<Option<Self>> {
        let (backend, ids, point) = (store.backend(), store.ids(), store.sync_point()?);
        let tree = store.new_tree(lease)?;
        // Goes with what was unpacked, unless all went well.
        let (applied, diff_id) = (Applied::new(Usage::default()), DiffId(algorithm.digest(b"")));
        let chain = chain.map(<[TreeId]>::to_vec);
        let mut filled = Self { store: store.clone(), tree, applied, diff_id, size: 0, unsynced: None, is_named: false, chain };
        let mut reader = LayerReader::open(bytes.supply, bytes.media_type, algorithm, bytes.limits.clone(), bytes.crew, cx)?;
        let chain = filled.chain.as_deref();
        let ahead = if how == How::Ahead { backend.apply_ahead(tree, chain, &mut reader, ids, cx)? } else { None };
        filled.unsynced = ahead.is_some().then_some(point);
        filled.applied = match (ahead, chain) {
            (Some(applied), _) => applied,
            (None, Some(chain)) => backend.apply(tree, chain, &mut reader, ids, cx)?,
            (None, None) => return Ok(None),
        };
        (filled.diff_id, filled.size) = reader.finish()?;
        Ok(Some(filled))
    }

    /// Puts it on the chain that it turns out to stand on. `None` where it was unpacked over another one, or a guess was wrong in kind.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub(super) fn settle(mut self, chain: &[TreeId], cx: &Context<'_>) -> Result<Option<Self>> {
        let is_settled = match &self.chain {
            Some(known) => known == chain,
            None => self.store.backend().settle(self.tree, chain, &mut self.applied, self.store.ids(), cx)?,
        };
        Ok(is_settled.then_some(self))
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        if !self.is_named {
            self.store.discard(self.tree);
        }
    }
}

impl Store {
    /// Whether what is unpacked ahead is the tree already.
    pub(super) fn unpacks_in_place(&self) -> bool {
        self.backend().unpacks_ahead() && !self.backend().is_whole()
    }

    /// The number of a tree to be made under this lease.
    pub(super) fn new_tree(&self, lease: LeaseId) -> Result<TreeId> {
        let transaction = self.metadata().write()?;
        let tree = transaction.allocate_tree(lease, self.backend().name())?;
        transaction.commit()?;
        Ok(tree)
    }

    /// Deletes a tree that nobody names: its row goes with the lease, its bytes need not wait for that.
    pub(super) fn discard(&self, tree: TreeId) {
        if let Err(error) = self.backend().remove(tree) {
            tracing::warn!(%error, %tree, "a tree could not be deleted; the collection will");
        }
    }

    /// Where others have written much that is not on the disk yet, what is unpacked in this context is written back while it comes.
    pub(super) fn choose_write_back(&self, cx: &Context<'_>) {
        cx.write_back(self.durability().is_full() && write_back::is_worth_it());
    }

    /// The file system of the trees, before anything is written to it.
    pub(super) fn sync_point(&self) -> Result<SyncPoint> {
        SyncPoint::before_writes(self.directory().child(TREES.as_bytes())?)
    }

    /// Makes durable what was unpacked since the point, where imports are to survive a power cut. Where the data of all of it
    /// [is written back](Applied::is_written_back), nothing of others is waited for.
    pub(super) fn sync_if_asked(&self, point: SyncPoint, is_written_back: bool) -> Result<()> {
        if !self.durability().is_full() {
            return Ok(());
        }
        let trees = self.directory().child(TREES.as_bytes())?;
        if is_written_back && self.backend().keeps_order_with(trees.as_fd()) { write_order::sync(&trees) } else { point.sync() }
    }

    /// A transaction that survives what imports survive.
    pub(super) fn write_durably(&self) -> Result<Transaction<'_>> {
        self.metadata().write_to_survive(if self.durability().is_full() { Survives::PowerCut } else { Survives::Process })
    }
}
