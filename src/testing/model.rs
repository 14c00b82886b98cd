//! The tree rule (SEMANTICS §1) in memory, as plainly as it can be said: markers first, on the lower tree; then the entries, one after
//! the other. No streaming, no disk, no economy. Where an applier and this disagree, one of them misreads the contract.
//!
//! Of §4 it knows which xattrs a layer may not set. That a file system or a user namespace refuses something is beyond it.

use std::collections::BTreeSet;

use super::layer::{Layer, LayerEntry};
use super::tree::{Content, Inode, Kind, Tree};
use crate::entry::{Attributes, Change, Node};
use crate::path::EntryPath;

mod diff;
mod entries;
mod markers;
mod resolve;
#[cfg(test)]
mod tests;

pub use diff::{Written, diff};
use entries::Applying;
use markers::Hidden;

/// Why a layer has no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Invalid {
    /// Where, escaped.
    pub path: String,
    /// Why.
    pub reason: String,
    /// The markers and entries of the layer contradict each other: whether a marker acts depends on whether it acts. The contract
    /// does not say what such a layer means.
    pub contradictory: bool,
}

impl Invalid {
    fn new(path: &EntryPath, reason: impl Into<String>) -> Self {
        Self { path: path.to_string(), reason: reason.into(), contradictory: false }
    }
}

/// The tree that layers make, bottom first.
///
/// # Errors
/// [`Invalid`] for the first layer that the contract refuses.
///
/// # Panics
/// When a layer is not [plain](Layer::is_plain).
pub fn fold(layers: &[Layer]) -> Result<Tree, Invalid> {
    layers.iter().try_fold(Tree::new(), |lower, layer| {
        let entries = layer.entries().map_err(|error| Invalid {
            path: error.path().map(|path| path.display().to_string()).unwrap_or_default(),
            reason: error.reason().unwrap_or_default().to_owned(),
            contradictory: false,
        })?;
        apply(&lower, &entries)
    })
}

/// The tree that one layer makes of the lower tree.
///
/// What a marker hides depends on where entries stand (rule 5), and where entries land depends on what is hidden (rule 1). So both are
/// worked out in turns, from nothing hidden on, until nothing changes.
///
/// # Errors
/// [`Invalid`] when the contract refuses the layer.
pub fn apply(lower: &Tree, layer: &[LayerEntry]) -> Result<Tree, Invalid> {
    let mut hidden = Hidden::default();
    for _ in 0..64 {
        let start = hidden.applied_to(lower);
        let (outcome, landed) = entries(start, layer);
        let next = Hidden::by(lower, layer, &landed, &hidden);
        if next == hidden {
            return outcome;
        }
        hidden = next;
    }
    Err(Invalid { contradictory: true, ..Invalid::new(&EntryPath::ROOT, "the layer's markers contradict each other") })
}

/// Applies the entries; also tells where each landed, an invalid one passed over.
fn entries(start: Tree, layer: &[LayerEntry]) -> (Result<Tree, Invalid>, BTreeSet<EntryPath>) {
    let mut applying = Applying::new(start);
    let mut first_error = None;
    for LayerEntry { entry, content } in layer {
        let Change::Upsert { node, attributes } = &entry.change else { continue };
        let done = match node {
            Node::Hardlink { target } => applying.hardlink(&entry.path, target),
            node => applying.upsert(&entry.path, inode(node, attributes, content)),
        };
        first_error = first_error.or(done.err());
    }
    first_error = first_error.or(applying.finish().err());
    let (tree, landed) = applying.into_parts();
    (first_error.map_or(Ok(tree), Err), landed)
}

/// What an entry that is no hardlink makes.
fn inode(node: &Node, attributes: &Attributes, content: &[u8]) -> Inode {
    let kind = match node {
        Node::Directory => Kind::Directory,
        Node::File { .. } => Kind::File(Content::new(content)),
        Node::Symlink { target } => Kind::Symlink(target.clone()),
        Node::CharDevice { major, minor } => Kind::CharDevice(*major, *minor),
        Node::BlockDevice { major, minor } => Kind::BlockDevice(*major, *minor),
        Node::Fifo => Kind::Fifo,
        Node::Hardlink { .. } => unreachable!("a hardlink makes no inode"),
    };
    let mut attributes = attributes.clone();
    attributes.xattrs.retain(|name, _| may_be_set(name));
    Inode { kind, attributes }
}

/// Whether a layer may set an xattr (§4), as root: overlayfs's own names look unchanged inside, wherever they are kept.
fn may_be_set(name: &[u8]) -> bool {
    let of_the_host: [&[u8]; 4] = [b"security.selinux", b"security.ima", b"security.evm", b"security.apparmor"];
    name.starts_with(b"trusted.overlay.") || !(name.starts_with(b"trusted.") || of_the_host.contains(&name))
}
