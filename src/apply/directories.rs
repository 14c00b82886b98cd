//! The directories from the root to where the applier stands, and what they are left with.
//!
//! Invariant: whatever is written below the tree is written through the frame on which the cursor stands, after [`Applier::modify`]: so
//! no mtime is lost, and no set-gid bit or default ACL of a directory that was there before leaks into new children. A directory gets
//! its attributes when it is left, children first, and again whenever it is entered and changed again. At most a few dozen are open.

use std::rc::Rc;

use super::entries::Applier;
use super::facts::Lower;
use super::metadata::{Before, DEFAULT_ACL, Mode};
use super::placed::{OPAQUE, OWN};
use super::{Form, metadata};
use crate::entry::{Attributes, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::path::{EntryPath, PATH_BYTES_MAX};
use crate::sys::{Dir, inode, xattr};
use crate::tree::{Answer, Detail, Marker};

/// How many directories above the one in use stay open.
const OPEN_MAX: usize = 32;

/// Whether a directory stands in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    InTree,
    /// Not in plain form: it is the lower tree's, and would be made with the attributes that it has there.
    Lower,
    /// It would be made, where `replaces` instead of something in the tree.
    New {
        replaces: bool,
    },
}

/// One directory of the literal path from the root.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) name: Box<[u8]>,
    /// The literal path.
    pub(super) path: EntryPath,
    pub(super) state: State,
    /// Not in plain form: names of the lower tree show in it.
    pub(super) lower: bool,
    /// Open; for one in the tree, and not always.
    dir: Option<Rc<Dir>>,
    /// What it gets when it is left.
    pending: Option<(Attributes, Before)>,
    /// What it had, and gets back when it is left.
    saved: Option<Saved>,
}

impl Frame {
    pub(super) fn root(dir: Rc<Dir>, lower: bool) -> Self {
        let (name, path) = (Box::default(), EntryPath::ROOT);
        Self { name, path, state: State::InTree, lower, dir: Some(dir), pending: None, saved: None }
    }
}

/// What is put aside while a directory is written to.
#[derive(Debug)]
struct Saved {
    mtime: Timestamp,
    mode: Option<u32>,
    default_acl: Option<Vec<u8>>,
}

impl Saved {
    /// Notes what a directory has, and takes away what new children would inherit, or what keeps its owner out.
    fn take(dir: &Dir, privileged: bool) -> Result<Self> {
        let stat = inode::stat(dir)?;
        let default_acl = xattr::get(dir, DEFAULT_ACL)?;
        if default_acl.is_some() {
            xattr::remove(dir, DEFAULT_ACL)?;
        }
        let open = (stat.mode & !0o2000) | if privileged { 0 } else { 0o700 };
        let mode = (open != stat.mode).then_some(stat.mode);
        if mode.is_some() {
            inode::set_mode(dir, open)?;
        }
        Ok(Self { mtime: stat.mtime, mode, default_acl })
    }

    fn restore(&self, dir: &Dir) -> Result<()> {
        if let Some(acl) = &self.default_acl {
            xattr::set(dir, DEFAULT_ACL, acl)?;
        }
        if let Some(mode) = self.mode {
            inode::set_mode(dir, mode)?;
        }
        inode::set_times(dir, self.mtime, self.mtime)
    }
}

