//! [`Ingest`]: bytes on their way in.
//!
//! Whoever holds an `Ingest` holds the lock of its file. Every byte is hashed once, as it is written; an ingest that goes on after it
//! was dropped in this process finds the state of its hash, one of another process is read once to make it anew. The remembered state
//! stays true because the bytes of an ingest's file are only ever appended to: to begin afresh is to make a new file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use super::{Added, Blob, Content, DISCARDED, Expected, MODE, duplicate, gone, wrong_size};
use crate::digest::{Digest, Hasher};
use crate::durability::Durability;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Context;
use crate::sys::durable::WriteBehind;
use crate::sys::flock::Flock;
use crate::sys::{durable, inode};

const OP: &str = "ingest";
const BUFFER: usize = 128 << 10;

/// What a dropped ingest leaves in memory: the hash of the first `offset` bytes of the file.
#[derive(Debug)]
pub(super) struct Suspended {
    pub(super) name: Vec<u8>,
    /// Held, so that the inode's number cannot be another file's by the time it is compared.
    file: File,
    hasher: Hasher,
    offset: u64,
}

/// Bytes on their way into the store.
///
/// [`write`](Self::write) chunks and then [`finish`](Self::finish), or let [`copy_from`](Self::copy_from) read them. Dropping an
/// unfinished ingest of known digest keeps what came, to go on from [`offset`](Self::offset) another time; see
/// [`discard_on_drop`](Self::discard_on_drop) and [`abort`](Self::abort).
#[derive(Debug)]
#[must_use = "an ingest that is not finished publishes nothing"]
pub struct Ingest {
    content: Content,
    name: Vec<u8>,
    expected: Expected,
    file: File,
    hasher: Hasher,
    offset: u64,
    hashed_again: u64,
    behind: WriteBehind,
    end: End,
    // After `file`: the last descriptor to go gives the lock up explicitly.
    lock: Flock,
}

/// What becomes of the file when the ingest is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Keep,
    Delete,
    /// It has another name, or none, by now.
    Done,
}

impl Ingest {
    pub(super) fn resume(
        content: Content,
        name: Vec<u8>,
        lock: Flock,
        expected: Expected,
        suspended: Option<Suspended>,
    ) -> Result<Self> {
        let file = duplicate(&lock)?;
        let stat = inode::stat(&file)?;
        let end = if expected.digest.is_some() { End::Keep } else { End::Delete };
        let hasher = Hasher::new(expected.algorithm);
        let mut ingest =
            Self { content, name, expected, file, hasher, offset: 0, hashed_again: 0, behind: WriteBehind::default(), end, lock };
        if let Some(state) = suspended
            && inode::stat(&state.file)?.same_inode(&stat)
            && state.offset <= stat.size
        {
            (ingest.hasher, ingest.offset) = (state.hasher, state.offset);
        }
        ingest.hash_rest(stat.size)?;
        if stat.mode != MODE {
            // Somebody else would have discarded it.
            inode::set_mode(&ingest.file, MODE)?;
        }
        Ok(ingest)
    }

    /// Hashes what another process left, up to `size`.
    fn hash_rest(&mut self, size: u64) -> Result<()> {
        let mut buffer = vec![0; if self.offset < size { BUFFER } else { 0 }];
        while self.offset < size {
            let count = self.file.read_at(&mut buffer, self.offset).map_err(|error| Error::io("pread", error))?;
            // Cut meanwhile, though it is locked: what is left of it is where we go on.
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            self.hasher.update(bytes);
            self.offset = self.offset.saturating_add(count as u64);
            self.hashed_again = self.hashed_again.saturating_add(count as u64);
        }
        Ok(())
    }

    /// How many bytes are in: the next one to write is the one at this offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes had to be read back to hash them, because another process wrote them: 0 in the process that wrote them.
    pub fn hashed_again(&self) -> u64 {
        self.hashed_again
    }

    /// Deletes what came when this is dropped unfinished, instead of keeping it to go on with.
    pub fn discard_on_drop(mut self) -> Self {
        self.end = End::Delete;
        // For whoever cleans up after a killed process. Without the mark it is kept for a day.
        let _ = inode::set_mode(&self.file, DISCARDED);
        self
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// `DigestMismatch` as soon as there are more than declared; the ingest is of no use then, and is deleted when it is dropped.
    /// `NoSpace`, `Io`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let after = self.offset.saturating_add(bytes.len() as u64);
        if let Some(size) = self.expected.size
            && after > size
        {
            self.end = End::Delete;
            return Err(Error::new(ErrorKind::DigestMismatch, OP)
                .at(self.shown())
                .because(format!("there are more than the {size} bytes that were declared")));
        }
        self.file.write_all_at(bytes, self.offset).map_err(|error| Error::io("pwrite", error).at(self.shown()))?;
        self.hasher.update(bytes);
        self.offset = after;
        self.behind.wrote(&self.file, after);
        Ok(())
    }

