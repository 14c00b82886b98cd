//! Rows of leases: what keeps trees, blobs and snapshots that nothing names yet.
//!
//! A lease without an expiry is as alive as the process that holds the kernel lock on its file; that is the store's to find out. One
//! with an expiry has a name and lives until then, whoever made it.

use rusqlite::{OptionalExtension as _, Row, params};

use super::connection::failed;
use super::snapshots::SnapshotId;
use super::transaction::{Reader, Transaction};
use super::{now, parse, timestamp, to_sql};
use crate::digest::Digest;
use crate::entry::Timestamp;
use crate::error::Result;
use crate::tree::TreeId;

/// A lease's number; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LeaseId(pub(crate) i64);

/// When a lease expires that never does.
pub(crate) const NEVER: i64 = i64::MAX;

/// What a lease's row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) id: LeaseId,
    /// Of one with an expiry.
    pub(crate) name: Option<String>,
    pub(crate) created: Timestamp,
    /// In nanoseconds since 1970. Without one, the lease lives while its lock is held.
    pub(crate) expires: Option<i64>,
}

impl LeaseRow {
    /// Whether its time is over.
    pub(crate) fn has_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= now())
    }
}

const COLUMNS: &str = "id, name, created, expires FROM leases";

impl Reader<'_> {
    /// Every lease.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn leases(&self) -> Result<Vec<LeaseRow>> {
        let fail = |error| failed("read leases", error);
        let mut statement = self.connection().prepare_cached(&format!("SELECT {COLUMNS} ORDER BY id")).map_err(fail)?;
        let rows = statement.query_map([], lease).map_err(fail)?;
        rows.collect::<Result<_, _>>().map_err(fail)
    }

    /// The lease of this number.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn lease_by_id(&self, id: LeaseId) -> Result<Option<LeaseRow>> {
        self.connection()
            .query_row(&format!("SELECT {COLUMNS} WHERE id = ?1"), [id.0], lease)
            .optional()
            .map_err(|error| failed("read leases", error))
    }

    /// The lease of this name, expired or not.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn lease_by_name(&self, name: &str) -> Result<Option<LeaseRow>> {
        self.connection()
            .query_row(&format!("SELECT {COLUMNS} WHERE name = ?1"), [name], lease)
            .optional()
            .map_err(|error| failed("read leases", error))
    }

    /// The names of the snapshots and the digests of the blobs that a lease keeps, in their order.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn leased(&self, id: LeaseId) -> Result<(Vec<String>, Vec<Digest>)> {
        let fail = |error| failed("read leases", error);
        let read = |query: &str| {
            let mut statement = self.connection().prepare_cached(query).map_err(fail)?;
            let rows = statement.query_map([id.0], |row| row.get(0)).map_err(fail)?;
            rows.collect::<Result<Vec<String>, _>>().map_err(fail)
        };
        let snapshots =
            read("SELECT s.name FROM leased_snapshots l JOIN snapshots s ON s.id = l.snapshot WHERE l.lease = ?1 ORDER BY s.name")?;
        let blobs = read("SELECT digest FROM leased_blobs WHERE lease = ?1 ORDER BY digest")?;
        Ok((snapshots, blobs.iter().map(|digest| parse(digest)).collect::<Result<_>>()?))
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

    /// Makes a lease of a name that is free, or moves the expiry of one that is there.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn put_lease(&self, name: &str, expires: i64) -> Result<LeaseId> {
        self.connection()
            .query_row(
                "INSERT INTO leases (name, created, expires) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (name) DO UPDATE SET expires = excluded.expires RETURNING id",
                params![name, now(), expires],
                |row| row.get(0).map(LeaseId),
            )
            .map_err(|error| failed("write lease", error))
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

fn lease(row: &Row<'_>) -> rusqlite::Result<LeaseRow> {
    Ok(LeaseRow { id: LeaseId(row.get(0)?), name: row.get(1)?, created: timestamp(row.get(2)?), expires: row.get(3)? })
}

/// How long from now, in nanoseconds since 1970.
pub(crate) fn expiry(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).map_or(NEVER, |nanoseconds| now().saturating_add(nanoseconds))
}

/// An expiry as a time; `None` for never.
pub(crate) fn expires(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds != NEVER).then(|| timestamp(nanoseconds))
}
