//! What makes writes survive a power cut.
//!
//! A file is durable when its data, its inode and the directory that names it are on the disk. Symlinks, devices and FIFOs cannot
//! be synced themselves: their directory carries them. A failed sync is final: the kernel drops the dirty pages, so what was
//! written must be thrown away, never synced again.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, syncfs, unlinkat};

use crate::error::{Error, Result};

/// A file system before writes to it. The kernel tells each descriptor of write-back errors since it was opened, so this must be
/// made *before* the first write that it is to answer for.
#[derive(Debug)]
pub(crate) struct SyncPoint(OwnedFd);

impl SyncPoint {
    /// Remembers the file system that `directory` is on.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    pub(crate) fn before_writes(directory: impl AsFd) -> Result<Self> {
        // A new description, not a duplicate: errors are remembered for each description.
        let fd = openat(directory, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::io("openat", errno))?;
        Ok(Self(fd))
    }

    /// Everything that was written to the file system is durable when this returns.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: some write since [`before_writes`](Self::before_writes) was lost, not necessarily one of ours.
    pub(crate) fn sync(self) -> Result<()> {
        syncfs(&self.0).map_err(|errno| Error::io("syncfs", errno))
    }
}

/// Begins to write a large file's data back while it is still being written, so that little is left for the sync at its end.
#[derive(Debug, Default)]
pub(crate) struct WriteBehind {
    begun: u64,
}

impl WriteBehind {
    /// What is begun at once: enough for the disk to write in one go.
    const STEP: u64 = 8 << 20;

    /// The end of a file is begun too where it is no less: none of the files of which an image has thousands.
    const LEAST: u64 = 512 << 10;

    /// Data stands in the file up to `end`. A hint: what cannot be begun now is written later, and errors are the sync's to tell.
    pub(crate) fn wrote(&mut self, file: &File, end: u64) {
        if end.saturating_sub(self.begun) < Self::STEP {
            return;
        }
        begin_write_back(file, self.begun, end);
        self.begun = end;
    }

    /// All data stands in the file, up to `end`. A hint, as [`wrote`](Self::wrote) is.
    pub(crate) fn ended(self, file: &File, end: u64) {
        if end.saturating_sub(self.begun) >= Self::LEAST {
            begin_write_back(file, self.begun, end);
        }
    }
}

fn begin_write_back(file: &File, from: u64, to: u64) {
    let (Ok(from), Ok(length)) = (i64::try_from(from), i64::try_from(to.saturating_sub(from))) else { return };
    // SAFETY: no pointers; the descriptor is borrowed for the whole call.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes one file, or the names in one directory, durable.
///
/// # Errors
/// `NoSpace`, `Io`.
pub(crate) fn sync(fd: impl AsFd) -> Result<()> {
    match rustix::fs::fsync(fd.as_fd()) {
        // A special file, or a file system that has nothing to sync.
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(errno) => Err(Error::io("fsync", errno)),
    }
}

/// Writes a small file under a name that has the old content or the new one at every instant. Durable when it returns.
///
/// `name` is one component of `directory`; `mode` is exact whatever the umask.
///
/// # Errors
/// `NoSpace`, `PermissionDenied`, `Io`. The temporary file is gone then.
pub(crate) fn write_file(directory: impl AsFd, name: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let directory = directory.as_fd();
    let (temporary, file) = create_temporary(directory)?;
    let written = fill(file, bytes, mode)
        .and_then(|()| renameat(directory, &temporary, directory, name).map_err(|errno| Error::io("renameat", errno).at(name)));
    if let Err(error) = written {
        let _ = unlinkat(directory, &temporary, AtFlags::empty());
        return Err(error);
    }
    sync(directory)
}

/// Whether a name is one that [`write_file`] gives a file until it is whole.
pub(crate) fn is_temporary(name: &[u8]) -> bool {
    let inner = name.strip_prefix(b".").and_then(|rest| rest.strip_suffix(b".tmp"));
    inner.is_some_and(|inner| inner.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') && inner.contains(&b'.'))
}

fn create_temporary(directory: BorrowedFd<'_>) -> Result<(String, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let name = format!(".{}.{}.tmp", rustix::process::getpid().as_raw_nonzero(), NEXT.fetch_add(1, Ordering::Relaxed));
        match openat(directory, &name, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => return Ok((name, File::from(fd))),
            // Left by a process that was killed and had the same number; take the next name.
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(Error::io("openat", errno).at(&name)),
        }
    }
}

fn fill(mut file: File, bytes: &[u8], mode: u32) -> Result<()> {
    file.write_all(bytes).map_err(|error| Error::io("write", error))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|errno| Error::io("fchmod", errno))?;
    sync(&file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_small_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let fd = File::open(directory.path()).unwrap();
        for content in ["one", "", "three"] {
            write_file(&fd, Path::new("format"), content.as_bytes(), 0o640).unwrap();
            assert_eq!(std::fs::read_to_string(directory.path().join("format")).unwrap(), content);
        }
        let mode = std::fs::metadata(directory.path().join("format")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_temporary_name_is_known_by_its_form() {
        let directory = tempfile::tempdir().unwrap();
        let (name, _) = create_temporary(File::open(directory.path()).unwrap().as_fd()).unwrap();
        assert!(is_temporary(name.as_bytes()));
        for other in [&b"oci-layout"[..], b".tmp", b".7.tmp", b".a.7.tmp", b".7.8", b"7.8.tmp"] {
            assert!(!is_temporary(other));
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("taken/child")).unwrap();
        let fd = File::open(directory.path()).unwrap();
        write_file(&fd, Path::new("taken"), b"x", 0o600).unwrap_err();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_system_and_a_directory_can_be_synced() {
        let directory = tempfile::tempdir().unwrap();
        let fd = File::open(directory.path()).unwrap();
        let point = SyncPoint::before_writes(&fd).unwrap();
        std::fs::write(directory.path().join("a"), "a").unwrap();
        point.sync().unwrap();
        sync(&fd).unwrap();
    }
}
