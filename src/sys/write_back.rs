//! [`WriteBack`]: the data of many new files on its way to the disk while more of them are written.
//!
//! A file that is only written lies in memory until somebody syncs it. Here its write-back begins a little later, and is waited for a
//! little later still: at the end next to nothing is left, and nobody else's data was waited for. That is half of what makes a file durable.
//! The other half is what the file system notes of it, where the data lies and how much of it there is: that is in the log by the time the
//! wait is over, and reaches the disk with [`write_order::sync`](super::write_order::sync).
//!
//! `sync_file_range(2)` itself promises no more than that the data was written, not that it is found after a power cut. That follows from
//! how ext4 and xfs end the write-back of a page: they do it after they have logged the file's new blocks and size (`ext4_end_bio` in
//! `fs/ext4/page-io.c`, `xfs_end_ioend` in `fs/xfs/xfs_aops.c`). A write that failed is told to the descriptor by which it was made, which
//! is therefore held until then.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::describe;
use crate::error::{Error, Result};

/// How many files are begun at once.
const BATCH: usize = 16;

/// How many are begun and not waited for yet: enough that most are written by the time that somebody waits.
const BEGUN: usize = 112;

/// How many are held together by those who [share a count](WriteBack::sharing): programs may have but 1,024 descriptors. Where there are
/// more, each waits for all of its own before it goes on.
const MOST: usize = 256;

/// How much others have to have written for the detour: a `syncfs` waits for it, where many small writes cost more than few large ones.
const MUCH: u64 = 128 << 20;

/// Whether so much waits in memory to be written that what follows had better not wait for it. It is asked before anything is written, and
/// tells of all file systems.
pub(crate) fn is_worth_it() -> bool {
    std::fs::read_to_string("/proc/meminfo").is_ok_and(|text| waiting(&text) >= MUCH)
}

/// Bytes that wait to be written, or are being written.
fn waiting(meminfo: &str) -> u64 {
    let kibibytes = |line: &str| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    let lines = meminfo.lines().filter(|line| line.starts_with("Dirty:") || line.starts_with("Writeback:"));
    lines.filter_map(kibibytes).fold(0, u64::saturating_add).saturating_mul(1024)
}

/// Files whose data is written back. Any thread may add some.
#[derive(Debug)]
pub(crate) struct WriteBack {
    state: Mutex<State>,
    held: Count,
}

#[derive(Debug, Default)]
struct State {
    new: Vec<Held>,
    begun: VecDeque<Held>,
    /// The system does not let us.
    refused: bool,
    failure: Option<Error>,
}

/// How many files are held by all who have a clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// A file that counts as long as it is held.
#[derive(Debug)]
struct Held(File, Count);

impl Held {
    fn new(file: File, count: Count) -> Self {
        count.0.fetch_add(1, Ordering::AcqRel);
        Self(file, count)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.1.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl WriteBack {
    /// Of no file yet.
    pub(crate) fn sharing(held: Count) -> Self {
        Self { state: Mutex::default(), held }
    }

    /// Takes a new file, by the descriptor that all of it was written to; nothing more will be. What of it fails, [`finish`](Self::finish)
    /// tells.
    pub(crate) fn add(&self, file: File) {
        let mut state = self.lock();
        if state.refused || state.failure.is_some() {
            return;
        }
        let is_crowded = self.held.get() >= MOST;
        state.new.push(Held::new(file, self.held.clone()));
        if state.new.len() < BATCH && !is_crowded {
            return;
        }
        let batch = std::mem::take(&mut state.new);
        drop(state);
        self.begin(&batch);
        let mut state = self.lock();
        state.begun.extend(batch);
        let enough = if is_crowded { 0 } else { BEGUN };
        let count = state.begun.len().saturating_sub(enough);
        let before: Vec<_> = state.begun.drain(..count).collect();
        drop(state);
        self.wait(before);
    }

    /// Whether the data of all files is on the disk now; `false` where the system did not do what that takes. Nobody adds one meanwhile.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: some of it is lost.
    pub(crate) fn finish(&self) -> Result<bool> {
        let mut state = self.lock();
        let (new, begun) = (std::mem::take(&mut state.new), std::mem::take(&mut state.begun));
        drop(state);
        self.begin(&new);
        self.wait(begun.into_iter().chain(new));
        let mut state = self.lock();
        state.failure.take().map_or(Ok(!state.refused), Err)
    }

    fn begin(&self, files: &[Held]) {
        files.iter().for_each(|file| self.range(file, libc::SYNC_FILE_RANGE_WRITE));
    }

    fn wait(&self, files: impl IntoIterator<Item = Held>) {
        let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        files.into_iter().for_each(|file| self.range(&file, all));
    }

    fn range(&self, file: &Held, flags: libc::c_uint) {
        // SAFETY: no pointers; the descriptor is borrowed for the whole call.
        if unsafe { libc::sync_file_range(file.0.as_raw_fd(), 0, 0, flags) } == 0 {
            return;
        }
        let error = std::io::Error::last_os_error();
        let mut state = self.lock();
        match error.raw_os_error() {
            // A sandbox, or a kind of file, that does not have the call.
            Some(libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL | libc::ESPIPE) => state.refused = true,
            _ => {
                state.failure.get_or_insert_with(|| Error::io("sync_file_range", error).at(describe(file.0.as_fd(), b"")));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    fn write_back() -> WriteBack {
        WriteBack::sharing(Count::default())
    }

    /// Adds that many new files, and tells how many were held at most.
    fn add_many(written: &WriteBack, count: usize) -> usize {
        let directory = tempfile::tempdir().unwrap();
        let most = (0..count).map(|number| {
            let file = File::create(directory.path().join(number.to_string())).unwrap();
            file.write_all_at(b"content", 0).unwrap();
            written.add(file);
            written.held.get()
        });
        most.max().unwrap_or_default()
    }

    #[test]
    fn what_waits_to_be_written_is_read() {
        let text = "MemFree:  24 kB\nDirty:               512 kB\nWriteback:             8 kB\nWritebackTmp:          16 kB\n";
        assert_eq!(waiting(text), 520 << 10);
        assert_eq!(waiting("Dirty: x kB\nWriteback:\n"), 0);
    }

    #[test]
    fn all_files_are_written_and_few_are_held() {
        let written = write_back();
        assert!(written.finish().unwrap(), "nothing to write is all written");
        assert_eq!(add_many(&written, 1000), BEGUN + BATCH - 1);
        assert!(written.finish().unwrap());
        assert_eq!(written.held.get(), 0, "and none in the end");
    }

    #[test]
    fn those_who_share_a_count_hold_few_together() {
        let written: Vec<_> = std::iter::repeat_n(Count::default(), 40).map(WriteBack::sharing).collect();
        let most = written.iter().map(|written| add_many(written, 100)).max().unwrap();
        assert!((BEGUN..=MOST + 1).contains(&most), "{most}");
        assert!(written.iter().all(|written| written.finish().unwrap()));
        let held = written.first().unwrap().held.clone();
        add_many(written.first().unwrap(), 10);
        drop(written);
        assert_eq!(held.get(), 0, "nor after those that are given up");
    }

    #[test]
    fn what_cannot_be_written_back_is_told_and_not_held() {
        let written = write_back();
        (0..100).for_each(|_| written.add(File::options().write(true).open("/dev/null").unwrap()));
        assert!(written.held.get() <= BATCH);
        assert!(!written.finish().unwrap());
    }
}
