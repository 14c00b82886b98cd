//! Whether the inode at a name is the one that the lower tree has there: type, owner, mode, xattrs, mtime, device, link target, content.
//!
//! The cheap things are asked first; bytes are read only where nothing else tells the two apart, because the same size and time prove
//! nothing. ctime, inode numbers, link counts and blocks are no part of a tree. Hardlink grouping is in `plan`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::seen::{self, Form};
use crate::error::{Error, Result};
use crate::progress::Context;
use crate::sys::content::{self, Buffers};
use crate::sys::descent::unless_gone;
use crate::sys::{Dir, FileType, Stat, inode};

/// Anything but a directory, by its name in a directory that is held.
#[derive(Clone, Copy)]
pub(super) struct Leaf<'a> {
    pub(super) dir: &'a Dir,
    pub(super) name: &'a [u8],
    pub(super) stat: Stat,
    pub(super) form: Form,
}

/// The inode itself.
pub(super) enum Held {
    File(File),
    /// `O_PATH`.
    Other(OwnedFd),
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::File(file) => file.as_fd(),
            Self::Other(fd) => fd.as_fd(),
        }
    }
}

impl Leaf<'_> {
    /// Holds the inode; `None` where the name went away, or became something of another type.
    pub(super) fn hold(&self) -> Result<Option<(Held, Stat)>> {
        if self.stat.is_file() {
            let opened = unless_gone(self.dir.open_file_stat(self.name))?;
            return Ok(opened.map(|(file, stat)| (Held::File(file), stat)));
        }
        let Some(held) = unless_gone(self.dir.child_path_fd(self.name))? else { return Ok(None) };
        let stat = inode::stat(&held)?;
        Ok((stat.file_type == self.stat.file_type).then_some((Held::Other(held), stat)))
    }

    /// The target of a symlink; `None` where there is none any more.
    pub(super) fn target(&self) -> Result<Option<Vec<u8>>> {
        unless_gone(self.dir.readlink(self.name))
    }
}

/// Whether two leaves are the same in everything but the names that share their inode.
pub(super) fn same(here: &Leaf<'_>, below: &Leaf<'_>, buffers: &mut Buffers, cx: &Context<'_>) -> Result<bool> {
    if !same_stat(&here.stat, &below.stat) {
        return Ok(false);
    }
    if here.stat.is_symlink() && here.target()? != below.target()? {
        return Ok(false);
    }
    let (Some((one, stat)), Some((other, other_stat))) = (here.hold()?, below.hold()?) else { return Ok(false) };
    if !same_stat(&stat, &other_stat)
        || seen::read_with(&one, &stat, here.form)?.attributes != seen::read_with(&other, &other_stat, below.form)?.attributes
    {
        return Ok(false);
    }
    match (&one, &other) {
        // Of one size, as both were opened.
        (Held::File(one), Held::File(other)) if stat.size > 0 => {
            content::same(one, other, stat.size, buffers, &mut || cx.check("diff"))
        }
        _ => Ok(true),
    }
}

fn same_stat(here: &Stat, below: &Stat) -> bool {
    let device = matches!(here.file_type, FileType::CharacterDevice | FileType::BlockDevice);
    here.file_type == below.file_type
        && (here.mode, here.uid, here.gid, here.mtime) == (below.mode, below.uid, below.gid, below.mtime)
        && (!device || here.rdev == below.rdev)
        && (!here.is_file() || here.size == below.size)
}

/// The error of a tree whose names the system gave us and which are no path.
pub(super) fn bad_name(error: crate::path::PathError) -> Error {
    Error::new(crate::error::ErrorKind::Io, "read directory").with_source(error)
}
