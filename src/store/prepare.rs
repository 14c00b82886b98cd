//! `prepare` and `view`: a new snapshot to be mounted, writable or not.
//!
//! Order: a number for the tree, under the session's lease; the tree, durable; then, in one transaction that looks at everything again,
//! the row. A crash before that leaves a tree that the dead lease gives away; a power cut, an empty one that moves to `lost+found`.
//!
//! Where the backend keeps the order of what is done with the database's log, tree and row come to the disk by one sync, the log's: all is
//! done in one turn, see [`Transaction::commit_and_go_on`].

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Store, no_snapshot};
use crate::apply::own_root;
use crate::backend::{KnownOwners, not_mapped};
use crate::entry::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{NewSnapshot, SnapshotRow, Survives, Transaction};
use crate::mount::{IdMap, Mount};
use crate::progress::Context;
use crate::snapshot::{Key, Kind, Labels, Name};
use crate::span::verb;
use crate::sys::ids::IdMaps;
use crate::tree::{Access, Ids, TreeId};

/// How [`Store::prepare`] and [`Store::view`] make a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrepareOptions {
    /// The new snapshot's labels; none by default.
    pub labels: Labels,
    /// Which owners the mount that is returned shows for those on the disk; the same by default. See [`id_map`](Self::id_map).
    pub id_map: Option<IdMap>,
}

impl PrepareOptions {
    /// For a container with this id map: [`MountOptions::id_map`](crate::mount::MountOptions::id_map). A parent with an owner outside the
    /// map is refused as `IdNotMapped`, unless the store squashes owners; the container sees such files as nobody's then. Who asks for
    /// the [`mounts`](Store::mounts) of the key later says the map again. In a store that [shifts](super::StoreOptions::id_shift) owners by
    /// this very map nothing is left to be mapped; another one is `Unsupported` there.
    #[must_use]
    pub fn id_map(mut self, map: IdMap) -> Self {
        self.id_map = Some(map);
        self
    }

    /// With these labels.
    #[must_use]
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }
}

impl Store {
    /// Makes an Active snapshot: a writable root file system on a Committed parent, or an empty one without. Gives what is to be
    /// mounted; nothing is mounted yet. Durable when it returns.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::snapshot::{Key, Kind};
    ///
    /// let key = Key::new("web-1")?;
    /// let mount = store.prepare(&key, None, &Default::default())?;
    /// assert_eq!(store.stat("web-1")?.kind, Kind::Active);
    /// # drop(mount);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `AlreadyExists` for a key that is taken, by whatever kind of snapshot; `NotFound` without such a parent; `InvalidArgument` where
    /// the parent is not Committed; `Corrupt` where a [check](Self::check) found it damaged; `LimitExceeded` where the stack is higher
    /// than the backend can mount; `IdNotMapped` where this process cannot own the root directory as it should be, or an owner is not
    /// in the mount's id map, and the store does not squash owners; `NoSpace`, `Io`.
    pub fn prepare(&self, key: &Key, parent: Option<&Name>, options: &PrepareOptions) -> Result<Mount> {
        let verb = verb!("prepare", key = key.as_str(), parent = parent.map(Name::as_str));
        verb.run(|_| self.new_snapshot("prepare", Kind::Active, key, parent, options))
    }

