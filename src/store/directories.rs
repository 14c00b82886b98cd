//! The store's directory: making it, recognising it, and taking back what was made when opening fails.
//!
//! Whoever opens a store holds a lock on its root directory meanwhile, shared where the store is there, alone where it is made; so
//! nobody opens what another is about to take back. Everything is 0700 and of this process's owner, whatever the umask, set-gid bits
//! and default ACLs of the directories above: set-uid files of layers must be out of reach of the host's users.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use super::reserve::RESERVE;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::DATABASE;
use crate::sys::flock::{Flock, Sharing};
use crate::sys::read_only::{ReadOnly, read_only};
use crate::sys::{Dir, inode, xattr};

pub(super) const TREES: &str = "trees";
pub(super) const LOCKS: &str = "locks";
pub(super) const LOST: &[u8] = b"lost+found";

/// What may stand in a store's root. SQLite has a journal there only while the store is made; after a power cut that can stand alone.
const KNOWN: [&[u8]; 10] = [
    b"plywood.db",
    b"plywood.db-journal",
    b"plywood.db-wal",
    b"plywood.db-shm",
    b"blobs",
    b"ingest",
    b"trees",
    b"locks",
    RESERVE,
    LOST,
];

/// A store's root directory, held and locked while the store is opened.
pub(super) struct Home {
    pub(super) root: Dir,
    /// Why nothing can be written, where there is a store already.
    pub(super) read_only: Option<ReadOnly>,
    /// Nobody else has it open meanwhile.
    pub(super) alone: bool,
    /// The directories on the way that were made now, the lowest last.
    made: Vec<(Dir, Vec<u8>)>,
    _lock: Flock,
}

impl Home {
    /// Opens the directory at an absolute path, which is made where it is missing. Held alone where there is no database in it yet, or
    /// where that is asked for.
    pub(super) fn open(path: &Path, sharing: Sharing) -> Result<Self> {
        let mut made = Vec::new();
        match open_locked(path, sharing, &mut made) {
            Ok((root, lock, alone)) => {
                let read_only = if alone { None } else { read_only(&root)? };
                Ok(Self { root, read_only, alone, made, _lock: lock })
            }
            Err(error) => {
                take_back(&mut made);
                Err(error)
            }
        }
    }

    /// Whether the lock that is held here keeps others out.
    pub(super) fn excludes(&self) -> Result<bool> {
        let another = Flock::attempt(inode::reopen(&self.root)?, Sharing::Exclusive)?;
        Ok(another.is_err())
    }

    /// Opens a directory of the store, and makes it where it is missing.
    pub(super) fn directory(&self, name: &str) -> Result<Dir> {
        let name = name.as_bytes();
        match self.root.try_child(name)? {
            Some(directory) => Ok(directory),
            None => private_directory(&self.root, name),
        }
    }

    /// Takes everything back that making a store has made; only while it is held alone. Best effort: the error that led here is what
    /// counts.
    pub(super) fn take_back(mut self) {
        for name in KNOWN {
            if name == LOST {
                let _ = self.root.rmdir(name);
            } else if name == RESERVE {
                let _ = self.root.unlink(name);
            } else {
                let _ = self.root.remove_tree(name);
            }
        }
        take_back(&mut self.made);
    }
}

/// Makes a directory that is this process's alone, and durable.
pub(super) fn private_directory(parent: &Dir, name: &[u8]) -> Result<Dir> {
    let directory = match parent.mkdir_open(name, 0o700) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => parent.child(name)?,
        made => made?,
    };
    make_private(&directory)?;
    parent.sync()?;
    Ok(directory)
}

fn make_private(directory: &Dir) -> Result<()> {
    inode::set_owner(directory, rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())?;
    for acl in [&b"system.posix_acl_default"[..], b"system.posix_acl_access"] {
        if xattr::get(directory, acl).is_ok_and(|value| value.is_some()) {
            xattr::remove(directory, acl)?;
        }
    }
    inode::set_mode(directory, 0o700)
}

/// Opens the directory, making those on the way that are missing.
fn make_way(path: &Path, made: &mut Vec<(Dir, Vec<u8>)>) -> Result<Dir> {
    match Dir::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        opened => return opened,
    }
    let Some((parent, Component::Normal(name))) = path.parent().zip(path.components().next_back()) else {
        return Err(Error::new(ErrorKind::InvalidArgument, "open store").at(path).because("the path does not end in a name"));
    };
    let parent = make_way(parent, made)?;
    make_one(&parent, name, made).map_err(|error| error.at(path))
}

fn make_one(parent: &Dir, name: &OsStr, made: &mut Vec<(Dir, Vec<u8>)>) -> Result<Dir> {
    // 0755 for those on the way; the store's own is closed as soon as it is held alone.
    match parent.mkdir(name.as_bytes(), 0o755) {
        Ok(()) => {
            made.push((parent.try_clone()?, name.as_bytes().to_vec()));
            parent.sync()?;
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    parent.child(name.as_bytes())
}

fn take_back(made: &mut Vec<(Dir, Vec<u8>)>) {
    while let Some((parent, name)) = made.pop() {
        // Not empty: somebody else uses it.
        let _ = parent.rmdir(&name);
    }
}

fn open_locked(path: &Path, sharing: Sharing, made: &mut Vec<(Dir, Vec<u8>)>) -> Result<(Dir, Flock, bool)> {
    let mut sharing = sharing;
    loop {
        let root = make_way(path, made)?;
        // A description of its own: the lock must not be shared with `root`'s other users.
        let lock = Flock::wait(inode::reopen(&root)?, sharing).map_err(|error| error.at(path))?;
        // Meanwhile another process may have failed to make the store, and have taken the directory away.
        let held = inode::stat(&root)?;
        if !Dir::open(path).and_then(|now| inode::stat(&now)).is_ok_and(|now| now.same_inode(&held)) {
            continue;
        }
        match (root.stat(DATABASE.as_bytes())?, sharing) {
            (Some(_), _) => {
                // Who only looks harms nobody.
                if sharing == Sharing::Exclusive || read_only(&root)?.is_none() {
                    check_owner(held.uid, path)?;
                }
                return Ok((root, lock, sharing == Sharing::Exclusive));
            }
            (None, Sharing::Shared) => sharing = Sharing::Exclusive,
            (None, Sharing::Exclusive) => {
                check_free(&root, path)?;
                make_private(&root).map_err(|error| error.at(path))?;
                return Ok((root, lock, true));
            }
        }
    }
}

/// Refuses a store of somebody else. Root can open an ordinary user's, and would put files there that the user cannot read, and set-uid
/// files of root's that he can run.
fn check_owner(owner: u32, path: &Path) -> Result<()> {
    let ours = rustix::process::geteuid().as_raw();
    if owner == ours {
        return Ok(());
    }
    Err(Error::new(ErrorKind::PermissionDenied, "open store")
        .at(path)
        .because(format!("it belongs to the user {owner}, and this process is {ours}"))
        .with_hint("open it as its owner, or make a store of your own"))
}

/// Refuses a directory that is used for something else.
fn check_free(root: &Dir, path: &Path) -> Result<()> {
    for entry in root.entries()? {
        let name = entry?.name;
        if !KNOWN.contains(&&*name) {
            return Err(Error::new(ErrorKind::InvalidArgument, "open store")
                .at(path)
                .because(format!("it is no plywood store, and not empty: it holds {}", name.escape_ascii()))
                .with_hint("name a directory of its own for the store"));
        }
    }
    Ok(())
}
