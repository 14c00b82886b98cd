//! What came in gets its names; where trees are whole, all of it in one tree first.

use super::{Frontier, How, Landed, Stack, lock};
use crate::digest::ChainId;
use crate::error::Result;
use crate::metadata::{NewLayer, Unpacked};
use crate::progress::Context;
use crate::snapshot::Labels;
use crate::store::layer::name_layer;
use crate::sys::durable::SyncPoint;

impl Stack<'_> {
    /// Moves what a layer changes into the tree of all so far.
    pub(super) fn merge(&self, frontier: &mut Frontier, landed: &mut Landed, cx: &Context<'_>) -> Result<()> {
        let backend = self.store.backend();
        if !landed.applied.empty {
            let into = match frontier.whole {
                Some(whole) => whole,
                None => {
                    let whole = self.new_tree(frontier)?;
                    backend.copy(whole, &frontier.chain, cx)?;
                    (frontier.whole, frontier.chain) = (Some(whole), vec![whole]);
                    whole
                }
            };
            backend.merge(landed.tree, into, &landed.applied, self.store.ids(), cx)?;
        }
        // It belongs to its chain, and rests on nothing else.
        (landed.applied.facts, landed.applied.markers) = Default::default();
        Ok(())
    }

    /// Makes what came durable, and names it.
    pub(super) fn name(&self, point: SyncPoint, made: &mut Vec<ChainId>) -> Result<()> {
        let (store, backend) = (self.store, self.store.backend());
        let mut frontier = lock(&self.frontier);
        if frontier.landed.is_empty() {
            return Ok(());
        }
        // Of a whole tree some may be a copy.
        let (mut is_new, mut is_written_back) = (false, !self.is_whole());
        for landed in frontier.landed.iter().filter(|landed| landed.how == How::Unpacked) {
            match landed.applied.empty {
                true => backend.remove(landed.tree)?,
                false => (is_new, is_written_back) = (true, is_written_back && landed.applied.is_written_back),
            }
        }
        if is_new {
            store.sync_if_asked(point, is_written_back)?;
        }
        let top = frontier.landed.iter().rposition(|landed| !landed.applied.empty);
        // Of a whole tree the number under which its topmost layer was unpacked is nobody's any more.
        let mut spare = None;
        if let (Some(whole), Some(top)) = (frontier.whole, top.and_then(|top| frontier.landed.get_mut(top))) {
            spare = Some(std::mem::replace(&mut top.tree, whole));
        }
        let is_made = |index: usize| !self.is_whole() || Some(index) == top;
        for (index, landed) in frontier.landed.iter_mut().enumerate() {
            if landed.how == How::Unpacked && !landed.applied.empty && is_made(index) {
                // File systems that allocate late know only now.
                landed.applied.usage = backend.usage(landed.tree)?;
            }
        }
        let (labels, mut new_chains) = (Labels::new(), Vec::new());
        let transaction = store.write_durably()?;
        let mut parent = self.below.clone();
        spare.map_or(Ok(()), |spare| transaction.forget_tree(spare))?;
        let (damaged, mut unneeded) = (transaction.damaged_trees()?, None);
        for (index, (landed, part)) in frontier.landed.iter().zip(self.missing()).enumerate() {
            // Above one that is made anew, what was sound is there already.
            let there = transaction.layer(&part.chain_id)?.map(|there| there.tree);
            let unpacked = Unpacked { diff_id: part.diff_id, ids: store.ids(), applied: &landed.applied };
            match (is_made(index) && !landed.applied.empty, self.is_whole() && there.is_some_and(|tree| !damaged.contains(&tree))) {
                (true, true) => unneeded = Some(landed.tree),
                (false, true) => transaction.forget_tree(landed.tree)?,
                _ if landed.how != How::Unpacked => {}
                (false, false) => transaction.finish_unmade_tree(landed.tree, self.lease, &unpacked)?,
                (true, false) => transaction.finish_tree(landed.tree, self.lease, &unpacked)?,
            }
            let root = store.implied_root(parent.is_some(), landed.applied.root.as_ref())?;
            let (parent_row, diff_id, tree) = (parent.as_ref(), part.diff_id, landed.tree);
            let new = NewLayer { parent: parent_row, diff_id, tree, root: root.as_ref(), labels: &labels };
            let snapshot = name_layer(&transaction, &new)?;
            if there != Some(snapshot.tree) {
                new_chains.push(part.chain_id.clone());
            }
            transaction.set_blob_diff_id(&part.reference.descriptor.digest, part.diff_id)?;
            transaction.lease_snapshot(self.lease, snapshot.id)?;
            parent = Some(snapshot);
        }
        transaction.commit()?;
        made.append(&mut new_chains);
        // They are named: nothing of them goes any more.
        frontier.trees.clear();
        unneeded.into_iter().for_each(|tree| store.discard(tree));
        Ok(())
    }
}
