//! Reading a snapshot's files without mounting it anywhere: [`Store::open_root`], [`Store::open_file`], [`Store::read_dir`].
//!
//! Paths mean what they mean to a process whose root directory is the snapshot's: absolute symlinks start there, `..` stops there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use serde::Serialize;

use super::{Store, no_snapshot};
use crate::entry::{Attributes, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Reader;
use crate::mount::IdMap;
use crate::progress::Context;
use crate::snapshot::Kind;
use crate::sys::{Root, Stat, inode};

/// A snapshot's root directory, to be read. It stays readable while this lives, whatever becomes of the snapshot.
#[derive(Debug)]
pub struct OpenRoot {
    /// `None` where nothing is in it.
    root: Option<Root>,
    /// Of the root directory, which belong to the snapshot. An Active one's own directory says what they are.
    attributes: Option<Attributes>,
    /// What makes the container's owners of those on the disk.
    shift: Option<IdMap>,
}

/// What something in a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What stands at a path of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// Its type.
    pub kind: FileKind,
    /// Permissions, set-uid, set-gid and sticky bit: 0 to 0o7777.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Apparent size in bytes.
    pub size: u64,
    /// When its content last changed.
    pub mtime: Timestamp,
    /// Of a symlink, where it leads.
    pub target: Option<PathBuf>,
    /// Of a device, major and minor number.
    pub device: Option<(u32, u32)>,
}

