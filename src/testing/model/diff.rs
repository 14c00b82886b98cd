//! What a diff writes (SEMANTICS §5), worked out from two whole trees in memory.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::entry::{Attributes, Change, Entry, Node};
use crate::path::EntryPath;
use crate::testing::tree::{Content, InodeId, Kind, Tree};

/// One entry of a diff, with the content that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The entry. The attributes of a hardlink mean nothing, and are those of a directory that nobody described.
    pub entry: Entry,
    /// The content of a file.
    pub content: Option<Content>,
}

impl Written {
    /// An entry as it came out of an archive, in the form in which [`diff`] gives it.
    pub fn new(mut entry: Entry, content: &[u8]) -> Self {
        let mut kept = None;
        if let Change::Upsert { node, attributes } = &mut entry.change {
            match node {
                Node::Hardlink { .. } => *attributes = Attributes::implied(),
                Node::File { .. } => kept = Some(Content::new(content)),
                _ => {}
            }
        }
        Self { entry, content: kept }
    }
}

/// The entries that make `upper` of `lower`, in their order.
///
/// Sockets, and names that no layer can say, are not looked for.
pub fn diff(lower: &Tree, upper: &Tree) -> Vec<Written> {
    let written = written_groups(lower, upper);
    let mut entries = BTreeMap::new();
    for path in upper.paths() {
        let Some(inode) = upper.inode(path) else { continue };
        let changed = match &inode.kind {
            Kind::Directory => lower.inode(path) != Some(inode),
            _ => upper.id(path).is_some_and(|id| written.contains(&id)),
        };
        if changed {
            entries.insert(Place::of(path, false), path);
        }
    }
    for path in lower.paths().filter(|path| upper.inode(path).is_none()) {
        // What goes with a directory that goes, or with one that is something else now, needs no word.
        if path.parent().is_some_and(|parent| upper.is_directory(&parent)) {
            entries.insert(Place::of(path, true), path);
        }
    }
    let parents: Vec<EntryPath> = entries.values().flat_map(|path| parents(path)).collect();
    for parent in &parents {
        entries.insert(Place::of(parent, false), parent);
    }
    let mut first_names: BTreeMap<InodeId, &EntryPath> = BTreeMap::new();
    let entries = entries.iter().filter_map(|(place, path)| {
        if place.is_whiteout() {
            return Some(Written { entry: Entry { path: (*path).clone(), change: Change::Whiteout }, content: None });
        }
        let first = *first_names.entry(upper.id(path)?).or_insert(path);
        let inode = upper.inode(path)?;
        let (node, content) = match &inode.kind {
            Kind::Directory => (Node::Directory, None),
            _ if first != *path => (Node::Hardlink { target: first.clone() }, None),
            Kind::File(content) => (Node::File { size: content.size() }, Some(content.clone())),
            Kind::Symlink(target) => (Node::Symlink { target: target.clone() }, None),
            Kind::CharDevice(major, minor) => (Node::CharDevice { major: *major, minor: *minor }, None),
            Kind::BlockDevice(major, minor) => (Node::BlockDevice { major: *major, minor: *minor }, None),
            Kind::Fifo => (Node::Fifo, None),
            Kind::Socket => return None,
        };
        let attributes = if matches!(node, Node::Hardlink { .. }) { Attributes::implied() } else { inode.attributes.clone() };
        Some(Written { entry: Entry { path: (*path).clone(), change: Change::Upsert { node, attributes } }, content })
    });
    entries.collect()
}

/// Where an entry stands in a diff: component by component; in each directory the whiteouts come first.
#[derive(Debug, PartialEq, Eq)]
struct Place(Vec<(bool, Vec<u8>)>);

impl Place {
    fn of(path: &EntryPath, whiteout: bool) -> Self {
        let mut components: Vec<_> = path.components().map(|component| (true, component.to_vec())).collect();
        if let Some((entry, _)) = components.last_mut() {
            *entry = !whiteout;
        }
        Self(components)
    }

    fn is_whiteout(&self) -> bool {
        self.0.last().is_some_and(|(entry, _)| !entry)
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// The directories that lead to a path, but for the root.
fn parents(path: &EntryPath) -> Vec<EntryPath> {
    std::iter::successors(path.parent(), EntryPath::parent).take_while(|parent| !parent.is_root()).collect()
}

/// The inodes of the tree, directories apart, that are written: those with a name that is new or changed, or that left its group.
fn written_groups(lower: &Tree, upper: &Tree) -> BTreeSet<InodeId> {
    let mut names: Vec<&EntryPath> = upper.paths().filter(|path| !upper.is_directory(path)).collect();
    names.sort_by_key(|path| Place::of(path, false));
    // Of each lower group the part that has its first name keeps the inode; and a group of the tree is all of one lower group.
    let mut keepers: BTreeMap<InodeId, InodeId> = BTreeMap::new();
    let mut origins: BTreeMap<InodeId, InodeId> = BTreeMap::new();
    let mut written = BTreeSet::new();
    for path in names {
        let Some(here) = upper.id(path) else { continue };
        match lower.id(path).filter(|_| !lower.is_directory(path)) {
            Some(below) => {
                let keeper = *keepers.entry(below).or_insert(here);
                let origin = *origins.entry(here).or_insert(below);
                if keeper != here || origin != below || lower.inode(path) != upper.inode(path) {
                    written.insert(here);
                }
            }
            None => {
                written.insert(here);
            }
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A diff as text: `-name` for a whiteout, `name=first` for a link.
    fn text(lower: &Tree, upper: &Tree) -> String {
        let words = diff(lower, upper).into_iter().map(|Written { entry: Entry { path, change }, .. }| match change {
            Change::Upsert { node: Node::Hardlink { target }, .. } => format!("{path}={target}"),
            Change::Upsert { node: Node::Directory, .. } => format!("{path}/"),
            Change::Upsert { .. } => path.to_string(),
            Change::Whiteout => format!("-{path}"),
            Change::Opaque => unreachable!("a diff writes none"),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn changes_come_in_their_order_with_their_parents() {
        let lower = Tree::new().file("a/b/c", "").file("a/b/d", "").file("a-b", "").dir("z", 0o755).file("z/y/x", "");
        let upper = Tree::new().file("a/b/d", "").file("a/b/a", "").file("a/c", "").file("a-b", "x").file("z", "");
        assert_eq!(text(&lower, &upper), "a/ a/b/ -a/b/c a/b/a a/c a-b z");
        assert_eq!(text(&upper, &upper), "");
        assert_eq!(text(&Tree::new(), &Tree::new().dir("", 0o700).file("x", "")), "./ x");
    }

    #[test]
    fn groups_are_written_whole_or_not_at_all() {
        let lower = Tree::new().file("a", "").hardlink("b", "a").hardlink("c", "a");
        let split = Tree::new().file("a", "").hardlink("c", "a").file("b", "");
        assert_eq!(text(&lower, &split), "b", "the part with the first name stays");
        assert_eq!(text(&lower, &Tree::new().file("b", "").hardlink("c", "b")), "-a", "the rest stays linked");
        assert_eq!(text(&lower, &lower.clone().hardlink("d", "c")), "a b=a c=a d=a", "a new member");
        let merged = Tree::new().file("a", "").hardlink("b", "a").hardlink("c", "a").hardlink("x", "a");
        assert_eq!(text(&lower.clone().file("x", ""), &merged), "a b=a c=a x=a", "a member from another group");
    }
}
