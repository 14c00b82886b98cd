//! The uncompressed bytes of a layer, hashed on the way, and decompressed in a thread of their own where the operation has one to spare.
//!
//! A thread that decompresses ahead hands over blocks through a queue of a few, and gets the empty ones back. Either side hashes:
//! the decompressing one while the other has enough to do, else the one that takes them, always in their order. Whoever would wait for the
//! other does chores. The thread has ended when the reader is dropped; nothing of the bytes depends on where they were decompressed. What is not compressed is hashed where it
//! comes in, and not here a second time.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::compression::{Compression, Decoder};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, ErrorKind, Result};
use crate::parallel::{Chores, Crew, Seat};
use crate::store::supply::{Supply, SupplyReader};

const OP: &str = "decompress layer";

/// What is handed over at once, and how many of these wait.
const BLOCK: usize = 256 << 10;
const QUEUE: usize = 4;

/// Less than this is decompressed sooner than a thread has started.
const WORTHWHILE: u64 = 1 << 20;

/// The uncompressed bytes of a supply.
pub(super) struct Uncompressed {
    flow: Flow,
    hash: Arc<Mutex<Hash>>,
    crew: Crew,
    chores: Arc<Chores>,
    read: u64,
}

enum Flow {
    Here(Box<Decoder<SupplyReader>>),
    Ahead(Ahead),
    /// The end was reached, or nothing was to be read from the start.
    Ended,
    Failed,
}

/// The digest of the first blocks.
struct Hash {
    hasher: Hashing,
    /// How many blocks are in it.
    blocks: u64,
}

enum Hashing {
    Here(Hasher),
    /// The supply takes the same bytes in, and has their digest.
    There(Supply),
}

impl Uncompressed {
    /// No more than `expansion_ratio` times as many bytes as the supply has.
    pub(super) fn new(
        supply: &Supply,
        algorithm: Algorithm,
        expansion_ratio: Option<u64>,
        crew: &Crew,
        chores: &Arc<Chores>,
    ) -> Result<Self> {
        let decoder = Decoder::new(supply.reader())?.expansion_ratio(expansion_ratio, supply.size()).exact_at_the_end();
        let bytes = Self::ended(algorithm, crew, chores);
        if decoder.compression() == Compression::None && supply.is_hashed_by(algorithm) {
            lock(&bytes.hash).hasher = Hashing::There(supply.clone());
        }
        Ok(Self { flow: Flow::Here(Box::new(decoder)), ..bytes })
    }

    /// No bytes.
    pub(super) fn ended(algorithm: Algorithm, crew: &Crew, chores: &Arc<Chores>) -> Self {
        let hash = Hash { hasher: Hashing::Here(Hasher::new(algorithm)), blocks: 0 };
        Self { flow: Flow::Ended, hash: Arc::new(Mutex::new(hash)), crew: crew.clone(), chores: Arc::clone(chores), read: 0 }
    }

    /// Before the first byte was read.
    pub(super) fn compression(&self) -> Option<Compression> {
        match &self.flow {
            Flow::Here(decoder) => Some(decoder.compression()),
            Flow::Ahead(_) | Flow::Ended | Flow::Failed => None,
        }
    }

    /// How many bytes were read.
    pub(super) fn count(&self) -> u64 {
        self.read
    }

    /// The digest of all bytes, once they were read to their end; that of the supply is one only when [`Supply::blob`] has said so.
    ///
    /// # Errors
    /// Those of who takes the bytes in.
    pub(super) fn finish(self) -> Result<Digest> {
        match &lock(&self.hash).hasher {
            Hashing::Here(hasher) => Ok(hasher.clone().finish()),
            Hashing::There(supply) => supply.read_digest(),
        }
    }

    fn read_some(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Flow::Here(_) = &self.flow
            && self.read >= WORTHWHILE
            && let Some(seat) = self.crew.take()
            && let Flow::Here(decoder) = std::mem::replace(&mut self.flow, Flow::Ended)
        {
            self.flow = Flow::Ahead(Ahead::start(*decoder, Arc::clone(&self.hash), Arc::clone(&self.chores), seat)?);
        }
        match &mut self.flow {
            Flow::Here(decoder) => {
                let count = decoder.read(out)?;
                lock(&self.hash).update(out.get(..count).unwrap_or_default());
                Ok(count)
            }
            Flow::Ahead(ahead) => ahead.read(out, &self.hash),
            Flow::Ended => Ok(0),
            Flow::Failed => Err(Error::new(ErrorKind::InvalidLayer, OP).because("the stream failed before").into()),
        }
    }
}

impl Read for Uncompressed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let read = self.read_some(out);
        match &read {
            Ok(0) => self.flow = Flow::Ended,
            Ok(count) => self.read = self.read.saturating_add(*count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.flow = Flow::Failed,
        }
        read
    }
}

