//! Room for the moment in which there is none: removing things needs some first.
//!
//! A database writes before it forgets, so on a full disk nothing could be removed, and the disk would stay full. The store therefore
//! keeps a file of blocks that nobody uses. Verbs that free space give it up when they meet a full disk, and try once more; it is made
//! anew as soon as there is room again. It is a help, not a promise: all about it is best effort, and its loss costs nothing else.

use std::time::Duration;

use super::Store;
use crate::error::{ErrorKind, Result};
use crate::sys::reserve;

/// The file in the store's root.
pub(super) const RESERVE: &[u8] = b"reserve";
/// How much it holds: a transaction that removes a batch of rows takes less.
const SIZE: u64 = 1 << 20;
/// It is made only where this many times its size is free: others need the last blocks more.
const PLENTY: u64 = 4;
/// How often it is tried to free space, and how long is waited between.
const MOMENTS: u32 = 10;
const MOMENT: Duration = Duration::from_millis(10);

impl Store {
    /// Makes the reserve where it is missing and there is room for it.
    pub(super) fn keep_reserve(&self) {
        if let Err(error) = reserve::keep(self.directory(), RESERVE, SIZE, PLENTY) {
            tracing::debug!(%error, "no room is kept for the case of a full disk");
        }
    }

    /// Does what frees space. Where the disk is too full even for that, gives up the reserve and does it again.
    pub(super) fn with_reserve<T>(&self, free: impl Fn() -> Result<T>) -> Result<T> {
        match free() {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                let is_given_up = self.directory().unlink(RESERVE).is_ok();
                tracing::debug!(%error, is_given_up, "the disk is full");
                Self::once_there_is_room(free)
            }
            done => done,
        }
    }

    /// Room may come a moment late: xfs gives back the inodes of what was unlinked when it gets around to it, though it is waited for
    /// its bytes.
    fn once_there_is_room<T>(free: impl Fn() -> Result<T>) -> Result<T> {
        for _ in 1..MOMENTS {
            match free() {
                Err(error) if error.kind() == ErrorKind::NoSpace => std::thread::sleep(MOMENT),
                done => return done,
            }
        }
        free()
    }
}