    /// Makes a View: a Committed parent (or nothing) to be mounted read-only. The rest is as in [`prepare`](Self::prepare).
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::snapshot::{Key, Name};
    ///
    /// # store.prepare(&Key::new("build")?, None, &Default::default())?;
    /// # store.commit(&Name::new("base")?, &Key::new("build")?, &Default::default())?;
    /// let mount = store.view(&Key::new("look")?, Some(&Name::new("base")?), &Default::default())?;
    /// # drop(mount);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn view(&self, key: &Key, parent: Option<&Name>, options: &PrepareOptions) -> Result<Mount> {
        let verb = verb!("view", key = key.as_str(), parent = parent.map(Name::as_str));
        verb.run(|_| self.new_snapshot("view", Kind::View, key, parent, options))
    }

    fn new_snapshot(
        &self,
        op: &'static str,
        kind: Kind,
        key: &Key,
        parent: Option<&Name>,
        options: &PrepareOptions,
    ) -> Result<Mount> {
        self.refuse_read_only(op)?;
        let (mut row, mut chain, mut root) = self.look_below(op, key, parent)?;
        if self.ensure_made(op, row.as_ref().map(|row| row.id), &Context::default())? {
            (row, chain, root) = self.look_below(op, key, parent)?;
        }
        let parent = row;
        self.check_height(op, key.as_str(), chain.len())?;
        if let Some(map) = options.id_map.as_ref().filter(|_| self.id_shift().is_none()) {
            self.check_owners(op, &chain, &root, map)?;
        }
        // What a power cut leaves of a whole copy is not to be taken for a container's data. Of a tree that holds nothing yet it is little.
        let is_copy = !chain.is_empty() && !self.backend().shares_trees();
        let backend = self.backend();
        let access = if kind == Kind::View { Access::ReadOnly } else { Access::ReadWrite };
        let name = |transaction: Transaction<'_>, tree| {
            let mount = backend.mount(tree, &chain, access)?.with_id_map(options.id_map.clone())?;
            let (parent_id, labels) = (parent.as_ref().map(|parent| parent.id), &options.labels);
            let new = NewSnapshot { name: key.as_str(), kind, parent: parent_id, tree, root: &root, labels };
            name_snapshot(op, transaction, parent.as_ref(), &new)?;
            Ok(mount)
        };
        let tree;
        if !is_copy && backend.keeps_order_with(self.metadata().directory().as_fd()) {
            let (allocated, transaction, carries) = self.allocate_tree_and_go_on()?;
            tree = allocated;
            if carries {
                let done = backend.create_unsynced(tree, &chain, &root).and_then(|()| name(transaction, tree));
                return done.inspect_err(|_| self.abandon_tree(tree));
            }
        } else {
            tree = self.allocate_tree(if is_copy { Survives::PowerCut } else { Survives::Process })?;
        }
        let created = match access {
            Access::ReadOnly => backend.create_view(tree, &chain, &root),
            Access::ReadWrite => backend.create(tree, &chain, &root),
        };
        let done = created.and_then(|()| name(self.metadata().write()?, tree));
        done.inspect_err(|_| self.abandon_tree(tree))
    }

    fn look_below(
        &self,
        op: &'static str,
        key: &Key,
        parent: Option<&Name>,
    ) -> Result<(Option<SnapshotRow>, Vec<TreeId>, Attributes)> {
        let reader = self.metadata().read()?;
        if reader.snapshot(key.as_str())?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, op).at(key.as_str()));
        }
        let Some(parent) = parent else { return Ok((None, Vec::new(), self.own_root(op, Attributes::implied())?)) };
        let parent = reader.snapshot(parent.as_str())?.ok_or_else(|| no_parent(op, parent))?;
        if parent.kind != Kind::Committed {
            let reason = format!("the parent's kind is {}; only a committed snapshot can be one", parent.kind);
            return Err(Error::new(ErrorKind::InvalidArgument, op).at(&parent.name).because(reason));
        }
        let (chain, root) = (reader.chain(parent.id)?, self.own_root(op, parent.root.clone())?);
        reader.refuse_damaged(op, &parent.name, &chain)?;
        Ok((Some(parent), chain, root))
    }

    /// Refuses what a container with this id map would see as nobody's. Each tree is looked through once for each map, in this process.
    fn check_owners(&self, op: &'static str, chain: &[TreeId], root: &Attributes, map: &IdMap) -> Result<()> {
        if self.ids() == Ids::Squash {
            return Ok(());
        }
        if map.to_host(root.uid, root.gid).is_none() {
            return Err(not_mapped(root.uid, root.gid, map).at("/"));
        }
        let mut known = Mapped { map, trees: &self.inner.mapped };
        self.backend().check_owners(chain, map, &mut known).map_err(|error| match error.kind() {
            ErrorKind::IdNotMapped => error,
            _ => Error::new(error.kind(), op).because("the owners of its files cannot be read").with_source(error),
        })
    }

    /// A root directory as this process can own it, where owners are squashed; what a layer said of it was reported when it came in.
    /// Else it is for the backend to say whether it can be had.
    pub(super) fn own_root(&self, op: &'static str, root: Attributes) -> Result<Attributes> {
        match self.ids() {
            // Whose it is on the disk, and whether it can be, is the backend's.
            _ if self.id_shift().is_some() => Ok(root),
            Ids::Exact => Ok(root),
            Ids::Squash => own_root(op, Ids::Squash, root, &Context::default()),
        }
    }

    /// Refuses a stack of trees that the backend could not mount, with both figures.
    pub(crate) fn check_height(&self, op: &'static str, name: &str, height: usize) -> Result<()> {
        let limit = self.backend().longest_chain();
        if height <= limit {
            return Ok(());
        }
        let reason = format!("{height} layers would be stacked, and the {} backend mounts {limit} at most", self.backend().name());
        Err(Error::new(ErrorKind::LimitExceeded, op).at(name).because(reason))
    }

    /// A number for a tree, under the session's lease. Whatever names the tree later carries this with it to the disk; where it need not
    /// survive a power cut before, one that comes meanwhile leaves a tree without a row.
    pub(super) fn allocate_tree(&self, survives: Survives) -> Result<TreeId> {
        let session = self.session()?;
        let transaction = self.metadata().write_to_survive(survives)?;
        let tree = transaction.allocate_tree(session, self.backend().name())?;
        transaction.commit()?;
        Ok(tree)
    }

    /// The same, and goes on in the same turn with what gives the tree its name. The flag says that this, once it is committed, carries
    /// all that was done to names and inodes before.
    fn allocate_tree_and_go_on(&self) -> Result<(TreeId, Transaction<'_>, bool)> {
        let session = self.session()?;
        let transaction = self.metadata().write_to_survive(Survives::Process)?;
        let tree = transaction.allocate_tree(session, self.backend().name())?;
        let (transaction, grew) = transaction.commit_and_go_on()?;
        Ok((tree, transaction, grew))
    }

    /// Throws away a tree that did not get its name. What fails here is done by the next collection.
    pub(super) fn abandon_tree(&self, tree: TreeId) {
        // It has no name, so its bytes need not wait for the row's end: on a full disk that may not be written.
        let _ = self.backend().remove(tree);
        let _ = (|| {
            let transaction = self.metadata().write_to_survive(Survives::Process)?;
            transaction.trash_tree(tree)?;
            transaction.commit()?;
            self.delete_trash_tree(tree)
        })();
    }
}

