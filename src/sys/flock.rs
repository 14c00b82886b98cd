//! Kernel locks between processes and threads: `flock(2)` on a descriptor that nobody else has.
//!
//! A lock belongs to the open file description: it ends with the last descriptor, also when the process is killed. A forked child
//! shares the description until it executes something else, so a lock is always released explicitly.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, Result};

/// How long a wait that can be ended looks away.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How a lock is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// With other shared locks.
    Shared,
    /// With none.
    Exclusive,
}

/// A held lock; released when it is dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub(crate) struct Flock(OwnedFd);

impl Flock {
    /// Waits until the lock is there. Signals do not end the wait. `fd` must be the only descriptor of its open file.
    ///
    /// # Errors
    /// `Io`; `Unsupported` where the file system has no locks.
    pub(crate) fn wait(fd: OwnedFd, sharing: Sharing) -> Result<Self> {
        let operation = match sharing {
            Sharing::Shared => FlockOperation::LockShared,
            Sharing::Exclusive => FlockOperation::LockExclusive,
        };
        retry_on_intr(|| flock(&fd, operation)).map_err(|errno| Error::io("flock", errno))?;
        Ok(Self(fd))
    }

    /// Waits for an exclusive lock until `check` fails, which is asked again and again meanwhile: at first every millisecond, later
    /// every [`PAUSE_MAX`].
    ///
    /// # Errors
    /// As [`wait`](Self::wait); those of `check`.
    pub(crate) fn wait_unless(mut fd: OwnedFd, check: &mut dyn FnMut() -> Result<()>) -> Result<Self> {
        let mut pause = Duration::from_millis(1);
        loop {
            fd = match Self::attempt(fd, Sharing::Exclusive)? {
                Ok(held) => return Ok(held),
                Err(fd) => fd,
            };
            check()?;
            std::thread::sleep(pause);
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    /// Takes the lock if it is free now; gives the descriptor back where somebody else has it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub(crate) fn attempt(fd: OwnedFd, sharing: Sharing) -> Result<Result<Self, OwnedFd>> {
        let operation = match sharing {
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
            Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match retry_on_intr(|| flock(&fd, operation)) {
            Ok(()) => Ok(Ok(Self(fd))),
            Err(Errno::WOULDBLOCK) => Ok(Err(fd)),
            Err(errno) => Err(Error::io("flock", errno)),
        }
    }
}

impl AsFd for Flock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        // Closing would do as well, unless a forked child still holds the description.
        let _ = unlock(self.0.as_fd());
    }
}

fn unlock(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    retry_on_intr(|| flock(fd, FlockOperation::Unlock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn open(directory: &tempfile::TempDir) -> OwnedFd {
        File::options().create(true).truncate(false).write(true).open(directory.path().join("lock")).unwrap().into()
    }

    #[test]
    fn an_exclusive_lock_keeps_everybody_out_until_it_is_released() {
        let directory = tempfile::tempdir().unwrap();
        let held = Flock::wait(open(&directory), Sharing::Exclusive).unwrap();
        let refused = Flock::attempt(open(&directory), Sharing::Shared).unwrap().unwrap_err();
        drop(held);
        drop(Flock::attempt(refused, Sharing::Shared).unwrap().unwrap());
    }

    #[test]
    fn shared_locks_live_together() {
        let directory = tempfile::tempdir().unwrap();
        let _one = Flock::wait(open(&directory), Sharing::Shared).unwrap();
        let two = Flock::attempt(open(&directory), Sharing::Shared).unwrap().unwrap();
        assert!(Flock::attempt(open(&directory), Sharing::Exclusive).unwrap().is_err());
        drop(two);
    }

    #[test]
    fn dropping_releases_though_a_duplicate_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let held = Flock::wait(open(&directory), Sharing::Exclusive).unwrap();
        let _duplicate = held.as_fd().try_clone_to_owned().unwrap();
        drop(held);
        assert!(Flock::attempt(open(&directory), Sharing::Exclusive).unwrap().is_ok());
    }

    #[test]
    fn a_waiter_gets_the_lock_when_it_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let held = Flock::wait(open(&directory), Sharing::Exclusive).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Flock::wait(open(&directory), Sharing::Exclusive).unwrap());
            drop(held);
            drop(waiter.join().unwrap());
        });
    }
}
