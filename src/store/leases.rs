//! Leases with a name and an expiry: they keep what nothing names yet, until it is named elsewhere or their time is over.
//!
//! They are the caller's; those of running operations (`lease`) have neither, and end with their process. Both are rows that a
//! collection looks at.

use std::time::Duration;

use serde::Serialize;

use super::Store;
use super::intake::Intake;
use crate::descriptor::MediaType;
use crate::digest::Digest;
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{BlobRow, LeaseId, LeaseRow, Reader, SnapshotRow, Survives, Transaction, expires, expiry};
use crate::snapshot::{NAME_MAX, Name};
use crate::span::verb;

/// What [`Store::add_lease`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseOptions {
    /// How long from now it lives; a day by default, for ever with `Duration::MAX`.
    pub duration: Duration,
    /// Snapshots that it keeps, with all below them. None by default.
    pub snapshots: Vec<Name>,
    /// Blobs that it keeps, also such that were [taken in](Store::content) by hand. None by default.
    pub blobs: Vec<Digest>,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self { duration: Duration::from_secs(24 * 60 * 60), snapshots: Vec::new(), blobs: Vec::new() }
    }
}

impl LeaseOptions {
    /// For so long from now on.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Keeping this snapshot.
    #[must_use]
    pub fn snapshot(mut self, name: Name) -> Self {
        self.snapshots.push(name);
        self
    }

    /// Keeping this blob.
    #[must_use]
    pub fn blob(mut self, digest: Digest) -> Self {
        self.blobs.push(digest);
        self
    }
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LeaseInfo {
    /// What it is called.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends; `None` for never.
    pub expires: Option<Timestamp>,
    /// The snapshots that it keeps, with all below them.
    pub snapshots: Vec<String>,
    /// The blobs that it keeps.
    pub blobs: Vec<Digest>,
}

impl Store {
    /// Makes a lease, or renews the one of this name: it ends at the new time, and keeps what is named here beside what it kept before.
    /// Whatever a live lease keeps, [`gc`](Self::gc) does not take; [`remove`](Self::remove) still does. Durable when it returns.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use std::time::Duration;
    /// use plywood::store::{ImportLayerOptions, LayerSource, LeaseOptions};
    ///
    /// store.add_lease("build", &LeaseOptions::default().duration(Duration::from_secs(3600)))?;
    /// let options = ImportLayerOptions::default().lease("build");
    /// let layer = store.import_layer(LayerSource::reader(&[0u8; 1024][..]), &options, &Default::default())?;
    /// assert!(store.gc(&Default::default(), &Default::default())?.snapshots.is_empty());
    /// assert_eq!(store.leases()?[0].snapshots, [layer.chain_id.to_string()]);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound` for a snapshot or a blob that is not there; `InvalidArgument` for a name that cannot be one; `NoSpace`, `Io`. A lease
    /// that was there is as before then.
    pub fn add_lease(&self, name: &str, options: &LeaseOptions) -> Result<LeaseInfo> {
        verb!("add lease", lease = name).run(|_| self.add_lease_now(name, options))
    }

    fn add_lease_now(&self, name: &str, options: &LeaseOptions) -> Result<LeaseInfo> {
        const OP: &str = "add lease";
        self.refuse_read_only(OP)?;
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
            return Err(Error::new(ErrorKind::InvalidArgument, OP)
                .at(name)
                .because("the name of a lease is not empty, not too long, and holds no control characters"));
        }
        let transaction = self.metadata().write()?;
        if let Some(old) = transaction.lease_by_name(name)?.filter(LeaseRow::has_expired) {
            transaction.remove_lease(old.id)?;
        }
        let lease = transaction.put_lease(name, expiry(options.duration))?;
        for snapshot in &options.snapshots {
            let row = transaction.snapshot(snapshot.as_str())?.ok_or_else(|| super::no_snapshot(OP, snapshot.as_str()))?;
            transaction.lease_snapshot(lease, row.id)?;
        }
        for digest in &options.blobs {
            self.lease_blob(&transaction, lease, digest)?;
        }
        let row = transaction.lease_by_name(name)?.ok_or_else(|| no_lease(OP, name))?;
        let info = describe(&transaction, row)?;
        transaction.commit()?;
        Ok(info)
    }

    /// Ends a lease. What it alone kept goes with the next [`gc`](Self::gc).
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// store.add_lease("build", &Default::default())?;
    /// store.remove_lease("build")?;
    /// assert_eq!(store.remove_lease("build").unwrap_err().kind(), plywood::ErrorKind::NotFound);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`, also where its time was over; `Io`.
    pub fn remove_lease(&self, name: &str) -> Result<()> {
        verb!("remove lease", lease = name).run(|_| self.remove_lease_now(name))
    }

    fn remove_lease_now(&self, name: &str) -> Result<()> {
        self.refuse_read_only("remove lease")?;
        self.with_reserve(|| {
            let transaction = self.metadata().write_to_survive(Survives::PowerCut)?;
            let lease = live_lease(&transaction, "remove lease", name)?;
            transaction.remove_lease(lease)?;
            transaction.commit()
        })
    }

    /// The leases whose time is not over, in the order in which they were made. Those of running operations are not among them.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// assert!(store.leases()?.is_empty());
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn leases(&self) -> Result<Vec<LeaseInfo>> {
        let reader = self.metadata().read()?;
        let live = reader.leases()?.into_iter().filter(|row| row.name.is_some() && !row.has_expired());
        live.map(|row| describe(&reader, row)).collect()
    }

    /// Has the lease of this name keep a snapshot that another lease keeps until then.
    pub(super) fn hand_over(&self, op: &'static str, name: &str, snapshot: &SnapshotRow) -> Result<()> {
        let transaction = self.metadata().write()?;
        let lease = live_lease(&transaction, op, name)?;
        transaction.lease_snapshot(lease, snapshot.id)?;
        transaction.commit()
    }

    /// A blob that was taken in by hand gets its row here.
    fn lease_blob(&self, transaction: &Transaction<'_>, lease: LeaseId, digest: &Digest) -> Result<()> {
        if transaction.blob(digest)?.is_none() {
            let blob = self.content().blob(digest)?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "add lease").at(digest.to_string()).because("there is no such blob")
            })?;
            let media_type = MediaType::new(Intake::UNKNOWN_TYPE);
            transaction.put_blob(&BlobRow { digest: digest.clone(), size: blob.size(), media_type, diff_id: None })?;
        }
        transaction.lease_blob(lease, digest)
    }
}

fn describe(reader: &Reader<'_>, row: LeaseRow) -> Result<LeaseInfo> {
    let (snapshots, blobs) = reader.leased(row.id)?;
    let (name, expires) = (row.name.unwrap_or_default(), row.expires.and_then(expires));
    Ok(LeaseInfo { name, created: row.created, expires, snapshots, blobs })
}

pub(super) fn live_lease(reader: &Reader<'_>, op: &'static str, name: &str) -> Result<LeaseId> {
    let live = reader.lease_by_name(name)?.filter(|row| !row.has_expired());
    live.map(|row| row.id).ok_or_else(|| no_lease(op, name))
}

fn no_lease(op: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, op)
        .at(name)
        .because("there is no lease of this name, or its time is over")
        .with_hint("`plywood lease ls` lists what is there")
}
