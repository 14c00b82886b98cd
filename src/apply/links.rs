//! Hardlinks (SEMANTICS §1.9): looked up when they are read, or waiting for an entry that comes later.
//!
//! A link into the lower tree takes its target with it: a new inode, shared by the target's name and this layer's links.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use super::at_entry;
use super::directories::{State, join};
use super::entries::Applier;
use super::lookup::Found;
use super::placed::{ENTRY, OWN};
use crate::entry::Position;
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::progress::Reason;
use crate::sys::Dir;
use crate::tree::Answer;

/// Links whose targets are not there yet.
#[derive(Debug, Default)]
pub(super) struct Links {
    waiting: BTreeMap<u64, Link>,
    by_expected: HashMap<EntryPath, BTreeSet<u64>>,
    by_path: HashMap<EntryPath, BTreeSet<u64>>,
    next: u64,
}

/// A hardlink entry.
#[derive(Debug)]
pub(super) struct Link {
    path: EntryPath,
    target: EntryPath,
    position: Option<Position>,
    /// The literal path at which the target would have landed.
    expected: EntryPath,
}

impl Links {
    fn wait(&mut self, link: Link) {
        self.by_expected.entry(link.expected.clone()).or_default().insert(self.next);
        self.by_path.entry(link.path.clone()).or_default().insert(self.next);
        self.waiting.insert(self.next, link);
        self.next = self.next.saturating_add(1);
    }

    /// Its own name gets another entry.
    pub(super) fn drop_waiting(&mut self, path: &EntryPath) {
        if self.waiting.is_empty() {
            return;
        }
        for number in self.by_path.remove(path).unwrap_or_default() {
            self.take(number);
        }
    }

    /// Those that wait for this literal path, in the order in which they were read.
    pub(super) fn wake(&mut self, position: &EntryPath) -> Vec<Link> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let numbers = self.by_expected.remove(position).unwrap_or_default();
        numbers.into_iter().filter_map(|number| self.take(number)).collect()
    }

    fn take_all(&mut self) -> Vec<Link> {
        (self.by_expected, self.by_path) = Default::default();
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    fn take(&mut self, number: u64) -> Option<Link> {
        let link = self.waiting.remove(&number)?;
        for (index, key) in [(&mut self.by_expected, &link.expected), (&mut self.by_path, &link.path)] {
            if let Some(numbers) = index.get_mut(key) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    index.remove(key);
                }
            }
        }
        Some(link)
    }
}

/// Where aufs kept the inodes of hardlinks.
pub(super) fn is_aside(path: &EntryPath) -> bool {
    crate::whiteout::is_aufs_inode(path)
}

/// What a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Missing,
    Directory,
    /// In the tree: what stands at the literal path.
    InTree,
    /// In the lower tree alone; in plain form nothing is.
    Lower,
    /// Put aside under this name.
    Aside(Vec<u8>),
}

