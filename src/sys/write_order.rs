//! Whether one sync carries everything that was done to names and inodes before it.
//!
//! POSIX promises that of no file system, and most promise no more than POSIX. Two have one log for all, which reaches the disk in the
//! order in which things were done: ext4 with a journal inside (`fsync` commits the transaction in which the inode was changed last, and
//! transactions are committed one after the other: kernel document `filesystems/ext4/journal.rst`), and xfs (`fsync` forces the log
//! up to the inode's last change, and what a checkpoint holds comes in order: `filesystems/xfs/xfs-delayed-logging-design.rst`). ext4
//! without a journal, or with one on another disk, ext2 and btrfs, which logs single inodes, do not.
//!
//! ext4 made with `fast_commit` (not by default) logs for the `fsync` of a regular file only what it has kept a list of, and what is
//! done to a directory's owner, mode and times after it was made is not on it (`fs/ext4/fast_commit.c`, `ext4_fc_track_inode`). The
//! `fsync` of a directory is a full commit there (`fs/ext4/fsync.c`), and so is every one after something that fast commits cannot
//! say: see [`bar_fast_commit`]. No file says to everybody whether a file system has them.

use std::os::fd::AsFd;

use super::{Dir, inode, xattr};
use crate::error::Result;

const EXT: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;

/// Whether on the file system of this directory, once a directory is synced, all that was done to names and to attributes of any inode
/// before the last change of that one is durable too; and once a regular file is, if a fast commit [was barred](bar_fast_commit) after
/// what is to be durable and before the file's last change. `false` where it cannot be told.
pub(crate) fn is_kept(directory: impl AsFd) -> bool {
    match kind(&directory) {
        Some(XFS) => true,
        Some(EXT) => has_own_journal(directory).unwrap_or(false),
        _ => false,
    }
}

/// Makes durable, where the [order is kept](is_kept), all that was done to names and to attributes before, by touching a directory and
/// syncing that.
///
/// # Errors
/// `NoSpace`, `PermissionDenied`, `Io`.
pub(crate) fn sync(directory: &Dir) -> Result<()> {
    inode::touch(directory)?;
    directory.sync()
}

fn kind(directory: impl AsFd) -> Option<u64> {
    rustix::fs::fstatfs(directory).ok().map(|stat| u64::from_ne_bytes(stat.f_type.to_ne_bytes()) & 0xffff_ffff)
}

/// Has the next `fsync` of a regular file be a full commit on an ext4 with fast commits, by an extended attribute of a directory that
/// comes and goes: fast commits cannot say that, and those of a kernel that can have to log the directory itself. `name` is one that
/// nobody uses. `false` where there are no such attributes.
///
/// # Errors
/// `Io`: the attribute may still be there.
pub(crate) fn bar_fast_commit(directory: impl AsFd, name: &[u8]) -> Result<bool> {
    if kind(&directory) == Some(XFS) {
        return Ok(true);
    }
    if xattr::set(&directory, name, b"").is_err() {
        return Ok(false);
    }
    xattr::remove(&directory, name).map(|()| true)
}

/// ext2 and ext4 without a journal have the same number as ext4. The kernel tells of each journal that is in use, by the name of its device,
/// and the number of its inode where it is on the file system itself. One on a disk of its own can be there before the data is, which lies in
/// the other disk's cache.
fn has_own_journal(directory: impl AsFd) -> Option<bool> {
    let (major, minor) = inode::stat(directory).ok()?.dev;
    let device = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let device = device.file_name()?.to_str()?.to_owned();
    let journals = std::fs::read_dir("/proc/fs/jbd2").ok()?;
    Some(journals.flatten().any(|journal| journal.file_name().to_str().is_some_and(|name| is_inside(name, &device))))
}

fn is_inside(journal: &str, device: &str) -> bool {
    journal.strip_prefix(device).and_then(|rest| rest.strip_prefix('-')).is_some_and(|inode| inode.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_in_memory_keeps_no_order() {
        assert!(!is_kept(Dir::open("/proc").unwrap()));
        assert!(!is_kept(Dir::open("/dev/shm").unwrap()));
    }

    #[test]
    fn a_journal_is_known_by_its_name() {
        for (journal, device) in
            [("loop0-8", "loop0"), ("nvme0n1p1-8", "nvme0n1p1"), ("cciss!c0d0-8", "cciss!c0d0"), ("dm-0-8", "dm-0")]
        {
            assert!(is_inside(journal, device), "{journal}");
        }
        for (journal, device) in [("loop0", "loop0"), ("loop1", "loop0"), ("loop10-8", "loop1"), ("dm-0", "dm-0"), ("sda-x", "sda")]
        {
            assert!(!is_inside(journal, device), "{journal}");
        }
    }
}
