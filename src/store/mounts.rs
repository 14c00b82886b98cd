//! `mounts`: what is to be mounted for a snapshot that is there already.

use super::{Store, no_snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Subject;
use crate::metadata::SnapshotRow;
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
    /// `NotFound`; `InvalidArgument` for a Committed snapshot, which is mounted through a View or an Active one on it; `Io`.
    pub fn mounts(&self, key: &str) -> Result<Mount> {
        verb!("mounts", key = key).run(|_| self.mounts_now(key))
    }

    fn mounts_now(&self, key: &str) -> Result<Mount> {
        let (mut row, mut chain) = self.to_mount(key)?;
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

    fn to_mount(&self, key: &str) -> Result<(SnapshotRow, Vec<TreeId>)> {
        let reader = self.metadata().read()?;
        let row = reader.snapshot(key)?.ok_or_else(|| no_snapshot("mounts", key))?;
        let chain = row.parent.map_or(Ok(Vec::new()), |parent| reader.chain(parent))?;
        Ok((row, chain))
    }
}
