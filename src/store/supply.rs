//! [`Supply`]: the bytes of a layer's blob, whether they are in the store already or come in while they are read.
//!
//! Of bytes that come in, the first reader is also the one that takes them in: each goes to the ingest and its digest, and on to whoever
//! decompresses it, and is read from the source once. Where another thread takes them in, readers follow it. Invariant: [`Supply::blob`]
//! gives a blob only once all bytes came and their digest and size were found to be the declared ones, where there are such; what was
//! unpacked before that must not be named.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::content::{Blob, BlobReader, Ingest};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Context;
use crate::store::extent::Extent;
use crate::store::growing::{Grower, Growing};

const OP: &str = "ingest";
const BUFFER: usize = 256 << 10;

/// Where the bytes of a blob come from. Clones are the same supply.
#[derive(Clone, Debug)]
pub(super) struct Supply(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// As declared, or found.
    digest: OnceLock<Digest>,
    algorithm: Algorithm,
    size: Option<u64>,
    /// Bytes that came in.
    taken: AtomicU64,
    /// Where another thread takes them in.
    growing: Option<Growing>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blob: Option<Blob>,
    source: Option<Extent>,
    ingest: Option<Ingest>,
}

impl Supply {
    /// Bytes that are in the store.
    pub(super) fn stored(blob: Blob) -> Self {
        let (digest, size) = (blob.digest().clone(), blob.size());
        Self::new(digest.algorithm(), Some(digest), Some(size), None, State { blob: Some(blob), ..State::default() })
    }

    /// Bytes of this digest and size that are still to be taken in: all of `source`.
    pub(super) fn arriving(digest: Digest, size: u64, ingest: Ingest, source: Extent) -> Self {
        let state = State { blob: None, source: Some(source), ingest: Some(ingest) };
        Self::new(digest.algorithm(), Some(digest), Some(size), None, state)
    }

    /// Bytes, so many where that is known, that the caller is about to take in, or to go on with.
    pub(super) fn growing(ingest: &Ingest, size: Option<u64>) -> Result<(Self, Grower)> {
        let (growing, grower) = Growing::new(ingest.file()?, ingest.offset());
        let expected = ingest.expected();
        let known = expected.known_digest().cloned();
        Ok((Self::new(expected.algorithm(), known, size, Some(growing), State::default()), grower))
    }

    fn new(algorithm: Algorithm, known: Option<Digest>, size: Option<u64>, growing: Option<Growing>, state: State) -> Self {
        let digest = known.map_or_else(OnceLock::new, OnceLock::from);
        Self(Arc::new(Inner { digest, algorithm, size, taken: AtomicU64::new(0), growing, state: Mutex::new(state) }))
    }

    /// As declared, until [`blob`](Self::blob) gave the proof; `None` where nothing was declared and not all bytes came.
    pub(super) fn digest(&self) -> Option<&Digest> {
        self.0.digest.get()
    }

    /// The digest of what was read to its end: declared, or found by whoever takes it in.
    pub(super) fn read_digest(&self) -> Result<Digest> {
        match (self.digest(), &self.0.growing) {
            (Some(digest), _) => Ok(digest.clone()),
            (None, Some(growing)) => growing.blob().map(|blob| blob.digest().clone()),
            (None, None) => Err(Self::gave_up()),
        }
    }

    /// As declared, until [`blob`](Self::blob) gave the proof.
    pub(super) fn size(&self) -> Option<u64> {
        self.0.size
    }

    /// Whether the bytes are on their way, through a digest of this algorithm.
    pub(super) fn is_hashed_by(&self, algorithm: Algorithm) -> bool {
        self.0.algorithm == algorithm && self.state().blob.is_none()
    }

    /// How many bytes were taken in so far by those who read this.
    pub(super) fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Reads the bytes from their beginning. While they come in, there can be one reader, but for those that follow another thread.
    pub(super) fn reader(&self) -> SupplyReader {
        match (&self.state().blob, &self.0.growing) {
            (Some(blob), _) => SupplyReader::Stored(blob.reader()),
            (None, Some(growing)) => SupplyReader::Following { growing: growing.clone(), position: 0 },
            (None, None) => SupplyReader::Arriving(self.clone()),
        }
    }

    /// All of it, checked: takes in what was not read yet, or waits for it.
    ///
    /// # Errors
    /// `DigestMismatch`, `Cancelled`, `NoSpace`, `Io`.
    pub(super) fn blob(&self, cx: &Context<'_>) -> Result<Blob> {
        if let Some(growing) = &self.0.growing {
            let blob = growing.blob()?;
            self.0.digest.get_or_init(|| blob.digest().clone());
            self.state().blob = Some(blob.clone());
            return Ok(blob);
        }
        let mut buffer = Vec::new();
        loop {
            cx.check(OP)?;
            let mut state = self.state();
            if let Some(blob) = &state.blob {
                return Ok(blob.clone());
            }
            buffer.resize(BUFFER, 0);
            if state.pull(self, &mut buffer)? == 0 {
                let ingest = state.ingest.as_mut().ok_or_else(Self::gave_up)?;
                state.blob = Some(ingest.checked()?);
                state.source = None;
            }
        }
    }

    /// What is to be published, once [`blob`](Self::blob) gave the proof; `None` for bytes that were there.
    pub(super) fn into_ingest(self) -> Option<Ingest> {
        let mut state = self.state();
        if state.blob.is_some() { state.ingest.take() } else { None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gave_up() -> Error {
        Error::new(ErrorKind::Io, OP).because("the source failed before")
    }
}

impl State {
    /// Takes in the next bytes of the source; 0 at its end.
    fn pull(&mut self, supply: &Supply, buffer: &mut [u8]) -> Result<usize> {
        let pulled = self.try_pull(buffer);
        match &pulled {
            Ok(count) => {
                supply.0.taken.fetch_add(*count as u64, Ordering::Relaxed);
            }
            // What came so far is incomplete: nobody may go on from the middle.
            Err(_) => self.source = None,
        }
        pulled
    }

    fn try_pull(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let (Some(source), Some(ingest)) = (&mut self.source, &mut self.ingest) else { return Err(Supply::gave_up()) };
        let count = loop {
            match source.read(buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", error)),
            }
        };
        ingest.write(buffer.get(..count).unwrap_or_default())?;
        Ok(count)
    }
}

/// Reads a [`Supply`].
#[derive(Debug)]
pub(super) enum SupplyReader {
    Stored(BlobReader),
    Arriving(Supply),
    Following { growing: Growing, position: u64 },
}

impl Read for SupplyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stored(reader) => reader.read(buffer),
            Self::Arriving(_) | Self::Following { .. } if buffer.is_empty() => Ok(0),
            Self::Arriving(supply) => supply.state().pull(supply, buffer).map_err(io::Error::from),
            Self::Following { growing, position } => {
                let count = growing.read_at(buffer, *position)?;
                *position = position.saturating_add(count as u64);
                Ok(count)
            }
        }
    }
}
