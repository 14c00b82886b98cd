//! [`Dir`]: a directory held by descriptor, and what can be done in it by the name of one component.
//!
//! Invariant: a name is one component (never empty, `.`, `..`, never with `/` or NUL) and its last symlink is never followed, so no
//! operation leaves the directory, whoever else writes in it. New inodes get what the umask leaves of their mode; exact attributes are
//! set through `inode` afterwards. Deleting whole trees is in `remove`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Stat, describe};
use crate::error::{Error, ErrorKind, Result};

/// A directory that is held open.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
}

/// One name of a directory, never `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirEntry {
    pub(crate) name: Box<[u8]>,
    /// As the directory says; `Unknown` on file systems that do not.
    pub(crate) file_type: FileType,
}

/// The names of a directory as they stand there, in no order.
pub(crate) struct Entries<'dir> {
    stream: rustix::fs::Dir,
    dir: &'dir Dir,
}

impl Iterator for Entries<'_> {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.stream.read()? {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => {
                    return Some(Ok(DirEntry { name: entry.file_name().to_bytes().into(), file_type: entry.file_type() }));
                }
                Err(error) => return Some(Err(self.dir.failed("getdents64", error, b""))),
            }
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Dir {
    /// Opens a directory of the host by its path, symlinks followed: for paths that the caller chose, never for those of a layer.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        rustix::fs::open(path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())
            .map(|fd| Self { fd })
            .map_err(|error| Error::io("open", error).at(path))
    }

    /// Takes a descriptor that is known to be a directory's, opened for reading (not `O_PATH`).
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    pub(crate) fn try_clone(&self) -> Result<Self> {
        self.fd.try_clone().map(|fd| Self { fd }).map_err(|error| Error::io("dup", error).at(describe(self.as_fd(), b"")))
    }

    /// Makes a directory.
    pub(crate) fn mkdir(&self, name: &[u8], mode: u32) -> Result<()> {
        let name = component("mkdirat", name)?;
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode)).map_err(|error| self.failed("mkdirat", error, name))
    }

    /// Makes a directory and opens it.
    pub(crate) fn mkdir_open(&self, name: &[u8], mode: u32) -> Result<Self> {
        self.mkdir(name, mode)?;
        self.child(name)
    }

    /// Opens a directory in this one. A symlink is `ENOTDIR`.
    pub(crate) fn child(&self, name: &[u8]) -> Result<Self> {
        let name = component("openat", name)?;
        rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty())
            .map(|fd| Self { fd })
            .map_err(|error| self.failed("openat", error, name))
    }

    /// The same; `None` where there is nothing, or something else than a directory.
    pub(crate) fn try_child(&self, name: &[u8]) -> Result<Option<Self>> {
        let name = component("openat", name)?;
        match rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(self.failed("openat", error, name)),
        }
    }

    /// Opens the directory that this one stands in *now*: wherever somebody has moved it. The caller compares it with what it expects.
    pub(crate) fn parent(&self) -> Result<Self> {
        rustix::fs::openat(&self.fd, c"..", DIRECTORY, Mode::empty())
            .map(|fd| Self { fd })
            .map_err(|error| self.failed("openat", error, b".."))
    }

    /// Holds whatever stands at a name, without opening it: `O_PATH|O_NOFOLLOW`.
    pub(crate) fn child_path_fd(&self, name: &[u8]) -> Result<OwnedFd> {
        let name = component("openat", name)?;
        rustix::fs::openat(&self.fd, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| self.failed("openat", error, name))
    }

    /// Makes a regular file that was not there, for reading and writing.
    pub(crate) fn create_file(&self, name: &[u8], mode: u32) -> Result<File> {
        let name = component("openat", name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
            .map_err(|error| self.failed("openat", error, name))
    }

    /// Opens a regular file for reading; anything else is refused, and no FIFO or device is touched.
    pub(crate) fn open_file(&self, name: &[u8]) -> Result<File> {
        self.open_regular(name, OFlags::RDONLY).map(|(file, _)| file)
    }

    /// The same, with what was known of it when it was opened.
    pub(crate) fn open_file_stat(&self, name: &[u8]) -> Result<(File, Stat)> {
        self.open_regular(name, OFlags::RDONLY)
    }

    /// The same for reading and writing.
    pub(crate) fn open_file_rw(&self, name: &[u8]) -> Result<File> {
        self.open_regular(name, OFlags::RDWR).map(|(file, _)| file)
    }

    fn open_regular(&self, name: &[u8], access: OFlags) -> Result<(File, Stat)> {
        // Held and looked at before it is opened, and then opened by what is held: opening a device or a FIFO has effects, and the name
        // may lead elsewhere by then.
        let held = self.child_path_fd(name)?;
        let stat = super::inode::stat(&held)?;
        if stat.is_file() {
            super::inode::open_held(&held, access).map(|fd| (File::from(fd), stat))
        } else {
            Err(self.failed("openat", Errno::NXIO, name).because("it is no regular file"))
        }
    }

    /// Describes what stands at a name, a symlink itself; `None` for nothing.
    pub(crate) fn stat(&self, name: &[u8]) -> Result<Option<Stat>> {
        let name = component("statx", name)?;
        match super::inode::look(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("statx", error, name)),
        }
    }

    /// Makes a symlink.
    pub(crate) fn symlink(&self, target: &[u8], name: &[u8]) -> Result<()> {
        let name = component("symlinkat", name)?;
        rustix::fs::symlinkat(target, &self.fd, name).map_err(|error| self.failed("symlinkat", error, name))
    }

    /// The target of a symlink.
    pub(crate) fn readlink(&self, name: &[u8]) -> Result<Vec<u8>> {
        let name = component("readlinkat", name)?;
        rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(|error| self.failed("readlinkat", error, name))
    }

    /// Gives what stands at `name`, a symlink itself, a second name in `to`.
    pub(crate) fn link(&self, name: &[u8], to: &Self, new_name: &[u8]) -> Result<()> {
        let (name, new_name) = (component("linkat", name)?, component("linkat", new_name)?);
        rustix::fs::linkat(&self.fd, name, &to.fd, new_name, AtFlags::empty()).map_err(|error| to.failed("linkat", error, new_name))
    }

    /// Makes a device (with its numbers) or a FIFO.
    pub(crate) fn mknod(&self, name: &[u8], file_type: FileType, mode: u32, (major, minor): (u32, u32)) -> Result<()> {
        let name = component("mknodat", name)?;
        rustix::fs::mknodat(&self.fd, name, file_type, Mode::from_raw_mode(mode), rustix::fs::makedev(major, minor))
            .map_err(|error| self.failed("mknodat", error, name))
    }

    /// Removes a name of anything but a directory.
    pub(crate) fn unlink(&self, name: &[u8]) -> Result<()> {
        let name = component("unlinkat", name)?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(|error| self.failed("unlinkat", error, name))
    }

    /// Removes an empty directory.
    pub(crate) fn rmdir(&self, name: &[u8]) -> Result<()> {
        let name = component("unlinkat", name)?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).map_err(|error| self.failed("rmdir", error, name))
    }

    /// Renames, and replaces what `rename(2)` replaces.
    pub(crate) fn rename(&self, name: &[u8], to: &Self, new_name: &[u8]) -> Result<()> {
        self.rename_with(name, to, new_name, RenameFlags::empty())
    }

    /// Renames; `AlreadyExists` where the new name is taken.
    pub(crate) fn rename_noreplace(&self, name: &[u8], to: &Self, new_name: &[u8]) -> Result<()> {
        self.rename_with(name, to, new_name, RenameFlags::NOREPLACE)
    }

    /// Swaps two names.
    pub(crate) fn rename_exchange(&self, name: &[u8], to: &Self, new_name: &[u8]) -> Result<()> {
        self.rename_with(name, to, new_name, RenameFlags::EXCHANGE)
    }

    fn rename_with(&self, name: &[u8], to: &Self, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        let (name, new_name) = (component("renameat", name)?, component("renameat", new_name)?);
        rustix::fs::renameat_with(&self.fd, name, &to.fd, new_name, flags).map_err(|error| to.failed("renameat2", error, new_name))
    }

    /// The names in this directory, read as they are taken. Names that come or go meanwhile may be seen or not.
    pub(crate) fn entries(&self) -> Result<Entries<'_>> {
        // Opens the directory anew: the read position belongs to this reading alone.
        let stream = rustix::fs::Dir::read_from(&self.fd).map_err(|error| self.failed("openat", error, b"."))?;
        Ok(Entries { stream, dir: self })
    }

    /// Whether nothing is in this directory.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        Ok(self.entries()?.next().transpose()?.is_none())
    }

    /// Makes the directory's names durable: those of symlinks, devices and FIFOs with all they are.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).map_err(|error| self.failed("fsync", error, b""))
    }

    pub(super) fn failed(&self, op: &'static str, error: Errno, name: &[u8]) -> Error {
        Error::io(op, error).at(describe(self.as_fd(), name))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.fd
    }
}

/// Checks that a name is one component.
pub(super) fn component<'name>(op: &'static str, name: &'name [u8]) -> Result<&'name [u8]> {
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|&byte| byte == b'/' || byte == 0) {
        let shown = name.escape_ascii().to_string();
        return Err(Error::new(ErrorKind::InvalidArgument, op).at(shown).because("it is not the name of one component"));
    }
    Ok(name)
}
