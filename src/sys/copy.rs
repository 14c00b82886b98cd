//! The content of one file into another: shared where the file system can, else copied by the kernel, holes kept.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{describe, inode};
use crate::error::{Error, Result};

/// How much is asked of the kernel at once.
const PIECE: u64 = 64 << 20;

/// Gives `to`, which is empty, the content and size of `from`. Nothing is durable when it returns.
pub(crate) fn copy_data(from: &File, to: &File) -> Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let size = inode::stat(from)?.size;
    rustix::fs::ftruncate(to, size).map_err(|error| failed("ftruncate", error, to))?;
    let mut offset = 0;
    while offset < size {
        let Some((begin, end)) = next_data(from, offset, size)? else { break };
        copy_range(from, to, begin, end)?;
        offset = end;
    }
    Ok(())
}

/// Where data begins at or after an offset and where it ends; a file system that does not know says that all is data.
fn next_data(file: &File, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
    let begin = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(begin) => begin.max(offset),
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
        Err(error) => return Err(failed("lseek", error, file)),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(begin)) {
        Ok(end) if begin < size && end > begin => Ok(Some((begin, end.min(size)))),
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(failed("lseek", error, file)),
    }
}

fn copy_range(from: &File, to: &File, begin: u64, end: u64) -> Result<()> {
    let (mut read, mut write) = (begin, begin);
    while read < end {
        let count = usize::try_from((end - read).min(PIECE)).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), count) {
            // The file was cut meanwhile.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_by_hand(from, to, read, end);
            }
            Err(error) => return Err(failed("copy_file_range", error, to)),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut offset: u64, end: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 256 * 1024];
    while offset < end {
        let want = usize::try_from(end - offset).unwrap_or(buffer.len()).min(buffer.len());
        let Some(piece) = buffer.get_mut(..want) else { break };
        let got = from.read_at(piece, offset).map_err(|error| Error::io("pread", error).at(describe(from.as_fd(), b"")))?;
        let Some(piece) = piece.get(..got).filter(|piece| !piece.is_empty()) else { break };
        to.write_all_at(piece, offset).map_err(|error| Error::io("pwrite", error).at(describe(to.as_fd(), b"")))?;
        offset += got as u64;
    }
    Ok(())
}

fn failed(op: &'static str, error: Errno, file: &File) -> Error {
    Error::io(op, error).at(describe(file.as_fd(), b""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn content_size_and_holes_are_kept() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(8 << 20).unwrap();
        from.write_all_at(b"middle", 4 << 20).unwrap();
        copy_data(&from, &to).unwrap();
        let found = inode::stat(&to).unwrap();
        assert_eq!(found.size, 8 << 20);
        assert!(found.blocks * 512 < 1 << 20, "{} blocks", found.blocks);
        let mut text = [0; 8];
        to.read_exact_at(&mut text, (4 << 20) - 1).unwrap();
        assert_eq!(&text, b"\0middle\0");
    }

    #[test]
    fn it_can_be_done_by_hand() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all_at(&[7; 300_000], 0).unwrap();
        copy_by_hand(&from, &to, 0, 300_000).unwrap();
        let mut text = vec![0; 300_000];
        to.read_exact_at(&mut text, 0).unwrap();
        assert!(text.iter().all(|&byte| byte == 7));
    }
}
