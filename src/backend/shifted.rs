//! [`Shifted`]: whole trees whose owners are on the disk what the container's are to the host, for where no mount can show the one as the
//! other (idmapped mounts: Linux 5.12, and not on every file system).
//!
//! It stands before the [`Copy`] backend and translates: what comes in (layers, roots, what was applied before) has the container's ids
//! and gets the host's; what goes out (changes, roots, answers, differences) the other way round. The trees in between know nothing of it,
//! but for whose directories are that nobody described.

mod owners;

use std::os::fd::OwnedFd;

use owners::Owners;

use super::{Backend, Copy, Difference, Fault, Frozen, Look, Reference, Roots};
use crate::entry::{Attributes, Change, Chunk, Entry, EntrySink, EntryStream, Node, Position, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{IdMap, Mount};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::snapshot::Usage;
use crate::sys::ids::IdMaps;
use crate::sys::inode;
use crate::tree::{Access, Answer, Applied, Ids, Question, TreeId};

/// Whole trees with the ids of one map.
#[derive(Debug)]
pub(crate) struct Shifted {
    inner: Copy,
    owners: Owners,
    /// What becomes of owners without an id where nobody says it: of what is read from the disk.
    ids: Ids,
}

impl Shifted {
    pub(crate) fn new(inner: Copy, map: IdMap, ids: Ids) -> Self {
        let owners = Owners::new(map);
        Self { inner: inner.rooted(owners.root()), owners, ids }
    }

    fn to_disk(&self, root: &Attributes) -> Result<Attributes> {
        self.owners.to_disk(&EntryPath::ROOT, root.clone(), self.ids, &Context::default())
    }

    fn to_container(&self, root: Attributes) -> Result<Attributes> {
        self.owners.to_container(&EntryPath::ROOT, root, self.ids, &Context::default())
    }

    fn layer<'a>(&'a self, inner: &'a mut dyn EntryStream, ids: Ids, cx: &'a Context<'a>) -> Layer<'a> {
        Layer { inner, owners: &self.owners, ids, cx }
    }

    /// What was applied, as whoever asked for it knows the attributes.
    fn told(&self, mut applied: Applied) -> Result<Applied> {
        applied.root = applied.root.map(|root| self.to_container(root)).transpose()?;
        self.turn_facts(&mut applied, |owners, attributes| Ok(owners.seen(attributes)))?;
        Ok(applied)
    }

    /// The same as the trees know them.
    fn known(&self, mut applied: Applied) -> Result<Applied> {
        applied.root = applied.root.map(|root| self.to_disk(&root)).transpose()?;
        // They are of a parent, where somebody else may have put what has no id.
        let cx = Context::default();
        self.turn_facts(&mut applied, |owners, attributes| owners.to_disk(&EntryPath::ROOT, attributes, Ids::Squash, &cx))?;
        Ok(applied)
    }

    fn turn_facts(&self, applied: &mut Applied, turn: impl Fn(&Owners, Attributes) -> Result<Attributes>) -> Result<()> {
        for fact in &mut applied.facts {
            if let Answer::Directory(Some(attributes)) = &mut fact.answer {
                **attributes = turn(&self.owners, (**attributes).clone())?;
            }
        }
        Ok(())
    }
}

/// Refuses a map that this process could not keep trees by: it has to give files to every id of the host's that is in it.
///
/// # Errors
/// `IdNotMapped`, with the first id that this process cannot give; `Io`.
pub(crate) fn check_shift(map: &IdMap) -> Result<()> {
    let refuse = |reason: String| {
        Err(Error::new(ErrorKind::IdNotMapped, "open store").because(reason).with_hint(
            "run it as root, or in a user namespace with sub-ids (/etc/subuid, /etc/subgid) and map to ids of that namespace",
        ))
    };
    if !inode::may_give_away() {
        return refuse(format!("only root can keep trees with the ids of the map {map}: files would have to be given away"));
    }
    let own = IdMaps::current()?;
    for (whose, ranges, own) in [("user", map.uids(), own.uids), ("group", map.gids(), own.gids)] {
        if let Some(missing) = ranges.iter().find_map(|range| own.first_missing(range.outside, range.count)) {
            return refuse(format!("this process cannot give files to the {whose} {missing}, which is in the id map {map}"));
        }
    }
    Ok(())
}

impl Backend for Shifted {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn longest_chain(&self) -> usize {
        self.inner.longest_chain()
    }

    fn id_shift(&self) -> Option<&IdMap> {
        Some(self.owners.map())
    }

    fn create(&self, tree: TreeId, chain: &[TreeId], root: &Attributes) -> Result<()> {
        self.inner.create(tree, chain, &self.to_disk(root)?)
    }

    fn create_view(&self, tree: TreeId, chain: &[TreeId], root: &Attributes) -> Result<()> {
        self.inner.create_view(tree, chain, &self.to_disk(root)?)
    }

    fn apply(&self, tree: TreeId, chain: &[TreeId], layer: &mut dyn EntryStream, ids: Ids, cx: &Context<'_>) -> Result<Applied> {
        self.inner.apply(tree, chain, &mut self.layer(layer, ids, cx), ids, cx).and_then(|applied| self.told(applied))
    }

    fn unpacks_ahead(&self) -> bool {
        self.inner.unpacks_ahead()
    }

    fn apply_ahead(
        &self,
        tree: TreeId,
        chain: Option<&[TreeId]>,
        layer: &mut dyn EntryStream,
        ids: Ids,
        cx: &Context<'_>,
    ) -> Result<Option<Applied>> {
        let applied = self.inner.apply_ahead(tree, chain, &mut self.layer(layer, ids, cx), ids, cx)?;
        applied.map(|applied| self.told(applied)).transpose()
    }

    fn settle(&self, tree: TreeId, chain: &[TreeId], applied: &mut Applied, ids: Ids, cx: &Context<'_>) -> Result<bool> {
        let mut known = self.known(applied.clone())?;
        let settled = self.inner.settle(tree, chain, &mut known, ids, cx)?;
        *applied = self.told(known)?;
        Ok(settled)
    }

    fn inherit(&self, tree: TreeId, chain: &[TreeId], applied: &mut Applied, ids: Ids, cx: &Context<'_>) -> Result<bool> {
        let mut known = self.known(applied.clone())?;
        let fits = self.inner.inherit(tree, chain, &mut known, ids, cx)?;
        *applied = self.told(known)?;
        Ok(fits)
    }

    fn is_whole(&self) -> bool {
        self.inner.is_whole()
    }

    fn copy(&self, tree: TreeId, chain: &[TreeId], cx: &Context<'_>) -> Result<()> {
        self.inner.copy(tree, chain, cx)
    }

    fn merge(&self, change: TreeId, into: TreeId, applied: &Applied, ids: Ids, cx: &Context<'_>) -> Result<()> {
        self.inner.merge(change, into, &self.known(applied.clone())?, ids, cx)
    }

    fn adopt(&self, tree: TreeId, change: TreeId, chain: &[TreeId], applied: &Applied, ids: Ids, cx: &Context<'_>) -> Result<()> {
        self.inner.adopt(tree, change, chain, &self.known(applied.clone())?, ids, cx)
    }

    fn answer(&self, chain: &[TreeId], questions: &[Question]) -> Result<Vec<Answer>> {
        let seen = |answer| match answer {
            Answer::Directory(Some(attributes)) => Answer::Directory(Some(Box::new(self.owners.seen(*attributes)))),
            answer => answer,
        };
        Ok(self.inner.answer(chain, questions)?.into_iter().map(seen).collect())
    }

    fn shares_trees(&self) -> bool {
        self.inner.shares_trees()
    }

    fn diff(&self, tree: TreeId, chain: &[TreeId], roots: Roots<'_>, out: &mut dyn EntrySink, cx: &Context<'_>) -> Result<()> {
        // Every tree has a root: without a parent it is the one that nobody described.
        let lower = self.to_disk(roots.lower.unwrap_or(&Attributes::implied()))?;
        let upper = roots.upper.map(|root| self.to_disk(root)).transpose()?;
        let roots = Roots { lower: Some(&lower), upper: upper.as_ref(), cut: roots.cut };
        self.inner.diff(tree, chain, roots, &mut Changes { inner: out, owners: &self.owners, ids: self.ids, cx }, cx)
    }

    fn verify(
        &self,
        tree: TreeId,
        reference: Reference<'_>,
        found: &mut dyn FnMut(Difference),
        cx: &Context<'_>,
    ) -> Result<Applied> {
        let Reference { outline, below, facts, layer, ids, contents } = reference;
        let mut layer = self.layer(layer, ids, cx);
        let reference = Reference { outline, below, facts, layer: &mut layer, ids, contents };
        let mut tell = |mut difference: Difference| {
            if let Fault::Owner { expected, found } = &mut difference.fault {
                *expected = self.owners.map().seen(expected.0, expected.1);
                *found = self.owners.map().seen(found.0, found.1);
            }
            found(difference);
        };
        self.inner.verify(tree, reference, &mut tell, cx).and_then(|applied| self.told(applied))
    }

    fn outline(&self, reference: Reference<'_>, cx: &Context<'_>) -> Result<Applied> {
        let Reference { outline, below, facts, layer, ids, contents } = reference;
        let mut layer = self.layer(layer, ids, cx);
        let reference = Reference { outline, below, facts, layer: &mut layer, ids, contents };
        self.inner.outline(reference, cx).and_then(|applied| self.told(applied))
    }

    fn share(&self, old: TreeId, new: TreeId, cx: &Context<'_>) -> Result<()> {
        self.inner.share(old, new, cx)
    }

    fn open_root(&self, tree: Option<TreeId>, chain: &[TreeId]) -> Result<Option<OwnedFd>> {
        self.inner.open_root(tree, chain)
    }

    fn look(&self, tree: TreeId, path: &EntryPath) -> Result<Look> {
        let mut look = self.inner.look(tree, path)?;
        if let Look::Found(found) = &mut look {
            found.attributes = self.owners.seen(found.attributes.clone());
        }
        Ok(look)
    }

    fn mount(&self, tree: TreeId, chain: &[TreeId], access: Access) -> Result<Mount> {
        self.inner.mount(tree, chain, access).map(|mount| mount.shifted_by(self.owners.map().clone()))
    }

    fn mount_frozen(&self, chain: &[TreeId], root: &Attributes) -> Result<Mount> {
        let mount = self.inner.mount_frozen(chain, &self.to_disk(root)?)?;
        Ok(mount.shifted_by(self.owners.map().clone()))
    }

    fn commit(&self, tree: TreeId) -> Result<Frozen> {
        let frozen = self.inner.commit(tree)?;
        Ok(Frozen { root: self.to_container(frozen.root)?, ..frozen })
    }

    fn is_frozen(&self, tree: TreeId) -> Result<bool> {
        self.inner.is_frozen(tree)
    }

    fn thaw(&self, tree: TreeId) -> Result<()> {
        self.inner.thaw(tree)
    }

    // No `check_owners`: a map that is shown is the one that the trees were made by, and that was checked.

    fn is_mounted(&self, tree: TreeId) -> Result<bool> {
        self.inner.is_mounted(tree)
    }

    fn usage(&self, tree: TreeId) -> Result<Usage> {
        self.inner.usage(tree)
    }

    fn remove(&self, tree: TreeId) -> Result<()> {
        self.inner.remove(tree)
    }
}

/// A layer on its way to the disk.
struct Layer<'a> {
    inner: &'a mut dyn EntryStream,
    owners: &'a Owners,
    ids: Ids,
    cx: &'a Context<'a>,
}

