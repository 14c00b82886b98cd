//! The uncompressed stream: one large buffer from which headers are copied and file contents are lent.
//!
//! Counts what was consumed, tells the caller's progress of it, asks whether to stop, and ends a stream that is too long.

use std::io::{self, Read};

use super::{BLOCK, Limits};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Context;

/// One read of the layer below; also the largest piece of a file that is handed out.
const CAPACITY: usize = 256 * 1024;
pub(super) const OP: &str = "read layer";

pub(super) struct Source<'a, R> {
    inner: R,
    cx: &'a Context<'a>,
    most: u64,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Offset in the stream of the next byte that is not consumed.
    offset: u64,
    /// Bytes read from below, and how many of these the progress was told: a stream that is read again is not told again.
    read: u64,
    told: u64,
    pass: Option<Pass<R>>,
}

/// Passes over bytes of a stream without reading them; how many there were.
pub(super) type Pass<R> = fn(&mut R, u64) -> u64;

impl<'a, R: Read> Source<'a, R> {
    pub(super) fn new(inner: R, limits: &Limits, cx: &'a Context<'a>) -> Self {
        let buffer = vec![0; CAPACITY].into_boxed_slice();
        Self { inner, cx, most: limits.unpacked_bytes, buffer, start: 0, end: 0, offset: 0, read: 0, told: 0, pass: None }
    }

    /// The same of a stream that can pass over bytes.
    pub(super) fn passing(self, pass: Pass<R>) -> Self {
        Self { pass: Some(pass), ..self }
    }

    pub(super) fn rewind(&mut self, inner: R) {
        self.inner = inner;
        (self.start, self.end, self.offset, self.read) = (0, 0, 0, 0);
    }

    pub(super) fn get_ref(&self) -> &R {
        &self.inner
    }

    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes can be taken now; 0 only at the end of the stream.
    pub(super) fn available(&mut self) -> Result<usize> {
        if self.start == self.end {
            self.fill()?;
        }
        Ok(self.end.saturating_sub(self.start))
    }

    fn fill(&mut self) -> Result<()> {
        self.cx.check(OP)?;
        self.start = 0;
        self.end = 0;
        let count = loop {
            match self.inner.read(&mut self.buffer) {
                Ok(count) => break count.min(self.buffer.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(OP, error)),
            }
        };
        self.end = count;
        self.read = self.read.saturating_add(count as u64);
        if self.read > self.most {
            let rule = format!("the layer has more than {} bytes uncompressed", self.most);
            return Err(Error::new(ErrorKind::LimitExceeded, OP).because(rule));
        }
        if self.read > self.told {
            self.cx.progress().bytes(self.read.saturating_sub(self.told));
            self.told = self.read;
        }
        Ok(())
    }

    /// Consumes `count` bytes, of which no more may be asked for than are [`available`](Self::available).
    pub(super) fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start = from.saturating_add(count).min(self.end);
        self.offset = self.offset.saturating_add(self.start.saturating_sub(from) as u64);
        self.buffer.get(from..self.start).unwrap_or_default()
    }

    /// Fills a block; the number of bytes that were there, fewer than a block only at the end of the stream.
    pub(super) fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<usize> {
        let mut room = block.as_mut_slice();
        while !room.is_empty() {
            let count = self.available()?.min(room.len());
            if count == 0 {
                break;
            }
            let (filled, rest) = room.split_at_mut(count);
            filled.copy_from_slice(self.take(count));
            room = rest;
        }
        let missing = room.len();
        Ok(BLOCK.saturating_sub(missing))
    }

    /// Consumes `count` bytes; how many were missing.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<u64> {
        while count > 0 {
            if let Some(pass) = self.pass.filter(|_| self.start == self.end) {
                let passed = pass(&mut self.inner, count);
                self.offset = self.offset.saturating_add(passed);
                return Ok(count.saturating_sub(passed));
            }
            let some = usize::try_from(count).unwrap_or(usize::MAX).min(self.available()?);
            if some == 0 {
                break;
            }
            self.take(some);
            count = count.saturating_sub(some as u64);
        }
        Ok(count)
    }

    /// Appends `count` bytes to `out`, which grows with what really comes; how many were missing.
    pub(super) fn append(&mut self, mut count: u64, out: &mut Vec<u8>) -> Result<u64> {
        while count > 0 {
            let some = usize::try_from(count).unwrap_or(usize::MAX).min(self.available()?);
            if some == 0 {
                break;
            }
            out.extend_from_slice(self.take(some));
            count = count.saturating_sub(some as u64);
        }
        Ok(count)
    }

    /// Consumes everything; whether it was all zeros.
    pub(super) fn drain(&mut self) -> Result<bool> {
        let mut zeros = true;
        loop {
            let some = self.available()?;
            if some == 0 {
                return Ok(zeros);
            }
            zeros &= self.take(some).iter().all(|&byte| byte == 0);
        }
    }
}
