//! `fcntl(2)` record locks, as SQLite takes them: they belong to the process, and end when it closes *any* descriptor of the file.
//!
//! Only for a forked child that must hold what SQLite believes it holds. Locks of our own are `flock`s.

use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Error, Result};

/// A range of bytes that locks stand for; nothing need be there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockBytes {
    start: libc::off_t,
    length: libc::off_t,
}

impl LockBytes {
    /// `SHARED_FIRST` and `SHARED_SIZE` of the database file: somebody has it open (SQLite file format, os_unix.c).
    pub(crate) const SQLITE_SHARED: Self = Self { start: 0x4000_0000 + 2, length: 510 };
    /// `UNIX_SHM_DMS` of the `-shm` file: somebody has it open, so its content counts (SQLite, os_unix.c).
    pub(crate) const SQLITE_OPEN: Self = Self { start: (22 + 8) * 4 + 8, length: 1 };
}

/// Takes a shared lock for this process, waiting for who has it alone (SQLite does for moments).
///
/// # Errors
/// `Io`.
pub(crate) fn share(file: impl AsFd, bytes: LockBytes) -> Result<()> {
    let lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: bytes.start,
        l_len: bytes.length,
        l_pid: 0,
    };
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_SETLKW(&lock)) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Error::io("fcntl", std::io::Error::from(errno))),
        }
    }
}
