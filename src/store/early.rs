//! The layers of an archive that passes by are unpacked before it is known which of them the image has.
//!
//! The archive is read by one thread, which never waits for the others: what comes goes into its blob, and whoever unpacks follows that.
//! A layer is unpacked by guesses, as in [`stack`](super::stack), into a tree that nobody names; the image takes those that are its own,
//! the others go. What is known to be unpacked already is left alone, and once the image is known nothing else is begun or gone on with.
//! A layer that fails here is none for now: the image that has it finds out why. But a disk that fails ends the import.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::compression::Compression;
use crate::digest::{Algorithm, DiffId, Digest};
use crate::error::{Error, Result};
use crate::metadata::LeaseId;
use crate::parallel::{Crew, Seat};
use crate::progress::{Context, Progress, Report};
use crate::span::within;
use crate::store::Store;
use crate::store::layer_reader::LayerReader;
use crate::store::supply::Supply;
use crate::tar::Limits;
use crate::tree::{Applied, TreeId};

const OP: &str = "import";

/// The layers that passed by, and those who unpack them.
pub(super) struct Early<'a> {
    store: &'a Store,
    lease: LeaseId,
    limits: &'a Limits,
    cx: &'a Context<'a>,
    crew: Crew,
    state: Mutex<State>,
    changed: Condvar,
    /// The blobs of the image's layers, once it is known.
    wanted: OnceLock<BTreeSet<Digest>>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Passing>,
    workers: usize,
    closed: bool,
    unpacked: Vec<Guessed>,
    lost: Option<Error>,
}

/// A layer, or what looks like one, whose bytes come.
struct Passing {
    supply: Supply,
    named: Option<DiffId>,
}

/// A layer that was unpacked by guesses.
pub(super) struct Guessed {
    pub(super) blob: Digest,
    pub(super) diff_id: DiffId,
    pub(super) compression: Compression,
    pub(super) tree: TreeId,
    pub(super) applied: Applied,
    pub(super) report: Report,
}

impl<'a> Early<'a> {
    pub(super) fn new(store: &'a Store, lease: LeaseId, limits: &'a Limits, crew: Crew, cx: &'a Context<'a>) -> Self {
        let (state, changed, wanted) = (Mutex::default(), Condvar::new(), OnceLock::new());
        Self { store, lease, limits, cx, crew, state, changed, wanted }
    }

    /// Has `read` read the archive, and offer what may be a layer, while other threads unpack; `wanted` says which blobs are the image's
    /// layers. Gives those that are unpacked, whole and checked.
    pub(super) fn during<T>(
        &self,
        read: impl FnOnce() -> Result<T>,
        wanted: impl FnOnce(&T) -> BTreeSet<Digest>,
    ) -> Result<(T, Vec<Guessed>)> {
        let (result, lent) = std::thread::scope(|scope| {
            while self.store.backend().unpacks_ahead()
                && let Some(seat) = self.crew.take()
            {
                let started =
                    std::thread::Builder::new().name("plywood-unpack".to_owned()).spawn_scoped(scope, within(|| self.work(seat)));
                if started.is_err() {
                    // What is not unpacked early is unpacked later.
                    break;
                }
                let mut state = self.state();
                state.workers = state.workers.saturating_add(1);
            }
            let result = read();
            let _ = self.wanted.set(result.as_ref().map(wanted).unwrap_or_default());
            let mut state = self.state();
            state.closed = true;
            drop(state);
            self.changed.notify_all();
            while let Some(next) = self.next() {
                self.unpack(next);
            }
            (result, self.crew.lend())
        });
        drop(lent);
        let result = result.and_then(|read| self.state().lost.take().map_or(Ok(read), Err));
        let (mut unpacked, is_known) = (std::mem::take(&mut self.state().unpacked), result.is_ok());
        unpacked.retain(|layer| {
            let is_wanted = is_known && self.is_wanted(&layer.blob);
            if !is_wanted {
                self.store.discard(layer.tree);
            }
            is_wanted
        });
        result.map(|read| (read, unpacked))
    }

