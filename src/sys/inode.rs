//! Attributes of one inode through its own descriptor, `O_PATH` descriptors of symlinks and devices included.
//!
//! Invariant: no function here takes a name, so none can be turned to another inode. Which attributes a layer may set, and in which
//! order, is the applier's.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, IFlags, Mode, OFlags, Statx, StatxFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{describe, proc_path, xattr};
use crate::entry::{Attributes, Timestamp};
use crate::error::{Error, Result};

/// What `statx` says of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) file_type: FileType,
    /// 0 to 0o7777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Apparent size in bytes.
    pub(crate) size: u64,
    /// Allocated, in units of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) nlink: u32,
    /// The file system's device, major and minor.
    pub(crate) dev: (u32, u32),
    pub(crate) ino: u64,
    /// Of a device: major and minor.
    pub(crate) rdev: (u32, u32),
    pub(crate) mtime: Timestamp,
}

impl Stat {
    pub(super) fn from_statx(statx: &Statx) -> Self {
        Self {
            file_type: FileType::from_raw_mode(u32::from(statx.stx_mode)),
            mode: u32::from(statx.stx_mode) & 0o7777,
            uid: statx.stx_uid,
            gid: statx.stx_gid,
            size: statx.stx_size,
            blocks: statx.stx_blocks,
            nlink: statx.stx_nlink,
            dev: (statx.stx_dev_major, statx.stx_dev_minor),
            ino: statx.stx_ino,
            rdev: (statx.stx_rdev_major, statx.stx_rdev_minor),
            mtime: Timestamp { seconds: statx.stx_mtime.tv_sec, nanoseconds: statx.stx_mtime.tv_nsec },
        }
    }

    /// The types of some fields differ by machine.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    fn from_stat(stat: &rustix::fs::Stat) -> Self {
        let numbers = |device| (rustix::fs::major(device), rustix::fs::minor(device));
        Self {
            file_type: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            nlink: stat.st_nlink as u32,
            dev: numbers(stat.st_dev),
            ino: stat.st_ino,
            rdev: numbers(stat.st_rdev),
            mtime: Timestamp { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 },
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    pub(crate) fn is_file(&self) -> bool {
        self.file_type == FileType::RegularFile
    }

    pub(crate) fn is_symlink(&self) -> bool {
        self.file_type == FileType::Symlink
    }

    /// Whether this is the inode that `other` described.
    pub(crate) fn same_inode(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }
}

/// Describes the inode of a descriptor.
pub(crate) fn stat(fd: impl AsFd) -> Result<Stat> {
    let fd = fd.as_fd();
    look(fd, c"", AtFlags::EMPTY_PATH).map_err(|error| Error::io("statx", error).at(describe(fd, b"")))
}

/// The same by a single name in a directory. A seccomp filter older than `statx` (4.11) forbids it, and lets `fstatat` through.
pub(super) fn look(directory: impl AsFd, name: impl rustix::path::Arg + Copy, flags: AtFlags) -> std::result::Result<Stat, Errno> {
    let (directory, flags) = (directory.as_fd(), flags | AtFlags::NO_AUTOMOUNT);
    match rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS) {
        Ok(statx) => Ok(Stat::from_statx(&statx)),
        Err(Errno::NOSYS | Errno::PERM) => Ok(Stat::from_stat(&rustix::fs::statat(directory, name, flags)?)),
        Err(errno) => Err(errno),
    }
}

/// The number of the mount that a descriptor is on, as the mount table has it. `None` where neither `statx` (5.8) nor `/proc` says it.
pub(crate) fn mount_id(fd: impl AsFd) -> Option<u64> {
    let fd = fd.as_fd();
    match rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(statx) if statx.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Some(statx.stx_mnt_id),
        _ => {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
            info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        }
    }
}

