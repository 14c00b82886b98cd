//! gzip by blocks that know nothing of each other, so that several threads can make them.
//!
//! One gzip member (RFC 1952): each block of [`BLOCK`] bytes is deflated by itself and ends on a byte, as after a sync flush (RFC 1951
//! §3.2.4), the last one ends the stream. Where the cuts are depends on the input alone, so the bytes are the same whatever the number
//! of threads; they cost about one percent in size. Threads have ended when this is finished or dropped.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Crc, FlushCompress, Status};

use crate::parallel::Parallelism;

/// What is deflated at once.
const BLOCK: usize = 1 << 20;

/// No flags, no time, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Writes gzip.
pub(super) struct Gzip<W> {
    writer: W,
    level: flate2::Compression,
    block: Vec<u8>,
    /// Blocks on their way, in their order.
    pending: VecDeque<Arc<Slot>>,
    crc: Crc,
    pool: Pool,
    begun: bool,
}

impl<W: Write> Gzip<W> {
    pub(super) fn new(writer: W, level: u32) -> Self {
        Self {
            writer,
            level: flate2::Compression::new(level),
            block: Vec::new(),
            pending: VecDeque::new(),
            crc: Crc::new(),
            pool: Pool::new(Parallelism::ONE),
            begun: false,
        }
    }

    /// The same by so many threads.
    pub(super) fn parallel(self, parallelism: Parallelism) -> Self {
        Self { pool: Pool::new(parallelism), ..self }
    }

    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = BLOCK.saturating_sub(self.block.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() >= BLOCK {
                self.begin_block(false)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.begin_block(true)?;
        self.write_until(0)?;
        self.writer.write_all(&self.crc.sum().to_le_bytes())?;
        self.writer.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.writer)
    }

    fn begin_block(&mut self, last: bool) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.block);
        let slot = Arc::new(Slot::default());
        self.pending.push_back(Arc::clone(&slot));
        self.pool.begin(Job { bytes, last, level: self.level, slot });
        self.write_until(self.pool.depth())
    }

    /// Writes the first blocks, until so many are left.
    fn write_until(&mut self, left: usize) -> io::Result<()> {
        while self.pending.len() > left
            && let Some(slot) = self.pending.pop_front()
        {
            let block = self.pool.wait(&slot)?;
            if !self.begun {
                self.writer.write_all(&HEADER)?;
                self.begun = true;
            }
            self.writer.write_all(&block.deflated)?;
            self.crc.combine(&block.crc);
            let mut spent = block.bytes;
            spent.clear();
            if self.block.capacity() == 0 {
                self.block = spent;
            }
        }
        Ok(())
    }
}

/// A block to be deflated.
struct Job {
    bytes: Vec<u8>,
    last: bool,
    level: flate2::Compression,
    slot: Arc<Slot>,
}

struct Block {
    bytes: Vec<u8>,
    deflated: Vec<u8>,
    crc: Crc,
}

/// Where a block is put when it is done.
#[derive(Default)]
struct Slot {
    block: Mutex<Option<io::Result<Block>>>,
    done: Condvar,
}

impl Job {
    fn run(self) {
        let Self { bytes, last, level, slot } = self;
        let block = deflate(&bytes, last, level).map(|deflated| {
            let mut crc = Crc::new();
            crc.update(&bytes);
            Block { bytes, deflated, crc }
        });
        *lock(&slot.block) = Some(block);
        slot.done.notify_all();
    }
}

fn deflate(bytes: &[u8], last: bool, level: flate2::Compression) -> io::Result<Vec<u8>> {
    let mut compress = Compress::new(level, false);
    let mut out = Vec::with_capacity((bytes.len() / 2).max(64));
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    loop {
        let taken = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
        let rest = bytes.get(taken..).unwrap_or_default();
        // Only a mistake of its caller's is an error.
        let status = compress.compress_vec(rest, &mut out, flush).map_err(io::Error::other)?;
        let has_room = out.len() < out.capacity();
        match status {
            Status::StreamEnd => return Ok(out),
            // All was taken and flushed when there is room left.
            _ if !last && has_room && compress.total_in() == bytes.len() as u64 => return Ok(out),
            Status::Ok | Status::BufError => out.reserve(out.capacity().max(64)),
        }
    }
}

/// The threads, and what they are to do.
struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    /// The caller's thread is one of them: it deflates when it would have to wait.
    fn new(parallelism: Parallelism) -> Self {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for _ in 1..parallelism.get() {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("plywood-deflate".to_owned()).spawn(move || shared.run());
            // With fewer threads it takes longer.
            let Ok(thread) = thread else { break };
            threads.push(thread);
        }
        Self { shared, threads }
    }

    /// How many blocks may be on their way.
    fn depth(&self) -> usize {
        self.threads.len().saturating_mul(3)
    }

    fn begin(&self, job: Job) {
        lock(&self.shared.state).jobs.push_back(job);
        self.shared.ready.notify_one();
    }

    fn wait(&self, slot: &Slot) -> io::Result<Block> {
        loop {
            if let Some(block) = lock(&slot.block).take() {
                return block;
            }
            let job = lock(&self.shared.state).jobs.pop_front();
            let Some(job) = job else { break };
            job.run();
        }
        // Somebody else is at it.
        let mut block = lock(&slot.block);
        loop {
            if let Some(block) = block.take() {
                return block;
            }
            block = slot.done.wait(block).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut state = lock(&self.state);
            let job = loop {
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            job.run();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.shared.state);
            state.closed = true;
            // Of an output that was given up.
            state.jobs.clear();
        }
        self.shared.ready.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
