//! A queue between processes and threads in which everybody's turn comes in the order in which they came. A lock that is free for
//! whoever is quickest (`flock(2)`, SQLite's own busy wait) lets one who asks again and again pass by those who sleep.
//!
//! It is a ticket lock made of the kernel's open file description locks (`F_OFD_SETLK`, fcntl_locking(2)) on bytes of a file, which may
//! stay empty. The first byte is the door, held for the moment in which a ticket is taken: the byte after the last that anybody holds.
//! Who holds a ticket waits until nobody holds one before it, and holds it until the turn is over. So with N who ask, one at a time each,
//! nobody waits for more than N - 1 turns. Nothing is written, and nothing has to be cleared: who is killed, waiting or at his turn, frees
//! his byte as soon as no process has the descriptor.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Error, ErrorKind, Result};

const DOOR: Bytes = Bytes { start: 0, length: 1 };
const FIRST: libc::off_t = 1;

/// A range of bytes; without a length, all from there on.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    start: libc::off_t,
    length: libc::off_t,
}

/// Somebody's turn; over when it is dropped.
#[derive(Debug)]
#[must_use = "the turn is over when this is dropped"]
pub(crate) struct Turn {
    fd: OwnedFd,
    pid: u32,
    ticket: libc::off_t,
}

impl Turn {
    /// Waits until the turn comes. Signals do not end the wait. `fd` is open for reading and writing, and the only descriptor of its open
    /// file; all who queue have one of the same file.
    ///
    /// # Errors
    /// `Io`; `Unsupported` where the file system has no such locks.
    pub(crate) fn wait(fd: OwnedFd) -> Result<Self> {
        // Whatever is held when this fails is released by the drop.
        let mut turn = Self { fd, pid: std::process::id(), ticket: FIRST };
        turn.lock(libc::F_WRLCK, DOOR)?;
        turn.ticket = after_last(&turn.fd)?;
        turn.lock(libc::F_WRLCK, Bytes { start: turn.ticket, length: 1 })?;
        turn.unlock(DOOR)?;
        let before = Bytes { start: FIRST, length: turn.ticket.saturating_sub(FIRST) };
        if before.length > 0 {
            // First for who comes just before: else each turn that ends would wake all. He may have been killed; so for all.
            turn.lock(libc::F_RDLCK, Bytes { start: turn.ticket.saturating_sub(1), length: 1 })?;
            turn.lock(libc::F_RDLCK, before)?;
            turn.unlock(before)?;
        }
        Ok(turn)
    }

    fn lock(&self, kind: libc::c_int, bytes: Bytes) -> Result<()> {
        loop {
            match fcntl(self.fd.as_fd(), FcntlArg::F_OFD_SETLKW(&record(kind, bytes))) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    fn unlock(&self, bytes: Bytes) -> Result<()> {
        fcntl(self.fd.as_fd(), FcntlArg::F_OFD_SETLK(&record(libc::F_UNLCK, bytes))).map(drop).map_err(failed)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A forked child has the same open file: what it released would be its parent's. Else closing would do as well, unless there is
        // such a child.
        if self.pid == std::process::id() {
            let _ = self.unlock(Bytes { start: 0, length: 0 });
        }
    }
}

/// The first ticket after which none is held.
fn after_last(fd: impl AsFd) -> Result<libc::off_t> {
    let mut next = FIRST;
    loop {
        let mut held = record(libc::F_WRLCK, Bytes { start: next, length: 0 });
        fcntl(fd.as_fd(), FcntlArg::F_OFD_GETLK(&mut held)).map_err(failed)?;
        if libc::c_int::from(held.l_type) == libc::F_UNLCK {
            return Ok(next);
        }
        // Those that are found come in no order.
        let end = held.l_start.checked_add(held.l_len).filter(|&end| held.l_len > 0 && end > next);
        next = end.ok_or_else(|| Error::new(ErrorKind::Locked, "fcntl").because("another program has locked the queue"))?;
    }
}

fn record(kind: libc::c_int, Bytes { start, length }: Bytes) -> libc::flock {
    // The kinds are 0, 1 and 2. The kernel wants 0 for the process.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

fn failed(errno: Errno) -> Error {
    match errno {
        // A kernel, or a file system, without them.
        Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOLCK => Error::new(ErrorKind::Unsupported, "fcntl")
            .because("the file system has no open file description locks")
            .with_source(std::io::Error::from(errno)),
        errno => Error::io("fcntl", std::io::Error::from(errno)),
    }
}

#[cfg(test)]
mod tests;
