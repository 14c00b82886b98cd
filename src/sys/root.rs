//! [`Root`]: a directory in which paths are resolved, and which no path leaves.
//!
//! Two ways: as a process with `chroot` into it would ([`Root::open`]: absolute symlinks start at the root, `..` stops there), and
//! literally ([`Root::literal`]: a symlink on the way means that there is no such path). `openat2` does both in one call; where it is
//! missing or blocked, a walk over the components with `O_PATH|O_NOFOLLOW` does. `/proc`'s magic links are never followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Dir, Stat, describe, inode};
use crate::error::{Error, Result};
use crate::path::EntryPath;

/// How many symlinks one resolution follows (the kernel's `MAXSYMLINKS`).
pub(crate) const HOPS_MAX: usize = 40;

/// The kernel takes paths below `PATH_MAX`; longer ones go in pieces.
const PIECE_MAX: usize = 4000;

/// How often a resolution that a racing rename disturbed is tried again before the walk takes over.
const RETRIES: usize = 64;

const HOLD: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A directory as the root of paths.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    /// Whether openat2 is missing here.
    walk: AtomicBool,
}

/// What becomes of a symlink as the last component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Follow,
    Hold,
}

impl Root {
    /// Takes a directory as a root.
    pub(crate) fn new(dir: Dir) -> Self {
        Self::from_fd(dir.into())
    }

