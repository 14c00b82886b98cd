//! The only system calls, the only `unsafe`, the only `std::fs`.
//!
//! Everything here works on descriptors that are held, by single names or by paths that the kernel resolves inside a root; nothing
//! takes a path apart, checks it and then uses it again. What a name *means* (markers, layers, snapshots) is left to the tiers above.

pub(crate) mod boot;
pub(crate) mod capabilities;
pub(crate) mod content;
pub(crate) mod copy;
pub(crate) mod descent;
pub(crate) mod dir;
pub(crate) mod durable;
pub(crate) mod flock;
pub(crate) mod host;
pub(crate) mod ids;
pub(crate) mod inode;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod network;
pub(crate) mod posix_lock;
pub(crate) mod read_only;
pub(crate) mod remove;
pub(crate) mod reserve;
pub(crate) mod root;
pub(crate) mod share;
#[cfg(feature = "containerd")]
pub(crate) mod socket;
#[cfg(test)]
pub(crate) mod test_support;
pub(crate) mod turn;
pub(crate) mod usage;
pub(crate) mod write_back;
pub(crate) mod write_order;
pub(crate) mod xattr;

pub(crate) use descent::Descent;
pub(crate) use dir::{Dir, DirEntry};
pub(crate) use inode::Stat;
pub(crate) use root::Root;
pub(crate) use rustix::fs::FileType;

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Where a descriptor leads, for messages only: it is read when something failed, and may be stale.
pub(crate) fn describe(fd: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    let mut path = rustix::fs::readlink(proc_path(fd), Vec::new())
        .map_or_else(|_| PathBuf::new(), |link| PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes())));
    if !name.is_empty() {
        path.push(std::ffi::OsStr::from_bytes(name));
    }
    path
}

/// The magic link that leads to the very inode that a descriptor holds: no name that somebody could swap. The only way to some
/// operations on an `O_PATH` descriptor.
fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