impl EntryStream for Layer<'_> {
    fn next(&mut self) -> Result<Option<Entry>> {
        let Some(Entry { path, change }) = self.inner.next()? else { return Ok(None) };
        let change = match change {
            // Of a link the attributes mean nothing.
            Change::Upsert { node, attributes } if !matches!(node, Node::Hardlink { .. }) => {
                let attributes = self.owners.to_disk(&path, attributes, self.ids, self.cx)?;
                Change::Upsert { node, attributes }
            }
            change => change,
        };
        Ok(Some(Entry { path, change }))
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        self.inner.chunk()
    }

    fn restart(&mut self) -> Result<()> {
        self.inner.restart()
    }

    fn content_digest(&self) -> Option<[u8; 32]> {
        self.inner.content_digest()
    }

    fn position(&self) -> Option<Position> {
        self.inner.position()
    }
}

/// Changes on their way from the disk.
struct Changes<'a> {
    inner: &'a mut dyn EntrySink,
    owners: &'a Owners,
    ids: Ids,
    cx: &'a Context<'a>,
}

impl EntrySink for Changes<'_> {
    fn entry(&mut self, entry: &Entry, status: Status) -> Result<()> {
        let Change::Upsert { node, attributes } = &entry.change else { return self.inner.entry(entry, status) };
        if matches!(node, Node::Hardlink { .. }) {
            // It says again whose the inode is, which was judged with its first name.
            let attributes = self.owners.to_container(&entry.path, attributes.clone(), Ids::Squash, &Context::default())?;
            return self.pass(entry, node, attributes, status);
        }
        let attributes = self.owners.to_container(&entry.path, attributes.clone(), self.ids, self.cx)?;
        self.pass(entry, node, attributes, status)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.data(bytes)
    }

    fn wants_data(&self) -> bool {
        self.inner.wants_data()
    }
}

impl Changes<'_> {
    fn pass(&mut self, entry: &Entry, node: &Node, attributes: Attributes, status: Status) -> Result<()> {
        let change = Change::Upsert { node: node.clone(), attributes };
        self.inner.entry(&Entry { path: entry.path.clone(), change }, status)
    }
}

#[cfg(feature = "testing")]
#[cfg(test)]
mod tests;
