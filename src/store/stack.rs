//! The layers of an image come in together: each is unpacked as its bytes arrive, several at a time.
//!
//! A layer whose parent is not there yet is unpacked by guesses, and settled as soon as the chain below stands; where a guess was wrong
//! in kind it is unpacked again. What comes of it is what one layer after the other makes, whatever the number of threads; with one
//! nothing is ever guessed. The lowest layer that fails gives the error.
//!
//! Where trees are [whole](crate::backend::Backend::is_whole), each layer that is settled moves into one tree, which is the topmost's in
//! the end; those below it get rows without a tree, which [`make`](super::make) makes when somebody asks for it.
//!
//! Invariant: all layers are made durable at once, and then named in one transaction, each by a diff id and a blob that were found to be
//! its own. Who unpacks layers holds their locks to the end, and takes them in the order of their digests, so that no two wait for each
//! other.

mod naming;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::field::Empty;

use crate::content::Blob;
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::lock::{Held, Subject};
use crate::metadata::{ImageLayer, LeaseId, SnapshotRow, Transaction};
use crate::parallel::Crew;
use crate::progress::{Context, Progress, Report};
use crate::span::{verb, within};
use crate::store::Store;
use crate::store::early::Guessed;
use crate::store::image::document::Reference;
use crate::store::import::Stacked;
use crate::store::intake::Intake;
use crate::store::layer::{LayerBytes, check_chain, wrong_diff_id};
use crate::store::layer_reader::{LayerReader, report_compression};
use crate::store::source::Files;
use crate::store::supply::Supply;
use crate::sys::durable::SyncPoint;
use crate::tar::Limits;
use crate::tree::{Applied, TreeId};

const OP: &str = "import";

/// The layers of one image on their way in.
pub(super) struct Stack<'a> {
    store: &'a Store,
    lease: LeaseId,
    files: &'a Files,
    limits: &'a Limits,
    cx: &'a Context<'a>,
    crew: Crew,
    parts: Vec<Part<'a>>,
    /// The topmost layer that was there already, and how many those are.
    below: Option<SnapshotRow>,
    present: usize,
    next: AtomicUsize,
    /// The lowest layer that failed: what lies above it is not worth going on with.
    failed: AtomicUsize,
    /// What became of each layer, until it is settled.
    outcomes: Mutex<Vec<Outcome>>,
    frontier: Mutex<Frontier>,
    brought: Mutex<Vec<Digest>>,
    lacking: Mutex<Vec<Digest>>,
    /// What was unpacked by guesses while the archive passed by.
    guessed: Mutex<Vec<Guessed>>,
}

/// One layer of the image.
struct Part<'a> {
    reference: &'a Reference,
    diff_id: &'a DiffId,
    chain_id: ChainId,
    /// The number of the tree that it is unpacked to; none where it is there, or a tree of it may be shared.
    tree: Option<TreeId>,
}

#[derive(Default)]
enum Outcome {
    #[default]
    Waiting,
    Arrived(Arrived),
    Settled(Report),
    Failed(Error),
}

/// A layer whose blob is its own, and in the store, unless neither the source nor the store holds it.
struct Arrived {
    blob: Option<Blob>,
    unpacked: Option<Landed>,
    report: Report,
}

/// A layer in its tree.
struct Landed {
    tree: TreeId,
    applied: Applied,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// By guesses that nobody has confirmed yet.
    Guessed,
    Unpacked,
    /// The tree was there, or is that of another layer of this image.
    Shared,
}

/// How far the chain stands, unnamed.
struct Frontier {
    /// The layer that is settled next.
    next: usize,
    chain: Vec<TreeId>,
    /// Where trees are whole: the one into which all layers so far have moved.
    whole: Option<TreeId>,
    landed: Vec<Landed>,
    /// Trees that have to go if the import fails.
    trees: Vec<TreeId>,
}

