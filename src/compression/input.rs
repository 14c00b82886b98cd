//! The compressed bytes: a buffered reader that can look ahead, and that marks its source's errors.
//!
//! Decoders report their own findings (a bad checksum) and pass on what their source said (a failed read) through the same
//! `io::Error`. Here each error of the source becomes one of ours, so that the two can be told apart on the other side.

use std::io::{self, BufRead, Read};

use crate::error::Error;

/// One read of the source: large enough that system calls do not count.
const CAPACITY: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes that came from the source.
    taken: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, buffer: vec![0; CAPACITY].into_boxed_slice(), start: 0, end: 0, taken: 0 }
    }

    pub(super) fn get_ref(&self) -> &R {
        &self.source
    }

    pub(super) fn into_inner(self) -> R {
        self.source
    }

    /// How many bytes came from the source.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The first `count` bytes, or all if there are fewer. To be called before anything was consumed.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.end < count {
            let read = read(&mut self.source, self.buffer.get_mut(self.end..).unwrap_or_default())?;
            if read == 0 {
                break;
            }
            self.end = self.end.saturating_add(read);
            self.taken = self.taken.saturating_add(read as u64);
        }
        Ok(self.buffer.get(..self.end.min(count)).unwrap_or_default())
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end && out.len() >= CAPACITY / 2 {
            let count = read(&mut self.source, out)?;
            self.taken = self.taken.saturating_add(count as u64);
            return Ok(count);
        }
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.end = read(&mut self.source, &mut self.buffer)?;
            self.taken = self.taken.saturating_add(self.end as u64);
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }
}

fn read(source: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(out) {
            // A source that claims more than it was given room for must not move our cursor past the buffer.
            Ok(count) => return Ok(count.min(out.len())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read layer", error).into()),
        }
    }
}
