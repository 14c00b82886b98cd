//! [`Overlay`]: trees as overlayfs's upper directories, stacked by the kernel.
//!
//! `trees/<n>/fs` is what one layer or snapshot changes, in overlayfs's form; `trees/<n>/work`, beside it, is overlayfs's own while the
//! tree is writable. A tree never changes once it is frozen: what a kernel makes of a changed lower directory is undefined. `trees/0/fs`
//! is always there and always empty: overlayfs refuses a single lower directory without an upper one.
//!
//! What lies below a tree is always read through a read-only mount of the chain that is attached nowhere, so that whiteouts, opaque
//! directories and escaped xattrs mean exactly what they mean to a container.

mod adopt;
mod inherit;
mod root;
mod verify;

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use super::{Backend, Difference, Frozen, KnownOwners, Look, Reference, Roots, check_tree_owners};
use crate::apply::{self, Form, Place};
use crate::diff::{self, Sides, Upper as Side, seen};
use crate::entry::{Attributes, EntrySink, EntryStream};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{Base, IdMap, Mount, Upper, was_volatile};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::snapshot::Usage;
use crate::sys::capabilities::{Scratch, try_overlay};
use crate::sys::durable::SyncPoint;
use crate::sys::flock::Flock;
use crate::sys::mount::Api;
use crate::sys::share::share_tree;
use crate::sys::usage::taken;
use crate::sys::write_back::Count;
use crate::sys::{Dir, Root, inode, write_order};
use crate::tree::{Access, Answer, Applied, Ids, Question, TreeId};
use crate::whiteout::XattrStyle;

/// overlayfs takes 500 lower directories, and a view needs one for the root's attributes.
const LONGEST_CHAIN: usize = 499;

const FS: &str = "fs";
const WORK: &str = "work";

/// Kernel overlayfs.
pub struct Overlay {
    base: Base,
    trees: Dir,
    style: XattrStyle,
    api: OnceLock<Api>,
    escapes: OnceLock<bool>,
    /// Whether one sync carries what was done before it.
    ordered: OnceLock<bool>,
    /// How many files are held whose data is being written back.
    written: Count,
}

