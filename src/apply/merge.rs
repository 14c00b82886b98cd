//! A change moves into the whole tree that it is one of: by renames, so that no byte is written again.
//!
//! Both trees are the caller's alone. What the change hides goes first, directory by directory; then each name of it takes the place of
//! what stands there, but for directories that stand in both: these keep what is in them, and get the attributes that the change has.
//! A directory that stands in the change alone moves with all that is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::directories::{join, lost};
use super::metadata::{Before, Metadata, Mode, read};
use super::owners::Owners;
use super::{Form, Place};
use crate::entry::Attributes;
use crate::error::Result;
use crate::path::EntryPath;
use crate::progress::Context;
use crate::sys::{Descent, Dir, inode};
use crate::tree::{Applied, Ids, Marker};

/// Moves a change, of which `applied` was told, into the tree over which it was made. `change.scratch` is as in [`Place`]. The attributes
/// of the root are left to the caller. Nothing is durable when this returns; after an error both trees are garbage.
///
/// # Errors
/// `Cancelled`, `NoSpace`, `Io`.
pub(crate) fn merge(change: Place, into: &Dir, form: Form, applied: &Applied, ids: Ids, cx: &Context<'_>) -> Result<()> {
    let Place { tree, scratch, .. } = change;
    if applied.cut {
        into.clear()?;
    }
    let metadata = Metadata::new(form, Owners::of_this_process(ids)?, Rc::new(scratch), cx);
    let root = Level { path: EntryPath::ROOT, attributes: Attributes::implied(), names: Vec::new() };
    let (change, into) = (Descent::new(tree)?, Descent::new(into.try_clone()?)?);
    let mut merging = Merging { change, into, hides: Hides::new(&applied.markers), metadata, levels: vec![root], cx };
    merging.begin()?;
    merging.run()
}

/// What a change hides, by the directory in which that shows.
struct Hides<'a> {
    whiteouts: BTreeMap<EntryPath, Vec<&'a [u8]>>,
    opaque: BTreeSet<&'a EntryPath>,
}

impl<'a> Hides<'a> {
    fn new(markers: &'a [Marker]) -> Self {
        let mut hides = Self { whiteouts: BTreeMap::new(), opaque: BTreeSet::new() };
        for marker in markers {
            match marker {
                Marker::Opaque(directory) => drop(hides.opaque.insert(directory)),
                Marker::Whiteout(path) => {
                    if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
                        hides.whiteouts.entry(directory).or_default().push(name);
                    }
                }
            }
        }
        hides
    }
}

/// A directory that stands in both trees.
struct Level {
    path: EntryPath,
    /// Of the change.
    attributes: Attributes,
    /// Names of the change that are still there.
    names: Vec<Box<[u8]>>,
}

struct Merging<'a> {
    change: Descent,
    into: Descent,
    hides: Hides<'a>,
    metadata: Metadata<'a>,
    /// From the root to where the two descents stand.
    levels: Vec<Level>,
    cx: &'a Context<'a>,
}

impl Merging<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(()) };
            match level.names.pop() {
                Some(name) => self.take(&name)?,
                None if self.levels.len() > 1 => self.leave()?,
                None => return Ok(()),
            }
        }
    }

    /// Hides what is hidden in the directories on which the descents stand, and reads the change's.
    fn begin(&mut self) -> Result<()> {
        self.cx.check("apply layer")?;
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let into = self.into.here()?.ok_or_else(lost)?;
        for name in self.hides.whiteouts.get(&level.path).into_iter().flatten() {
            into.remove_tree(name)?;
        }
        let names = self.change.here()?.ok_or_else(lost)?.entries()?.map(|entry| entry.map(|entry| entry.name));
        level.names = names.collect::<Result<_>>()?;
        Ok(())
    }

    /// Has a name of the change take the place of what stands there.
    fn take(&mut self, name: &[u8]) -> Result<()> {
        let (change, into) = (self.change.here()?.ok_or_else(lost)?, self.into.here()?.ok_or_else(lost)?);
        let own = change.stat(name)?.ok_or_else(lost)?;
        if let Some(there) = into.stat(name)? {
            if own.is_dir() && there.is_dir() {
                let path = join(&self.levels.last().ok_or_else(lost)?.path, name)?;
                if !self.hides.opaque.contains(&path) {
                    return self.enter(name, path);
                }
            }
            if own.is_dir() || there.is_dir() {
                into.remove_tree(name)?;
            }
        }
        // To move a directory its entry for the one above it is written, which its mode may forbid its owner.
        let is_closed = own.is_dir() && !self.metadata.is_privileged() && own.mode & 0o200 == 0;
        if !is_closed {
            return change.rename(name, into, name);
        }
        let held = change.child_path_fd(name)?;
        inode::set_mode(&held, own.mode | 0o200)?;
        change.rename(name, into, name)?;
        inode::set_mode(&held, own.mode)
    }

    fn enter(&mut self, name: &[u8], path: EntryPath) -> Result<()> {
        let (change, into) = (self.change.here()?.ok_or_else(lost)?, self.into.here()?.ok_or_else(lost)?);
        let attributes = read(change.child_path_fd(name)?)?;
        if !self.metadata.is_privileged() {
            open_up(change, name)?;
            open_up(into, name)?;
        }
        if !self.change.enter(name)? || !self.into.enter(name)? {
            return Err(lost());
        }
        self.levels.push(Level { path, attributes, names: Vec::new() });
        self.begin()
    }

    fn leave(&mut self) -> Result<()> {
        let Some(Level { path, attributes, .. }) = self.levels.pop() else { return Ok(()) };
        let into = self.into.here()?.ok_or_else(lost)?;
        self.metadata.set(into, &path, &attributes, Before::Old, Mode::Set)?;
        self.into.leave();
        self.change.leave();
        Ok(())
    }
}

/// Lets its owner into a directory that may be closed to it.
fn open_up(dir: &Dir, name: &[u8]) -> Result<()> {
    let held = dir.child_path_fd(name)?;
    let mode = inode::stat(&held)?.mode;
    if mode & 0o700 == 0o700 { Ok(()) } else { inode::set_mode(&held, mode | 0o700) }
}