    fn work(&self, seat: Seat) {
        while let Some(next) = self.next() {
            self.unpack(next);
        }
        drop(seat);
    }

    /// Whether anybody unpacks what is offered.
    pub(super) fn is_manned(&self) -> bool {
        self.state().workers > 0
    }

    /// Takes what looks like a layer, of which nothing was written yet; its name may say which one it is.
    pub(super) fn offer(&self, supply: Supply, named: Option<DiffId>) {
        self.state().waiting.push_back(Passing { supply, named });
        self.changed.notify_one();
    }

    /// What is unpacked next; waits for it while the archive is read.
    fn next(&self) -> Option<Passing> {
        let mut state = self.state();
        loop {
            match state.waiting.pop_front() {
                Some(next) => return Some(next),
                None if state.closed => return None,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn unpack(&self, layer: Passing) {
        let progress = WhileWanted { early: self, supply: &layer.supply };
        match self.try_unpack(&layer, &self.cx.apart(&progress)) {
            Ok(Some(guessed)) => self.state().unpacked.push(guessed),
            Ok(None) => {}
            // What a disk has lost is not tried again.
            Err(error) if error.is_of_disk() => drop(self.state().lost.get_or_insert(error)),
            Err(error) => tracing::debug!(%error, "what looked like a layer is not unpacked for now"),
        }
    }

    fn try_unpack(&self, layer: &Passing, cx: &Context<'_>) -> Result<Option<Guessed>> {
        cx.check(OP)?;
        if self.is_there(layer, cx)? {
            return Ok(None);
        }
        let tree = self.store.new_tree(self.lease)?;
        let unpacked = self.fill(tree, &layer.supply, cx);
        if unpacked.is_err() {
            self.store.discard(tree);
        }
        unpacked
    }

    /// Whether a tree of the layer is there. Which layer it is shows in its name, in what is known of its blob, or, where it is not
    /// compressed, in its digest.
    fn is_there(&self, layer: &Passing, cx: &Context<'_>) -> Result<bool> {
        let mut known: Vec<DiffId> = layer.named.iter().cloned().collect();
        if known.is_empty() {
            let digest = match layer.supply.digest() {
                Some(digest) => digest.clone(),
                None => layer.supply.blob(cx)?.digest().clone(),
            };
            known.extend(self.store.metadata().read()?.blob(&digest)?.and_then(|row| row.diff_id));
            known.push(DiffId(digest));
        }
        let reader = self.store.metadata().read()?;
        for diff_id in known {
            if !reader.shareable_trees(&diff_id, self.store.ids())?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Unpacks a layer to its end, which is the end of a blob that is what was declared.
    fn fill(&self, tree: TreeId, supply: &Supply, cx: &Context<'_>) -> Result<Option<Guessed>> {
        let mut reader = LayerReader::open(supply, None, Algorithm::default(), self.limits.clone(), &self.crew, cx)?;
        let compression = reader.compression();
        let applied = self.store.backend().apply_ahead(tree, None, &mut reader, self.store.ids(), cx)?;
        let Some(applied) = applied else { return Ok(None) };
        let diff_id = reader.diff_id()?;
        let blob = supply.blob(cx)?.digest().clone();
        Ok(Some(Guessed { blob, diff_id, compression, tree, applied, report: cx.take_report() }))
    }

    fn is_wanted(&self, blob: &Digest) -> bool {
        self.wanted.get().is_none_or(|wanted| wanted.contains(blob))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the work on a layer that turns out to be none of the image.
struct WhileWanted<'a> {
    early: &'a Early<'a>,
    supply: &'a Supply,
}

impl Progress for WhileWanted<'_> {
    fn bytes(&self, count: u64) {
        self.early.cx.progress().bytes(count);
    }

    fn entries(&self, count: u64) {
        self.early.cx.progress().entries(count);
    }

    fn is_cancelled(&self) -> bool {
        // Once the image is known, all bytes came.
        self.early.cx.progress().is_cancelled()
            || self.early.wanted.get().is_some_and(|wanted| self.supply.read_digest().is_ok_and(|blob| !wanted.contains(&blob)))
    }
}
