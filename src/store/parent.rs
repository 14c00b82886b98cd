//! What a layer that comes in stands on: a committed stack, each layer of it under its chain id.
//!
//! A snapshot that was committed here has a name that a person gave, and no diff id before it is first diffed. To stand on it, its own
//! changes are streamed as a layer, which gives the diff id; the same tree then stands under the chain id too, beside the name. It is
//! what that layer unpacks to (SEMANTICS §5: `apply(diff(S))` equals `S`), so nothing is unpacked or stored twice. Only where the stream
//! cannot say all that is in the tree (sockets) is the layer unpacked to a tree of its own.

use std::io;

use super::Store;
use super::layer::{Incoming, LayerBytes};
use crate::digest::{ChainId, DiffId};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{LeaseId, NewLayer, SnapshotRow, Survives};
use crate::parallel::Crew;
use crate::progress::{Context, Report};
use crate::snapshot::{Kind, Labels};
use crate::store::DiffOptions;
use crate::store::supply::Supply;

const OP: &str = "import layer";

impl Store {
    /// The committed parent of this name under its chain id, kept by the lease, and what of it no layer can say. The chain ids that it
    /// and those below it got now are added to `made`.
    pub(super) fn stand_on(
        &self,
        name: &str,
        lease: LeaseId,
        made: &mut Vec<ChainId>,
        cx: &Context<'_>,
    ) -> Result<(SnapshotRow, Report)> {
        let mut above = Vec::new();
        let mut below = Some(self.keep_parent(name, lease)?);
        // Down to what an import made, or to the ground.
        while let Some(row) = below.take_if(|row| row.chain_id.is_none()) {
            below = row.parent.map(|parent| self.metadata().read()?.snapshot_by_id(parent)).transpose()?.flatten();
            above.push(row);
        }
        let mut report = Report::default();
        for row in above.iter().rev() {
            below = Some(self.give_chain_id(row, below.as_ref(), lease, made, &mut report, cx)?);
        }
        below.map(|row| (row, report)).ok_or_else(|| removed(name))
    }

    fn keep_parent(&self, name: &str, lease: LeaseId) -> Result<SnapshotRow> {
        let transaction = self.metadata().write_to_survive(Survives::Process)?;
        let row = transaction
            .snapshot(name)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, OP).at(name).because("there is no such parent"))?;
        if row.kind != Kind::Committed {
            let reason = format!("a parent is committed, and this is {}", row.kind);
            return Err(Error::new(ErrorKind::InvalidArgument, OP).at(name).because(reason));
        }
        transaction.refuse_damaged(OP, name, &transaction.chain(row.id)?)?;
        transaction.lease_snapshot(lease, row.id)?;
        transaction.commit()?;
        Ok(row)
    }

    fn give_chain_id(
        &self,
        row: &SnapshotRow,
        parent: Option<&SnapshotRow>,
        lease: LeaseId,
        made: &mut Vec<ChainId>,
        report: &mut Report,
        cx: &Context<'_>,
    ) -> Result<SnapshotRow> {
        let outcome = self.diff(&row.name, io::sink(), &DiffOptions::default(), cx)?;
        let chain_id = ChainId::of(parent.and_then(|parent| parent.chain_id.as_ref()), &outcome.diff_id);
        if outcome.report.is_empty() {
            let (named, is_new) = self.name_tree(row, parent, &outcome.diff_id, &chain_id, lease)?;
            made.extend(is_new.then_some(chain_id));
            return Ok(named);
        }
        report.merge(outcome.report);
        let blob = self.content().spool_written(|writer| self.diff(&row.name, writer, &DiffOptions::default(), cx).map(drop))?;
        // Of the same bytes: not compressed, and by the same algorithm.
        let diff_id = DiffId(blob.digest().clone());
        let (supply, crew, labels) = (Supply::stored(blob), Crew::new(self.parallelism()), Labels::new());
        let bytes = LayerBytes { supply: &supply, crew: &crew, media_type: None, limits: self.limits() };
        let incoming = Incoming { bytes: &bytes, diff_id: &diff_id, parent, is_proven: true, labels: &labels };
        let landed = self.land(lease, &incoming, cx)?;
        made.extend((!landed.existed).then_some(landed.chain_id));
        Ok(landed.snapshot)
    }

    /// Commits a snapshot's tree under its chain id too. Says whether it was not there before.
    fn name_tree(
        &self,
        row: &SnapshotRow,
        parent: Option<&SnapshotRow>,
        diff_id: &DiffId,
        chain_id: &ChainId,
        lease: LeaseId,
    ) -> Result<(SnapshotRow, bool)> {
        let transaction = self.metadata().write()?;
        if let Some(named) = transaction.layer(chain_id)? {
            transaction.lease_snapshot(lease, named.id)?;
            transaction.commit()?;
            return Ok((named, false));
        }
        // While its row is there, its tree is.
        if transaction.snapshot_by_id(row.id)?.is_none() {
            return Err(removed(&row.name));
        }
        let labels = Labels::new();
        let named =
            transaction.insert_layer(&NewLayer { parent, diff_id, tree: row.tree, root: Some(&row.root), labels: &labels })?;
        transaction.lease_snapshot(lease, named.id)?;
        transaction.commit()?;
        Ok((named, true))
    }
}

fn removed(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, OP).at(name).because("the parent was removed meanwhile")
}
