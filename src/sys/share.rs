//! Two trees that are mostly the same come to share the bytes that are: the kernel compares them, and has both files stand on one copy
//! (`FIDEDUPERANGE`, on file systems with reflinks). No byte, attribute or time changes; what cannot be shared stays as it is.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use super::copy::Check;
use super::{Descent, Dir};
use crate::error::Result;

/// btrfs takes no more at once.
const STRETCH: u64 = 16 << 20;

/// `struct file_dedupe_range` with one destination (linux/fs.h).
#[repr(C)]
struct DedupeRange {
    src_offset: u64,
    src_length: u64,
    dest_count: u16,
    reserved1: u16,
    reserved2: u32,
    dest_fd: i64,
    dest_offset: u64,
    bytes_deduped: u64,
    status: i32,
    reserved3: u32,
}

/// `_IOWR(0x94, 54, struct file_dedupe_range)`, whose size is that without destinations.
const FIDEDUPERANGE: libc::Ioctl = 0xc018_9436_u32 as libc::Ioctl;

/// Has the files of `to` share with those of the same names in `from` what is the same in both. Says whether the file system can.
///
/// # Errors
/// Those of `check`; `Io` where a directory of `to` cannot be read.
pub(crate) fn share_tree(from: &Dir, to: &Dir, check: Check<'_>) -> Result<bool> {
    let (mut from, mut to) = (Descent::new(from.try_clone()?)?, Descent::new(to.try_clone()?)?);
    let mut frames = vec![names(&mut to)?];
    while let Some(names_here) = frames.last_mut() {
        check()?;
        let Some(name) = names_here.pop() else {
            frames.pop();
            from.leave();
            to.leave();
            continue;
        };
        let (Ok(Some(old)), Some(new)) = (from.here(), to.here()?) else { continue };
        let (Ok(Some(old_stat)), Some(new_stat)) = (old.stat(&name), new.stat(&name)?) else { continue };
        if new_stat.is_dir() && old_stat.is_dir() {
            // What is damaged may not let itself be entered.
            if from.enter(&name).unwrap_or_else(|_| {
                from.enter_absent(&name);
                false
            }) {
                to.enter(&name)?;
                frames.push(names(&mut to)?);
            } else {
                from.leave();
            }
        } else if new_stat.is_file() && old_stat.is_file() && new_stat.size == old_stat.size && new_stat.size > 0 {
            let (Ok(old), Ok(new)) = (old.open_file(&name), new.open_file(&name)) else { continue };
            if !share(&old, &new, new_stat.size, check)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn names(at: &mut Descent) -> Result<Vec<Box<[u8]>>> {
    match at.here()? {
        Some(dir) => dir.entries()?.map(|entry| entry.map(|entry| entry.name)).collect(),
        None => Ok(Vec::new()),
    }
}

/// `false` where the file system has no such thing.
fn share(from: &File, to: &File, size: u64, check: Check<'_>) -> Result<bool> {
    let mut offset = 0;
    while offset < size {
        check()?;
        let length = size.saturating_sub(offset).min(STRETCH);
        match share_range(from.as_raw_fd(), to.as_raw_fd(), offset, length) {
            Ok(_) => offset = offset.saturating_add(length),
            Err(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EXDEV) => return Ok(false),
            // Of this file alone.
            Err(_) => return Ok(true),
        }
    }
    Ok(true)
}

/// Whether the range is the same and shared now.
fn share_range(from: RawFd, to: RawFd, offset: u64, length: u64) -> std::result::Result<bool, i32> {
    let mut range = DedupeRange {
        src_offset: offset,
        src_length: length,
        dest_count: 1,
        reserved1: 0,
        reserved2: 0,
        dest_fd: i64::from(to),
        dest_offset: offset,
        bytes_deduped: 0,
        status: 0,
        reserved3: 0,
    };
    // SAFETY: `range` is a whole `struct file_dedupe_range` with room for its one destination, which is all that the call reads and
    // writes; both descriptors are open files for the time of the call, and a wrong one would be EBADF.
    let done = unsafe { libc::ioctl(from, FIDEDUPERANGE, std::ptr::from_mut(&mut range)) };
    if done < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    }
    match range.status {
        0 => Ok(true),
        // FILE_DEDUPE_RANGE_DIFFERS
        1 => Ok(false),
        error => Err(error.saturating_neg()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn nothing_that_can_be_seen_changes() {
        let temp = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| temp.path().join(name));
        for root in [&one, &other] {
            std::fs::create_dir_all(root.join("a/b")).unwrap();
            std::fs::write(root.join("a/same"), vec![7; 100_000]).unwrap();
            std::fs::write(root.join("a/b/empty"), "").unwrap();
        }
        std::fs::write(one.join("a/differs"), vec![1; 70_000]).unwrap();
        std::fs::write(other.join("a/differs"), vec![2; 70_000]).unwrap();
        std::fs::write(other.join("a/b/alone"), "x").unwrap();
        let seen = |root: &std::path::Path| {
            let look = |name| {
                let stat = std::fs::metadata(root.join(name)).unwrap();
                (std::fs::read(root.join(name)).unwrap(), stat.mtime(), stat.mtime_nsec(), stat.mode(), stat.ino())
            };
            ["a/same", "a/differs", "a/b/empty"].map(look)
        };
        let before = (seen(&one), seen(&other));
        share_tree(&Dir::open(&one).unwrap(), &Dir::open(&other).unwrap(), &mut || Ok(())).unwrap();
        assert!((seen(&one), seen(&other)) == before);
    }
}
