//! How trees are kept and stacked: the [`Backend`] trait, its implementations, and the choice between them.
//!
//! A backend knows tree ids and directories; never keys, labels or transactions. What it makes durable, the store names afterwards.
//! Outside semver until 1.0.

mod copy;
mod overlay;
pub(crate) mod probe;
mod shifted;

pub use crate::compare::{Contents, Difference, Fault};
pub use crate::diff::look::{Found, Look, Marker};
pub use crate::sys::capabilities::{Capabilities, Capability};
pub use copy::Copy;
pub use overlay::Overlay;
pub(crate) use shifted::check_shift;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use crate::entry::{Attributes, EntrySink, EntryStream};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{IdMap, Mount};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::snapshot::Usage;
use crate::sys::Dir;
use crate::sys::usage::{Outside, owner_outside};
use crate::tree::{Access, Answer, Applied, Fact, Ids, Question, TreeId};

/// A frozen tree, as [`Backend::commit`] found it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frozen {
    /// What the tree takes.
    pub usage: Usage,
    /// The root directory's attributes, which belong to the snapshot from now on.
    pub root: Attributes,
}

impl Frozen {
    /// A frozen tree of this usage and root.
    pub const fn new(usage: Usage, root: Attributes) -> Self {
        Self { usage, root }
    }
}

/// What a tree is compared with: its layer, applied once more to an outline of it.
pub struct Reference<'a> {
    /// The number of a tree that is there for the comparison alone. Whoever asked for that removes it.
    pub outline: TreeId,
    /// The outline of the parent, for a backend whose trees belong to their chain.
    pub below: Option<TreeId>,
    /// What the tree rests on.
    pub facts: &'a [Fact],
    /// The layer, from its beginning.
    pub layer: &'a mut dyn EntryStream,
    /// What became of its owners.
    pub ids: Ids,
    /// What the outline's files should hold.
    pub contents: &'a mut Contents,
}

impl fmt::Debug for Reference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference").field("outline", &self.outline).field("below", &self.below).finish_non_exhaustive()
    }
}

/// How snapshot trees are kept and stacked.
///
/// A `chain` lists trees topmost first, without repeats and without empty layers, as overlayfs's `lowerdir` does. The attributes of
/// the root directory are never part of a tree: they are handed in where they matter.
pub trait Backend: fmt::Debug + Send + Sync {
    /// `overlay`, `copy`…: what the store's metadata and `--backend` call it.
    fn name(&self) -> &'static str;

    /// The longest chain that can be mounted.
    fn longest_chain(&self) -> usize;

    /// With which map owners are on the disk where they are not the container's: what is written gets the host's ids, what is told the
    /// container's. `None` where a mount shows what is on the disk to a container as it is, or [through a map](Mount::id_map).
    fn id_shift(&self) -> Option<&IdMap> {
        None
    }

    /// Makes an empty writable tree over a chain, whose root has these attributes. Durable when it returns. A directory left there by
    /// a crash is replaced.
    ///
    /// # Errors
    /// `NoSpace`, `PermissionDenied`, `Io`.
    fn create(&self, tree: TreeId, chain: &[TreeId], root: &Attributes) -> Result<()>;

