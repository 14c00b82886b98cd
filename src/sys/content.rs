//! The bytes of open files: compared, and streamed with holes as zeros.
//!
//! Everything reads at offsets, so the descriptor's own position means nothing. A file that shrinks while it is read is an answer, not
//! an error. Copying is in `copy`.

use std::fs::File;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{Stat, describe, inode};
use crate::error::{Error, Result};

/// How much is read at once.
const BLOCK: usize = 256 * 1024;

/// Two buffers to read into, kept from file to file.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    one: Vec<u8>,
    other: Vec<u8>,
}

/// Zeros to stand for holes.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Whether two regular files, of `size` bytes both, hold the same bytes. `check` is asked between blocks and may end it.
pub(crate) fn same(
    one: &File,
    other: &File,
    size: u64,
    buffers: &mut Buffers,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<bool> {
    let block = usize::try_from(size).unwrap_or(BLOCK).min(BLOCK);
    for buffer in [&mut buffers.one, &mut buffers.other] {
        if buffer.len() < block {
            buffer.resize(block, 0);
        }
    }
    let mut offset = 0;
    while offset < size {
        let want = usize::try_from(size.saturating_sub(offset)).unwrap_or(block).min(block);
        let (left, right) = match (buffers.one.get_mut(..want), buffers.other.get_mut(..want)) {
            (Some(left), Some(right)) => (left, right),
            _ => return Ok(false),
        };
        let (got, met) = (read_at(one, left, offset)?, read_at(other, right, offset)?);
        if got != met || left.get(..got) != right.get(..got) {
            return Ok(false);
        }
        if got < want {
            // Both ended early: whoever shrank them meanwhile did so alike.
            return Ok(true);
        }
        offset = offset.saturating_add(got as u64);
        check()?;
    }
    Ok(true)
}

/// Hands as many bytes of a file to `take` as it was described with: what is a hole, or stands beyond the file's end, as zeros. Says
/// whether the file had another size at the end than this.
pub(crate) fn stream(file: &File, stat: &Stat, buffers: &mut Buffers, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
    let size = stat.size;
    let block = usize::try_from(size).unwrap_or(BLOCK).min(BLOCK);
    // One byte more than a file that fits has: reading it shows its end as well.
    if buffers.one.len() <= block {
        buffers.one.resize(block.saturating_add(1), 0);
    }
    // A file that has all its blocks has no holes worth asking for.
    let sparse = stat.blocks.saturating_mul(512) < size;
    if !sparse
        && size <= BLOCK as u64
        && let Some(buffer) = buffers.one.get_mut(..block.saturating_add(1))
    {
        let mut got = read_once(file, buffer, 0)?;
        if got != block {
            got = got.saturating_add(read_at(file, buffer.get_mut(got..).unwrap_or_default(), got as u64)?);
        }
        let held = got.min(block);
        take_some(buffer.get(..held).unwrap_or_default(), take)?;
        zeros(size.saturating_sub(held as u64), take)?;
        return Ok(got != block);
    }
    let mut offset = 0;
    while offset < size {
        let end = if sparse {
            let Some((data, end)) = next_data(file, offset)? else { break };
            let data = data.min(size);
            zeros(data.saturating_sub(offset), take)?;
            offset = data;
            end.min(size)
        } else {
            size
        };
        while offset < end {
            let want = usize::try_from(end.saturating_sub(offset)).unwrap_or(block).min(block);
            let Some(buffer) = buffers.one.get_mut(..want) else { break };
            let got = read_at(file, buffer, offset)?;
            if got > 0 {
                take(buffer.get(..got).unwrap_or_default())?;
                offset = offset.saturating_add(got as u64);
            }
            if got < want {
                zeros(size.saturating_sub(offset), take)?;
                return Ok(true);
            }
        }
    }
    zeros(size.saturating_sub(offset), take)?;
    Ok(inode::stat(file)?.size != size)
}

fn take_some(bytes: &[u8], take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    if bytes.is_empty() { Ok(()) } else { take(bytes) }
}

/// Where data begins at or after an offset, and where it ends; `None` where only a hole follows. A file system that does not know says
/// that all is data.
pub(crate) fn next_data(file: &File, offset: u64) -> Result<Option<(u64, u64)>> {
    let begin = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(begin) => begin.max(offset),
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, u64::MAX))),
        Err(error) => return Err(failed("lseek", error, file)),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(begin)) {
        Ok(end) if end > begin => Ok(Some((begin, end))),
        // The file was cut in between: nothing that is still there follows.
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(failed("lseek", error, file)),
    }
}

