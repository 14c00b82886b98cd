//! [`Copy`]: every tree is whole. For where there is no overlayfs; needs nothing of the kernel but files.
//!
//! `trees/<n>/fs` holds all that a container sees, and is bind-mounted. A new tree is a copy of its parent's, which shares the bytes
//! where the file system can (reflinks) and costs them elsewhere. The root directory's attributes on the disk are the snapshot's.
//!
//! A View makes no copy: it shows the parent's own directory, read-only, and its tree is a directory without `fs`. Only where its root
//! has other attributes than that directory (an empty layer changed them) it gets a copy like any other tree.
//!
//! The layers of an image are unpacked one beside the other, each to what it changes alone, and moved into one tree, that of the topmost:
//! no byte of it is written twice. The trees in the middle are made when somebody asks for them, from blobs.
//!
//! A copy is made durable as a whole, by `syncfs`: it is many files, each new.

use std::os::fd::OwnedFd;

use super::{Backend, Difference, Frozen, KnownOwners, Look, Reference, Roots, cannot_own, check_tree_owners};
use crate::apply;
use crate::compare::{self, Outline};
use crate::diff::{self, Sides, Upper, seen};
use crate::entry::{Attributes, EntrySink, EntryStream};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{Base, IdMap, Mount};
use crate::parallel::Parallelism;
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::snapshot::Usage;
use crate::sys::copy::{SharedCheck, copy_tree};
use crate::sys::durable::SyncPoint;
use crate::sys::flock::Flock;
use crate::sys::mount::uncovered;
use crate::sys::share::share_tree;
use crate::sys::usage::taken;
use crate::sys::{Dir, Root, inode, xattr};
use crate::tree::{Access, Answer, Applied, Ids, Question, TreeId};
use crate::whiteout::XattrStyle;

/// What a container sees.
const FS: &[u8] = b"fs";

/// Where the applier works. Only there meanwhile.
const SCRATCH: &[u8] = b"work";

/// Whole copies, and bind mounts of them.
#[derive(Debug)]
pub struct Copy {
    base: Base,
    style: XattrStyle,
    parallelism: Parallelism,
    /// Whose a directory is that nobody described.
    root: (u32, u32),
}

impl Copy {
    /// Keeps trees in a directory, which should be empty or of this backend. `style` says whose attributes an overlay store of this
    /// process would speak, and so which ones layers may set: `Trusted` for root, `User` in a user namespace.
    pub const fn new(base: Base, style: XattrStyle) -> Self {
        Self { base, style, parallelism: Parallelism::ONE, root: (0, 0) }
    }

    /// Copies by so many threads; by one by default.
    #[must_use]
    pub fn parallelism(self, parallelism: Parallelism) -> Self {
        Self { parallelism, ..self }
    }

    /// Gives what nobody described to another than root: trees are kept with other ids than their containers'.
    pub(super) fn rooted(self, root: (u32, u32)) -> Self {
        Self { root, ..self }
    }

    fn implied(&self) -> Attributes {
        let (uid, gid) = self.root;
        Attributes { uid, gid, ..Attributes::implied() }
    }

    fn trees(&self) -> Result<Dir> {
        self.base.root().dir()
    }

    fn place(tree: TreeId, name: &[u8]) -> Result<EntryPath> {
        let named = EntryPath::parse(tree.to_string()).and_then(|place| place.join(name));
        named.map_err(|error| Error::new(ErrorKind::InvalidArgument, "name tree").with_source(error))
    }

    /// What the container sees of a tree.
    fn fs(&self, tree: TreeId) -> Result<Dir> {
        self.stored(&Self::place(tree, FS)?)
    }

    /// The same to be written: by the mount that its tree's other directories are reached by, so that names move between them.
    fn own_fs(&self, tree: TreeId) -> Result<Dir> {
        self.base.dir(&Self::place(tree, FS)?)
    }

    /// A directory without what containers have mounted in it.
    fn stored(&self, place: &EntryPath) -> Result<Dir> {
        self.base.dir(place).map(uncovered)
    }

