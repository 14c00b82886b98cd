//! What one tree by itself says of one path: for `explain`, which asks the trees of a stack one after the other.
//!
//! Literally this path, nothing on the way followed. An upperdir says only what its layer changes, in overlayfs's form; a whole tree says
//! what is there.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::OFlags;
use serde::Serialize;

use super::compare::bad_name;
use super::seen::{self, Form};
use super::walk::{Marks, is_whiteout};
use crate::entry::Attributes;
use crate::error::Result;
use crate::path::EntryPath;
use crate::progress::Context;
use crate::sys::content::{self, Buffers};
use crate::sys::{Dir, FileType, Stat, inode};

/// What hides something in a tree that has markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Marker {
    /// A whiteout.
    Whiteout,
    /// An opaque directory.
    Opaque,
}

/// What one tree by itself says of a path.
#[derive(Debug)]
#[non_exhaustive]
pub enum Look {
    /// Nothing: what is below shows.
    Silent,
    /// That nothing is there.
    Gone {
        /// The outermost component that is not there, or that is no directory although the path goes on.
        at: EntryPath,
        /// What says so; `None` where something else stands in its place, and for trees without markers.
        marker: Option<Marker>,
    },
    /// That this is there.
    Found(Found),
}

/// What stands at a path of a tree.
#[derive(Debug)]
pub struct Found {
    held: OwnedFd,
    pub(crate) stat: Stat,
    pub(crate) attributes: Attributes,
    pub(crate) target: Option<Vec<u8>>,
    /// A directory through which nothing below shows.
    pub(crate) opaque: bool,
}

impl Found {
    /// An inode, held by any descriptor (`O_PATH` will do), in a tree that holds it as a container sees it.
    ///
    /// # Errors
    /// `Io`.
    pub fn new(held: OwnedFd) -> Result<Self> {
        Self::read(held, Form::Plain, false)
    }

    fn read(held: OwnedFd, form: Form, opaque: bool) -> Result<Self> {
        let stat = inode::stat(&held)?;
        let target = if stat.is_symlink() { Some(inode::readlink(&held)?) } else { None };
        let attributes = seen::read(held.as_fd(), form)?.attributes;
        Ok(Self { held, stat, attributes, target, opaque })
    }

    fn open(&self) -> Result<File> {
        inode::open_held(&self.held, OFlags::RDONLY).map(File::from)
    }
}

/// How what a tree has relates to what is below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Likeness {
    /// In all that a layer can say of it alone.
    Same,
    /// In everything but its attributes.
    Attributes,
    /// Of the same type.
    Type,
    None,
}

/// Looks at a path that is not the root.
pub(crate) fn look(dir: &Dir, form: Form, path: &EntryPath) -> Result<Look> {
    let mut here = dir.try_clone()?;
    let mut at = EntryPath::ROOT;
    let (mut whole, mut opaque) = (form == Form::Plain, false);
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        at = at.join(name).map_err(bad_name)?;
        let marks = match form {
            Form::Overlay(style) => Marks::of(&here, style)?,
            Form::Plain => Marks::default(),
        };
        opaque |= marks.opaque;
        whole |= opaque;
        let Some(stat) = here.stat(name)? else {
            return Ok(if whole { Look::Gone { at, marker: opaque.then_some(Marker::Opaque) } } else { Look::Silent });
        };
        if form != Form::Plain && is_whiteout(&here, name, &stat, &marks)? {
            return Ok(Look::Gone { at, marker: Some(Marker::Whiteout) });
        }
        if names.peek().is_none() {
            let opaque = match form {
                Form::Overlay(style) if stat.is_dir() => opaque || Marks::of(&here.child(name)?, style)?.opaque,
                _ => false,
            };
            return Found::read(here.child_path_fd(name)?, form, opaque).map(Look::Found);
        }
        if !stat.is_dir() {
            return Ok(Look::Gone { at, marker: None });
        }
        here = here.child(name)?;
    }
    Ok(Look::Silent)
}

/// Compares two inodes, by their content where nothing else tells them apart.
pub(crate) fn liken(upper: &Found, lower: &Found, cx: &Context<'_>) -> Result<Likeness> {
    let (one, other) = (&upper.stat, &lower.stat);
    if one.file_type != other.file_type {
        return Ok(Likeness::None);
    }
    let same = match one.file_type {
        FileType::RegularFile if one.size == other.size => {
            one.same_inode(other)
                || content::same(&upper.open()?, &lower.open()?, one.size, &mut Buffers::default(), &mut || cx.check("explain"))?
        }
        FileType::RegularFile => false,
        FileType::Symlink => upper.target == lower.target,
        FileType::CharacterDevice | FileType::BlockDevice => one.rdev == other.rdev,
        _ => true,
    };
    Ok(match (same, upper.attributes == lower.attributes) {
        (true, true) => Likeness::Same,
        (true, false) => Likeness::Attributes,
        (false, _) => Likeness::Type,
    })
}