fn zeros(mut count: u64, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    while count > 0 {
        let piece = ZEROS.get(..usize::try_from(count).unwrap_or(ZEROS.len())).unwrap_or(&ZEROS);
        take(piece)?;
        count = count.saturating_sub(piece.len() as u64);
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..)
        && !rest.is_empty()
    {
        match read_once(file, rest, offset.saturating_add(filled as u64))? {
            0 => break,
            count => filled = filled.saturating_add(count),
        }
    }
    Ok(filled)
}

/// Reads what the file system gives at once: of a local one fewer bytes than there is room for only at the file's end.
fn read_once(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize> {
    loop {
        match rustix::io::pread(file, &mut *buffer, offset) {
            Err(Errno::INTR) => {}
            done => return done.map_err(|error| failed("pread", error, file)),
        }
    }
}

fn failed(op: &'static str, error: Errno, file: &File) -> Error {
    Error::io(op, error).at(describe(std::os::fd::AsFd::as_fd(file), b""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    fn file(write: impl FnOnce(&File)) -> File {
        let file = tempfile::tempfile().unwrap();
        write(&file);
        file
    }

    fn streamed(file: &File, size: u64) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        let stat = Stat { size, ..inode::stat(file).unwrap() };
        let changed = stream(file, &stat, &mut Buffers::default(), &mut |bytes| {
            assert!(!bytes.is_empty());
            all.extend_from_slice(bytes);
            Ok(())
        });
        (all, changed.unwrap())
    }

    #[test]
    fn equal_bytes_are_equal_however_they_are_stored() {
        let size = 3 * BLOCK as u64 + 17;
        let holes = file(|file| file.set_len(size).unwrap());
        let zeros = file(|file| file.write_all_at(&vec![0; size as usize], 0).unwrap());
        let last = file(|file| {
            file.set_len(size).unwrap();
            file.write_all_at(b"x", size - 1).unwrap();
        });
        let shorter = file(|file| file.set_len(size - 1).unwrap());
        let mut buffers = Buffers::default();
        let mut same = |a: &File, b: &File| same(a, b, size, &mut buffers, &mut || Ok(())).unwrap();
        assert!(same(&holes, &zeros));
        assert!(!same(&holes, &last));
        assert!(!same(&holes, &shorter));
    }

    #[test]
    fn a_stream_has_exactly_the_declared_size() {
        let sparse = file(|file| {
            file.set_len(1_000_000).unwrap();
            file.write_all_at(b"data", 600_000).unwrap();
        });
        let mut expected = vec![0; 1_000_000];
        expected[600_000..600_004].copy_from_slice(b"data");
        assert_eq!(streamed(&sparse, 1_000_000), (expected.clone(), false));
        assert_eq!(streamed(&sparse, 600_002), (expected[..600_002].to_vec(), true));
        expected.resize(1_500_000, 0);
        assert_eq!(streamed(&sparse, 1_500_000), (expected, true));
        let dense = file(|file| file.write_all_at(b"dense", 0).unwrap());
        assert_eq!(streamed(&dense, 5), (b"dense".to_vec(), false));
        assert_eq!(streamed(&dense, 3), (b"den".to_vec(), true));
        assert_eq!(streamed(&dense, 8), (b"dense\0\0\0".to_vec(), true));
        assert_eq!(streamed(&file(|_| {}), 0), (Vec::new(), false));
        let block = file(|file| file.write_all_at(&[1; BLOCK], 0).unwrap());
        assert_eq!(streamed(&block, BLOCK as u64 + 1).0, [vec![1; BLOCK], vec![0]].concat());
    }
}
