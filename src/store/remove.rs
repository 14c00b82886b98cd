//! `remove`: the row goes in one transaction, which puts the tree on the list of what is to be deleted. Deleting comes later.

use super::{Store, no_snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Subject;
use crate::metadata::{Reader, SnapshotRow, Survives};
use crate::snapshot::Kind;
use crate::span::verb;

/// How many of those that stand in the way a message names.
const NAMED: u32 = 3;

impl Store {
    /// Removes a snapshot of any kind. It is gone when this returns, durably and at once whatever its size; the space comes back with
    /// the next [`gc`](Self::gc) or [`empty_trash`](Self::empty_trash).
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::snapshot::Key;
    ///
    /// store.prepare(&Key::new("web-1")?, None, &Default::default())?;
    /// store.remove("web-1")?;
    /// assert_eq!(store.stat("web-1").unwrap_err().kind(), plywood::ErrorKind::NotFound);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `InUse` where other snapshots or an image stand on it, where it is being committed, or where it is mounted and the
    /// system tells; `Io`.
    pub fn remove(&self, name: &str) -> Result<()> {
        verb!("remove", key = name).run(|_| self.with_reserve(|| self.remove_now(name)))
    }

    fn remove_now(&self, name: &str) -> Result<()> {
        self.refuse_read_only("remove")?;
        let seen = self.metadata().read()?.snapshot(name)?.ok_or_else(|| no_snapshot("remove", name))?;
        // Nobody is freezing a tree whose row goes.
        let _not_committed = match seen.kind {
            Kind::Active => Some(self.locks().wait_unless(Subject::Tree(seen.tree), &mut || self.still_removable(name, &seen))?),
            _ => None,
        };
        if seen.kind != Kind::Committed && self.backend().is_mounted(seen.tree)? {
            return Err(in_use(name, "it is mounted").with_hint("unmount it first"));
        }
        let transaction = self.metadata().write_to_survive(Survives::PowerCut)?;
        let row = self.removable(&transaction, name)?;
        if row.id != seen.id {
            return Err(in_use(name, "it was made anew meanwhile"));
        }
        transaction.remove_snapshot(&row)?;
        transaction.commit()
    }

    /// Somebody holds the tree: who removes it as well is at work for a moment, who commits it for as long as its bytes take.
    fn still_removable(&self, name: &str, seen: &SnapshotRow) -> Result<()> {
        if self.metadata().read()?.snapshot_by_id(seen.id)?.is_none() {
            return Err(no_snapshot("remove", name));
        }
        if self.backend().is_frozen(seen.tree)? { Err(in_use(name, "it is being committed")) } else { Ok(()) }
    }

    fn removable(&self, reader: &Reader<'_>, name: &str) -> Result<SnapshotRow> {
        let row = reader.snapshot(name)?.ok_or_else(|| no_snapshot("remove", name))?;
        let named = |names: Vec<String>| {
            let more = names.len() > NAMED as usize;
            let names: Vec<_> = names.iter().take(NAMED as usize).map(|name| name.escape_debug().to_string()).collect();
            format!("{}{}", names.join(", "), if more { ", …" } else { "" })
        };
        let children = reader.children(row.id, NAMED + 1)?;
        if !children.is_empty() {
            return Err(in_use(name, &format!("snapshots stand on it ({})", named(children))));
        }
        let images = reader.images_on(row.id, NAMED + 1)?;
        if !images.is_empty() {
            return Err(in_use(name, &format!("images stand on it ({})", named(images))));
        }
        Ok(row)
    }
}

fn in_use(name: &str, reason: &str) -> Error {
    Error::new(ErrorKind::InUse, "remove").at(name).because(format!("cannot remove it: {reason}"))
}