impl Store {
    /// Opens the root directory of a snapshot of any kind, for reading. Of an Active one that is written to meanwhile, what is read may be
    /// of before or after a change, and a file may be read in part of each.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// let root = store.open_root("web-1")?;
    /// assert!(root.read_dir("/")?.is_empty());
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` where it is known to be damaged; `PermissionDenied` where overlays cannot be mounted; `LimitExceeded`, `Io`.
    pub fn open_root(&self, name: &str) -> Result<OpenRoot> {
        let op = "open root";
        let shown = |reader: &Reader<'_>| {
            let row = reader.snapshot(name)?.ok_or_else(|| no_snapshot(op, name))?;
            Ok((if row.kind == Kind::Committed { Some(row.id) } else { row.parent }, row))
        };
        let (committed, _) = shown(&self.metadata().read()?)?;
        self.ensure_made(op, committed, &Context::default())?;
        let reader = self.metadata().read()?;
        let (_, row) = shown(&reader)?;
        let (tree, chain) = match row.kind {
            Kind::Committed => (None, reader.chain(row.id)?),
            _ => (Some(row.tree), row.parent.map_or(Ok(Vec::new()), |parent| reader.chain(parent))?),
        };
        reader.refuse_damaged(op, name, &[tree.as_slice(), chain.as_slice()].concat())?;
        let root = self.backend().open_root(tree, &chain)?.map(Root::from_fd);
        Ok(OpenRoot { root, attributes: (row.kind != Kind::Active).then_some(row.root), shift: self.id_shift().cloned() })
    }

    /// Opens a regular file of a snapshot for reading.
    ///
    /// # Errors
    /// As [`open_root`](Self::open_root) and [`OpenRoot::open_file`].
    pub fn open_file(&self, name: &str, path: impl AsRef<Path>) -> Result<File> {
        self.open_root(name)?.open_file(path)
    }

    /// What a directory of a snapshot holds, by the bytes of the names.
    ///
    /// # Errors
    /// As [`open_root`](Self::open_root) and [`OpenRoot::read_dir`].
    pub fn read_dir(&self, name: &str, path: impl AsRef<Path>) -> Result<Vec<(OsString, FileInfo)>> {
        self.open_root(name)?.read_dir(path)
    }
}

impl OpenRoot {
    /// Opens a regular file for reading. Symlinks are followed within the root; no device or pipe is touched.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for anything but a regular file; `Io`.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        let held = self.root(path)?.open(path.as_os_str().as_bytes()).map_err(|error| error.at(path))?;
        if !inode::stat(&held)?.is_file() {
            return Err(Error::new(ErrorKind::InvalidArgument, "open file").at(path).because("it is no regular file"));
        }
        inode::open_held(&held, OFlags::RDONLY).map(File::from).map_err(|error| error.at(path))
    }

    /// What stands at a path; symlinks are followed within the root.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        let path = path.as_ref();
        if let Some(bare) = self.bare(path) {
            return Ok(bare);
        }
        let held = self.root(path)?.open(path.as_os_str().as_bytes()).map_err(|error| error.at(path))?;
        self.describe(inode::stat(&held)?, None)
    }

    /// What stands at a path; a symlink as its last component is not followed.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> Result<FileInfo> {
        let path = path.as_ref();
        if let Some(bare) = self.bare(path) {
            return Ok(bare);
        }
        let held = self.root(path)?.open_no_follow(path.as_os_str().as_bytes()).map_err(|error| error.at(path))?;
        let stat = inode::stat(&held)?;
        let target = if stat.is_symlink() { Some(inode::readlink(&held)?) } else { None };
        self.describe(stat, target)
    }

    /// What a directory holds, by the bytes of the names. Symlinks on the way to it are followed within the root; those in it are not.
    ///
    /// # Errors
    /// `NotFound`; `Io` for what is no directory.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<(OsString, FileInfo)>> {
        let path = path.as_ref();
        if self.bare(path).is_some() {
            return Ok(Vec::new());
        }
        let dir = self.root(path)?.open_dir(path.as_os_str().as_bytes()).map_err(|error| error.at(path))?;
        let mut found = Vec::new();
        for entry in dir.entries()? {
            let name = entry?.name;
            // Somebody may have removed it meanwhile.
            let Some(stat) = dir.stat(&name)? else { continue };
            let target = match stat.is_symlink().then(|| dir.readlink(&name)) {
                Some(Err(error)) if error.kind() == ErrorKind::NotFound => continue,
                target => target.transpose()?,
            };
            found.push((OsString::from_vec(name.to_vec()), self.describe(stat, target)?));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    fn root(&self, path: &Path) -> Result<&Root> {
        self.root
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "open file").at(path).because("nothing is in this snapshot"))
    }

    /// The root directory, where nothing is in it and `path` leads there.
    fn bare(&self, path: &Path) -> Option<FileInfo> {
        let is_root = !path.components().any(|component| matches!(component, Component::Normal(_)));
        self.attributes.as_ref().filter(|_| self.root.is_none() && is_root).map(FileInfo::of_directory)
    }

    fn describe(&self, stat: Stat, target: Option<Vec<u8>>) -> Result<FileInfo> {
        let mut own = describe(&stat, target);
        if let Some(map) = &self.shift {
            (own.uid, own.gid) = map.seen(own.uid, own.gid);
        }
        match &self.attributes {
            Some(root) if self.root.as_ref().map(inode::stat).transpose()?.is_some_and(|own| own.same_inode(&stat)) => {
                Ok(FileInfo { mode: root.mode, uid: root.uid, gid: root.gid, mtime: root.mtime, ..own })
            }
            _ => Ok(own),
        }
    }
}

impl FileInfo {
    /// A directory of which nothing else is known.
    pub(super) fn of_directory(&Attributes { mode, uid, gid, mtime, .. }: &Attributes) -> Self {
        Self { kind: FileKind::Directory, mode, uid, gid, size: 0, mtime, target: None, device: None }
    }
}

/// An inode as its file system has it; a symlink leads to `target`.
pub(super) fn describe(stat: &Stat, target: Option<Vec<u8>>) -> FileInfo {
    let kind = match stat.file_type {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        _ => FileKind::Socket,
    };
    let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice).then_some(stat.rdev);
    let target = target.map(|target| PathBuf::from(OsStr::from_bytes(&target)));
    FileInfo { kind, mode: stat.mode, uid: stat.uid, gid: stat.gid, size: stat.size, mtime: stat.mtime, target, device }
}