    /// The same; for a View the directory that it shows.
    fn shown(&self, tree: TreeId, chain: &[TreeId]) -> Result<EntryPath> {
        let own = Self::place(tree, FS)?;
        match (self.base.root().literal_stat(&own)?, chain.first()) {
            (None, Some(&parent)) if self.base.root().literal_stat(&Self::place(tree, b"")?)?.is_some() => Self::place(parent, FS),
            _ => Ok(own),
        }
    }

    /// A fresh directory for a tree, instead of whatever a crash left there.
    fn fresh(&self, tree: TreeId) -> Result<Dir> {
        let trees = self.trees()?;
        let name = tree.to_string();
        trees.remove_tree(name.as_bytes())?;
        trees.mkdir_open(name.as_bytes(), 0o700)
    }

    /// A fresh tree that is what its parent is; its root too.
    fn copy_of(&self, tree: TreeId, chain: &[TreeId], check: SharedCheck<'_>) -> Result<(Dir, Dir)> {
        let own = self.fresh(tree)?;
        let fs = own.mkdir_open(FS, 0o755)?;
        match chain.first() {
            Some(&parent) => copy_tree(&self.fs(parent)?, &fs, self.parallelism, check)?,
            // Nothing of the directory above leaks into it; whose it is comes later.
            None => {
                let (uid, gid) = inode::creator();
                dress(&fs, &Attributes { uid, gid, ..Attributes::implied() })?;
            }
        }
        Ok((own, fs))
    }

    /// Does what makes a tree, and leaves it durable or not at all.
    fn make<T>(&self, tree: TreeId, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let point = SyncPoint::before_writes(self.trees()?)?;
        self.unless_failed(tree, work().and_then(|made| point.sync().map(|()| made)))
    }

    /// Where a layer is unpacked to what it changes alone.
    fn beside(&self, tree: TreeId) -> Result<apply::Place> {
        let (own, fs) = self.copy_of(tree, &[], &|| Ok(()))?;
        Ok(apply::Place::new(fs, own.mkdir_open(SCRATCH, 0o700)?))
    }

    const fn change(&self) -> apply::Form {
        apply::Form::Change { style: self.style, root: self.root }
    }

    /// The tree of the parent as the root of questions.
    fn lower(&self, chain: &[TreeId]) -> Result<Option<Root>> {
        chain.first().map(|&parent| self.fs(parent).map(Root::new)).transpose()
    }

    /// Makes sure that a writable tree is mounted nowhere, as far as that shows, and stays so until the claim is dropped.
    fn claim(&self, tree: TreeId, op: &'static str) -> Result<Option<Flock>> {
        let claim = Mount::bind(self.base.clone(), Self::place(tree, FS)?, Access::ReadWrite).claim();
        claim.map_err(|error| match error.kind() {
            ErrorKind::InUse => Error::new(ErrorKind::InUse, op)
                .at(self.base.path().join(tree.to_string()))
                .because("it is mounted, and could still be written to")
                .with_hint("unmount it first"),
            _ => error,
        })
    }

    /// Deletes a tree where what was done with it has failed.
    fn unless_failed<T>(&self, tree: TreeId, done: Result<T>) -> Result<T> {
        // What led here counts; what cannot be removed has no name in the store.
        done.inspect_err(|_| drop(self.remove(tree)))
    }

    /// Unpacks a layer over a copy of the parent. Nothing is durable when it returns.
    fn unpack(&self, tree: TreeId, chain: &[TreeId], layer: &mut dyn EntryStream, ids: Ids, cx: &Context<'_>) -> Result<Applied> {
        let lower = self.lower(chain)?;
        let mut fresh = || {
            let (own, fs) = self.copy_of(tree, chain, &|| cx.check("apply layer"))?;
            Ok(apply::Place::new(fs, own.mkdir_open(SCRATCH, 0o700)?))
        };
        let form = apply::Form::Plain { style: self.style, root: self.root };
        let mut applied = apply::apply(&mut fresh, lower.as_ref(), form, layer, ids, cx)?;
        self.trees()?.child(tree.to_string().as_bytes())?.remove_tree(SCRATCH)?;
        let fs = self.own_fs(tree)?;
        let root = match (&applied.root, chain.first()) {
            (Some(root), _) => root.clone(),
            // Entries changed the directory's time; what it is stays (SEMANTICS §1.7).
            (None, Some(&parent)) => inode::attributes(self.fs(parent)?)?,
            (None, None) => apply::own_root("apply layer", ids, self.implied(), cx)?,
        };
        let refused = dress(&fs, &root)?;
        if applied.root.is_some() {
            refused.into_iter().try_for_each(|reason| cx.skip(&EntryPath::ROOT, reason))?;
        }
        applied.usage = self.usage(tree)?;
        Ok(applied)
    }
}

