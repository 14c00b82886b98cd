//! [`Blob`]: bytes that were checked. Its constructors are the proof, and are private.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::inode;

/// Bytes that are those of their digest, held open: they can be read even after the blob was deleted.
#[derive(Clone, Debug)]
pub struct Blob {
    digest: Digest,
    size: u64,
    file: Arc<File>,
}

impl Blob {
    /// A file whose bytes were checked, by this process or by the one that published it.
    pub(super) fn proven(digest: Digest, file: File) -> Result<Self> {
        let size = inode::stat(&file)?.size;
        Ok(Self { digest, size, file: Arc::new(file) })
    }

    /// The digest of exactly the blob's bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads the blob from its beginning. Each reader has a position of its own.
    pub fn reader(&self) -> BlobReader {
        BlobReader { file: Arc::clone(&self.file), position: 0, size: self.size }
    }

    /// The whole blob, where it is not larger than `limit`.
    pub(crate) fn read_to_vec(&self, limit: u64) -> Result<Vec<u8>> {
        if self.size > limit {
            return Err(Error::new(ErrorKind::LimitExceeded, "read blob")
                .at(self.digest.to_string())
                .because(format!("it has {} bytes, at most {limit} are read", self.size)));
        }
        let mut bytes = Vec::new();
        self.reader().read_to_end(&mut bytes).map_err(|error| Error::io("read", error).at(self.digest.to_string()))?;
        Ok(bytes)
    }
}

/// Reads a [`Blob`], at a position that no other reader shares.
#[derive(Clone, Debug)]
pub struct BlobReader {
    file: Arc<File>,
    position: u64,
    size: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let length = rest.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..length).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        match self.file.read_at(buffer, self.position)? {
            // The file was cut behind our back.
            0 => Err(Error::new(ErrorKind::Corrupt, "read blob").because(format!("it ends after {} bytes", self.position)).into()),
            count => {
                self.position = self.position.saturating_add(count as u64);
                Ok(count)
            }
        }
    }
}

impl Seek for BlobReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.size.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
