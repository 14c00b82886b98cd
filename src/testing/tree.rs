//! [`Tree`]: a file tree in memory, as a literal of a test or as a snapshot of a directory.
//!
//! Equality is that of the layer contract ("the same tree"): type, mode, owner, device, size, content, link target, xattrs, mtime in
//! nanoseconds, and which names share an inode. Invariant: every name's parent is a directory of the tree; the root always exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::digest::{Algorithm, Digest};
use crate::entry::{Attributes, Timestamp};
use crate::path::EntryPath;

mod difference;
mod read;
#[cfg(test)]
mod tests;

pub use difference::assert_same_tree;

/// The mtime of everything that a literal names, in a [`Tree`] and in a [`Layer`](super::Layer), unless it says another. What is only
/// implied has mtime 0, so that a test sees the difference.
pub const LITERAL_MTIME: Timestamp = Timestamp::from_seconds(1_000_000_000);

/// Contents up to this size are kept whole, larger ones as size and digest.
const KEPT: usize = 64 << 10;

/// The content of a file. Large ones are known by size and SHA-256 alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(Kept);

#[derive(Clone, PartialEq, Eq)]
enum Kept {
    Whole(Arc<[u8]>),
    Digest { size: u64, digest: Digest },
}

impl Content {
    /// The content that these bytes are.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        if bytes.len() <= KEPT {
            Self(Kept::Whole(bytes.into()))
        } else {
            Self(Kept::Digest { size: bytes.len() as u64, digest: Algorithm::Sha256.digest(bytes) })
        }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Kept::Whole(bytes) => bytes.len() as u64,
            Kept::Digest { size, .. } => *size,
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kept::Whole(bytes) if bytes.len() <= 64 => write!(f, "\"{}\"", bytes.escape_ascii()),
            Kept::Whole(bytes) => write!(f, "{} bytes, {}", bytes.len(), Algorithm::Sha256.digest(bytes)),
            Kept::Digest { size, digest } => write!(f, "{size} bytes, {digest}"),
        }
    }
}

/// The type of an inode, with what belongs to that type alone.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device: major, minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket, which only a snapshot of a directory can have.
    Socket,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("directory"),
            Self::File(content) => write!(f, "file {content:?}"),
            Self::Symlink(target) => write!(f, "symlink to {}", target.escape_ascii()),
            Self::CharDevice(major, minor) => write!(f, "character device {major}:{minor}"),
            Self::BlockDevice(major, minor) => write!(f, "block device {major}:{minor}"),
            Self::Fifo => f.write_str("fifo"),
            Self::Socket => f.write_str("socket"),
        }
    }
}

/// One inode: what it is and what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Type, content, target, device.
    pub kind: Kind,
    /// Mode, owner, mtime, xattrs.
    pub attributes: Attributes,
}

/// Number of an inode in one [`Tree`]; later ones are higher.
pub(super) type InodeId = u64;

/// A file tree.
///
/// ```
/// use plywood::testing::Tree;
///
/// let tree = Tree::new()
///     .dir("usr", 0o755)
///     .file("usr/a", "text").owner(5, 5).mtime(1, 500_000_000).xattr("user.note", "x")
///     .hardlink("b", "usr/a")
///     .symlink("lib", "usr/lib");
/// assert!(tree.difference(&tree.clone()).is_empty());
/// ```
#[derive(Clone)]
pub struct Tree {
    names: BTreeMap<EntryPath, InodeId>,
    inodes: BTreeMap<InodeId, Inode>,
    next: InodeId,
    /// The name that the literal's modifiers speak of.
    current: EntryPath,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

/// Literals. Parents that no literal names are directories as layers imply them: 0755, 0:0, mtime 0, no xattrs.
impl Tree {
    /// A root directory that no layer describes, and nothing in it.
    pub fn new() -> Self {
        let root = Inode { kind: Kind::Directory, attributes: Attributes::implied() };
        let (names, inodes) = (BTreeMap::from([(EntryPath::ROOT, 0)]), BTreeMap::from([(0, root)]));
        Self { names, inodes, next: 1, current: EntryPath::ROOT }
    }

    /// A directory of this mode, 0:0. With the path `""` it is the root.
    #[must_use]
    pub fn dir(self, path: impl AsRef<[u8]>, mode: u32) -> Self {
        self.literal(path, Kind::Directory, mode)
    }

    /// A directory that no layer has an entry for: 0755, 0:0, mtime 0.
    #[must_use]
    pub fn implied(self, path: impl AsRef<[u8]>) -> Self {
        self.dir(path, 0o755).mtime(0, 0)
    }

    /// A regular file, 0644, 0:0.
    #[must_use]
    pub fn file(self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.literal(path, Kind::File(Content::new(content)), 0o644)
    }

    /// A symlink, 0777, 0:0.
    #[must_use]
    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.literal(path, Kind::Symlink(target.as_ref().to_vec()), 0o777)
    }

    /// A named pipe, 0644, 0:0.
    #[must_use]
    pub fn fifo(self, path: impl AsRef<[u8]>) -> Self {
        self.literal(path, Kind::Fifo, 0o644)
    }

    /// A character device, 0644, 0:0.
    #[must_use]
    pub fn char_device(self, path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.literal(path, Kind::CharDevice(major, minor), 0o644)
    }

    /// A block device, 0644, 0:0.
    #[must_use]
    pub fn block_device(self, path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.literal(path, Kind::BlockDevice(major, minor), 0o644)
    }