impl Applier<'_> {
    pub(super) fn hardlink(&mut self, path: &EntryPath, target: &EntryPath, position: Option<Position>) -> Result<()> {
        let link = Link { path: path.clone(), target: target.clone(), position, expected: EntryPath::ROOT };
        self.link_all(vec![link])
    }

    /// Applies links, and after each those that it wakes.
    pub(super) fn link_all(&mut self, links: Vec<Link>) -> Result<()> {
        let mut todo = links;
        todo.reverse();
        while let Some(link) = todo.pop() {
            match self.link(&link) {
                Ok(Some(position)) => {
                    if !is_aside(&position) {
                        self.placed.mark(&position, ENTRY | OWN);
                    }
                    todo.extend(self.links.wake(&position).into_iter().rev());
                }
                Ok(None) => {}
                // What the lower tree has may be hidden by a marker that comes later: then there is no such fault.
                Err(error) if error.kind() == ErrorKind::InvalidLayer => {
                    self.invalid.get_or_insert(at_entry(error, &link.path, link.position));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What still waits at the end is looked up once more, for as long as that helps.
    pub(super) fn finish_links(&mut self) -> Result<()> {
        loop {
            let links = self.links.take_all();
            let Some(first) = links.first() else { return Ok(()) };
            let missing = invalid(&first.path, format!("the link's target {} is missing", first.target));
            let missing = at_entry(missing, &first.path, first.position);
            let mut progress = false;
            for link in links {
                let placed = |error| at_entry(error, &link.path, link.position);
                let (from, target) = self.locate(&link.target).map_err(placed)?;
                if target != Target::Missing || self.landing(&link.path).map_err(placed)? == from {
                    progress = true;
                    self.link_all(vec![link])?;
                } else {
                    self.links.wait(link);
                }
            }
            if !progress {
                self.invalid.get_or_insert(missing);
                return Ok(());
            }
        }
    }

    /// Applies one link, or lets it wait. Says where something stands now.
    fn link(&mut self, link: &Link) -> Result<Option<EntryPath>> {
        let Link { path, target, position: member, .. } = link;
        let Some(name) = path.file_name() else { return Err(invalid(path, "the root must be a directory")) };
        let (from, found) = self.locate(target)?;
        let position = self.landing(path)?;
        if position == from {
            // Its own name.
            self.placed.mark(&position, ENTRY);
            return Ok(None);
        }
        match found {
            Target::Missing => {
                self.links.wait(Link { path: path.clone(), target: target.clone(), position: *member, expected: from });
                return Ok(None);
            }
            Target::Directory => return Err(invalid(path, format!("the link's target {target} is a directory"))),
            Target::InTree | Target::Lower if !is_aside(path) && self.would_replace(&position, &from) => {
                return Err(invalid(path, format!("the link would replace its target {target}")));
            }
            _ => {}
        }
        let Some((source, source_name)) = self.source(&from, found)? else {
            self.cx.skip(path, Reason::DeviceRefused)?;
            return Ok(None);
        };
        if is_aside(path) {
            let aside = self.new_name();
            source.link(&source_name, &self.scratch, &aside)?;
            self.aside.insert(path.clone(), Some(aside));
            return Ok(Some(path.clone()));
        }
        self.resolve_parent(path)?;
        self.make_way()?;
        let inode = source.stat(&source_name)?;
        let there = self.dir()?.stat(name)?;
        if !inode.zip(there).is_some_and(|(inode, there)| inode.same_inode(&there)) {
            if there.is_some() {
                self.remove(name)?;
            }
            source.link(&source_name, &*self.modify()?, name).map_err(|error| too_many(error, target))?;
        }
        Ok(Some(position))
    }

    /// The literal path of a link's target, and what is there.
    fn locate(&mut self, target: &EntryPath) -> Result<(EntryPath, Target)> {
        if is_aside(target) {
            let found = match self.aside.get(target) {
                None => Target::Missing,
                Some(None) => Target::Directory,
                Some(Some(name)) => Target::Aside(name.clone()),
            };
            return Ok((target.clone(), found));
        }
        let Some(name) = target.file_name() else { return Ok((EntryPath::ROOT, Target::Directory)) };
        self.resolve_parent(target)?;
        // Tools write what a link of a layer names into the same layer.
        let found = match self.look_for(name, Answer::Absent)? {
            Found::Nothing => Target::Missing,
            Found::Directory(_) => Target::Directory,
            Found::Symlink { in_tree: true, .. } | Found::Other { in_tree: true } => Target::InTree,
            Found::Symlink { .. } | Found::Other { .. } => Target::Lower,
        };
        Ok((self.here_path(name)?, found))
    }

    /// The literal path at which an entry would land. Leaves the cursor on its directory.
    fn landing(&mut self, path: &EntryPath) -> Result<EntryPath> {
        if is_aside(path) {
            return Ok(path.clone());
        }
        let Some(name) = path.file_name() else { return Ok(EntryPath::ROOT) };
        self.resolve_parent(path)?;
        self.here_path(name)
    }

    /// Whether a link at `position`, or the directories on the way to it (the cursor stands on the last), would take the place of
    /// what stands at `from`, or of a directory above it.
    fn would_replace(&self, position: &EntryPath, from: &EntryPath) -> bool {
        let on_the_way = self.frames.iter().take(self.cursor.saturating_add(1));
        from.starts_with(position)
            || on_the_way.filter(|frame| matches!(frame.state, State::New { .. })).any(|frame| from.starts_with(&frame.path))
    }

    /// A name of the target's inode that can be linked to; none where it is a device that cannot be made here.
    fn source(&mut self, from: &EntryPath, target: Target) -> Result<Option<(Rc<Dir>, Vec<u8>)>> {
        if let Target::Aside(name) = target {
            return Ok(Some((Rc::clone(&self.scratch), name)));
        }
        let (Some(parent), Some(name)) = (from.parent(), from.file_name()) else { return Ok(None) };
        self.reset()?;
        self.go_to(&parent)?;
        let own = self.form.is_change() || self.placed.has(from, OWN);
        let leaves = match target {
            Target::Lower => true,
            _ => !own && self.dir()?.stat(name)?.is_some_and(|stat| stat.nlink > 1),
        };
        if leaves && !self.copy_up(&parent, name)? {
            return Ok(None);
        }
        let dir = self.dir()?;
        self.placed.mark(&join(&parent, name)?, OWN);
        Ok(Some((dir, name.to_vec())))
    }
}

/// Says of a file system that gives an inode no more names what would help.
fn too_many(error: Error, target: &EntryPath) -> Error {
    if error.raw_os_error() != Some(libc::EMLINK) {
        return error;
    }
    error
        .because(format!("the file system gives {target} no more names than it has"))
        .with_hint("keep the store on a file system that takes more hardlinks of one file (ext4 takes 65,000; xfs two billion)")
}

fn invalid(path: &EntryPath, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidLayer, "apply entry").at(path).because(reason)
}
