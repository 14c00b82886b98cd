//! Layers of a pull on their way from whole blobs to committed snapshots.
//!
//! Invariant: layers are named in order, lowest first, by one thread at a time; who brings a layer meanwhile leaves it to that one. No
//! thread waits for a layer's lock while it holds one.

use std::sync::{MutexGuard, PoisonError};

use super::whole::Whole;
use super::{OP, Part, Shared};
use crate::content::Blob;
use crate::digest::{ChainId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{LeaseId, SnapshotRow};
use crate::progress::{Context, Report};
use crate::snapshot::Labels;
use crate::store::fill::Filled;
use crate::store::layer::{Incoming, Landed, LayerBytes};
use crate::store::supply::Supply;
use crate::tree::TreeId;

/// How far the image has come.
#[derive(Debug, Default)]
pub(super) struct Landing {
    /// The layer that is named next, and what it stands on.
    pub(super) next: usize,
    pub(super) parent: Option<SnapshotRow>,
    /// Whether a thread is naming layers.
    pub(super) is_busy: bool,
    pub(super) places: Vec<Place>,
    pub(super) unpacked: usize,
    pub(super) chains: Vec<ChainId>,
    pub(super) brought: Vec<Digest>,
    pub(super) report: Report,
    /// Where trees are whole: that of all layers so far.
    pub(super) whole: Option<Whole>,
    /// The lease that outlives the process.
    pub(super) beside: Option<LeaseId>,
}

/// What came of one layer.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Its bytes; whether they are the uncompressed ones instead of the manifest's blob.
    pub(super) blob: Option<(Blob, bool)>,
    pub(super) filled: Option<Unpacked>,
}

/// A layer that was unpacked before it was its turn.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) filled: Filled,
    pub(super) report: Report,
}

impl Unpacked {
    /// Puts it on the chain that it turns out to stand on; `None` where it cannot stand there.
    pub(super) fn settle(self, chain: &[TreeId], cx: &Context<'_>) -> Result<Option<Filled>> {
        let filled = self.filled.settle(chain, cx)?;
        if filled.is_some() {
            cx.absorb(self.report);
        } else {
            let _ = cx.take_report();
        }
        Ok(filled)
    }
}

/// Gives the turn back, also when the thread panics.
struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.landing().is_busy = false;
        self.0.changed.notify_all();
    }
}

impl Shared {
    pub(super) fn landing(&self) -> MutexGuard<'_, Landing> {
        self.landing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain that a layer stands on, where it stands by now.
    fn chain_below(&self, index: usize, cx: &Context<'_>) -> Result<Option<Vec<TreeId>>> {
        let parent = {
            let landing = self.landing();
            // What moves into a whole tree is unpacked over it by whoever has the turn.
            if landing.next != index || landing.is_busy || self.store.backend().is_whole() {
                return Ok(None);
            }
            landing.parent.clone()
        };
        self.store.chain_on(parent.as_ref(), cx).map(Some)
    }

    /// Whether the layer is to be unpacked before it is its turn.
    pub(super) fn is_worth_unpacking(&self, index: usize, part: &Part) -> Result<bool> {
        {
            let landing = self.landing();
            let mut others = self.parts.iter().zip(&landing.places);
            let has_tree = others.any(|(other, place)| other.diff_id == part.diff_id && place.filled.is_some());
            if index < landing.next || has_tree {
                return Ok(false);
            }
        }
        // A tree of it that is there will do, or what another chain says is known then.
        let is_whole = self.store.backend().is_whole();
        Ok(is_whole || self.store.metadata().read()?.shareable_trees(&part.diff_id, self.store.ids())?.is_empty())
    }

    /// Unpacks a layer, before it has a name; by guesses where its chain does not stand yet.
    pub(super) fn unpack(
        &self,
        index: usize,
        part: &Part,
        supply: &Supply,
        is_plain: bool,
        cx: &Context<'_>,
    ) -> Result<Option<Unpacked>> {
        let cx = cx.apart(cx.progress());
        self.store.choose_write_back(&cx);
        let media_type = Some(&part.reference.descriptor.media_type).filter(|_| !is_plain);
        let bytes = LayerBytes { supply, crew: &self.crew, media_type, limits: &self.limits };
        let (lease, algorithm) = (self.lease()?, part.diff_id.0.algorithm());
        let filled = match self.chain_below(index, &cx)? {
            Some(chain) => Filled::over(&self.store, lease, &bytes, algorithm, &chain, &cx).map(Some),
            None => Filled::ahead(&self.store, lease, &bytes, algorithm, &cx),
        };
        Ok(filled?.map(|filled| Unpacked { filled, report: cx.take_report() }))
    }

