//! [`Growing`]: a file that one thread writes while others read it, each from the beginning and as far as it has come.
//!
//! Invariant: a reader comes to the end only when the writer said that all is there and gave the proof; where the writer gives up, or
//! just goes away, every reader fails.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::content::Blob;
use crate::error::{Error, ErrorKind, Result};

const OP: &str = "ingest";

/// The reading side. Clones are the same file.
#[derive(Clone, Debug)]
pub(super) struct Growing(Arc<Inner>);

/// The writing side: there is one.
#[derive(Debug)]
#[must_use = "whoever reads fails when this is dropped"]
pub(super) struct Grower(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    /// So many bytes are there.
    Written(u64),
    Complete(Blob),
    GivenUp,
}

impl Growing {
    /// The two sides of a file that has so many bytes now.
    pub(super) fn new(file: File, written: u64) -> (Self, Grower) {
        let inner = Arc::new(Inner { file, state: Mutex::new(State::Written(written)), changed: Condvar::new() });
        (Self(Arc::clone(&inner)), Grower(inner))
    }

    /// Reads at this position; waits until there is something. 0 at the end, when all is there.
    pub(super) fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let end = match &*self.wait_until(|state| !matches!(state, State::Written(end) if *end <= position)) {
            State::Written(end) => *end,
            State::Complete(blob) => blob.size(),
            State::GivenUp => return Err(gave_up().into()),
        };
        let length = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..length).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        match self.0.file.read_at(buffer, position)? {
            0 => Err(Error::new(ErrorKind::Corrupt, OP).because(format!("it ends after {position} bytes")).into()),
            count => Ok(count),
        }
    }

    /// All of it, once it is there.
    pub(super) fn blob(&self) -> Result<Blob> {
        match &*self.wait_until(|state| !matches!(state, State::Written(_))) {
            State::Complete(blob) => Ok(blob.clone()),
            State::Written(_) | State::GivenUp => Err(gave_up()),
        }
    }

    fn wait_until(&self, enough: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.0.state();
        while !enough(&state) {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

impl Grower {
    /// So many bytes are written.
    pub(super) fn grew(&self, end: u64) {
        self.0.set(State::Written(end));
    }

    /// All bytes are written, and were found to be this blob.
    pub(super) fn complete(self, blob: Blob) {
        self.0.set(State::Complete(blob));
    }
}

impl Drop for Grower {
    fn drop(&mut self) {
        if matches!(&*self.0.state(), State::Written(_)) {
            self.0.set(State::GivenUp);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
    }
}

fn gave_up() -> Error {
    Error::new(ErrorKind::Io, OP).because("the source failed before")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Content, Expected};
    use crate::digest::Algorithm;
    use crate::progress::Context;
    use crate::sys::Dir;

    fn read_all(growing: &Growing) -> io::Result<Vec<u8>> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 3]);
        loop {
            match growing.read_at(&mut buffer, bytes.len() as u64)? {
                0 => return Ok(bytes),
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    }

    #[test]
    fn what_is_read_is_what_was_written_and_its_end_is_the_writers() {
        let directory = tempfile::tempdir().unwrap();
        let content = Content::open(&Dir::open(directory.path()).unwrap()).unwrap();
        let expected = Expected::unknown(Algorithm::default());
        let blob = content.spool(&expected, &mut b"0123456789".as_slice(), &Context::default()).unwrap();
        let file = tempfile::tempfile().unwrap();
        let (growing, grower) = Growing::new(file.try_clone().unwrap(), 0);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_all(&growing).unwrap());
            for (at, piece) in [(0, "01234"), (5, "5678"), (9, "9")] {
                file.write_all_at(piece.as_bytes(), at).unwrap();
                grower.grew(at + piece.len() as u64);
            }
            grower.complete(blob);
            assert_eq!(reader.join().unwrap(), b"0123456789");
        });
        assert_eq!(growing.blob().unwrap().size(), 10);
    }

    #[test]
    fn a_writer_that_goes_away_fails_its_readers() {
        let file = tempfile::tempfile().unwrap();
        let (growing, grower) = Growing::new(file.try_clone().unwrap(), 0);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_all(&growing));
            file.write_all_at(b"01", 0).unwrap();
            grower.grew(2);
            drop(grower);
            reader.join().unwrap().unwrap_err();
        });
        assert_eq!(growing.blob().unwrap_err().kind(), ErrorKind::Io);
    }
}