/// When an inode was made, and when anything of it last changed. `None` where the system does not tell.
pub(crate) fn made_and_changed(fd: impl AsFd) -> Option<(Timestamp, Timestamp)> {
    let wanted = StatxFlags::BTIME | StatxFlags::CTIME;
    let statx = rustix::fs::statx(fd.as_fd(), c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    if statx.stx_mask & wanted.bits() != wanted.bits() {
        return None;
    }
    let time = |time: rustix::fs::StatxTimestamp| Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
    Some((time(statx.stx_btime), time(statx.stx_ctime)))
}

/// Mode, owner, mtime and all xattrs as the file system has them: names that mean something to overlayfs included.
pub(crate) fn attributes(fd: impl AsFd) -> Result<Attributes> {
    let fd = fd.as_fd();
    let Stat { mode, uid, gid, mtime, .. } = stat(fd)?;
    Ok(Attributes { mode, uid, gid, mtime, xattrs: xattr::all(fd)? })
}

/// Sets the owner. Clears set-uid, set-gid and file capabilities, as every `chown` does.
pub(crate) fn set_owner(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    let fd = fd.as_fd();
    // u32::MAX would mean "leave as it is".
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Error::io("fchownat", Errno::INVAL).at(describe(fd, b"")));
    }
    rustix::fs::chownat(fd, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)
        .map_err(|error| Error::io("fchownat", error).at(describe(fd, b"")))
}

/// Sets the mode, 0 to 0o7777, whatever the umask. Not for symlinks, which have none.
pub(crate) fn set_mode(fd: impl AsFd, mode: u32) -> Result<()> {
    let fd = fd.as_fd();
    let exact = Mode::from_raw_mode(mode & 0o7777);
    let done = match rustix::fs::fchmod(fd, exact) {
        // An O_PATH descriptor: fchmodat2 knows AT_EMPTY_PATH since Linux 6.6, the magic link always worked.
        Err(Errno::BADF) => match fchmodat2(fd.as_raw_fd(), mode & 0o7777) {
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::chmod(proc_path(fd), exact),
            done => done,
        },
        done => done,
    };
    done.map_err(|error| Error::io("fchmod", error).at(describe(fd, b"")))
}

/// The number of `fchmodat2`, which the libc crate does not have for every architecture. Since Linux 5.1 new calls have the same distance
/// from each other everywhere.
const FCHMODAT2: libc::c_long = libc::SYS_mount_setattr + 10;

fn fchmodat2(fd: i32, mode: u32) -> std::result::Result<(), Errno> {
    // SAFETY: the path is a NUL-terminated literal that the kernel only reads; the descriptor is borrowed by the caller for the
    // whole call; the other arguments are plain numbers.
    let done = unsafe { libc::syscall(FCHMODAT2, fd, c"".as_ptr(), mode, libc::AT_EMPTY_PATH) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)) }
}

/// Has an empty file's blocks written in place, on a file system that would write them elsewhere.
///
/// # Errors
/// `Unsupported` where the file system has no such choice; `PermissionDenied`, `Io`.
pub(crate) fn write_in_place(file: impl AsFd) -> Result<()> {
    let set = rustix::fs::ioctl_getflags(&file).and_then(|flags| rustix::fs::ioctl_setflags(&file, flags | IFlags::NOCOW));
    set.map_err(|errno| Error::io("ioctl", errno))
}

/// Sets access and modification time.
pub(crate) fn set_times(fd: impl AsFd, atime: Timestamp, mtime: Timestamp) -> Result<()> {
    let fd = fd.as_fd();
    let times = timestamps(atime, mtime);
    match rustix::fs::futimens(fd, &times) {
        Err(Errno::BADF) => set_times_held(fd, &times),
        done => done.map_err(|error| Error::io("utimensat", error).at(describe(fd, b""))),
    }
}

/// Sets both times to now: a change, whatever they were.
pub(crate) fn touch(fd: impl AsFd) -> Result<()> {
    let fd = fd.as_fd();
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::futimens(fd, &Timestamps { last_access: now, last_modification: now })
        .map_err(|error| Error::io("utimensat", error).at(describe(fd, b"")))
}

/// The same as [`set_times`] for an `O_PATH` descriptor, all that there is of a symlink, in one call.
pub(crate) fn set_link_times(fd: impl AsFd, atime: Timestamp, mtime: Timestamp) -> Result<()> {
    set_times_held(fd.as_fd(), &timestamps(atime, mtime))
}