    /// Makes the tree of a View: nothing will ever be written to it. The rest is as in [`create`](Self::create), which it is unless a
    /// backend can do with less.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    fn create_view(&self, tree: TreeId, chain: &[TreeId], root: &Attributes) -> Result<()> {
        self.create(tree, chain, root)
    }

    /// Whether a tree that is [created unsynced](Self::create_unsynced) is on the disk no later than any change, made after it, of the
    /// length of a file in this directory. By default it is not.
    fn keeps_order_with(&self, _directory: BorrowedFd<'_>) -> bool {
        false
    }

    /// The same as [`create`](Self::create) and [`create_view`](Self::create_view), but nothing need be durable; only asked for where
    /// the backend [keeps the order](Self::keeps_order_with).
    ///
    /// # Errors
    /// As [`create`](Self::create).
    fn create_unsynced(&self, tree: TreeId, chain: &[TreeId], root: &Attributes) -> Result<()> {
        self.create(tree, chain, root)
    }

    /// Unpacks a layer over a chain into a new tree. Durable when it returns; on an error nothing is left.
    ///
    /// # Errors
    /// `InvalidLayer`, `LimitExceeded`, `IdNotMapped`, `Cancelled`, `NoSpace`, `Io`.
    fn apply(&self, tree: TreeId, chain: &[TreeId], layer: &mut dyn EntryStream, ids: Ids, cx: &Context<'_>) -> Result<Applied>;

    /// Whether layers can be unpacked before what they stand on is there: [`apply_ahead`](Self::apply_ahead).
    fn unpacks_ahead(&self) -> bool {
        false
    }

    /// Unpacks a layer over a chain as [`apply`](Self::apply) does; without one over a chain that is not there yet, whose answers
    /// are guessed: then the tree is to be [settled](Self::settle) before anything stands on it. Nothing is durable when it returns, and
    /// the usage is still to be asked for. `None` where the layer cannot be unpacked without its chain; nothing is left then.
    ///
    /// Where [trees are whole](Self::is_whole) it is what the layer changes alone, to be [merged](Self::merge).
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn apply_ahead(
        &self,
        _tree: TreeId,
        _chain: Option<&[TreeId]>,
        _layer: &mut dyn EntryStream,
        _ids: Ids,
        _cx: &Context<'_>,
    ) -> Result<Option<Applied>> {
        Ok(None)
    }

    /// Compares the answers that were guessed with those of the chain, and fills in what was not known: the tree and its facts are then
    /// as if it had been unpacked over the chain. `false` where a guess was wrong in kind: the layer has to be unpacked again. Nothing is
    /// durable when it returns.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn settle(&self, _tree: TreeId, _chain: &[TreeId], _applied: &mut Applied, _ids: Ids, _cx: &Context<'_>) -> Result<bool> {
        Ok(false)
    }

    /// Whether each tree holds what is below it, too, so that of a chain only the topmost is ever looked at: then the trees in the middle
    /// of what is imported are not made before somebody asks for them, and there are [`copy`](Self::copy), [`merge`](Self::merge),
    /// [`apply_ahead`](Self::apply_ahead) and [`outline`](Self::outline).
    fn is_whole(&self) -> bool {
        false
    }

    /// Makes a new tree that is what a chain is, or empty without one, for changes to be merged into. Nothing is durable when it returns;
    /// on an error nothing is left.
    ///
    /// # Errors
    /// `Unsupported` for a backend whose trees are not whole; `Cancelled`, `NoSpace`, `Io`.
    fn copy(&self, tree: TreeId, _chain: &[TreeId], _cx: &Context<'_>) -> Result<()> {
        Err(not_whole(self.name(), tree))
    }

    /// Moves what [`apply_ahead`](Self::apply_ahead) made over a tree, or what was settled over it, into that tree, and deletes the rest.
    /// `applied` is what the former told. Nothing is durable when it returns; after an error both trees are garbage.
    ///
    /// # Errors
    /// `Unsupported` for a backend whose trees are not whole; `Cancelled`, `NoSpace`, `Io`.
    fn merge(&self, change: TreeId, _into: TreeId, _applied: &Applied, _ids: Ids, _cx: &Context<'_>) -> Result<()> {
        Err(not_whole(self.name(), change))
    }

    /// Puts what [`apply_ahead`](Self::apply_ahead) made over a chain into a writable tree over the same chain, which stays writable and
    /// keeps its path; where [trees are whole](Self::is_whole), over that tree alone. `applied` is what that told; a root's attributes in it
    /// are given to the tree. `change` is garbage afterwards. Nothing is durable when it returns. After an error the tree is as before,
    /// but for one of the file system's while a whole tree is changed.
    ///
    /// # Errors
    /// `InUse` where the tree is mounted and that shows; `Unsupported` for a backend that cannot, or cannot where the tree has changes
    /// already; `Cancelled`, `NoSpace`, `Io`.
    fn adopt(
        &self,
        tree: TreeId,
        _change: TreeId,
        _chain: &[TreeId],
        _applied: &Applied,
        _ids: Ids,
        _cx: &Context<'_>,
    ) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "apply layer")
            .at(format!("tree {tree}"))
            .because(format!("the {} backend applies no layer to a writable tree", self.name())))
    }

    /// What a chain says to the questions that a tree rests on, in their order.
    ///
    /// # Errors
    /// `Io`.
    fn answer(&self, chain: &[TreeId], questions: &[Question]) -> Result<Vec<Answer>>;

    /// Whether a tree made over one chain may stand over another that gives the same answers.
    fn shares_trees(&self) -> bool;

    /// Streams what a tree changes in its chain, in the order of SEMANTICS §5. `lower` and `upper` are the attributes of the two
    /// roots; without a chain and `lower`, the whole tree is a change.
    ///
    /// # Errors
    /// `Unsupported` for a name that no layer can say, before anything is written; `Io`.
    fn diff(&self, tree: TreeId, chain: &[TreeId], roots: Roots<'_>, out: &mut dyn EntrySink, cx: &Context<'_>) -> Result<()>;

    /// Compares a frozen tree, inode by inode and byte by byte, with what its layer's own stream makes of its facts (or of the outline
    /// of its parent). The tree is only read. `found` is told each path that differs; the stream was read to its end then, but
    /// whether it is the layer is the caller's to find out. Gives what applying the layer came to.
    ///
    /// # Errors
    /// `NotFound` without such a tree; `Unsupported` for a backend that cannot compare; those of the stream; `Cancelled`, `NoSpace`,
    /// `Io`.
    fn verify(
        &self,
        tree: TreeId,
        reference: Reference<'_>,
        found: &mut dyn FnMut(Difference),
        cx: &Context<'_>,
    ) -> Result<Applied> {
        let _ = (reference, found, cx);
        Err(Error::new(ErrorKind::Unsupported, "check tree")
            .at(format!("tree {tree}"))
            .because(format!("the {} backend cannot compare a tree with its layer", self.name())))
    }

    /// Makes the outline of a tree that is not made, for those of the trees above it. The rest is as in [`verify`](Self::verify).
    ///
    /// # Errors
    /// `Unsupported` for a backend whose trees are not whole; those of the stream; `Cancelled`, `NoSpace`, `Io`.
    fn outline(&self, reference: Reference<'_>, _cx: &Context<'_>) -> Result<Applied> {
        Err(not_whole(self.name(), reference.outline))
    }

    /// Has a new tree that nothing names yet share bytes with an old one of the same layer, where they have the same and the file
    /// system can. It is a help: a backend that cannot does nothing.
    ///
    /// # Errors
    /// `Cancelled`, `Io`: the new tree is whole nevertheless.
    fn share(&self, _old: TreeId, _new: TreeId, _cx: &Context<'_>) -> Result<()> {
        Ok(())
    }

    /// The root directory of what is seen of a chain, of a tree over it where there is one, for reading alone; it is attached nowhere.
    /// Its owners are those on the disk ([`id_shift`](Self::id_shift)).
    /// `O_PATH` or opened for reading. `None` where nothing is in it.
    ///
    /// # Errors
    /// `Unsupported` for a backend that has no such thing; `PermissionDenied` where it takes a mount; `LimitExceeded`, `Io`.
    fn open_root(&self, tree: Option<TreeId>, _chain: &[TreeId]) -> Result<Option<OwnedFd>> {
        Err(Error::new(ErrorKind::Unsupported, "open root")
            .at(tree.map_or_else(|| "a chain".to_owned(), |tree| format!("tree {tree}")))
            .because(format!("the {} backend shows its trees only where they are mounted", self.name())))
    }

    /// What one tree by itself says of a path that is not the root: literally, nothing on the way followed. A backend whose trees
    /// [are whole](Self::shares_trees) is never silent.
    ///
    /// # Errors
    /// `Unsupported` for a backend that cannot look at a tree by itself; `NotFound` without such a tree; `Io`.
    fn look(&self, tree: TreeId, _path: &EntryPath) -> Result<Look> {
        Err(Error::new(ErrorKind::Unsupported, "explain")
            .at(format!("tree {tree}"))
            .because(format!("the {} backend does not show its trees", self.name())))
    }

    /// What to mount for a tree over a chain. For `ReadOnly` the tree is one that [`create_view`](Self::create_view) made.
    ///
    /// # Errors
    /// `LimitExceeded` where the chain is longer than [`longest_chain`](Self::longest_chain).
    fn mount(&self, tree: TreeId, chain: &[TreeId], access: Access) -> Result<Mount>;

    /// What to mount, read-only, for a chain itself, whose root has these attributes. Nothing is made in the store.
    ///
    /// # Errors
    /// `Unsupported` for a backend that cannot; `LimitExceeded` where the chain is longer than [`longest_chain`](Self::longest_chain).
    fn mount_frozen(&self, _chain: &[TreeId], _root: &Attributes) -> Result<Mount> {
        Err(Error::new(ErrorKind::Unsupported, "mount")
            .because(format!("the {} backend mounts active snapshots and views alone", self.name())))
    }

    /// Freezes a writable tree: durable when it returns, and the same when it is called again.
    ///
    /// # Errors
    /// `InUse` where it is mounted and that shows; `Io`.
    fn commit(&self, tree: TreeId) -> Result<Frozen>;

    /// Has a frozen tree that was filled on nothing fit a chain that it is put onto, or nothing still: what a layer that was
    /// [adopted](Self::adopt) asked of a chain that was not there is answered, and directories that nobody described become what they are
    /// there. `false` where the layer is another tree on that chain; nothing need be right in the tree then. Durable when it returns.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn inherit(&self, _tree: TreeId, chain: &[TreeId], applied: &mut Applied, _ids: Ids, _cx: &Context<'_>) -> Result<bool> {
        let questions: Vec<_> = applied.facts.iter().map(|fact| fact.question.clone()).collect();
        let answers = self.answer(chain, &questions)?;
        Ok(applied.facts.iter().zip(&answers).all(|(fact, answer)| fact.answer == *answer))
    }

    /// Whether a writable tree shows that [`commit`](Self::commit) froze it: it cannot be mounted any more. `false` where nothing shows.
    ///
    /// # Errors
    /// `Io`.
    fn is_frozen(&self, _tree: TreeId) -> Result<bool> {
        Ok(false)
    }

    /// Makes a tree writable again that was frozen by a commit that came to nothing.
    ///
    /// # Errors
    /// `NotFound`, `NoSpace`, `Io`.
    fn thaw(&self, _tree: TreeId) -> Result<()> {
        Ok(())
    }

    /// Refuses a chain with an owner outside an id map. `known` says of a frozen tree that it was found to be inside before, and is told
    /// of those that are found now: each is looked through once.
    ///
    /// # Errors
    /// `IdNotMapped`, with the path; `Io`.
    fn check_owners(&self, _chain: &[TreeId], _map: &IdMap, _known: &mut dyn KnownOwners) -> Result<()> {
        Ok(())
    }

    /// Whether a writable tree is mounted somewhere, as far as the system tells; `false` where it does not.
    ///
    /// # Errors
    /// `Io`.
    fn is_mounted(&self, _tree: TreeId) -> Result<bool> {
        Ok(false)
    }

    /// What a tree takes, whether frozen or being written.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    fn usage(&self, tree: TreeId) -> Result<Usage>;

    /// Deletes a tree. A tree that is not there is success.
    ///
    /// # Errors
    /// `Io`.
    fn remove(&self, tree: TreeId) -> Result<()>;
}