impl Backend for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn longest_chain(&self) -> usize {
        usize::MAX
    }

    fn create(&self, tree: TreeId, chain: &[TreeId], root: &Attributes) -> Result<()> {
        let make = || {
            let (own, fs) = self.copy_of(tree, chain, &|| Ok(()))?;
            // What the file system refuses of a root's attributes was reported when they came in.
            dress(&fs, root).map(|_| (own, fs))
        };
        if !chain.is_empty() {
            return self.make(tree, || make().map(drop));
        }
        // Three directories need no sync of the whole file system.
        let made = make().and_then(|(own, fs)| [fs, own, self.trees()?].iter().try_for_each(Dir::sync));
        self.unless_failed(tree, made)
    }

    fn create_view(&self, tree: TreeId, chain: &[TreeId], root: &Attributes) -> Result<()> {
        let Some(&parent) = chain.first() else { return self.create(tree, chain, root) };
        if seen::read(self.fs(parent)?, seen::Form::Plain)?.attributes != *root {
            return self.create(tree, chain, root);
        }
        let made = self.fresh(tree).and_then(|own| [own, self.trees()?].iter().try_for_each(Dir::sync));
        self.unless_failed(tree, made)
    }

    fn apply(&self, tree: TreeId, chain: &[TreeId], layer: &mut dyn EntryStream, ids: Ids, cx: &Context<'_>) -> Result<Applied> {
        self.make(tree, || self.unpack(tree, chain, layer, ids, cx))
    }

    fn unpacks_ahead(&self) -> bool {
        true
    }

    fn is_whole(&self) -> bool {
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
        let mut fresh = || self.beside(tree);
        let done = match chain {
            Some(chain) => self
                .lower(chain)
                .and_then(|lower| apply::apply(&mut fresh, lower.as_ref(), self.change(), layer, ids, cx).map(Some)),
            None => apply::guess(&mut fresh, self.change(), layer, ids, cx),
        };
        match &done {
            Ok(Some(applied)) if !applied.empty => {}
            Ok(_) => self.remove(tree)?,
            Err(_) => drop(self.remove(tree)),
        }
        done
    }

    fn settle(&self, tree: TreeId, chain: &[TreeId], applied: &mut Applied, ids: Ids, cx: &Context<'_>) -> Result<bool> {
        // Of an empty one there is nothing to fill in, but there are answers to compare.
        let place = if applied.empty {
            apply::Place::new(self.trees()?, self.trees()?)
        } else {
            let scratch = self.base.dir(&Self::place(tree, SCRATCH)?)?;
            apply::Place::new(self.own_fs(tree)?, scratch)
        };
        let done = apply::settle(place, self.lower(chain)?.as_ref(), self.change(), applied, ids, cx);
        self.unless_failed(tree, done)
    }

    fn copy(&self, tree: TreeId, chain: &[TreeId], cx: &Context<'_>) -> Result<()> {
        let made = self.copy_of(tree, chain, &|| cx.check("make tree")).and_then(|(own, _)| match chain {
            // For as long as nothing says what its root is.
            [] => own.mkdir(SCRATCH, 0o700),
            _ => Ok(()),
        });
        self.unless_failed(tree, made)
    }

    fn merge(&self, change: TreeId, into: TreeId, applied: &Applied, ids: Ids, cx: &Context<'_>) -> Result<()> {
        let (own, fs) = (self.base.dir(&Self::place(into, b"")?)?, self.own_fs(into)?);
        let is_first = own.try_child(SCRATCH)?.is_some();
        let root = match &applied.root {
            Some(root) => root.clone(),
            None if is_first => apply::own_root("apply layer", ids, self.implied(), cx)?,
            // Entries change the directory's time; what it is stays (SEMANTICS §1.7).
            None => inode::attributes(&fs)?,
        };
        let place = apply::Place::new(self.own_fs(change)?, self.base.dir(&Self::place(change, SCRATCH)?)?);
        apply::merge(place, &fs, self.change(), applied, ids, cx)?;
        let refused = dress(&fs, &root)?;
        if applied.root.is_some() {
            refused.into_iter().try_for_each(|reason| cx.skip(&EntryPath::ROOT, reason))?;
        }
        if is_first {
            own.rmdir(SCRATCH)?;
        }
        self.remove(change)
    }

    fn adopt(&self, tree: TreeId, change: TreeId, _chain: &[TreeId], applied: &Applied, ids: Ids, cx: &Context<'_>) -> Result<()> {
        let _claim = self.claim(tree, "apply layer")?;
        match &applied.root {
            _ if !applied.empty => self.merge(change, tree, applied, ids, cx),
            None => Ok(()),
            Some(root) => dress(&self.own_fs(tree)?, root)?.into_iter().try_for_each(|reason| cx.skip(&EntryPath::ROOT, reason)),
        }
    }

    fn outline(&self, reference: Reference<'_>, cx: &Context<'_>) -> Result<Applied> {
        let Reference { outline, below, layer, ids, contents, .. } = reference;
        let chain: Vec<TreeId> = below.into_iter().collect();
        self.unpack(outline, &chain, &mut Outline::new(layer, contents), ids, cx)
    }

    /// The outline is a copy of the parent's outline to which the layer is applied: the fold of the chain's streams.
    fn verify(
        &self,
        tree: TreeId,
        reference: Reference<'_>,
        found: &mut dyn FnMut(Difference),
        cx: &Context<'_>,
    ) -> Result<Applied> {
        let Reference { outline, below, facts, layer, ids, contents } = reference;
        let own = self.fs(tree)?;
        let applied = self.outline(Reference { outline, below, facts, layer, ids, contents: &mut *contents }, cx)?;
        let fs = self.fs(outline)?;
        let sides = compare::Sides { tree: &own, outline: &fs, contents, root_time: true };
        compare::compare(&sides, &mut |_| Ok(None), found, cx)?;
        Ok(applied)
    }

    fn share(&self, old: TreeId, new: TreeId, cx: &Context<'_>) -> Result<()> {
        share_tree(&self.own_fs(old)?, &self.own_fs(new)?, &mut || cx.check("repair")).map(drop)
    }

    fn answer(&self, chain: &[TreeId], questions: &[Question]) -> Result<Vec<Answer>> {
        apply::answer(self.lower(chain)?.as_ref(), questions)
    }

    fn shares_trees(&self) -> bool {
        false
    }

    fn diff(&self, tree: TreeId, chain: &[TreeId], roots: Roots<'_>, out: &mut dyn EntrySink, cx: &Context<'_>) -> Result<()> {
        let dir = self.stored(&self.shown(tree, chain)?)?;
        let lower = chain.first().map(|&parent| self.fs(parent)).transpose()?;
        let upper = Upper::Whole { dir: &dir };
        diff::diff(&Sides { upper, lower: lower.as_ref(), lower_root: roots.lower, upper_root: roots.upper }, out, cx)
    }

    fn open_root(&self, tree: Option<TreeId>, chain: &[TreeId]) -> Result<Option<OwnedFd>> {
        let dir = match (tree, chain.first()) {
            (Some(tree), _) => self.stored(&self.shown(tree, chain)?)?,
            (None, Some(&top)) => self.fs(top)?,
            (None, None) => return Ok(None),
        };
        Ok(Some(dir.into()))
    }

    fn look(&self, tree: TreeId, path: &EntryPath) -> Result<Look> {
        diff::look::look(&self.fs(tree)?, seen::Form::Plain, path)
    }

    fn mount(&self, tree: TreeId, chain: &[TreeId], access: Access) -> Result<Mount> {
        let source = match access {
            Access::ReadWrite => Self::place(tree, FS)?,
            Access::ReadOnly => self.shown(tree, chain)?,
        };
        // Else it would be found out by whoever mounts it, perhaps much later.
        self.base.dir(&source)?;
        Ok(Mount::bind(self.base.clone(), source, access))
    }

    fn mount_frozen(&self, chain: &[TreeId], root: &Attributes) -> Result<Mount> {
        let refuse = |reason| {
            let error = Error::new(ErrorKind::Unsupported, "mount").at(self.base.path()).because(reason);
            Err(error.with_hint("make a view: that has a root directory of its own"))
        };
        let Some(&top) = chain.first() else { return refuse("there is no directory of a snapshot without layers") };
        if seen::read(self.fs(top)?, seen::Form::Plain)?.attributes != *root {
            return refuse("the root directory's attributes are not those of a directory that is there");
        }
        Ok(Mount::bind(self.base.clone(), Self::place(top, FS)?, Access::ReadOnly))
    }

    fn commit(&self, tree: TreeId) -> Result<Frozen> {
        let point = SyncPoint::before_writes(self.trees()?)?;
        // Held to the end: nobody mounts it while it is frozen.
        let _claim = self.claim(tree, "commit tree")?;
        point.sync()?;
        let fs = self.fs(tree)?;
        Ok(Frozen::new(self.usage(tree)?, seen::read(fs, seen::Form::Plain)?.attributes))
    }

    fn check_owners(&self, chain: &[TreeId], map: &IdMap, known: &mut dyn KnownOwners) -> Result<()> {
        // The topmost is all that is seen.
        chain.first().map_or(Ok(()), |&tree| check_tree_owners(tree, map, known, || self.fs(tree)))
    }

    fn is_mounted(&self, tree: TreeId) -> Result<bool> {
        let place = Self::place(tree, FS)?;
        // A View has no directory of its own to be written to.
        if self.base.root().literal_stat(&place)?.is_none() {
            return Ok(false);
        }
        Mount::bind(self.base.clone(), place, Access::ReadWrite).in_use()
    }

    /// A whole tree counts whole: what of it the file system shares with its parent's it does not tell. A View takes nothing.
    fn usage(&self, tree: TreeId) -> Result<Usage> {
        let own = self.stored(&Self::place(tree, b"")?)?;
        let Some(fs) = own.try_child(FS)? else { return Ok(Usage::default()) };
        let taken = taken(&fs)?;
        Ok(Usage::new(taken.inodes, taken.bytes))
    }

    fn remove(&self, tree: TreeId) -> Result<()> {
        self.trees()?.remove_tree(tree.to_string().as_bytes())
    }
}

