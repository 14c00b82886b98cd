//! Where a path of a layer lands: symlinked parents (rule 6).

use std::collections::{BTreeSet, VecDeque};

use crate::path::{COMPONENT_MAX, EntryPath};
use crate::testing::tree::{Inode, Kind, Tree};

/// How many symlinks one resolution follows.
pub(super) const HOPS: usize = 40;

/// Where an entry of some path would stand in a tree, and what it needs on the way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Landing {
    /// The literal path: all its parents are directories once `make` is done.
    pub(super) position: EntryPath,
    /// Directories to be made, parents first, each instead of what stands there.
    pub(super) make: Vec<EntryPath>,
}

/// Resolves the parents of `path`; its last component is not looked at.
pub(super) fn land(tree: &Tree, path: &EntryPath) -> Landing {
    let Some(parent) = path.parent() else { return Landing { position: EntryPath::ROOT, make: Vec::new() } };
    let mut way = Way { tree, made: BTreeSet::new(), order: Vec::new(), hops: 0 };
    let mut here = EntryPath::ROOT;
    for component in parent.components() {
        let next = join(&here, component);
        here = match way.kind(&next) {
            Some(Kind::Directory) => next,
            Some(Kind::Symlink(target)) => match way.follow(&here, target) {
                Some(directory) => directory,
                None => way.make(next),
            },
            Some(_) | None => way.make(next),
        };
    }
    let position = path.file_name().map_or_else(EntryPath::default, |name| join(&here, name));
    Landing { position, make: way.order }
}

impl Landing {
    /// Makes the directories that are missing on the way.
    pub(super) fn make_parents(&self, tree: &mut Tree) {
        for path in &self.make {
            tree.insert(path, Inode { kind: Kind::Directory, attributes: crate::entry::Attributes::implied() });
        }
    }
}

struct Way<'a> {
    tree: &'a Tree,
    /// What is to be made, as a set and in its order.
    made: BTreeSet<EntryPath>,
    order: Vec<EntryPath>,
    hops: usize,
}

impl<'a> Way<'a> {
    fn kind(&self, path: &EntryPath) -> Option<&'a Kind> {
        if self.made.contains(path) { Some(&Kind::Directory) } else { self.tree.inode(path).map(|inode| &inode.kind) }
    }

    fn make(&mut self, path: EntryPath) -> EntryPath {
        self.made.insert(path.clone());
        self.order.push(path.clone());
        path
    }

    /// The directory to which a symlink in `from` leads, with what is missing on the way made. Where it leads to none, `None`, and
    /// nothing is made.
    fn follow(&mut self, from: &EntryPath, target: &[u8]) -> Option<EntryPath> {
        let before = (self.made.clone(), self.order.clone());
        let end = self.try_follow(from, target);
        if end.is_none() {
            (self.made, self.order) = before;
        }
        end
    }

    fn try_follow(&mut self, from: &EntryPath, target: &[u8]) -> Option<EntryPath> {
        self.hops += 1;
        let mut here = start(from, target);
        let mut rest: VecDeque<Vec<u8>> = components(target);
        while self.hops <= HOPS {
            let Some(component) = rest.pop_front() else { return Some(here) };
            if component == b".." {
                here = here.parent().unwrap_or_default();
                continue;
            }
            // No file system has such a name.
            if component.len() > COMPONENT_MAX {
                return None;
            }
            let next = join(&here, &component);
            match self.kind(&next) {
                Some(Kind::Directory) => here = next,
                Some(Kind::Symlink(target)) => {
                    self.hops += 1;
                    here = start(&here, target);
                    for component in components(target).into_iter().rev() {
                        rest.push_front(component);
                    }
                }
                None => here = self.make(next),
                Some(_) => return None,
            }
        }
        None
    }
}

/// Where a symlink in `from` begins to lead.
pub(super) fn start(from: &EntryPath, target: &[u8]) -> EntryPath {
    if target.starts_with(b"/") { EntryPath::ROOT } else { from.clone() }
}

/// The components of a symlink's target, `..` among them.
pub(super) fn components(target: &[u8]) -> VecDeque<Vec<u8>> {
    let parts = target.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(<[u8]>::to_vec).collect()
}

pub(super) fn join(directory: &EntryPath, component: &[u8]) -> EntryPath {
    directory.join(component).expect("a component is a name")
}