    /// Takes a layer whose bytes are whole: unpacks it, and names what can be named.
    pub(super) fn arrive(
        &self,
        index: usize,
        blob: &Blob,
        is_plain: bool,
        unpacked: Option<Unpacked>,
        cx: &Context<'_>,
    ) -> Result<()> {
        let (index, part) = self.part(Some(index), blob.digest())?;
        let mut unpacked = unpacked;
        let is_next = || {
            let landing = self.landing();
            landing.next == index && !landing.is_busy
        };
        if unpacked.is_none() && !is_next() && self.is_worth_unpacking(index, part)? {
            let early = self.unpack(index, part, &Supply::stored(blob.clone()), is_plain, cx);
            unpacked = early.map_err(|error| in_layer(error, part))?;
        }
        {
            let mut landing = self.landing();
            let next = landing.next;
            for (place, other) in landing.places.iter_mut().zip(&self.parts).skip(next) {
                let is_it = if is_plain { other.diff_id == part.diff_id } else { other.digest() == part.digest() };
                if is_it && place.blob.is_none() {
                    place.blob = Some((blob.clone(), is_plain));
                    place.filled = unpacked.take();
                }
            }
        }
        self.advance(cx)
    }

    /// Names the layers that have come, as far as no gap is below them; nothing where another thread is at it.
    pub(super) fn advance(&self, cx: &Context<'_>) -> Result<()> {
        loop {
            let (turn, index, parent, blob, is_plain, unpacked) = {
                let mut landing = self.landing();
                let (index, parent) = (landing.next, landing.parent.clone());
                if landing.is_busy {
                    return Ok(());
                }
                let Some(place) = landing.places.get_mut(index) else { return Ok(()) };
                let Some((blob, is_plain)) = place.blob.clone() else { return Ok(()) };
                let unpacked = place.filled.take();
                landing.is_busy = true;
                (Turn(self), index, parent, blob, is_plain, unpacked)
            };
            let (_, part) = self.part(Some(index), blob.digest())?;
            let landed = self.land(part, parent.as_ref(), blob, is_plain, unpacked, cx);
            let landed = landed.map_err(|error| in_layer(error, part))?;
            let mut landing = self.landing();
            landing.next = index.saturating_add(1);
            if !landed.existed {
                landing.chains.push(landed.chain_id);
            }
            landing.unpacked = landing.unpacked.saturating_add(usize::from(landed.unpacked));
            landing.parent = Some(landed.snapshot);
            drop(landing);
            drop(turn);
        }
    }

    /// Names one layer, whose bytes are checked for being it.
    pub(super) fn land(
        &self,
        part: &Part,
        parent: Option<&SnapshotRow>,
        blob: Blob,
        is_plain: bool,
        unpacked: Option<Unpacked>,
        cx: &Context<'_>,
    ) -> Result<Landed> {
        let cx = cx.apart(cx.progress());
        let (store, lease, labels, supply) = (&self.store, self.lease()?, Labels::new(), Supply::stored(blob));
        let media_type = Some(&part.reference.descriptor.media_type).filter(|_| !is_plain);
        let bytes = LayerBytes { supply: &supply, crew: &self.crew, media_type, limits: &self.limits };
        let layer = Incoming { bytes: &bytes, diff_id: &part.diff_id, parent, is_proven: false, labels: &labels };
        let unpacked = unpacked.filter(|unpacked| unpacked.filled.diff_id == part.diff_id);
        let landed = if store.backend().is_whole() {
            self.land_in_whole(lease, &layer, unpacked, &cx)?
        } else {
            let filled = unpacked.map_or(Ok(None), |unpacked| unpacked.settle(&store.chain_on(parent, &cx)?, &cx))?;
            store.land_filled(lease, &layer, filled, &cx)?
        };
        let beside = self.landing().beside;
        if let Some(beside) = beside {
            let transaction = store.metadata().write()?;
            // Somebody may have ended it.
            if transaction.lease_by_id(beside)?.is_some() {
                transaction.lease_snapshot(beside, landed.snapshot.id)?;
                transaction.commit()?;
            }
        }
        if landed.unpacked {
            self.landing().report.merge(cx.take_report());
        }
        Ok(landed)
    }

    /// Waits until no thread is naming layers.
    pub(super) fn wait(&self) -> usize {
        let mut landing = self.landing();
        while landing.is_busy {
            landing = self.changed.wait(landing).unwrap_or_else(PoisonError::into_inner);
        }
        landing.next
    }
}

/// Says which layer it is that fails: the call may have brought another one.
fn in_layer(error: Error, part: &Part) -> Error {
    if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::NoSpace | ErrorKind::Io) {
        return error;
    }
    Error::new(error.kind(), OP).at(part.digest().to_string()).because("the layer cannot be unpacked").with_source(error)
}