impl Hash {
    fn update(&mut self, bytes: &[u8]) {
        if let Hashing::Here(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
    }
}

fn lock(hash: &Mutex<Hash>) -> MutexGuard<'_, Hash> {
    hash.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some uncompressed bytes.
struct Block {
    number: u64,
    bytes: Vec<u8>,
    hashed: bool,
}

/// A thread that decompresses.
struct Ahead {
    // Dropped first: the thread ends when nobody takes its blocks.
    full: Option<Receiver<io::Result<Block>>>,
    empty: Sender<Vec<u8>>,
    signals: Arc<Signals>,
    current: Vec<u8>,
    at: usize,
    thread: Option<JoinHandle<()>>,
    _seat: Seat,
}

impl Ahead {
    fn start(decoder: Decoder<SupplyReader>, hash: Arc<Mutex<Hash>>, chores: Arc<Chores>, seat: Seat) -> Result<Self> {
        let (to_full, full) = sync_channel(QUEUE);
        let (empty, from_empty) = channel();
        let signals = Arc::new(Signals { chores, waiting: AtomicUsize::new(0), is_over: AtomicBool::new(false) });
        let first = lock(&hash).blocks;
        let worker = Worker { decoder, hash, full: to_full, empty: from_empty, signals: Arc::clone(&signals) };
        let thread = std::thread::Builder::new()
            .name("plywood-inflate".to_owned())
            .spawn(move || worker.run(first))
            .map_err(|error| Error::io(OP, error))?;
        Ok(Self { full: Some(full), empty, signals, current: Vec::new(), at: 0, thread: Some(thread), _seat: seat })
    }

    fn read(&mut self, out: &mut [u8], hash: &Mutex<Hash>) -> io::Result<usize> {
        while self.at >= self.current.len() {
            self.signals.until(|waiting| waiting > 0);
            let Some(Ok(block)) = self.full.as_ref().map(Receiver::recv) else { return self.end().map(|()| 0) };
            self.signals.taken();
            let block = block?;
            if !block.hashed {
                // All blocks before it went through here, or were hashed before this one was made.
                let mut hash = lock(hash);
                hash.update(&block.bytes);
                hash.blocks = block.number.saturating_add(1);
            }
            let used = std::mem::replace(&mut self.current, block.bytes);
            self.at = 0;
            if used.capacity() > 0 {
                // Where the thread has ended nobody needs it.
                let _ = self.empty.send(used);
            }
        }
        let rest = self.current.get(self.at..).unwrap_or_default();
        let count = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at = self.at.saturating_add(count);
        Ok(count)
    }

    /// Waits for the thread, and goes on with its panic if it had one.
    fn end(&mut self) -> io::Result<()> {
        self.full = None;
        self.signals.over();
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            _ => Ok(()),
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.full = None;
        self.signals.over();
        if let Some(thread) = self.thread.take() {
            // Its panic is an error of a reader that is given up anyway.
            let _ = thread.join();
        }
    }
}

/// What the two threads know of each other.
struct Signals {
    chores: Arc<Chores>,
    /// Blocks in the queue.
    waiting: AtomicUsize,
    /// One of the two has ended.
    is_over: AtomicBool,
}

impl Signals {
    /// Does chores until there are so many blocks in the queue, or there is nobody to wait for.
    fn until(&self, enough: impl Fn(usize) -> bool) {
        self.chores.until(|| enough(self.waiting.load(Ordering::Acquire)) || self.is_over.load(Ordering::Acquire));
    }

    fn taken(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        self.chores.tell();
    }

    fn sent(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.chores.tell();
    }

    fn over(&self) {
        self.is_over.store(true, Ordering::Release);
        self.chores.tell();
    }
}

/// Says that the thread has ended, however it did.
struct Over(Arc<Signals>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.over();
    }
}

/// What the thread does.
struct Worker {
    decoder: Decoder<SupplyReader>,
    hash: Arc<Mutex<Hash>>,
    full: SyncSender<io::Result<Block>>,
    empty: Receiver<Vec<u8>>,
    signals: Arc<Signals>,
}

impl Worker {
    fn run(mut self, first: u64) {
        let signals = Arc::clone(&self.signals);
        let _over = Over(Arc::clone(&signals));
        let _hand = signals.chores.lend_hand();
        let mut number = first;
        loop {
            let mut bytes = self.empty.try_recv().unwrap_or_default();
            let block = match fill(&mut self.decoder, &mut bytes) {
                Ok(()) if bytes.is_empty() => return,
                Ok(()) => {
                    let hashed = self.signals.waiting.load(Ordering::Acquire) >= QUEUE / 2 && self.hash(number, &bytes);
                    Ok(Block { number, bytes, hashed })
                }
                Err(error) => Err(error),
            };
            let failed = block.is_err();
            signals.until(|waiting| waiting < QUEUE);
            if self.full.send(block).is_err() {
                return;
            }
            signals.sent();
            if failed {
                return;
            }
            number = number.saturating_add(1);
        }
    }

    /// Hashes a block, if all before it are.
    fn hash(&self, number: u64, bytes: &[u8]) -> bool {
        let mut hash = lock(&self.hash);
        let is_next = hash.blocks == number;
        if is_next {
            hash.update(bytes);
            hash.blocks = number.saturating_add(1);
        }
        is_next
    }
}

/// Fills a block; fewer bytes, or none, only at the end.
fn fill(decoder: &mut Decoder<SupplyReader>, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.resize(BLOCK, 0);
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match decoder.read(room) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What came before it is whole, but nobody goes on from here.
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(())
}
