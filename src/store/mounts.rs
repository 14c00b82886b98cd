//! `mounts`: what is to be mounted for a snapshot that is there already.

use super::{Store, no_snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Subject;
use crate::metadata::{Reader, SnapshotRow};
use crate::mount::Mount;
use crate::progress::Context;
use crate::snapshot::Kind;
use crate::span::verb;
use crate::tree::{Access, TreeId};

impl Store {
    /// What is to be mounted for an Active snapshot or a View: the same as when it was made, also in another process.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// let mount = store.mounts("web-1")?;
    /// # drop(mount);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a Committed snapshot, which is mounted through a View or an Active one on it; `PermissionDenied` for
    /// an Active one of a store that cannot be written; `Io`.
    pub fn mounts(&self, key: &str) -> Result<Mount> {
        verb!("mounts", key = key).run(|_| self.mounts_now(key))
    }

    fn mounts_now(&self, key: &str) -> Result<Mount> {
        let (mut row, mut chain) = self.to_mount(key)?;
        if row.kind == Kind::Active {
            self.refuse_read_only("mounts")?;
        }
        // A View shows its parent's tree, which may have been found damaged and imported again.
        if self.ensure_made("mounts", row.parent.filter(|_| row.kind == Kind::View), &Context::default())? {
            (row, chain) = self.to_mount(key)?;
        }
        let _not_committed = if row.kind == Kind::Active && self.backend().is_frozen(row.tree)? {
            // It is being committed, or a commit of it was cut off. Whoever waited looks again.
            let held = self.locks().wait(Subject::Tree(row.tree))?;
            let tree = row.tree;
            (row, chain) = self.to_mount(key)?;
            if row.kind == Kind::Active && row.tree == tree {
                self.backend().thaw(tree)?;
            }
            Some(held)
        } else {
            None
        };
        let access = match row.kind {
            Kind::Active => Access::ReadWrite,
            Kind::View => Access::ReadOnly,
            Kind::Committed => {
                return Err(Error::new(ErrorKind::InvalidArgument, "mounts")
                    .at(key)
                    .because("a committed snapshot is not mounted itself")
                    .with_hint("make a view of it, or prepare an active snapshot on it"));
            }
        };
        self.backend().mount(row.tree, &chain, access)
    }

    /// What is to be mounted, read-only, for a Committed snapshot itself: no key is made, so that it works where nothing can be written.
    ///
    /// The mount keeps nothing: in a store that can be written the caller sees to it that a name, a key or a [lease](Self::add_lease) keeps the
    /// snapshot from a collection; else a [view](Self::view) does that by itself. Its root directory is in memory on the overlay backend,
    /// which clients of `mount(2)` cannot be told to make.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::snapshot::{Key, Name};
    ///
    /// # store.prepare(&Key::new("build")?, None, &Default::default())?;
    /// # store.commit(&Name::new("base")?, &Key::new("build")?, &Default::default())?;
    /// let mount = store.mount_committed("base")?;
    /// assert_eq!(mount.access(), plywood::tree::Access::ReadOnly);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a snapshot that is not Committed; `Corrupt` where a [check](Self::check) found it damaged;
    /// `PermissionDenied` where its tree was not made yet, and the store cannot be written;
    /// `Unsupported` on the overlay backend before Linux 6.15, and on the copy backend for an image whose last layers change the root
    /// directory alone; `LimitExceeded`, `Io`.
    pub fn mount_committed(&self, name: &str) -> Result<Mount> {
        verb!("mount committed", name = name).run(|_| self.mount_committed_now(name))
    }

    fn mount_committed_now(&self, name: &str) -> Result<Mount> {
        let op = "mount committed";
        let found = |reader: &Reader<'_>| {
            let row = reader.snapshot(name)?.ok_or_else(|| no_snapshot(op, name))?;
            if row.kind != Kind::Committed {
                return Err(Error::new(ErrorKind::InvalidArgument, op)
                    .at(name)
                    .because(format!("its kind is {}", row.kind))
                    .with_hint("`mounts` is for active snapshots and views"));
            }
            Ok(row)
        };
        let unmade = found(&self.metadata().read()?)?;
        self.ensure_made(op, Some(unmade.id), &Context::default())?;
        let reader = self.metadata().read()?;
        let row = found(&reader)?;
        let chain = reader.chain(row.id)?;
        reader.refuse_damaged(op, name, &chain)?;
        self.backend().mount_frozen(&chain, &self.own_root(op, row.root)?)
    }

    fn to_mount(&self, key: &str) -> Result<(SnapshotRow, Vec<TreeId>)> {
        let reader = self.metadata().read()?;
        let row = reader.snapshot(key)?.ok_or_else(|| no_snapshot("mounts", key))?;
        let chain = row.parent.map_or(Ok(Vec::new()), |parent| reader.chain(parent))?;
        Ok((row, chain))
    }
}
