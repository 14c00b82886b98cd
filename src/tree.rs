//! Trees: what one layer unpacked to, and what its unpacking asked of the layers below.
//!
//! Some things in a tree depend on its parent: the attributes of implicit directories, links into lower layers, symlinked parents,
//! whether a whiteout's directory exists. Applying records each such [`Question`] with its [`Answer`] as a [`Fact`]; **every chain
//! whose parent gives the same answers can share the tree**.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::entry::Attributes;
use crate::path::EntryPath;
use crate::snapshot::Usage;

/// Number of a tree in its store. Never used twice; 0 is the tree that is always empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TreeId(pub u64);

impl TreeId {
    /// The tree that is always empty and always there: overlayfs wants a lowerdir even where there is nothing below.
    pub const EMPTY: Self = Self(0);
}

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a tree is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Writes go to the tree.
    ReadWrite,
    /// Nothing can be written.
    ReadOnly,
}

/// What becomes of owners when a layer is applied. Part of a tree's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// As the layer says; an owner outside the process's id map, or the store's, is an `IdNotMapped` error.
    #[default]
    Exact,
    /// An owner outside the process's id map, or the store's, becomes the map's root, and is reported.
    Squash,
}

/// How much of a path of the parent a question wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// Its type, and a symlink's target.
    Kind,
    /// The same, and a directory's attributes.
    Attributes,
    /// The same, and a digest of everything of a non-directory: attributes, target, device, content.
    Content,
}

/// What applying a layer asks of its parent: literally this path, nothing on the way followed. A component that is no directory
/// makes the answer `Absent`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    /// The path in the parent's tree.
    pub path: EntryPath,
    /// How much to tell.
    pub detail: Detail,
}

/// What the parent has at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Nothing.
    Absent,
    /// A directory; its attributes where they were asked for.
    Directory(Option<Box<Attributes>>),
    /// A symlink with this target.
    Symlink(Vec<u8>),
    /// Anything else; the digest of it all where it was asked for.
    Other(Option<Digest>),
}

/// A question with the answer on which the tree rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What was asked.
    pub question: Question,
    /// What the parent said.
    pub answer: Answer,
}

/// What a layer hides of its parent, at a literal path of that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Marker {
    /// The path itself, with all below it.
    Whiteout(EntryPath),
    /// What is in this directory.
    Opaque(EntryPath),
}

/// What came of applying a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// What the tree rests on, sorted by question, each question once.
    pub facts: Vec<Fact>,
    /// The root directory's attributes, if the layer has an entry for it. They belong to the snapshot, not to the tree.
    pub root: Option<Attributes>,
    /// The layer hides everything below: the chain ends here.
    pub cut: bool,
    /// The layer changed nothing but, perhaps, the root's attributes: no tree is needed.
    pub empty: bool,
    /// What the tree takes.
    pub usage: Usage,
    /// What the layer hides, where its tree is a change that does not say so itself.
    pub markers: Vec<Marker>,
    /// The data of all its files is written, and what the file system has noted of them and of all names is at least in its log: where that
    /// [comes in order](crate::backend::Backend::keeps_order_with), the sync of a directory that was touched later makes the tree durable.
    pub is_written_back: bool,
}

impl Applied {
    /// A tree of this usage that rests on nothing, changes something, hides nothing as a whole and says nothing of the root: what a
    /// backend that keeps whole trees has to tell. The fields are there to be set.
    ///
    /// ```
    /// use plywood::snapshot::Usage;
    /// use plywood::tree::Applied;
    ///
    /// let mut applied = Applied::new(Usage::new(3, 4096));
    /// applied.cut = true;
    /// assert!(applied.facts.is_empty() && applied.root.is_none() && !applied.empty);
    /// ```
    pub const fn new(usage: Usage) -> Self {
        Self { facts: Vec::new(), root: None, cut: false, empty: false, usage, markers: Vec::new(), is_written_back: false }
    }
}
