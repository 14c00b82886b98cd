//! Where a path of the layer lands (SEMANTICS §1.6): symlinked parents, in the tree and in what shows of the lower tree.
//!
//! Nothing is made while a path is resolved: frames that are not in the tree say what would be. [`Applier::make_way`] makes it.

use super::directories::State;
use super::entries::Applier;
use super::placed::OWN;
use crate::error::Result;
use crate::path::{COMPONENT_MAX, EntryPath};
use crate::sys::root::HOPS_MAX;
use crate::sys::{FileType, Stat};
use crate::tree::{Answer, Detail};

/// What stands at a name.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Directory(State),
    /// A symlink, and whether it stands in the tree (plain form: everything does).
    Symlink {
        target: Vec<u8>,
        in_tree: bool,
    },
    Other {
        in_tree: bool,
    },
}

impl Applier<'_> {
    /// Looks for a directory in the one on which the cursor stands.
    pub(super) fn look(&mut self, name: &[u8]) -> Result<Found> {
        self.look_for(name, Answer::Directory(None))
    }

    /// Looks at a name in the directory on which the cursor stands; `guess` is what a parent that is not known has there.
    pub(super) fn look_for(&mut self, name: &[u8], guess: Answer) -> Result<Found> {
        // No file system has such a name.
        if name.len() > COMPONENT_MAX {
            return Ok(Found::Nothing);
        }
        let frame = self.here()?;
        let (state, lower) = (frame.state, frame.lower);
        if state == State::InTree
            && let Some(stat) = self.dir()?.stat(name)?
        {
            return self.look_in_tree(name, &stat);
        }
        let path = self.here_path(name)?;
        if self.detours.contains(&path) {
            return Ok(Found::Directory(State::New { replaces: false }));
        }
        if !lower || self.hidden.hides(&path) {
            return Ok(Found::Nothing);
        }
        let answer = self.lower.answer(&path, Detail::Kind, guess)?;
        self.facts.record(path, Detail::Kind, answer.clone());
        Ok(match answer {
            Answer::Absent => Found::Nothing,
            Answer::Directory(_) => Found::Directory(State::Lower),
            Answer::Symlink(target) => Found::Symlink { target, in_tree: false },
            Answer::Other(_) => Found::Other { in_tree: false },
        })
    }

    fn look_in_tree(&mut self, name: &[u8], stat: &Stat) -> Result<Found> {
        let (found, answer) = match stat.file_type {
            FileType::Directory => (Found::Directory(State::InTree), Answer::Directory(None)),
            FileType::Symlink => {
                let target = self.dir()?.readlink(name)?;
                (Found::Symlink { target: target.clone(), in_tree: true }, Answer::Symlink(target))
            }
            _ => (Found::Other { in_tree: true }, Answer::Other(None)),
        };
        if !self.form.is_change() {
            let path = self.here_path(name)?;
            if !self.placed.has(&path, OWN) {
                self.facts.record(path, Detail::Kind, answer);
            }
        }
        Ok(found)
    }

    /// Puts the cursor on the directory in which the last component of `path` belongs.
    pub(super) fn resolve_parent(&mut self, path: &EntryPath) -> Result<()> {
        self.reset()?;
        let mut hops = 0;
        let mut components = path.components();
        components.next_back();
        for name in components {
            if self.step(name) {
                continue;
            }
            match self.look(name)? {
                Found::Nothing => self.push(name, State::New { replaces: false })?,
                Found::Directory(state) => self.push(name, state)?,
                Found::Other { in_tree } => self.push(name, State::New { replaces: in_tree })?,
                Found::Symlink { target, in_tree } => {
                    let from = self.here()?.path.clone();
                    let detours = self.detours.len();
                    if !self.follow(&target, &mut hops)? {
                        // It leads to no directory: the symlink itself makes room, and nothing else is touched.
                        self.detours.truncate(detours);
                        self.go_to(&from)?;
                        self.push(name, State::New { replaces: in_tree })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Follows a symlink that stands in the directory on which the cursor stands. Says whether it leads to a directory, or to where
    /// one can be made.
    fn follow(&mut self, target: &[u8], hops: &mut usize) -> Result<bool> {
        let mut todo: Vec<Vec<u8>> = Vec::new();
        self.hop(target, &mut todo, hops);
        while *hops <= HOPS_MAX {
            let Some(name) = todo.pop() else { return Ok(true) };
            if name == b".." {
                self.step_up()?;
                continue;
            }
            if name.len() > COMPONENT_MAX {
                return Ok(false);
            }
            if self.step(&name) {
                continue;
            }
            match self.look(&name)? {
                Found::Nothing => self.push(&name, State::New { replaces: false })?,
                Found::Directory(state) => self.push(&name, state)?,
                Found::Symlink { target, .. } => self.hop(&target, &mut todo, hops),
                Found::Other { .. } => return Ok(false),
            }
        }
        Ok(false)
    }

    fn hop(&mut self, target: &[u8], todo: &mut Vec<Vec<u8>>, hops: &mut usize) {
        *hops = hops.saturating_add(1);
        if target.first() == Some(&b'/') {
            self.cursor = 0;
        }
        let names = target.rsplit(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        todo.extend(names.map(<[u8]>::to_vec));
    }

    /// Puts the cursor on the directory at this literal path, following nothing; what is no directory there would be replaced.
    pub(super) fn go_to(&mut self, path: &EntryPath) -> Result<()> {
        self.cursor = 0;
        for name in path.components() {
            if self.step(name) {
                continue;
            }
            match self.look(name)? {
                Found::Nothing => self.push(name, State::New { replaces: false })?,
                Found::Directory(state) => self.push(name, state)?,
                Found::Symlink { in_tree, .. } | Found::Other { in_tree } => self.push(name, State::New { replaces: in_tree })?,
            }
        }
        Ok(())
    }
}