impl<'a> Stack<'a> {
    /// The layers, lowest first, of which nothing was read yet.
    pub(super) fn new(
        store: &'a Store,
        lease: LeaseId,
        files: &'a Files,
        layers: impl Iterator<Item = (&'a Reference, &'a DiffId)>,
        limits: &'a Limits,
        crew: Crew,
        cx: &'a Context<'a>,
    ) -> Self {
        let mut parts: Vec<Part<'a>> = Vec::new();
        for (reference, diff_id) in layers {
            let chain_id = ChainId::of(parts.last().map(|part| &part.chain_id), diff_id);
            parts.push(Part { reference, diff_id, chain_id, tree: None });
        }
        let outcomes = parts.iter().map(|_| Outcome::Waiting).collect();
        let frontier = Frontier { next: 0, chain: Vec::new(), whole: None, landed: Vec::new(), trees: Vec::new() };
        Self {
            store,
            lease,
            files,
            limits,
            cx,
            crew,
            parts,
            below: None,
            present: 0,
            next: AtomicUsize::new(0),
            failed: AtomicUsize::new(usize::MAX),
            outcomes: Mutex::new(outcomes),
            frontier: Mutex::new(frontier),
            brought: Mutex::default(),
            lacking: Mutex::default(),
            guessed: Mutex::default(),
        }
    }

    /// The same, some of which were unpacked by guesses already.
    pub(super) fn with_guessed(self, guessed: Vec<Guessed>) -> Self {
        Self { guessed: Mutex::new(guessed), ..self }
    }

    /// Brings all layers in and names them. `made` gets the chain ids that are new, `brought` the blobs, also where it fails.
    ///
    /// `point` was taken before anything of them was written.
    pub(super) fn land(mut self, point: SyncPoint, made: &mut Vec<ChainId>, brought: &mut Vec<Digest>) -> Result<Stacked> {
        let locks = self.begin();
        let landed = locks.and_then(|locks| self.unpack_and_name(point, made).map(|()| drop(locks)));
        brought.append(&mut lock(&self.brought));
        if landed.is_err() {
            for tree in std::mem::take(&mut lock(&self.frontier).trees) {
                self.store.discard(tree);
            }
        }
        for layer in std::mem::take(&mut *lock(&self.guessed)) {
            self.store.discard(layer.tree);
        }
        landed?;
        let lacking = std::mem::take(&mut *lock(&self.lacking));
        let layers = self.parts.into_iter().map(|part| ImageLayer {
            descriptor: part.reference.descriptor.clone(),
            diff_id: part.diff_id.clone(),
            chain_id: part.chain_id,
        });
        let layers: Vec<_> = layers.collect();
        // In the layers' order, whichever thread found it out first.
        let digests = layers.iter().map(|layer| &layer.descriptor.digest);
        let lacking = digests.filter(|digest| lacking.contains(digest)).cloned().collect();
        Ok(Stacked { layers, lacking })
    }

