//! Blocks of a file system that are held by a file which nobody reads.

use rustix::fs::FallocateFlags;

use super::{Dir, inode};
use crate::error::{Error, ErrorKind, Result};

/// Makes a file of `size` bytes with all its blocks, where there is none and `plenty` times as much is free. Nothing is left of it where
/// there turns out to be too little.
///
/// # Errors
/// `NoSpace`, `Unsupported` where the file system cannot allocate ahead, `Io`.
pub(crate) fn keep(directory: &Dir, name: &[u8], size: u64, plenty: u64) -> Result<()> {
    if directory.stat(name)?.is_some() {
        return Ok(());
    }
    let statvfs = rustix::fs::fstatvfs(directory).map_err(|errno| Error::io("fstatvfs", errno))?;
    if statvfs.f_bavail.saturating_mul(statvfs.f_frsize) < size.saturating_mul(plenty) {
        return Ok(());
    }
    let file = match directory.create_file(name, 0o600) {
        // Another process was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    };
    inode::set_mode(&file, 0o600)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size).map_err(|errno| {
        let _ = directory.unlink(name);
        Error::io("fallocate", errno)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_kept_once_and_only_where_there_is_plenty() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Dir::open(temp.path()).unwrap();
        keep(&directory, b"reserve", 1 << 20, u64::MAX).unwrap();
        assert!(directory.stat(b"reserve").unwrap().is_none(), "nowhere is that much free");
        keep(&directory, b"reserve", 1 << 20, 1).unwrap();
        let made = directory.stat(b"reserve").unwrap().unwrap();
        assert_eq!((made.size, made.mode), (1 << 20, 0o600));
        assert!(made.blocks * 512 >= 1 << 20, "{made:?}");
        keep(&directory, b"reserve", 1 << 20, 1).unwrap();
        assert!(directory.stat(b"reserve").unwrap().unwrap().same_inode(&made));
    }
}
