//! Entries, one after the other, on what the markers left of the lower tree (rules 2, 6, 8, 9).

use std::collections::{BTreeMap, BTreeSet};

use super::Invalid;
use super::resolve::land;
use crate::path::EntryPath;
use crate::testing::layer::PLNK;
use crate::testing::tree::{Inode, InodeId, Kind, Tree};

/// A tree to which a layer's entries are being applied.
pub(super) struct Applying {
    tree: Tree,
    /// Inodes from this one on are the layer's own.
    first_own: InodeId,
    /// What lies in aufs's directory of link targets.
    aside: BTreeMap<EntryPath, InodeId>,
    /// Hardlinks whose targets are not there yet, in their order.
    waiting: Vec<Waiting>,
    /// The literal paths at which the layer's entries stand or stood.
    landed: BTreeSet<EntryPath>,
}

#[derive(Clone)]
struct Waiting {
    path: EntryPath,
    target: EntryPath,
    /// The literal path at which the target would have landed when the link was read.
    expected: EntryPath,
}

impl Applying {
    pub(super) fn new(tree: Tree) -> Self {
        let first_own = tree.next_id();
        Self { tree, first_own, aside: BTreeMap::new(), waiting: Vec::new(), landed: BTreeSet::new() }
    }

    pub(super) fn into_parts(self) -> (Tree, BTreeSet<EntryPath>) {
        (self.tree, self.landed)
    }

    /// Anything but a hardlink.
    pub(super) fn upsert(&mut self, path: &EntryPath, inode: Inode) -> Result<(), Invalid> {
        self.drop_waiting(path);
        if is_aside(path) {
            let id = self.tree.allocate(inode);
            self.aside.insert(path.clone(), id);
            return self.wake(path);
        }
        if path.is_root() && inode.kind != Kind::Directory {
            return Err(Invalid::new(path, "the root directory must be a directory"));
        }
        let landing = land(&self.tree, path);
        landing.make_parents(&mut self.tree);
        if inode.kind == Kind::Directory && self.tree.is_directory(&landing.position) {
            self.tree.set_attributes(&landing.position, inode.attributes);
        } else {
            self.tree.insert(&landing.position, inode);
        }
        self.arrived(&landing.position)
    }

    /// A hardlink as it is read.
    pub(super) fn hardlink(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), Invalid> {
        self.drop_waiting(path);
        self.link_or_wait(path, target)
    }

    fn link_or_wait(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), Invalid> {
        if path.is_root() {
            return Err(Invalid::new(path, "the root directory must be a directory"));
        }
        let from = self.target_position(target);
        let landing = land(&self.tree, path);
        if !is_aside(path) && landing.position == from {
            self.landed.insert(landing.position);
            return Ok(()); // its own name
        }
        let Some(id) = self.inode_at(&from) else {
            self.waiting.push(Waiting { path: path.clone(), target: target.clone(), expected: from });
            return Ok(());
        };
        if self.tree.inode_of(id).is_some_and(|inode| inode.kind == Kind::Directory) {
            return Err(Invalid::new(path, "the link's target is a directory"));
        }
        if is_aside(path) {
            let id = self.leave_lower_group(&from, id);
            self.aside.insert(path.clone(), id);
            return self.wake(path);
        }
        landing.make_parents(&mut self.tree);
        if from.starts_with(&landing.position) || self.inode_at(&from) != Some(id) {
            return Err(Invalid::new(path, "the link would replace its target"));
        }
        let id = self.leave_lower_group(&from, id);
        self.tree.set_name(&landing.position, id);
        self.arrived(&landing.position)
    }

    /// A lower target leaves its lower group.
    fn leave_lower_group(&mut self, from: &EntryPath, id: InodeId) -> InodeId {
        if id >= self.first_own {
            return id;
        }
        let copy = self.tree.inode_of(id).cloned().expect("its inode was found");
        let own = self.tree.allocate(copy);
        self.tree.set_name(from, own);
        own
    }

    /// What still waits when all entries were read.
    pub(super) fn finish(&mut self) -> Result<(), Invalid> {
        loop {
            let mut progress = false;
            for link in std::mem::take(&mut self.waiting) {
                let from = self.target_position(&link.target);
                if self.inode_at(&from).is_some() || land(&self.tree, &link.path).position == from {
                    progress = true;
                    self.link_or_wait(&link.path, &link.target)?;
                } else {
                    self.waiting.push(link);
                }
            }
            match self.waiting.first() {
                Some(link) if !progress => return Err(Invalid::new(&link.path, "the link's target is missing")),
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// An entry stands at a literal path now.
    fn arrived(&mut self, position: &EntryPath) -> Result<(), Invalid> {
        self.landed.insert(position.clone());
        self.wake(position)
    }

    /// Applies the links that wait for what has just come to `position`, as if they stood here.
    fn wake(&mut self, position: &EntryPath) -> Result<(), Invalid> {
        let (woken, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|link| link.expected == *position);
        self.waiting = waiting;
        for link in Vec::<Waiting>::from_iter(woken) {
            self.link_or_wait(&link.path, &link.target)?;
        }
        Ok(())
    }

    /// A waiting link whose own name gets a later entry is dropped.
    fn drop_waiting(&mut self, path: &EntryPath) {
        self.waiting.retain(|link| link.path != *path);
    }

    fn target_position(&self, target: &EntryPath) -> EntryPath {
        if is_aside(target) { target.clone() } else { land(&self.tree, target).position }
    }

    fn inode_at(&self, position: &EntryPath) -> Option<InodeId> {
        if is_aside(position) { self.aside.get(position).copied() } else { self.tree.id(position) }
    }
}

fn is_aside(path: &EntryPath) -> bool {
    path.components().next() == Some(PLNK)
}