fn name_snapshot(
    op: &'static str,
    transaction: Transaction<'_>,
    parent: Option<&SnapshotRow>,
    new: &NewSnapshot<'_>,
) -> Result<()> {
    if let Some(parent) = parent
        && transaction.snapshot_by_id(parent.id)?.is_none()
    {
        return Err(Error::new(ErrorKind::NotFound, op).at(&parent.name).because("the parent was removed meanwhile"));
    }
    if transaction.snapshot(new.name)?.is_some() {
        return Err(Error::new(ErrorKind::AlreadyExists, op).at(new.name));
    }
    transaction.insert_snapshot(new)?;
    transaction.commit()
}

/// How many trees are remembered with a map that holds all their owners.
const MAPPED_MAX: usize = 10_000;

/// Trees that were looked through; their numbers never come again.
struct Mapped<'a> {
    map: &'a IdMap,
    trees: &'a Mutex<HashSet<(TreeId, IdMaps)>>,
}

impl Mapped<'_> {
    fn trees(&self) -> MutexGuard<'_, HashSet<(TreeId, IdMaps)>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownOwners for Mapped<'_> {
    fn is_inside(&self, tree: TreeId) -> bool {
        self.trees().contains(&(tree, self.map.maps().clone()))
    }

    fn found_inside(&mut self, tree: TreeId) {
        let mut trees = self.trees();
        if trees.len() >= MAPPED_MAX {
            trees.clear();
        }
        trees.insert((tree, self.map.maps().clone()));
    }
}

pub(super) fn no_parent(op: &'static str, parent: &Name) -> Error {
    no_snapshot(op, parent.as_str()).because("there is no parent of this name")
}
