//! Rows of leases: what keeps trees, blobs and snapshots that nothing names yet.
//!
//! A lease without an expiry is as alive as the process that holds the kernel lock on its file; that is the store's to find out.

use rusqlite::params;

use super::connection::failed;
use super::snapshots::SnapshotId;
use super::transaction::{Reader, Transaction};
use super::{now, to_sql};
use crate::error::Result;
use crate::tree::TreeId;

/// A lease's number; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LeaseId(pub(crate) i64);

/// What a lease's row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) id: LeaseId,
    /// In nanoseconds since 1970. Without one, the lease lives while its lock is held.
    pub(crate) expires: Option<i64>,
}

impl LeaseRow {
    /// Whether its time is over.
    pub(crate) fn has_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= now())
    }
}

impl Reader<'_> {
    /// Every lease.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn leases(&self) -> Result<Vec<LeaseRow>> {
        let fail = |error| failed("read leases", error);
        let mut statement = self.connection().prepare_cached("SELECT id, expires FROM leases ORDER BY id").map_err(fail)?;
        let rows = statement.query_map([], |row| Ok(LeaseRow { id: LeaseId(row.get(0)?), expires: row.get(1)? })).map_err(fail)?;
        rows.collect::<Result<_, _>>().map_err(fail)
    }
}

impl Transaction<'_> {
    /// Makes a lease that lives while its lock is held.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn insert_lease(&self) -> Result<LeaseId> {
        self.connection()
            .execute("INSERT INTO leases (created) VALUES (?1)", [now()])
            .map_err(|error| failed("insert lease", error))?;
        Ok(LeaseId(self.connection().last_insert_rowid()))
    }

    /// Ends a lease: what it alone kept is for the next collection. Trees that were still being built under it go to the trash.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn remove_lease(&self, id: LeaseId) -> Result<()> {
        for tree in self.trees_built_under(id)? {
            self.trash_tree(tree)?;
        }
        self.connection()
            .execute("DELETE FROM leases WHERE id = ?1", [id.0])
            .map(drop)
            .map_err(|error| failed("remove lease", error))
    }

    /// Keeps a snapshot, with all below it, for as long as the lease lives.
    ///
    /// # Errors
    /// `Corrupt` where one of the two is not there; `Io`.
    pub(crate) fn lease_snapshot(&self, lease: LeaseId, snapshot: SnapshotId) -> Result<()> {
        self.connection()
            .execute("INSERT OR IGNORE INTO leased_snapshots (lease, snapshot) VALUES (?1, ?2)", params![lease.0, snapshot.0])
            .map(drop)
            .map_err(|error| failed("lease snapshot", error))
    }

    /// Keeps a finished tree for as long as the lease lives.
    ///
    /// # Errors
    /// `Corrupt` where one of the two is not there; `Io`.
    pub(crate) fn lease_tree(&self, lease: LeaseId, tree: TreeId) -> Result<()> {
        self.connection()
            .execute("INSERT OR IGNORE INTO leased_trees (lease, tree) VALUES (?1, ?2)", params![lease.0, to_sql(tree.0)])
            .map(drop)
            .map_err(|error| failed("lease tree", error))
    }
}