impl Applier<'_> {
    /// The frame on which the cursor stands. There always is the root's.
    pub(super) fn here(&self) -> Result<&Frame> {
        self.frames.get(self.cursor).ok_or_else(lost)
    }

    pub(super) fn here_path(&self, name: &[u8]) -> Result<EntryPath> {
        join(&self.here()?.path, name)
    }

    /// The directory on which the cursor stands: one in the tree.
    pub(super) fn dir(&mut self) -> Result<Rc<Dir>> {
        self.hold(self.cursor)
    }

    fn hold(&mut self, index: usize) -> Result<Rc<Dir>> {
        if self.frames.get(index).is_some_and(|frame| frame.dir.is_none()) {
            let (dir, saved) = self.open(index)?;
            let frame = self.frames.get_mut(index).ok_or_else(lost)?;
            (frame.dir, frame.saved) = (Some(Rc::new(dir)), saved);
            if let Some(old) = index.checked_sub(OPEN_MAX).filter(|&old| old > 0) {
                self.put_down(old)?;
            }
        }
        self.frames.get(index).and_then(|frame| frame.dir.clone()).ok_or_else(lost)
    }

    fn open(&self, index: usize) -> Result<(Dir, Option<Saved>)> {
        let frame = self.frames.get(index).ok_or_else(lost)?;
        let parent = index.checked_sub(1).and_then(|index| self.frames.get(index)).and_then(|frame| frame.dir.as_ref());
        let opened = match parent {
            Some(parent) => parent.child(&frame.name),
            None => self.tree.literal_dir(&frame.path).and_then(|dir| dir.ok_or_else(lost)),
        };
        if self.metadata.is_privileged() {
            return opened.map(|dir| (dir, None));
        }
        // The owner may have forbidden itself to read or to enter it.
        let dir = match (opened, parent) {
            (Err(error), Some(parent)) if error.kind() == ErrorKind::PermissionDenied => {
                let held = parent.child_path_fd(&frame.name)?;
                let stat = inode::stat(&held)?;
                inode::set_mode(&held, stat.mode | 0o700)?;
                let dir = inode::reopen(&held).map(Dir::from_fd)?;
                let saved = Saved::take(&dir, false)?;
                return Ok((dir, Some(Saved { mode: Some(stat.mode), ..saved })));
            }
            (opened, _) => opened?,
        };
        let saved = if inode::stat(&dir)?.mode & 0o700 == 0o700 { None } else { Some(Saved::take(&dir, false)?) };
        Ok((dir, saved))
    }

    /// To be called before anything is written into the directory on which the cursor stands.
    pub(super) fn modify(&mut self) -> Result<Rc<Dir>> {
        let dir = self.hold(self.cursor)?;
        self.changed = true;
        let privileged = self.metadata.is_privileged();
        let frame = self.frames.get_mut(self.cursor).ok_or_else(lost)?;
        if frame.pending.is_none() && frame.saved.is_none() {
            frame.saved = Some(Saved::take(&dir, privileged)?);
        }
        Ok(dir)
    }

    /// Gives the directory on which the cursor stands, which was there before, other attributes.
    pub(super) fn set_pending(&mut self, attributes: Attributes) -> Result<()> {
        self.modify()?;
        let frame = self.frames.get_mut(self.cursor).ok_or_else(lost)?;
        if self.lower.is_unknown() {
            self.facts.overwritten(&frame.path, false);
        }
        let before = frame.pending.take().map_or(Before::Old, |(_, before)| before);
        frame.pending = Some((attributes, before));
        Ok(())
    }

    /// Steps into a directory whose frame is there already.
    pub(super) fn step(&mut self, name: &[u8]) -> bool {
        let there = self.frames.get(self.cursor.saturating_add(1)).is_some_and(|frame| *frame.name == *name);
        self.cursor = self.cursor.saturating_add(usize::from(there));
        there
    }

    /// The same, if it is in the tree.
    pub(super) fn step_in_tree(&mut self, name: &[u8]) -> bool {
        self.frames.get(self.cursor.saturating_add(1)).is_some_and(|frame| frame.state == State::InTree) && self.step(name)
    }

    /// Steps into a directory that has no frame yet.
    pub(super) fn push(&mut self, name: &[u8], state: State) -> Result<()> {
        self.leave_to(self.cursor.saturating_add(1))?;
        let parent = self.here()?;
        let path = join(&parent.path, name)?;
        if path.as_bytes().len() > PATH_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidLayer, "apply layer")
                .because(format!("through symlinks, it lands at a path of more than {PATH_BYTES_MAX} bytes")));
        }
        let shows = match state {
            State::New { .. } => false,
            State::Lower => true,
            State::InTree => !self.placed.has(&path, OPAQUE),
        };
        let lower = shows && parent.lower && !self.hidden.hides_children(&path);
        self.frames.push(Frame { name: name.into(), path, state, lower, dir: None, pending: None, saved: None });
        self.cursor = self.cursor.saturating_add(1);
        Ok(())
    }

    /// Steps to the parent, and notes a directory that would be made though nothing will stand in it.
    pub(super) fn step_up(&mut self) -> Result<()> {
        let frame = self.here()?;
        if matches!(frame.state, State::New { .. }) && !self.detours.contains(&frame.path) {
            let path = frame.path.clone();
            self.detours.push(path);
        }
        self.cursor = self.cursor.saturating_sub(1);
        Ok(())
    }

    /// Makes the directories on the way to the cursor that are not in the tree yet.
    pub(super) fn make_way(&mut self) -> Result<()> {
        if !self.detours.is_empty() {
            let target = self.here()?.path.clone();
            for detour in std::mem::take(&mut self.detours) {
                self.go_to(&detour)?;
                self.make_frames()?;
            }
            self.go_to(&target)?;
        }
        self.make_frames()
    }

    fn make_frames(&mut self) -> Result<()> {
        let cursor = self.cursor;
        for index in 1..=cursor {
            let Some(frame) = self.frames.get(index) else { break };
            match frame.state {
                State::InTree if self.form.is_change() => {}
                State::InTree => self.placed.mark(&frame.path, OWN),
                state => {
                    self.cursor = index.saturating_sub(1);
                    self.make_frame(index, state)?;
                }
            }
        }
        self.cursor = cursor;
        Ok(())
    }

    /// Makes the directory of the frame above the cursor.
    fn make_frame(&mut self, index: usize, state: State) -> Result<()> {
        let frame = self.frames.get(index).ok_or_else(lost)?;
        let (name, path) = (frame.name.clone(), frame.path.clone());
        let attributes = match (state, self.lower) {
            (State::Lower, Lower::Unknown) => {
                // What it is in fact is filled in when that is known.
                let attributes = self.metadata.admit(&path, self.form.implied())?;
                self.facts.record(path.clone(), Detail::Attributes, Answer::Directory(Some(Box::new(attributes.clone()))));
                attributes
            }
            (State::Lower, Lower::Tree(lower)) => {
                let held = lower.literal(&path)?.ok_or_else(lost)?;
                let attributes = metadata::read(held)?;
                self.facts.record(path.clone(), Detail::Attributes, Answer::Directory(Some(Box::new(attributes.clone()))));
                attributes
            }
            _ => self.metadata.admit(&path, self.form.implied())?,
        };
        let replaces = state == State::New { replaces: true };
        let opaque = replaces && self.here()?.lower;
        let dir = self.modify()?;
        if replaces {
            self.remove_from(&dir, &name)?;
        }
        let made = dir.mkdir_open(&name, self.metadata.creation_mode(&attributes, 0o700))?;
        self.placed.mark(&path, OWN);
        if opaque {
            self.make_opaque(&made, &path)?;
        }
        let frame = self.frames.get_mut(index).ok_or_else(lost)?;
        (frame.state, frame.dir, frame.pending) = (State::InTree, Some(Rc::new(made)), Some((attributes, Before::New)));
        if let Some(old) = index.checked_sub(OPEN_MAX).filter(|&old| old > 0) {
            self.put_down(old)?;
        }
        Ok(())
    }

    /// Steps into a directory that was just made.
    pub(super) fn enter_made(&mut self, name: &[u8], attributes: Attributes, opaque: bool) -> Result<()> {
        let made = self.modify()?.child(name)?;
        let path = self.here_path(name)?;
        if opaque {
            self.make_opaque(&made, &path)?;
        }
        self.push(name, State::InTree)?;
        let frame = self.frames.get_mut(self.cursor).ok_or_else(lost)?;
        (frame.dir, frame.pending) = (Some(Rc::new(made)), Some((attributes, Before::New)));
        if let Some(old) = self.cursor.checked_sub(OPEN_MAX).filter(|&old| old > 0) {
            self.put_down(old)?;
        }
        Ok(())
    }

    /// Nothing of the lower tree shows in this directory; in plain form nothing is there that could.
    pub(super) fn make_opaque(&mut self, dir: &Dir, path: &EntryPath) -> Result<()> {
        match self.form {
            Form::Plain { .. } => return Ok(()),
            Form::Overlay { style, .. } => xattr::set(dir, style.opaque(), crate::whiteout::overlay::OPAQUE_VALUE)?,
            Form::Change { .. } => self.hides.push(Marker::Opaque(path.clone())),
        }
        self.placed.mark(path, OPAQUE);
        Ok(())
    }

    /// Leaves the directories beyond the first `keep`, deepest first.
    pub(super) fn leave_to(&mut self, keep: usize) -> Result<()> {
        while self.frames.len() > keep.max(1) {
            self.put_down(self.frames.len().saturating_sub(1))?;
            self.frames.pop();
        }
        self.cursor = self.cursor.min(self.frames.len().saturating_sub(1));
        Ok(())
    }

    /// Drops the frames of a directory in the one on which the cursor stands, which is going to be removed.
    pub(super) fn forget(&mut self, name: &[u8]) {
        if self.frames.get(self.cursor.saturating_add(1)).is_some_and(|frame| *frame.name == *name) {
            self.frames.truncate(self.cursor.saturating_add(1));
        }
    }

    /// Drops the frames that are not in the tree, and goes back to the root.
    pub(super) fn reset(&mut self) -> Result<()> {
        let kept = self.frames.iter().take_while(|frame| frame.state == State::InTree).count();
        self.leave_to(kept)?;
        self.detours.clear();
        self.cursor = 0;
        Ok(())
    }

    /// Gives a directory its attributes and closes it. The root's stays open.
    pub(super) fn put_down(&mut self, index: usize) -> Result<()> {
        let Some(frame) = self.frames.get_mut(index) else { return Ok(()) };
        let Some(dir) = &frame.dir else { return Ok(()) };
        match (frame.pending.take(), frame.saved.take()) {
            (Some((attributes, before)), _) => self.metadata.set(dir, &frame.path, &attributes, before, Mode::Set)?,
            (None, Some(saved)) => saved.restore(dir)?,
            (None, None) => {}
        }
        if index > 0 {
            frame.dir = None;
        }
        Ok(())
    }
}

pub(super) fn join(directory: &EntryPath, name: &[u8]) -> Result<EntryPath> {
    directory
        .join(name)
        .map_err(|error| Error::new(ErrorKind::InvalidLayer, "apply layer").at(directory).because(error.to_string()))
}

/// The tree changed under the applier.
pub(super) fn lost() -> Error {
    Error::new(ErrorKind::Corrupt, "apply layer").because("a directory of the tree is gone: somebody else writes into it")
}