    /// Another name of the inode at `target`, which must be in the literal already. The modifiers that follow speak of that inode.
    ///
    /// # Panics
    /// When `target` is not there, or is a directory.
    #[must_use]
    pub fn hardlink(mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let (path, target) = (literal_path(path), literal_path(target));
        let id = self.id(&target).unwrap_or_else(|| panic!("the literal has no {target} to link to"));
        assert!(!self.is_directory(&target), "{target} is a directory");
        self.imply_parents(&path);
        self.names.insert(path.clone(), id);
        self.current = path;
        self
    }

    /// Lets the modifiers that follow speak of the name `path`.
    ///
    /// # Panics
    /// When `path` is not in the literal.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<[u8]>) -> Self {
        let path = literal_path(path);
        assert!(self.names.contains_key(&path), "the literal has no {path}");
        self.current = path;
        self
    }

    /// Sets the mode of what was named last.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        self.modify(|attributes| attributes.mode = mode)
    }

    /// Sets the owner and group of what was named last.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        self.modify(|attributes| (attributes.uid, attributes.gid) = (uid, gid))
    }

    /// Sets the mtime of what was named last.
    #[must_use]
    pub fn mtime(self, seconds: i64, nanoseconds: u32) -> Self {
        self.modify(|attributes| attributes.mtime = Timestamp { seconds, nanoseconds })
    }

    /// Sets an extended attribute of what was named last.
    #[must_use]
    pub fn xattr(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.modify(|attributes| {
            attributes.xattrs.insert(name.as_ref().to_vec(), value.as_ref().to_vec());
        })
    }

    fn literal(mut self, path: impl AsRef<[u8]>, kind: Kind, mode: u32) -> Self {
        let path = literal_path(path);
        self.imply_parents(&path);
        let attributes = Attributes { mode, mtime: LITERAL_MTIME, ..Attributes::implied() };
        self.insert(&path, Inode { kind, attributes });
        self.current = path;
        self
    }

    fn imply_parents(&mut self, path: &EntryPath) {
        let Some(parent) = path.parent() else { return };
        if !self.names.contains_key(&parent) {
            self.imply_parents(&parent);
            self.insert(&parent, Inode { kind: Kind::Directory, attributes: Attributes::implied() });
        }
        assert!(self.is_directory(&parent), "{parent} is no directory in the literal");
    }

    fn modify(mut self, change: impl FnOnce(&mut Attributes)) -> Self {
        let id = self.names.get(&self.current).copied();
        let inode = id.and_then(|id| self.inodes.get_mut(&id)).expect("the current name is in the tree");
        change(&mut inode.attributes);
        self
    }
}

/// What stands where.
impl Tree {
    /// The inode at `path`, nothing on the way followed; `""` is the root.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Inode> {
        self.inode(&EntryPath::parse(path).ok()?)
    }

    /// All names, the root's empty one included, in the order of their bytes.
    pub fn paths(&self) -> impl Iterator<Item = &EntryPath> {
        self.names.keys()
    }

    /// How many names there are, the root's included; never 0.
    #[allow(clippy::len_without_is_empty, reason = "a tree has a root")]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// All names of the inode at `path`, itself included.
    pub fn names_of(&self, path: &EntryPath) -> BTreeSet<&EntryPath> {
        let id = self.id(path);
        self.names.iter().filter(|(_, other)| id == Some(**other)).map(|(name, _)| name).collect()
    }

    pub(super) fn inode(&self, path: &EntryPath) -> Option<&Inode> {
        self.inodes.get(self.names.get(path)?)
    }

    pub(super) fn id(&self, path: &EntryPath) -> Option<InodeId> {
        self.names.get(path).copied()
    }

    pub(super) fn inode_of(&self, id: InodeId) -> Option<&Inode> {
        self.inodes.get(&id)
    }

    pub(super) fn is_directory(&self, path: &EntryPath) -> bool {
        self.inode(path).is_some_and(|inode| inode.kind == Kind::Directory)
    }

    /// The number that the next new inode will get: all inodes from here on are younger than this moment.
    pub(super) fn next_id(&self) -> InodeId {
        self.next
    }
}

/// Changes, for the model and for reading. The caller sees to it that parents are directories.
impl Tree {
    /// A new inode without a name.
    pub(super) fn allocate(&mut self, inode: Inode) -> InodeId {
        let id = self.next;
        self.next += 1;
        self.inodes.insert(id, inode);
        id
    }

    /// A new inode at `path`, instead of what stood there, subtree included.
    pub(super) fn insert(&mut self, path: &EntryPath, inode: Inode) {
        let id = self.allocate(inode);
        self.set_name(path, id);
    }

    /// Makes `path` a name of an inode, instead of what stood there, subtree included.
    pub(super) fn set_name(&mut self, path: &EntryPath, id: InodeId) {
        self.remove_below(path);
        self.names.insert(path.clone(), id);
    }

    /// New attributes for what stands at `path`.
    pub(super) fn set_attributes(&mut self, path: &EntryPath, attributes: Attributes) {
        let inode = self.names.get(path).and_then(|id| self.inodes.get_mut(id)).expect("only what is there is changed");
        inode.attributes = attributes;
    }

    /// Takes away what stands at `path`, subtree included.
    pub(super) fn remove(&mut self, path: &EntryPath) {
        self.remove_below(path);
        self.names.remove(path);
    }

    /// Takes away what stands below `path`.
    pub(super) fn remove_below(&mut self, path: &EntryPath) {
        if self.is_directory(path) {
            self.names.retain(|name, _| name == path || !name.starts_with(path));
        }
    }
}

/// A path that the author of a test wrote.
pub(super) fn literal_path(path: impl AsRef<[u8]>) -> EntryPath {
    let path = path.as_ref();
    EntryPath::parse(path).unwrap_or_else(|error| panic!("{}: {error}", path.escape_ascii()))
}