    /// Finds out what is there, locks what is not, and numbers the trees to come.
    fn begin(&mut self) -> Result<Vec<Held>> {
        self.look()?;
        let missing: BTreeSet<&DiffId> = self.missing().map(|part| part.diff_id).collect();
        let mut locks = Vec::new();
        for diff_id in missing {
            locks.push(self.store.locks().wait_unless(Subject::Layer(diff_id), &mut || self.cx.check(OP))?);
        }
        if !locks.is_empty() {
            self.cx.check(OP)?;
            // Somebody else may have had them.
            self.look()?;
        }
        // What the image stands on, or is, is asked for.
        self.store.ensure_made(OP, self.below.as_ref().map(|below| below.id), self.cx)?;
        if locks.is_empty() {
            return Ok(locks);
        }
        let mut chain = Vec::new();
        let reader = self.store.metadata().read()?;
        if let Some(below) = &self.below {
            chain = reader.chain(below.id)?;
        }
        let mut to_unpack = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, part) in self.parts.iter().enumerate().skip(self.present) {
            let is_new = self.is_whole() || reader.shareable_trees(part.diff_id, self.store.ids())?.is_empty();
            if seen.insert(part.diff_id) && is_new {
                to_unpack.push(index);
            }
        }
        drop(reader);
        let mut trees = Vec::new();
        let transaction = if to_unpack.is_empty() { None } else { Some(self.store.metadata().write()?) };
        for index in to_unpack {
            let (Some(part), Some(transaction)) = (self.parts.get_mut(index), &transaction) else { break };
            let is_it = |layer: &&Guessed| layer.blob == part.reference.descriptor.digest && layer.diff_id == *part.diff_id;
            let tree = match lock(&self.guessed).iter().find(is_it) {
                Some(guessed) => guessed.tree,
                None => transaction.allocate_tree(self.lease, self.store.backend().name())?,
            };
            part.tree = Some(tree);
            trees.push(tree);
        }
        transaction.map_or(Ok(()), Transaction::commit)?;
        *lock(&self.frontier) = Frontier { next: self.present, chain, whole: None, landed: Vec::new(), trees };
        Ok(locks)
    }

    /// Finds the layers that are committed; the lease keeps them from now on.
    fn look(&mut self) -> Result<()> {
        while let Some(part) = self.parts.get(self.present) {
            let Some(row) = self.store.landed(self.lease, &part.chain_id)? else { break };
            self.below = Some(row);
            self.present = self.present.saturating_add(1);
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.store.backend().is_whole()
    }

    fn missing(&self) -> impl Iterator<Item = &Part<'a>> {
        self.parts.iter().skip(self.present)
    }

    fn unpack_and_name(&self, point: SyncPoint, made: &mut Vec<ChainId>) -> Result<()> {
        std::thread::scope(|scope| {
            // Each has something to do beside this thread; who is done makes room for a layer's own threads.
            for _ in 1..self.parts.len() {
                let Some(seat) = self.crew.take() else { break };
                let started = std::thread::Builder::new().name("plywood-unpack".to_owned()).spawn_scoped(
                    scope,
                    within(move || {
                        self.work();
                        drop(seat);
                    }),
                );
                if started.is_err() {
                    // With fewer threads it takes longer.
                    break;
                }
            }
            self.work();
        });
        let mut reports = Vec::new();
        for outcome in lock(&self.outcomes).drain(..) {
            match outcome {
                Outcome::Settled(report) => reports.push(report),
                Outcome::Failed(error) => return Err(error),
                Outcome::Waiting | Outcome::Arrived(_) => {
                    return Err(Error::new(ErrorKind::Cancelled, OP).because("a layer was given up"));
                }
            }
        }
        reports.into_iter().for_each(|report| self.cx.absorb(report));
        self.name(point, made)
    }

    /// Brings in one layer after the other, as long as there are any.
    fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::AcqRel);
            let Some(part) = self.parts.get(index) else { return };
            if index > self.failed.load(Ordering::Acquire) {
                return;
            }
            let progress = Unless { progress: self.cx.progress(), failed: &self.failed, index };
            let cx = self.cx.apart(&progress);
            let (blob, diff_id, chain_id) = (&part.reference.descriptor.digest, part.diff_id, &part.chain_id);
            let verb = verb!("layer", digest = %blob, diff_id = %diff_id, chain_id = %chain_id, bytes = Empty, entries = Empty);
            match verb.count(&cx, |_, cx| self.arrive(index, part, cx)) {
                Ok(arrived) => self.put(index, Outcome::Arrived(arrived)),
                Err(error) => self.fail(index, error),
            }
            self.settle_ready();
        }
    }

    fn put(&self, index: usize, outcome: Outcome) {
        if let Some(place) = lock(&self.outcomes).get_mut(index) {
            *place = outcome;
        }
    }

    fn fail(&self, index: usize, error: Error) {
        self.put(index, Outcome::Failed(error));
        self.failed.fetch_min(index, Ordering::AcqRel);
    }

    /// Takes a layer's blob in, and unpacks it on the way where it is not there yet.
    fn arrive(&self, index: usize, part: &Part<'a>, cx: &Context<'_>) -> Result<Arrived> {
        let store = self.store;
        let mut intake = Intake::new(store.content(), store.metadata(), self.lease, store.durability(), cx);
        let arrived = self.files.supply(&mut intake, part.reference).and_then(|supply| {
            let Some(supply) = supply else { return self.do_without(part, cx) };
            let unpacked = match part.tree {
                Some(tree) => match self.take_guessed(part) {
                    Some(guessed) => report_compression(&part.reference.descriptor.media_type, guessed.compression, cx).map(|()| {
                        cx.absorb(guessed.report);
                        Some(Landed { tree: guessed.tree, applied: guessed.applied, how: How::Guessed })
                    }),
                    None => self.unpack(tree, self.chain_below(index).as_deref(), part, &supply, cx),
                },
                None => {
                    let bytes = LayerBytes { supply: &supply, crew: &self.crew, media_type: None, limits: self.limits };
                    store.prove_supply(&bytes, part.diff_id, cx).map(|()| None)
                }
            };
            // What was read of wrong bytes means nothing.
            let unpacked = unpacked.map_err(|error| match (error.kind(), supply.blob(cx)) {
                (ErrorKind::Cancelled | ErrorKind::NoSpace | ErrorKind::Io, _) => error,
                (_, Err(wrong)) if wrong.kind() == ErrorKind::DigestMismatch => wrong,
                _ => error,
            })?;
            let blob = supply.blob(cx)?;
            let blob = match supply.into_ingest() {
                Some(ingest) => intake.publish(ingest, part.reference.descriptor.media_type.as_str())?,
                None => blob,
            };
            if part.tree.is_none() {
                store.note_proof(blob.digest(), part.diff_id)?;
            }
            Ok(Arrived { blob: Some(blob), unpacked, report: cx.take_report() })
        });
        lock(&self.brought).append(&mut intake.into_brought());
        arrived
    }

    /// A layer of whose blob there are no bytes: it is known from an import that had them, and need not be unpacked.
    fn do_without(&self, part: &Part<'a>, cx: &Context<'_>) -> Result<Arrived> {
        let digest = &part.reference.descriptor.digest;
        if part.tree.is_some() || !self.store.metadata().read()?.is_known_layer(digest, part.diff_id)? {
            return Err(Files::lacks(part.reference));
        }
        lock(&self.lacking).push(digest.clone());
        Ok(Arrived { blob: None, unpacked: None, report: cx.take_report() })
    }

    /// The tree that a layer was unpacked to before.
    fn take_guessed(&self, part: &Part<'_>) -> Option<Guessed> {
        let mut guessed = lock(&self.guessed);
        let at = guessed.iter().position(|layer| Some(layer.tree) == part.tree)?;
        Some(guessed.swap_remove(at))
    }

    /// The chain that a layer stands on, where it stands already and nobody is settling now.
    fn chain_below(&self, index: usize) -> Option<Vec<TreeId>> {
        let frontier = self.frontier.try_lock().ok()?;
        (frontier.next == index).then(|| frontier.chain.clone())
    }

    /// Unpacks a layer to its end; `None` where that takes its chain.
    fn unpack(
        &self,
        tree: TreeId,
        chain: Option<&[TreeId]>,
        part: &Part<'_>,
        supply: &Supply,
        cx: &Context<'_>,
    ) -> Result<Option<Landed>> {
        let media_type = Some(&part.reference.descriptor.media_type);
        let algorithm = part.diff_id.0.algorithm();
        let mut reader = LayerReader::open(supply, media_type, algorithm, self.limits.clone(), &self.crew, cx)?;
        let applied = self.store.backend().apply_ahead(tree, chain, &mut reader, self.store.ids(), cx)?;
        let Some(applied) = applied else { return Ok(None) };
        let found = reader.diff_id()?;
        if found != *part.diff_id {
            return Err(wrong_diff_id(part.diff_id, &found));
        }
        let how = if chain.is_some() { How::Unpacked } else { How::Guessed };
        Ok(Some(Landed { tree, applied, how }))
    }

    /// Settles the layers that have arrived and whose chains stand, in order.
    fn settle_ready(&self) {
        let mut frontier = lock(&self.frontier);
        for (index, part) in self.parts.iter().enumerate() {
            // Those that were there when this began have nothing to settle.
            if index != frontier.next && index >= self.present {
                continue;
            }
            let arrived = match lock(&self.outcomes).get_mut(index) {
                Some(outcome @ Outcome::Arrived(_)) => match std::mem::take(outcome) {
                    Outcome::Arrived(arrived) => arrived,
                    _ => return,
                },
                _ if index < self.present => continue,
                _ => return,
            };
            if index < self.present {
                self.put(index, Outcome::Settled(arrived.report));
                continue;
            }
            match self.settle(&mut frontier, part, arrived) {
                Ok(report) => self.put(index, Outcome::Settled(report)),
                Err(error) => return self.fail(index, error),
            }
            frontier.next = index.saturating_add(1);
        }
    }

    /// Puts a layer on the chain.
    fn settle(&self, frontier: &mut Frontier, part: &Part<'a>, arrived: Arrived) -> Result<Report> {
        let (store, chain) = (self.store, frontier.chain.clone());
        let cx = self.cx.apart(self.cx.progress());
        let mut report = arrived.report;
        let landed = match arrived.unpacked {
            Some(landed) if landed.how == How::Unpacked => Some(landed),
            Some(mut landed) => {
                let confirmed = store.backend().settle(landed.tree, &chain, &mut landed.applied, store.ids(), &cx)?;
                confirmed.then_some(Landed { how: How::Unpacked, ..landed })
            }
            None => self.share(frontier, part, &chain)?,
        };
        let mut landed = match landed {
            Some(landed) => {
                report.merge(cx.take_report());
                landed
            }
            None => {
                let blob = arrived.blob.ok_or_else(|| Files::lacks(part.reference))?;
                tracing::debug!(layer = %part.diff_id, "the layer is unpacked over its chain");
                let tree = part.tree.map_or_else(|| self.new_tree(frontier), Ok)?;
                let _ = cx.take_report();
                let supply = Supply::stored(blob);
                let again = self.unpack(tree, Some(&chain), part, &supply, &cx)?;
                report = cx.take_report();
                again.ok_or_else(|| Error::new(ErrorKind::Unsupported, OP).because("the backend unpacked nothing"))?
            }
        };
        if self.is_whole() {
            self.merge(frontier, &mut landed, &cx)?;
            report.merge(cx.take_report());
        } else if !landed.applied.empty {
            frontier.chain.retain(|&tree| tree != landed.tree && !landed.applied.cut);
            frontier.chain.insert(0, landed.tree);
            check_chain(store.backend(), frontier.chain.len())?;
        }
        frontier.landed.push(landed);
        Ok(report)
    }

    fn new_tree(&self, frontier: &mut Frontier) -> Result<TreeId> {
        let tree = self.store.new_tree(self.lease)?;
        frontier.trees.push(tree);
        Ok(tree)
    }

    /// A tree of this layer that may stand on this chain: of a layer of this image, or one that is there.
    fn share(&self, frontier: &Frontier, part: &Part<'a>, chain: &[TreeId]) -> Result<Option<Landed>> {
        let store = self.store;
        if !store.backend().shares_trees() {
            return Ok(None);
        }
        for (landed, of) in frontier.landed.iter().zip(self.missing()) {
            if of.diff_id == part.diff_id && store.holds_over(&landed.applied.facts, chain)? {
                return Ok(Some(Landed { tree: landed.tree, applied: landed.applied.clone(), how: How::Shared }));
            }
        }
        let Some(row) = store.shareable(part.diff_id, chain)? else { return Ok(None) };
        let transaction = store.write_durably()?;
        // A collection may have taken it since it was found.
        if transaction.tree(row.id)?.is_none() {
            return Ok(None);
        }
        transaction.lease_tree(self.lease, row.id)?;
        transaction.commit()?;
        Ok(Some(Landed { tree: row.id, applied: row.into_applied(), how: How::Shared }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the work on a layer when one below it has failed.
struct Unless<'a> {
    progress: &'a dyn Progress,
    failed: &'a AtomicUsize,
    index: usize,
}

impl Progress for Unless<'_> {
    fn bytes(&self, count: u64) {
        self.progress.bytes(count);
    }

    fn entries(&self, count: u64) {
        self.progress.entries(count);
    }

    fn is_cancelled(&self) -> bool {
        self.index > self.failed.load(Ordering::Relaxed) || self.progress.is_cancelled()
    }
}