    /// Takes bytes from `reader`, whose next byte is the one at [`offset`](Self::offset), up to its end.
    ///
    /// # Errors
    /// As [`write`](Self::write); those of the reader; `Cancelled`. What was read before is kept.
    pub fn copy_from(&mut self, mut reader: impl Read, cx: &Context<'_>) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            cx.check(OP)?;
            let count = match reader.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", error).at(self.shown())),
            };
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            self.write(bytes)?;
            cx.progress().bytes(count as u64);
        }
    }

    /// Checks size and digest, and publishes the bytes. Durable when it returns.
    ///
    /// # Errors
    /// `DigestMismatch`: with fewer bytes than declared the ingest can go on another time; other bytes are deleted. `NoSpace`, `Io`.
    pub fn finish(self) -> Result<Blob> {
        self.verify()?.publish().map(|added| added.blob)
    }

    /// Checks size and digest, and makes the bytes durable; they still have no name.
    pub(crate) fn verify(self) -> Result<Verified> {
        self.verify_to_survive(Durability::Full)
    }

    /// The same, as durable as is asked for.
    pub(crate) fn verify_to_survive(mut self, durability: Durability) -> Result<Verified> {
        let digest = self.check()?;
        if durability.is_full() {
            // A failed sync is final: what the kernel dropped cannot be synced again.
            let end = std::mem::replace(&mut self.end, End::Delete);
            durable::sync(&self.file)?;
            self.end = end;
        }
        Ok(Verified { ingest: self, digest })
    }

    /// What was said of the bytes before they came.
    pub(crate) fn expected(&self) -> &Expected {
        &self.expected
    }

    /// The file, for whoever reads what came so far.
    pub(crate) fn file(&self) -> Result<File> {
        duplicate(&self.lock)
    }

    /// The bytes, all of which came: checked, to be read, still without a name.
    pub(crate) fn checked(&mut self) -> Result<Blob> {
        let digest = self.check()?;
        Blob::proven(digest, duplicate(&self.lock)?)
    }

    /// Checks the bytes and takes their name away: they live as long as the blob is held.
    pub(crate) fn into_nameless(mut self) -> Result<Blob> {
        let digest = self.check()?;
        gone(self.content.0.ingests.unlink(&self.name))?;
        self.end = End::Done;
        Blob::proven(digest, duplicate(&self.lock)?)
    }

    fn check(&mut self) -> Result<Digest> {
        if let Some(size) = self.expected.size
            && self.offset < size
        {
            return Err(wrong_size(self.shown(), size, self.offset));
        }
        let digest = self.hasher.clone().finish();
        match &self.expected.digest {
            Some(expected) if *expected != digest => {
                self.end = End::Delete;
                Err(Error::new(ErrorKind::DigestMismatch, OP)
                    .at(expected.to_string())
                    .because(format!("the bytes have the digest {digest}")))
            }
            _ => Ok(digest),
        }
    }

    /// Deletes what came.
    ///
    /// # Errors
    /// `Io`.
    pub fn abort(mut self) -> Result<()> {
        self.end = End::Done;
        gone(self.content.0.ingests.unlink(&self.name))
    }

    /// What it is called in messages.
    fn shown(&self) -> String {
        self.expected.digest.as_ref().map_or_else(|| self.name.escape_ascii().to_string(), Digest::to_string)
    }
}

/// An ingest as a writer.
pub(super) struct Writer<'a>(pub(super) &'a mut Ingest);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An ingest whose bytes are checked and durable, and need but a name.
#[derive(Debug)]
#[must_use = "without `publish` the bytes stay an ingest"]
pub(crate) struct Verified {
    ingest: Ingest,
    digest: Digest,
}

impl Verified {
    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(crate) fn size(&self) -> u64 {
        self.ingest.offset
    }

    /// Gives the bytes their name. Durable when it returns.
    pub(crate) fn publish(self) -> Result<Added> {
        let Self { mut ingest, digest } = self;
        let directory = ingest.content.directory_of(digest.algorithm());
        let hex = digest.to_hex();
        let is_new = match ingest.content.0.ingests.rename_noreplace(&ingest.name, directory, hex.as_bytes()) {
            Ok(()) => {
                ingest.end = End::Done;
                // Only now: until it has its name it may have to be discarded. A blob that keeps the mark for a crash is as good.
                let _ = inode::set_mode(&ingest.file, MODE);
                if let Err(error) = directory.sync() {
                    let _ = directory.unlink(hex.as_bytes());
                    return Err(error);
                }
                true
            }
            // The same bytes came in without a known digest meanwhile.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                ingest.end = End::Delete;
                false
            }
            Err(error) => return Err(error),
        };
        let blob = Blob::proven(digest, directory.open_file(hex.as_bytes())?)?;
        Ok(Added { blob, is_new })
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        match self.end {
            End::Done => {}
            End::Delete => {
                if let Err(error) = gone(self.content.0.ingests.unlink(&self.name)) {
                    tracing::warn!(%error, "an ingest could not be deleted; cleaning will");
                }
            }
            End::Keep => {
                // Without the state it is hashed once more, as another process would.
                if let Ok(file) = duplicate(&self.lock) {
                    let (name, hasher, offset) = (std::mem::take(&mut self.name), self.hasher.clone(), self.offset);
                    self.content.suspend(Suspended { name, file, hasher, offset });
                }
            }
        }
    }
}
