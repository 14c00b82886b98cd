//! What one thread writes, the caller's takes, in blocks: so that reading trees overlaps with hashing, compressing and writing.
//!
//! The queue is short, and empty blocks go back to be filled again: memory does not grow with the stream. The bytes and their order are
//! those that were written. The thread has ended when the call returns.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::error::{Error, Result};
use crate::span::within;

/// What is handed over at once, and how many of these wait.
const BLOCK: usize = 256 << 10;
const QUEUE: usize = 4;

/// Runs `write` in a thread of its own and hands what it writes to `take`, here. Where both fail, what `take` says counts: the other was
/// told that nobody takes any more.
///
/// # Errors
/// Those of either; `Io` where no thread can be started.
pub(super) fn overlap<T: Send>(
    write: impl FnOnce(&mut dyn Write) -> Result<T> + Send,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
    op: &'static str,
) -> Result<T> {
    let (to_full, full) = sync_channel(QUEUE);
    let (to_empty, empty) = channel();
    std::thread::scope(|scope| {
        let mut blocks = Blocks { full: to_full, empty, block: Vec::new() };
        let thread = std::thread::Builder::new()
            .name("plywood-walk".to_owned())
            .spawn_scoped(
                scope,
                within(move || {
                    write(&mut blocks).and_then(|done| blocks.flush().map(|()| done).map_err(|error| Error::io(op, error)))
                }),
            )
            .map_err(|error| Error::io(op, error))?;
        let taken = take_all(full, &to_empty, &mut take);
        let written = match thread.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        taken.map_err(|error| Error::io(op, error))?;
        written
    })
}

/// To the end; when it returns, whoever still writes is told so.
fn take_all(full: Receiver<Vec<u8>>, empty: &Sender<Vec<u8>>, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    for mut block in full {
        take(&block)?;
        block.clear();
        // Where the thread has ended nobody needs it.
        let _ = empty.send(block);
    }
    Ok(())
}

/// The writing end.
struct Blocks {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    block: Vec<u8>,
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.capacity() == 0 {
            self.block = self.empty.try_recv().unwrap_or_default();
            self.block.reserve_exact(BLOCK);
        }
        let room = BLOCK.saturating_sub(self.block.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.block.extend_from_slice(taken);
        if self.block.len() >= BLOCK {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        self.full.send(block).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn every_byte_arrives_in_its_order() {
        let pieces: Vec<Vec<u8>> = (0..100_u8).map(|number| vec![number; usize::from(number) * 331 + 1]).collect();
        let mut taken = Vec::new();
        let write = |out: &mut dyn Write| {
            pieces.iter().try_for_each(|piece| out.write_all(piece)).map_err(|error| Error::io("write", error))?;
            Ok(pieces.len())
        };
        let take = |bytes: &[u8]| {
            taken.extend_from_slice(bytes);
            Ok(())
        };
        assert_eq!(overlap(write, take, "pass").unwrap(), 100);
        assert_eq!(taken, pieces.concat());
    }

    #[test]
    fn whoever_writes_ends_when_nobody_takes() {
        let write = |out: &mut dyn Write| loop {
            out.write_all(&[0; 4096]).map_err(|error| Error::io("write", error))?;
        };
        let failed = overlap::<()>(write, |_| Err(io::Error::from(io::ErrorKind::StorageFull)), "pass").unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::NoSpace);
    }

    #[test]
    fn what_the_writer_says_comes_back_after_what_it_wrote() {
        let mut taken = 0;
        let write = |out: &mut dyn Write| {
            out.write_all(&[1; 1_000_000]).map_err(|error| Error::io("write", error))?;
            Err::<(), _>(Error::new(ErrorKind::Cancelled, "write"))
        };
        let take = |bytes: &[u8]| {
            taken += bytes.len();
            Ok(())
        };
        assert_eq!(overlap(write, take, "pass").unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(taken >= 3 * BLOCK);
    }
}
