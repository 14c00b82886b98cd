//! Where trees are whole, the layers of a pull move into one tree, which is the topmost's in the end.
//!
//! Invariant: that tree has no name before the pull is finished. Each layer is named as soon as it has moved there, by a row without a
//! tree: whoever asks for it meanwhile has one made from the blobs, which are there.

use super::landing::Unpacked;
use super::{OP, Shared};
use crate::digest::ChainId;
use crate::error::Result;
use crate::lock::Subject;
use crate::metadata::{self, LeaseId, NewLayer, SnapshotId};
use crate::progress::Context;
use crate::store::fill::Filled;
use crate::store::layer::{Incoming, Landed, name_layer, wrong_diff_id};
use crate::store::make::{Built, Plan};

/// The tree of the layers so far.
#[derive(Debug)]
pub(super) struct Whole {
    built: Built,
    /// The topmost of them.
    of: Option<SnapshotId>,
}

impl Shared {
    /// Names one layer, whose bytes are checked for being it, and moves what it changes into the tree of all so far. By whoever has the
    /// turn.
    pub(super) fn land_in_whole(
        &self,
        lease: LeaseId,
        layer: &Incoming<'_>,
        unpacked: Option<Unpacked>,
        cx: &Context<'_>,
    ) -> Result<Landed> {
        let (store, parent) = (&self.store, layer.parent.map(|parent| parent.id));
        let chain_id = ChainId::of(layer.parent.and_then(|parent| parent.chain_id.as_ref()), layer.diff_id);
        if let Some(landed) = store.there(lease, layer, &chain_id, cx)? {
            return Ok(landed);
        }
        let _unpacking = store.locks().wait_unless(Subject::Layer(layer.diff_id), &mut || cx.check(OP))?;
        if let Some(landed) = store.there(lease, layer, &chain_id, cx)? {
            return Ok(landed);
        }
        let so_far = self.landing().whole.take().filter(|whole| whole.of == parent);
        let Whole { built, .. } = so_far.map_or_else(|| self.begin_whole(lease, parent, cx), Ok)?;
        let chain = [built.tree];
        let filled = unpacked.map_or(Ok(None), |unpacked| unpacked.settle(&chain, cx))?;
        let mut filled = match filled {
            Some(filled) => filled,
            None => Filled::beside(store, lease, layer.bytes, layer.diff_id.0.algorithm(), &chain, cx)?,
        };
        if filled.diff_id != *layer.diff_id {
            return Err(wrong_diff_id(layer.diff_id, &filled.diff_id));
        }
        let applied = &mut filled.applied;
        if !applied.empty {
            store.backend().merge(filled.tree, built.tree, applied, store.ids(), cx)?;
        }
        // It belongs to its chain, and rests on nothing else.
        (applied.facts, applied.markers) = Default::default();
        let root = store.implied_root(parent.is_some(), applied.root.as_ref())?;
        let transaction = store.write_durably()?;
        let unpacked = metadata::Unpacked { diff_id: layer.diff_id, ids: store.ids(), applied };
        transaction.finish_unmade_tree(filled.tree, lease, &unpacked)?;
        let (parent, diff_id, tree) = (layer.parent, layer.diff_id, filled.tree);
        let snapshot = name_layer(&transaction, &NewLayer { parent, diff_id, tree, root: root.as_ref(), labels: layer.labels })?;
        transaction.set_blob_diff_id(layer.bytes.supply.blob(cx)?.digest(), layer.diff_id)?;
        transaction.lease_snapshot(lease, snapshot.id)?;
        transaction.commit()?;
        filled.is_named = true;
        self.landing().whole = Some(Whole { built, of: Some(snapshot.id) });
        Ok(Landed { snapshot, chain_id, existed: false, unpacked: true })
    }

    /// The tree of what is there already.
    fn begin_whole(&self, lease: LeaseId, parent: Option<SnapshotId>, cx: &Context<'_>) -> Result<Whole> {
        let quiet = Context::new(cx.progress());
        // What another image has, and this one stands on, is asked for; what an earlier pull of this one left is not.
        let is_shared = parent.map_or(Ok(false), |parent| Ok(!self.store.metadata().read()?.images_on(parent, 1)?.is_empty()))?;
        self.store.ensure_made(OP, parent.filter(|_| is_shared), cx)?;
        let plan = Plan::of(&self.store.metadata().read()?, parent)?;
        Ok(Whole { built: self.store.build(lease, plan.base, &plan.layers().collect::<Vec<_>>(), &quiet)?, of: parent })
    }

    /// Gives the topmost layer the tree. One that is there already, and has none, gets one too.
    pub(super) fn name_whole(&self, cx: &Context<'_>) -> Result<()> {
        let (top, whole) = {
            let mut landing = self.landing();
            (landing.parent.as_ref().map(|top| top.id), landing.whole.take())
        };
        if let (Some(top), Some(whole)) = (top, whole.filter(|whole| whole.of == top)) {
            self.store.put_unless_made(self.lease()?, top, whole.built, cx)?;
        }
        self.store.ensure_made(OP, top, cx).map(drop)
    }
}