fn timestamps(atime: Timestamp, mtime: Timestamp) -> Timestamps {
    let spec = |time: Timestamp| Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

/// `AT_EMPTY_PATH` is known since Linux 5.8; the magic link always worked.
fn set_times_held(fd: BorrowedFd<'_>, times: &Timestamps) -> Result<()> {
    let done = match rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH) {
        Err(Errno::INVAL) => rustix::fs::utimensat(rustix::fs::CWD, proc_path(fd), times, AtFlags::empty()),
        done => done,
    };
    done.map_err(|error| Error::io("utimensat", error).at(describe(fd, b"")))
}

/// The target of the symlink that a descriptor holds.
pub(crate) fn readlink(fd: impl AsFd) -> Result<Vec<u8>> {
    let fd = fd.as_fd();
    rustix::fs::readlinkat(fd, c"", Vec::new())
        .map(std::ffi::CString::into_bytes)
        .map_err(|error| Error::io("readlinkat", error).at(describe(fd, b"")))
}

/// Whether this process may give files to others (`CAP_CHOWN`, within its id map).
pub(crate) fn may_give_away() -> bool {
    holds(rustix::thread::CapabilitySet::CHOWN)
}

/// Whether modes keep this process from nothing (`CAP_DAC_OVERRIDE`).
pub(crate) fn overrides_modes() -> bool {
    holds(rustix::thread::CapabilitySet::DAC_OVERRIDE)
}

fn holds(capability: rustix::thread::CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Whose the inodes are that this process makes.
pub(crate) fn creator() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Opens the very inode that an `O_PATH` descriptor holds for reading: a regular file or a directory.
pub(crate) fn reopen(fd: impl AsFd) -> Result<OwnedFd> {
    let fd = fd.as_fd();
    match stat(fd)?.file_type {
        FileType::Directory => rustix::fs::openat(fd, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Error::io("open", error).at(describe(fd, b""))),
        FileType::RegularFile => open_held(fd, OFlags::RDONLY),
        // Opening a device or a FIFO runs a driver or wakes a peer.
        _ => Err(Error::io("open", Errno::INVAL).at(describe(fd, b""))),
    }
}

/// Opens the regular file that an `O_PATH` descriptor holds.
pub(crate) fn open_held(fd: impl AsFd, access: OFlags) -> Result<OwnedFd> {
    let fd = fd.as_fd();
    rustix::fs::open(proc_path(fd), access | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
        .map_err(|error| Error::io("open", error).at(describe(fd, b"")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Dir;

    #[test]
    fn attributes_are_set_on_the_inode_that_is_held() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let before = Timestamp { seconds: -5, nanoseconds: 7 };
        dir.create_file(b"file", 0o600).unwrap();
        dir.symlink(b"file", b"link").unwrap();
        dir.mknod(b"fifo", FileType::Fifo, 0o600, (0, 0)).unwrap();
        for name in [b"file", b"fifo", b"link"] {
            let held = dir.child_path_fd(name).unwrap();
            set_times(&held, before, before).unwrap();
            let Stat { uid, gid, .. } = stat(&held).unwrap();
            set_owner(&held, uid, gid).unwrap();
            if !stat(&held).unwrap().is_symlink() {
                set_mode(&held, 0o6711).unwrap();
                assert_eq!(stat(&held).unwrap().mode, 0o6711);
            }
            assert_eq!(stat(&held).unwrap().mtime, before);
        }
        let file = dir.open_file(b"file").unwrap();
        set_mode(&file, 0o640).unwrap();
        assert_eq!(attributes(&file).unwrap().mode, 0o640);
        assert!(dir.open_file(b"link").is_err());
        assert!(dir.open_file(b"fifo").is_err());
        assert!(set_owner(&file, u32::MAX, 0).is_err());
        assert!(stat(reopen(dir.child_path_fd(b"file").unwrap()).unwrap()).unwrap().is_file());
        assert!(reopen(dir.child_path_fd(b"fifo").unwrap()).is_err());
    }
}
