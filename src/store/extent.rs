//! [`Extent`]: the bytes of one file of an image, in a file of their own or in the middle of an archive.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::compression::Compression;
use crate::error::{Error, Result};
use crate::sys::inode;

/// Bytes of a file, read from a position that no other reader shares. Nothing is known of them: who owns the file may change it.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Extent {
    /// All that a regular file holds now.
    pub(crate) fn whole(file: File) -> Result<Self> {
        let end = inode::stat(&file)?.size;
        Ok(Self { file: Arc::new(file), position: 0, end })
    }

    /// A part of what is left of this one.
    pub(crate) fn part(&self, offset: u64, size: u64) -> Self {
        let position = self.position.saturating_add(offset).min(self.end);
        Self { file: Arc::clone(&self.file), position, end: position.saturating_add(size).min(self.end) }
    }

    /// How many bytes there are to read.
    pub(crate) fn size(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// What the bytes that are left are compressed with.
    pub(crate) fn compression(&self) -> Result<Compression> {
        let mut start = Vec::new();
        self.clone().take(Compression::SNIFFED as u64).read_to_end(&mut start).map_err(|error| Error::io("read", error))?;
        Ok(Compression::sniff(&start))
    }

    /// Passes over the next bytes; how many there were.
    pub(crate) fn pass(&mut self, count: u64) -> u64 {
        let passed = count.min(self.size());
        self.position = self.position.saturating_add(passed);
        passed
    }
}

impl Read for Extent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.size()).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(buffer.get_mut(..length).unwrap_or_default(), self.position)?;
        self.position = self.position.saturating_add(count as u64);
        Ok(count)
    }
}
