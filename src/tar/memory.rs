//! A layer that lies in memory, uncompressed.

use crate::entry::{Chunk, Entry, EntryStream, Position};
use crate::error::Result;
use crate::progress::Context;

use super::{Limits, Reader};

/// An [`EntryStream`] over the bytes of a tar archive: for tests, fuzzing, and small layers that are made on the spot.
///
/// ```
/// use plywood::entry::EntryStream as _;
/// let cx = plywood::Context::default();
/// let archive = vec![0; 1024];
/// let mut layer = plywood::tar::MemoryLayer::new(&archive, &cx);
/// assert!(layer.next()?.is_none());
/// # Ok::<(), plywood::Error>(())
/// ```
#[derive(Debug)]
pub struct MemoryLayer<'a> {
    archive: &'a [u8],
    reader: Reader<'a, &'a [u8]>,
}

impl<'a> MemoryLayer<'a> {
    /// The layer in `archive`, with the default limits.
    pub fn new(archive: &'a [u8], cx: &'a Context<'a>) -> Self {
        Self::with_limits(archive, Limits::default(), cx)
    }

    /// The layer in `archive`.
    pub fn with_limits(archive: &'a [u8], limits: Limits, cx: &'a Context<'a>) -> Self {
        Self { archive, reader: Reader::new(archive, limits, cx) }
    }
}

impl EntryStream for MemoryLayer<'_> {
    fn next(&mut self) -> Result<Option<Entry>> {
        self.reader.next()
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        self.reader.chunk()
    }

    fn restart(&mut self) -> Result<()> {
        self.reader.rewind(self.archive);
        Ok(())
    }

    fn position(&self) -> Option<Position> {
        self.reader.position()
    }
}