/// Gives a root directory exactly these attributes, and says what the file system refused.
fn dress(dir: &Dir, attributes: &Attributes) -> Result<Vec<Reason>> {
    let mut refused = Vec::new();
    let wanted = seen::see(attributes.clone(), seen::Form::Plain).attributes;
    for (name, value) in seen::read(dir, seen::Form::Plain)?.attributes.xattrs {
        if wanted.xattrs.get(&name) != Some(&value) {
            xattr::remove(dir, &name)?;
        }
    }
    inode::set_owner(dir, wanted.uid, wanted.gid).map_err(|error| cannot_own(error, &wanted))?;
    inode::set_mode(dir, wanted.mode)?;
    for (name, value) in &wanted.xattrs {
        match xattr::set(dir, name, value) {
            Err(error) if is_refusal(&error) => {
                refused.push(Reason::XattrRefused { name: name.escape_ascii().to_string(), error: error.to_string() });
            }
            done => done?,
        }
    }
    inode::set_times(dir, wanted.mtime, wanted.mtime)?;
    if inode::stat(dir)?.mtime != wanted.mtime {
        refused.push(Reason::TimeClamped);
    }
    Ok(refused)
}

/// Whether a file system or a user namespace will not keep an xattr (SEMANTICS §4).
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EOPNOTSUPP
                | libc::EPERM
                | libc::EACCES
                | libc::ERANGE
                | libc::E2BIG
                | libc::EINVAL
                | libc::EOVERFLOW
                | libc::ENOSPC
                | libc::EDQUOT
        )
    )
}

#[cfg(feature = "testing")]
#[cfg(test)]
pub(super) mod tests;