    /// Takes a descriptor that is known to be a directory's (`O_PATH`, or a detached mount).
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, walk: AtomicBool::new(false) }
    }

    #[cfg(test)]
    /// The same as if the kernel had no openat2.
    #[must_use]
    pub(crate) fn without_openat2(self) -> Self {
        self.walk.store(true, Ordering::Relaxed);
        self
    }

    /// The root directory, opened for reading.
    pub(crate) fn dir(&self) -> Result<Dir> {
        inode::reopen(&self.fd).map(Dir::from_fd)
    }

    /// Holds what stands at a path, with chroot's meaning; a symlink as the last component is followed too. `O_PATH`.
    pub(crate) fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        self.resolve(path, Last::Follow)
    }

    /// The same, but a symlink as the last component is held itself.
    pub(crate) fn open_no_follow(&self, path: &[u8]) -> Result<OwnedFd> {
        self.resolve(path, Last::Hold)
    }

    /// Opens a directory for reading, with chroot's meaning.
    pub(crate) fn open_dir(&self, path: &[u8]) -> Result<Dir> {
        let held = self.resolve(path, Last::Follow)?;
        if inode::stat(&held)?.is_dir() { inode::reopen(held).map(Dir::from_fd) } else { Err(self.failed(Errno::NOTDIR, path)) }
    }

    /// Holds what stands literally at this path, a symlink itself; `None` where a component is missing, a symlink, or no directory.
    pub(crate) fn literal(&self, path: &EntryPath) -> Result<Option<OwnedFd>> {
        self.open_literal(path, HOLD | OFlags::NOFOLLOW)
    }

    /// Opens the directory that stands literally at this path for reading; `None` for anything else.
    pub(crate) fn literal_dir(&self, path: &EntryPath) -> Result<Option<Dir>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(self.open_literal(path, flags)?.map(Dir::from_fd))
    }

    /// Describes what stands literally at this path.
    pub(crate) fn literal_stat(&self, path: &EntryPath) -> Result<Option<Stat>> {
        self.literal(path)?.map(inode::stat).transpose()
    }

    /// Opens literally this path with these flags, which hold a symlink or refuse it.
    pub(crate) fn open_literal(&self, path: &EntryPath, flags: OFlags) -> Result<Option<OwnedFd>> {
        let opened = match self.literal_openat2(path.as_bytes(), flags) {
            Err(Errno::NOSYS | Errno::PERM) => {
                self.walk.store(true, Ordering::Relaxed);
                self.literal_walk(path.components(), flags)
            }
            done => done,
        };
        match opened {
            Ok(fd) => Ok(Some(fd)),
            // What no file system can hold is nowhere.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
            Err(error) => Err(self.failed(error, path.as_bytes())),
        }
    }

    fn literal_openat2(&self, path: &[u8], flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        if self.walk.load(Ordering::Relaxed) {
            return Err(Errno::NOSYS);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut base: Option<OwnedFd> = None;
        let mut rest = path;
        while rest.len() > PIECE_MAX {
            let Some(end) = rest.get(..PIECE_MAX).and_then(|piece| piece.iter().rposition(|&byte| byte == b'/')) else {
                return Err(Errno::NAMETOOLONG);
            };
            let (piece, after) = rest.split_at(end);
            let from = base.as_ref().map_or(self.as_fd(), OwnedFd::as_fd);
            base = Some(openat2(from, piece, HOLD | OFlags::DIRECTORY | OFlags::NOFOLLOW, resolve)?);
            rest = after.get(1..).unwrap_or_default();
        }
        let last: &[u8] = if rest.is_empty() { b"." } else { rest };
        openat2(base.as_ref().map_or(self.as_fd(), OwnedFd::as_fd), last, flags, resolve)
    }

    fn literal_walk<'a>(&self, components: impl Iterator<Item = &'a [u8]>, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        let mut at: Option<OwnedFd> = None;
        let mut components = components.peekable();
        while let Some(name) = components.next() {
            let from = at.as_ref().map_or(self.as_fd(), OwnedFd::as_fd);
            let how = if components.peek().is_some() { HOLD | OFlags::DIRECTORY | OFlags::NOFOLLOW } else { flags };
            at = Some(rustix::fs::openat(from, name, how, Mode::empty())?);
        }
        match at {
            Some(fd) => Ok(fd),
            None => rustix::fs::openat(self.as_fd(), c".", flags, Mode::empty()),
        }
    }

    fn resolve(&self, path: &[u8], last: Last) -> Result<OwnedFd> {
        let opened = match self.resolve_openat2(path, last) {
            Err(Errno::NOSYS | Errno::PERM) => {
                self.walk.store(true, Ordering::Relaxed);
                self.resolve_walk(path, last)
            }
            // Too long for one call, or somebody renames faster than the kernel resolves.
            Err(Errno::NAMETOOLONG | Errno::AGAIN) => self.resolve_walk(path, last),
            done => done,
        };
        opened.map_err(|error| self.failed(error, path))
    }

    fn resolve_openat2(&self, path: &[u8], last: Last) -> std::result::Result<OwnedFd, Errno> {
        if self.walk.load(Ordering::Relaxed) {
            return Err(Errno::NOSYS);
        }
        let flags = if last == Last::Hold { HOLD | OFlags::NOFOLLOW } else { HOLD };
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        openat2(self.as_fd(), path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// One component after the other. A `..` drops the last name and walks from the root again: the descriptor's own `..` may lead
    /// anywhere once somebody moved the directory.
    fn resolve_walk(&self, path: &[u8], last: Last) -> std::result::Result<OwnedFd, Errno> {
        let mut todo: Vec<Vec<u8>> = reversed(path);
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = self.literal_walk(std::iter::empty(), HOLD)?;
        let mut hops = 0usize;
        while let Some(name) = todo.pop() {
            if name == b".." {
                names.pop();
                at = self.literal_walk(names.iter().map(Vec::as_slice), HOLD | OFlags::NOFOLLOW)?;
                continue;
            }
            let next = rustix::fs::openat(&at, name.as_slice(), HOLD | OFlags::NOFOLLOW, Mode::empty())?;
            let file_type = inode::stat(&next).map_err(|_| Errno::IO)?.file_type;
            if file_type == rustix::fs::FileType::Symlink && (last == Last::Follow || !todo.is_empty()) {
                hops = hops.saturating_add(1);
                if hops > HOPS_MAX {
                    return Err(Errno::LOOP);
                }
                let target = rustix::fs::readlinkat(&next, c"", Vec::new())?.into_bytes();
                if target.first() == Some(&b'/') {
                    names.clear();
                    at = self.literal_walk(std::iter::empty(), HOLD)?;
                }
                todo.extend(reversed(&target));
                continue;
            }
            if !todo.is_empty() && file_type != rustix::fs::FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            names.push(name);
            at = next;
        }
        Ok(at)
    }

    fn failed(&self, error: Errno, path: &[u8]) -> Error {
        Error::io("openat2", error).at(describe(self.as_fd(), path.strip_prefix(b"/").unwrap_or(path)))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn openat2(from: BorrowedFd<'_>, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> std::result::Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(from, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < RETRIES => tries = tries.saturating_add(1),
            done => return done,
        }
    }
}

/// The components that mean something, last one first.
fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn both(check: impl Fn(&Root)) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        std::fs::create_dir_all(root.join("usr/lib/x")).unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        std::fs::write(temp.path().join("secret"), "outside").unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("/../../secret", root.join("absolute")).unwrap();
        symlink("../../../secret", root.join("usr/lib/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        check(&Root::new(Dir::open(&root).unwrap()));
        check(&Root::new(Dir::open(&root).unwrap()).without_openat2());
    }

    fn content(fd: OwnedFd) -> String {
        std::io::read_to_string(std::fs::File::from(inode::reopen(fd).unwrap())).unwrap()
    }

    #[test]
    fn no_symlink_leaves_the_root() {
        both(|root| {
            for path in
                ["secret", "/secret", "../../secret", "absolute", "usr/lib/up", "lib/up", "lib/../../secret", "usr/../../secret"]
            {
                assert_eq!(content(root.open(path.as_bytes()).unwrap()), "inside", "{path}");
            }
            assert_eq!(root.open(b"loop").unwrap_err().raw_os_error(), Some(libc::ELOOP));
            assert_eq!(root.open(b"magic").unwrap_err().raw_os_error(), Some(libc::ENOENT));
            assert_eq!(root.open(b"secret/x").unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
            assert!(inode::stat(root.open_no_follow(b"lib").unwrap()).unwrap().is_symlink());
            assert!(root.open_dir(b"lib/x").unwrap().is_empty().unwrap());
        });
    }

    #[test]
    fn literal_paths_follow_nothing() {
        both(|root| {
            let literal = |path: &str| root.literal_stat(&EntryPath::parse(path).unwrap()).unwrap();
            assert!(literal("usr/lib/x").unwrap().is_dir());
            assert!(literal("lib").unwrap().is_symlink());
            assert!(literal("").unwrap().is_dir());
            assert_eq!(literal("lib/x"), None);
            assert_eq!(literal("secret/x"), None);
            assert!(root.literal_dir(&EntryPath::parse("lib").unwrap()).unwrap().is_none());
            assert!(root.literal_dir(&EntryPath::parse("secret").unwrap()).unwrap().is_none());
        });
    }

    #[test]
    fn paths_beyond_the_kernels_limit_resolve_in_pieces() {
        let temp = tempfile::tempdir().unwrap();
        let name = [b'd'; 200];
        let mut dir = Dir::open(temp.path()).unwrap();
        for _ in 0..60 {
            dir = dir.mkdir_open(&name, 0o700).unwrap();
        }
        let path = EntryPath::parse(vec![name.as_slice(); 60].join(&b'/')).unwrap();
        for root in [Root::new(Dir::open(temp.path()).unwrap()), Root::new(Dir::open(temp.path()).unwrap()).without_openat2()] {
            assert!(root.literal_dir(&path).unwrap().is_some());
            assert!(root.open(path.as_bytes()).is_ok());
        }
    }
}