impl Overlay {
    /// Keeps trees in a directory, which should be empty or of this backend, with one style of xattrs for good: `Trusted` for root,
    /// `User` in a user namespace. Nothing is tried yet; [`Capabilities`](super::Capabilities) tells whether overlays can be mounted.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    pub fn new(base: Base, style: XattrStyle) -> Result<Self> {
        let trees = base.root().dir()?;
        let (api, escapes, ordered) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Self { base, trees, style, api, escapes, ordered, written: Count::default() })
    }

    /// The same by way of a certain kernel interface, and as if the kernel did or did not unescape xattrs.
    #[cfg(all(test, feature = "testing"))]
    fn with(self, api: Api, escapes: bool) -> Self {
        Self { api: OnceLock::from(api), escapes: OnceLock::from(escapes), ..self }
    }

    fn api(&self) -> Api {
        *self.api.get_or_init(|| Api::probe(&self.trees))
    }

    /// Whether the kernel unescapes layers' xattrs that look like overlayfs's own. What is found is kept; a failure to find out is not.
    fn escapes(&self) -> Result<bool> {
        if let Some(&escapes) = self.escapes.get() {
            return Ok(escapes);
        }
        let scratch = Scratch::new(&self.trees)?;
        let tried = try_overlay(&scratch, self.style == XattrStyle::User, self.api());
        let escapes = tried.map_err(|error| error.at(self.base.path()))?.escapes;
        Ok(*self.escapes.get_or_init(|| escapes))
    }

    fn form(&self) -> Result<Form> {
        Ok(Form::Overlay { style: self.style, escapes: self.escapes()? })
    }

    fn tree(&self, tree: TreeId) -> Result<Dir> {
        let missing = || Error::new(ErrorKind::NotFound, "open tree").at(self.base.path().join(tree.to_string()));
        self.trees.try_child(&name(tree))?.ok_or_else(missing)
    }

    /// Makes the tree that is always empty, where it is missing.
    fn ensure_empty_tree(&self) -> Result<()> {
        if let Some(dir) = self.trees.try_child(&name(TreeId::EMPTY))?
            && dir.try_child(FS.as_bytes())?.is_some()
        {
            return Ok(());
        }
        let unless_there = |made: Result<()>| match made {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        unless_there(self.trees.mkdir(&name(TreeId::EMPTY), 0o700))?;
        let dir = self.tree(TreeId::EMPTY)?;
        unless_there(dir.mkdir(FS.as_bytes(), 0o755))?;
        root::set(&dir.child(FS.as_bytes())?, &Attributes::implied(), self.style)?;
        dir.sync()?;
        self.trees.sync()
    }

    /// Makes an empty tree with a work directory, whatever was left there before. Nothing of the directory above leaks into it.
    fn make(&self, tree: TreeId, attributes: &Attributes) -> Result<Dir> {
        self.refuse_empty(tree, "create tree")?;
        self.trees.remove_tree(&name(tree))?;
        let dir = self.trees.mkdir_open(&name(tree), 0o700)?;
        root::disinherit(&dir)?;
        dir.mkdir(WORK.as_bytes(), 0o700)?;
        root::set(&dir.mkdir_open(FS.as_bytes(), 0o755)?, attributes, self.style)?;
        Ok(dir)
    }

    /// Makes a tree durable that was just [made](Self::make), with its names. What was done last, was done to its `fs`: where the order
    /// is kept, that one's sync carries the rest.
    fn sync_made(&self, dir: &Dir) -> Result<()> {
        dir.child(FS.as_bytes())?.sync()?;
        if self.is_ordered() {
            return Ok(());
        }
        dir.sync()?;
        self.trees.sync()
    }

    /// Makes sure of a tree that was just [made](Self::make) that the next sync of a regular file carries it, where the order is kept.
    fn order_made(&self, dir: &Dir) -> Result<()> {
        // Of a layer's attributes none has such a name as it stands.
        let name: &[u8] = match self.style {
            XattrStyle::Trusted => b"trusted.overlay.plywood",
            XattrStyle::User => b"user.overlay.plywood",
        };
        if write_order::bar_fast_commit(dir.child(FS.as_bytes())?, name)? { Ok(()) } else { self.sync_made(dir) }
    }

    fn is_ordered(&self) -> bool {
        *self.ordered.get_or_init(|| write_order::is_kept(&self.trees))
    }

    fn new_tree(&self, tree: TreeId, chain: &[TreeId], root: &Attributes, settle: impl FnOnce(&Dir) -> Result<()>) -> Result<()> {
        self.check_length(chain)?;
        if chain.is_empty() {
            self.ensure_empty_tree()?;
        }
        let made = self.make(tree, root).and_then(|dir| settle(&dir));
        self.unless_failed(tree, made)
    }

    fn refuse_empty(&self, tree: TreeId, op: &'static str) -> Result<()> {
        if tree == TreeId::EMPTY {
            return Err(Error::new(ErrorKind::InvalidArgument, op)
                .at(self.base.path().join("0"))
                .because("tree 0 is always there, and empty"));
        }
        Ok(())
    }

    fn overlay(&self, lowers: &[TreeId], upper: Option<TreeId>) -> Result<Mount> {
        let lowers = lowers.iter().map(|&tree| path(tree, FS)).collect::<Result<_>>()?;
        let upper = upper.map(|tree| Ok::<_, Error>(Upper { upper: path(tree, FS)?, work: path(tree, WORK)? })).transpose()?;
        Ok(Mount::overlay(self.base.clone(), self.style, lowers, upper)?.with_own_work().with_api(self.api()))
    }

    fn check_length(&self, chain: &[TreeId]) -> Result<()> {
        if chain.len() <= LONGEST_CHAIN {
            return Ok(());
        }
        Err(Error::new(ErrorKind::LimitExceeded, "mount")
            .at(self.base.path())
            .because(format!("the chain has {} layers, and overlayfs can stack {LONGEST_CHAIN}", chain.len()))
            .with_hint("merge some of its layers into one, or use a store with the copy backend"))
    }

    /// One tree alone, to be read.
    fn alone(&self, tree: TreeId) -> Result<Mount> {
        match self.ensure_empty_tree() {
            Ok(()) => self.overlay(&[tree, TreeId::EMPTY], None),
            // It is missing, and the store cannot be written.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => self.mount_frozen(&[tree], &Attributes::implied()),
            Err(error) => Err(error),
        }
    }

    /// What a container would see of a chain.
    fn view(&self, chain: &[TreeId]) -> Result<Option<Root>> {
        self.check_length(chain)?;
        let mount = match chain {
            [] => return Ok(None),
            [single] => self.alone(*single)?,
            many => self.overlay(many, None)?,
        };
        Ok(Some(Root::from_fd(mount.detached()?.into_fd())))
    }

    fn is_writable_mounted(&self, tree: TreeId, dir: &Dir) -> Result<bool> {
        match self.claim_writable(tree, dir) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::InUse => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Refuses a writable tree that was mounted without syncs before the system started anew.
    fn refuse_torn(&self, tree: TreeId, dir: &Dir) -> Result<()> {
        match dir.try_child(WORK.as_bytes())? {
            Some(work) => was_volatile(&work).map(drop).map_err(|error| error.at(self.base.path().join(tree.to_string()))),
            None => Ok(()),
        }
    }

    /// Makes sure that a writable tree is mounted nowhere, and stays so until the claim is dropped.
    fn claim_writable(&self, tree: TreeId, dir: &Dir) -> Result<Option<Flock>> {
        if dir.try_child(WORK.as_bytes())?.is_none() {
            return Ok(None);
        }
        self.ensure_empty_tree()?;
        self.overlay(&[TreeId::EMPTY], Some(tree))?.claim()
    }

    /// The same, told of the operation that needs it.
    fn claim_to(&self, op: &'static str, tree: TreeId, dir: &Dir) -> Result<Option<Flock>> {
        self.claim_writable(tree, dir).map_err(|error| match error.kind() {
            ErrorKind::InUse => Error::new(ErrorKind::InUse, op)
                .at(self.base.path().join(tree.to_string()))
                .because("it is mounted")
                .with_hint("unmount it first"),
            _ => error,
        })
    }

    /// Unpacks a layer, over an unknown chain by guesses. Nothing is durable, and the usage is not known yet.
    fn unpack(
        &self,
        tree: TreeId,
        chain: Option<&[TreeId]>,
        layer: &mut dyn EntryStream,
        ids: Ids,
        cx: &Context<'_>,
    ) -> Result<Option<Applied>> {
        let form = self.form()?;
        let lower = chain.map(|chain| self.view(chain)).transpose()?;
        let written = (cx.writes_back() && self.is_ordered()).then_some(&self.written);
        let mut fresh = || {
            let dir = self.make(tree, &Attributes::implied())?;
            Ok(Place::new(dir.child(FS.as_bytes())?, dir.child(WORK.as_bytes())?).writing_back(written))
        };
        let applied = match &lower {
            Some(lower) => Some(apply::apply(&mut fresh, lower.as_ref(), form, layer, ids, cx)?),
            None => apply::guess(&mut fresh, form, layer, ids, cx)?,
        };
        match &applied {
            Some(applied) if !applied.empty => self.tree(tree)?.remove_tree(WORK.as_bytes())?,
            _ => self.trees.remove_tree(&name(tree))?,
        }
        Ok(applied)
    }

    fn unless_failed<T>(&self, tree: TreeId, done: Result<T>) -> Result<T> {
        done.inspect_err(|_| {
            let _ = self.trees.remove_tree(&name(tree));
        })
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay").field("base", &self.base).field("style", &self.style).finish_non_exhaustive()
    }
}

impl Backend for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn longest_chain(&self) -> usize {
        LONGEST_CHAIN
    }

    fn create(&self, tree: TreeId, chain: &[TreeId], root: &Attributes) -> Result<()> {
        self.new_tree(tree, chain, root, |dir| self.sync_made(dir))
    }

    fn keeps_order_with(&self, directory: BorrowedFd<'_>) -> bool {
        let device = |fd: BorrowedFd<'_>| inode::stat(fd).map(|stat| stat.dev).ok();
        self.is_ordered() && device(directory).is_some_and(|dev| device(self.trees.as_fd()) == Some(dev))
    }

    fn create_unsynced(&self, tree: TreeId, chain: &[TreeId], root: &Attributes) -> Result<()> {
        self.new_tree(tree, chain, root, |dir| self.order_made(dir))
    }

    fn apply(&self, tree: TreeId, chain: &[TreeId], layer: &mut dyn EntryStream, ids: Ids, cx: &Context<'_>) -> Result<Applied> {
        self.refuse_empty(tree, "apply layer")?;
        let point = SyncPoint::before_writes(&self.trees)?;
        let done = self.unpack(tree, Some(chain), layer, ids, cx).and_then(|applied| {
            let mut applied = applied.ok_or_else(|| Error::new(ErrorKind::Unsupported, "apply layer"))?;
            if !applied.empty {
                if applied.is_written_back {
                    write_order::sync(&self.trees)?
                } else {
                    point.sync()?
                }
                // File systems that allocate late know only now.
                applied.usage = usage(&self.tree(tree)?)?;
            }
            Ok(applied)
        });
        self.unless_failed(tree, done)
    }

    fn unpacks_ahead(&self) -> bool {
        true
    }

    fn apply_ahead(
        &self,
        tree: TreeId,
        chain: Option<&[TreeId]>,
        layer: &mut dyn EntryStream,
        ids: Ids,
        cx: &Context<'_>,
    ) -> Result<Option<Applied>> {
        self.refuse_empty(tree, "apply layer")?;
        self.unless_failed(tree, self.unpack(tree, chain, layer, ids, cx))
    }

    fn settle(&self, tree: TreeId, chain: &[TreeId], applied: &mut Applied, ids: Ids, cx: &Context<'_>) -> Result<bool> {
        let lower = if applied.facts.is_empty() { None } else { self.view(chain)? };
        let place = if applied.empty {
            // Nothing to fill in, but answers to compare.
            Place::new(self.trees.try_clone()?, self.trees.try_clone()?)
        } else {
            let scratch = self.tree(tree)?;
            Place::new(scratch.child(FS.as_bytes())?, scratch)
        };
        let done = apply::settle(place, lower.as_ref(), self.form()?, applied, ids, cx);
        self.unless_failed(tree, done)
    }

    fn adopt(&self, tree: TreeId, change: TreeId, chain: &[TreeId], applied: &Applied, _ids: Ids, _cx: &Context<'_>) -> Result<()> {
        self.put_in_place(tree, change, chain, applied)
    }

    fn answer(&self, chain: &[TreeId], questions: &[Question]) -> Result<Vec<Answer>> {
        let lower = if questions.is_empty() { None } else { self.view(chain)? };
        apply::answer(lower.as_ref(), questions)
    }

    fn shares_trees(&self) -> bool {
        true
    }

    fn diff(&self, tree: TreeId, chain: &[TreeId], roots: Roots<'_>, out: &mut dyn EntrySink, cx: &Context<'_>) -> Result<()> {
        let lower = self.view(chain)?.map(|root| root.dir()).transpose()?;
        let own = self.tree(tree)?;
        self.refuse_torn(tree, &own)?;
        let raw = own.child(FS.as_bytes())?;
        let upper = Side::Overlay { dir: &raw, style: self.style, cut: roots.cut };
        diff::diff(&Sides { upper, lower: lower.as_ref(), lower_root: roots.lower, upper_root: roots.upper }, out, cx)
    }

    fn verify(
        &self,
        tree: TreeId,
        reference: Reference<'_>,
        found: &mut dyn FnMut(Difference),
        cx: &Context<'_>,
    ) -> Result<Applied> {
        self.compare(tree, reference, found, cx)
    }

    fn share(&self, old: TreeId, new: TreeId, cx: &Context<'_>) -> Result<()> {
        let (old, new) = (self.tree(old)?.child(FS.as_bytes())?, self.tree(new)?.child(FS.as_bytes())?);
        share_tree(&old, &new, &mut || cx.check("repair")).map(drop)
    }

    fn open_root(&self, tree: Option<TreeId>, chain: &[TreeId]) -> Result<Option<OwnedFd>> {
        if let Some(tree) = tree {
            self.refuse_torn(tree, &self.tree(tree)?)?;
        }
        // A writable tree is one more layer here, so that it can be looked at while it is mounted elsewhere.
        let lowers: Vec<TreeId> = tree.into_iter().chain(chain.iter().copied()).collect();
        let mount = match lowers.as_slice() {
            [] => return Ok(None),
            [single] => self.alone(*single)?,
            many => self.overlay(many, None)?,
        };
        Ok(Some(mount.detached()?.into_fd()))
    }

    fn look(&self, tree: TreeId, path: &EntryPath) -> Result<Look> {
        diff::look::look(&self.tree(tree)?.child(FS.as_bytes())?, seen::Form::Overlay(self.style), path)
    }

    fn mount(&self, tree: TreeId, chain: &[TreeId], access: Access) -> Result<Mount> {
        self.check_length(chain)?;
        let below = if chain.is_empty() { &[TreeId::EMPTY] } else { chain };
        match access {
            Access::ReadWrite => self.overlay(below, Some(tree)),
            Access::ReadOnly => self.overlay(&[&[tree], below].concat(), None),
        }
    }

    fn mount_frozen(&self, chain: &[TreeId], root: &Attributes) -> Result<Mount> {
        self.check_length(chain)?;
        let lowers = chain.iter().map(|&tree| path(tree, FS)).collect::<Result<_>>()?;
        let (style, root) = (self.style, root.clone());
        Ok(Mount::overlay_with_root(self.base.clone(), style, lowers, root)?.with_api(self.api()))
    }

    fn commit(&self, tree: TreeId) -> Result<Frozen> {
        let point = SyncPoint::before_writes(&self.trees)?;
        let dir = self.tree(tree)?;
        // Held to the end: nobody mounts it while it is frozen, and nobody can afterwards.
        let _claim = self.claim_to("commit", tree, &dir)?;
        self.refuse_torn(tree, &dir)?;
        let fs = dir.child(FS.as_bytes())?;
        point.sync()?;
        let frozen = Frozen::new(usage(&dir)?, root::read(&fs, self.style)?);
        // Only now: a tree without a work directory is one that is durable.
        dir.remove_tree(WORK.as_bytes())?;
        dir.sync()?;
        Ok(frozen)
    }

    fn inherit(&self, tree: TreeId, chain: &[TreeId], applied: &mut Applied, ids: Ids, cx: &Context<'_>) -> Result<bool> {
        self.inherit_from(tree, chain, applied, ids, cx)
    }

    fn is_frozen(&self, tree: TreeId) -> Result<bool> {
        Ok(self.tree(tree)?.try_child(WORK.as_bytes())?.is_none())
    }

    fn thaw(&self, tree: TreeId) -> Result<()> {
        let dir = self.tree(tree)?;
        match dir.mkdir(WORK.as_bytes(), 0o700) {
            Ok(()) => dir.sync(),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn check_owners(&self, chain: &[TreeId], map: &IdMap, known: &mut dyn KnownOwners) -> Result<()> {
        chain.iter().try_for_each(|&tree| check_tree_owners(tree, map, known, || self.tree(tree)?.child(FS.as_bytes())))
    }

    fn is_mounted(&self, tree: TreeId) -> Result<bool> {
        match self.trees.try_child(&name(tree))? {
            Some(dir) => self.is_writable_mounted(tree, &dir),
            None => Ok(false),
        }
    }

    fn usage(&self, tree: TreeId) -> Result<Usage> {
        usage(&self.tree(tree)?)
    }

    fn remove(&self, tree: TreeId) -> Result<()> {
        self.refuse_empty(tree, "remove tree")?;
        self.trees.remove_tree(&name(tree))
    }
}

fn name(tree: TreeId) -> Vec<u8> {
    tree.to_string().into_bytes()
}

fn path(tree: TreeId, part: &str) -> Result<EntryPath> {
    EntryPath::parse(format!("{tree}/{part}"))
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "name tree").because(error.to_string()))
}

fn usage(tree: &Dir) -> Result<Usage> {
    let taken = taken(&tree.child(FS.as_bytes())?)?;
    Ok(Usage::new(taken.inodes, taken.bytes))
}

#[cfg(all(test, feature = "testing"))]
mod tests;