/// What is known already of trees' owners: see [`Backend::check_owners`].
pub trait KnownOwners {
    /// Whether a tree is known to have no owner outside the map.
    fn is_inside(&self, tree: TreeId) -> bool;
    /// It has none.
    fn found_inside(&mut self, tree: TreeId);
}

/// Looks through one frozen tree, unless that was done before.
fn check_tree_owners(tree: TreeId, map: &IdMap, known: &mut dyn KnownOwners, open: impl FnOnce() -> Result<Dir>) -> Result<()> {
    if known.is_inside(tree) {
        return Ok(());
    }
    match owner_outside(&open()?, map.maps())? {
        None => known.found_inside(tree),
        Some(Outside { path, uid, gid }) => {
            let path = std::path::PathBuf::from(std::ffi::OsString::from_vec(path));
            return Err(not_mapped(uid, gid, map).at(path));
        }
    }
    Ok(())
}

/// An owner that a container with this id map could not be shown.
pub(crate) fn not_mapped(uid: u32, gid: u32, map: &IdMap) -> Error {
    Error::new(ErrorKind::IdNotMapped, "map owners")
        .because(format!("it belongs to {uid}:{gid}, which is not in the id map {map}"))
        .with_hint("map more ids, or open the store with squashed owners (`--ids squash`): the container sees it as nobody's then")
}

/// The attributes of the two roots that a diff compares.
#[derive(Clone, Copy, Debug)]
pub struct Roots<'a> {
    /// Of the parent; `None` where there is no parent.
    pub lower: Option<&'a Attributes>,
    /// Of the tree itself; `None` where it is still being written, and its own directory says.
    pub upper: Option<&'a Attributes>,
    /// The tree hides its whole chain ([`Applied::cut`]): it is compared with it, but does not stand on it.
    pub cut: bool,
}

fn not_whole(backend: &str, tree: TreeId) -> Error {
    Error::new(ErrorKind::Unsupported, "make tree")
        .at(format!("tree {tree}"))
        .because(format!("a tree of the {backend} backend does not hold what is below it"))
}

/// Says what it means that an owner cannot be given to a root directory.
fn cannot_own(error: Error, root: &Attributes) -> Error {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EPERM) => Error::new(ErrorKind::IdNotMapped, "create tree")
            .because(format!("its root directory belongs to {}:{}, and this process cannot own files as that", root.uid, root.gid))
            .with_hint(
                "enter a user namespace (`plywood unshare`), give the user sub-ids (/etc/subuid, /etc/subgid), run as root, or open the \
                 store with squashed owners",
            )
            .with_source(error),
        _ => error,
    }
}
