//! Whether one sync carries everything that was done to names and inodes before it.
//!
//! POSIX promises that of no file system, and most promise no more than POSIX. Two have one log for all, which reaches the disk in the
//! order in which things were done: ext4 with a journal (`fsync` commits the transaction in which the inode was changed last, and
//! transactions are committed one after the other: kernel document `filesystems/ext4/journal.rst`; with fast commits, all changes
//! since the last full one), and xfs (`fsync` forces the log up to the inode's last change, and what a checkpoint holds comes in order:
//! `filesystems/xfs/xfs-delayed-logging-design.rst`). ext4 without a journal, ext2 and btrfs, which logs single inodes, do not.

use std::os::fd::AsFd;

use super::inode;

const EXT: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;

/// Whether on the file system of this directory, once an inode is synced, all that was done to names and to attributes of any inode
/// before the last change of that one is durable too. `false` where it cannot be told.
pub(crate) fn is_kept(directory: impl AsFd) -> bool {
    let Ok(stat) = rustix::fs::fstatfs(&directory) else { return false };
    match u64::from_ne_bytes(stat.f_type.to_ne_bytes()) & 0xffff_ffff {
        XFS => true,
        EXT => has_journal(directory).unwrap_or(false),
        _ => false,
    }
}

/// ext2 and ext4 without a journal have the same number as ext4. The kernel tells of each ext4 whether a task commits its journal; the
/// task's number is 0 in another PID namespace.
fn has_journal(directory: impl AsFd) -> Option<bool> {
    let (major, minor) = inode::stat(directory).ok()?.dev;
    let device = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let task = std::fs::read_to_string(std::path::Path::new("/sys/fs/ext4").join(device.file_name()?).join("journal_task")).ok()?;
    Some(is_task(&task))
}

fn is_task(text: &str) -> bool {
    text.trim().parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Dir;

    #[test]
    fn a_file_system_in_memory_keeps_no_order() {
        assert!(!is_kept(Dir::open("/proc").unwrap()));
        assert!(!is_kept(Dir::open("/dev/shm").unwrap()));
    }

    #[test]
    fn a_journal_has_a_task() {
        assert!(is_task("15627\n"));
        assert!(is_task("0\n"));
        assert!(!is_task("<none>\n"));
        assert!(!is_task(""));
    }
}
