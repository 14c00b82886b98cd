//! A layer literal as the stream of changes that an applier takes.

use super::{Layer, LayerEntry};
use crate::entry::{Chunk, Entry, EntryStream};
use crate::error::Result;

/// Blocks of zeros of this size are holes to the stream.
const BLOCK: usize = 4096;

/// Changes from memory, any number of times.
#[derive(Clone, Debug)]
pub struct LayerStream {
    entries: Vec<LayerEntry>,
    /// How many entries were handed out.
    position: usize,
    /// How much of the current content was.
    offset: usize,
}

impl Layer {
    /// The layer as a stream, without a tar in between. Whole blocks of 4,096 zero bytes are holes.
    ///
    /// # Errors
    /// As [`entries`](Self::entries).
    pub fn stream(&self) -> Result<LayerStream> {
        Ok(LayerStream::new(self.entries()?))
    }
}

impl LayerStream {
    /// A stream of these changes.
    pub fn new(entries: Vec<LayerEntry>) -> Self {
        Self { entries, position: 0, offset: 0 }
    }
}

impl EntryStream for LayerStream {
    fn next(&mut self) -> Result<Option<Entry>> {
        let Some(next) = self.entries.get(self.position) else { return Ok(None) };
        self.position += 1;
        self.offset = 0;
        Ok(Some(next.entry.clone()))
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        let current = self.position.checked_sub(1).and_then(|current| self.entries.get(current));
        let content = current.map_or(&[][..], |current| &current.content);
        while let Some(rest) = content.get(self.offset..).filter(|rest| !rest.is_empty()) {
            let (block, offset) = (rest.get(..BLOCK).unwrap_or(rest), self.offset);
            self.offset += block.len();
            if block.len() < BLOCK || block.iter().any(|&byte| byte != 0) {
                return Ok(Some(Chunk { offset: offset as u64, data: block }));
            }
        }
        Ok(None)
    }

    fn restart(&mut self) -> Result<()> {
        (self.position, self.offset) = (0, 0);
        Ok(())
    }
}
