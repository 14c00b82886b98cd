//! The database: snapshots, trees, blobs, images, leases, trash; one transaction type.
//!
//! Invariants: **bytes are durable before the row that names them; rows die before their bytes.** Foreign keys keep chains whole. Ids
//! never repeat. A row with a `chain_id` was written by an import that had the diff id in hand: its name is its proof. This module
//! knows rows; directories, blob files and locks but its own are left to the tiers above.
//!
//! # For those who build on it
//! - `metadata.read()? -> Reader` sees one state; `metadata.write()? -> Transaction` (all of `Reader`'s verbs by `Deref`, plus those
//!   that change) waits for its turn in the writers' queue. Never unpack, hash or delete while holding one.
//! - *Unpacking a layer*: `tx.allocate_tree(lease, backend)` gives a [`TreeId`](crate::tree::TreeId) whose row is `building` for as
//!   long as the lease lives; `backend.apply` fills it; then in one transaction `tx.finish_tree(id, &Unpacked {..})` and
//!   `tx.insert_layer(&NewLayer {..})`, which computes the chain id and folds the root's attributes. A layer that turned out to be
//!   empty is finished the same way: its row becomes `empty`, no directory is kept, chains skip it.
//! - *Finding one*: `reader.layer(&chain_id)`, `reader.shareable_trees(&diff_id, ids)` with the facts each rests on. A tree that is
//!   to be used is kept by `tx.lease_tree(lease, tree)` until `insert_layer`, which refuses (`NotFound`) a tree that has gone.
//! - *Blobs*: `tx.put_blob(&BlobRow)` and `tx.lease_blob`, in the transaction in which the file is renamed to its place, so that no
//!   collection can see the row without the file or delete the file of a new row. `reader.blob(&digest)`, `reader.blob_of(&diff_id)`.
//! - *Images*: `tx.put_image(&ImageRow)` (replaces), `reader.image(reference)`, `reader.images()`, `tx.remove_image(reference)`,
//!   `tx.tag_image(from, to)`.
//! - *Leases*: made by `Store::lease`; `tx.lease_snapshot(lease, snapshot)` keeps what was imported until an image names it.

mod blobs;
mod connection;
mod damage;
mod facts;
mod holdings;
mod images;
mod leases;
mod schema;
mod snapshots;
#[cfg(test)]
mod tests;
mod transaction;
mod trash;
mod trees;

use std::path::Path;

use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::read_only::ReadOnly;
use crate::sys::turn::Turn;
use crate::sys::{Dir, FileType, inode};

use connection::{Pool, Way};

pub(crate) use blobs::{BlobRow, TREE_MANIFEST};
pub(crate) use damage::Hit;
pub(crate) use holdings::Holdings;
pub(crate) use images::{ImageLayer, ImageRow};
pub(crate) use leases::{LeaseId, LeaseRow, expires, expiry};
pub(crate) use schema::StoreRow;
pub(crate) use snapshots::{Committed, NewLayer, NewSnapshot, Selection, SnapshotId, SnapshotRow};
pub(crate) use transaction::{Reader, Survives, Transaction};
pub(crate) use trash::Trash;
pub(crate) use trees::{TreeRow, TreeState, Unpacked};

/// The database's file in the store's root.
pub(crate) const DATABASE: &str = "plywood.db";
pub(crate) const LOG: &str = "plywood.db-wal";
const LOG_INDEX: &str = "plywood.db-shm";
/// The file in `locks/` on which writers queue.
const QUEUE: &[u8] = b"writers";

/// The database of one store.
#[derive(Debug)]
pub(crate) struct Metadata {
    pool: Pool,
    locks: Dir,
    /// Why nothing can be written.
    read_only: Option<ReadOnly>,
}

impl Metadata {
    /// Opens the database in `root`, which is the directory at `path`; where there is none, an empty file for one is made. `locks` is
    /// the directory of the store's lock files. Nothing else can be done before [`is_made`](Self::is_made) or [`make`](Self::make).
    ///
    /// # Errors
    /// `PermissionDenied`, `NoSpace`, `Io`.
    pub(crate) fn open(root: Dir, path: &Path, locks: Dir) -> Result<Self> {
        let metadata = Self { pool: Pool::new(root, path.join(DATABASE), Way::Write), locks, read_only: None };
        match metadata.locks.create_file(QUEUE, 0o600) {
            Ok(file) => inode::set_mode(&file, 0o600)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        metadata.create_database()?;
        metadata.create_log_index()?;
        Ok(metadata)
    }

    /// Opens a database that cannot be written. What the log holds that was not copied back counts; where others write to the store, through
    /// another mount or as another user, their locks are heeded. (SQLite's `immutable` alone would do neither.)
    ///
    /// # Errors
    /// `PermissionDenied` where the log or its index is missing while others may write: whoever can opens the store once. `Io`.
    pub(crate) fn open_read_only(root: Dir, path: &Path, locks: Dir, read_only: ReadOnly) -> Result<Self> {
        let log = root.stat(LOG.as_bytes())?;
        let has_index = root.stat(LOG_INDEX.as_bytes())?.is_some();
        let way = match &log {
            Some(_) if has_index => Way::Read,
            Some(log) if log.size > 0 && read_only.frozen => Way::ReadLog,
            _ if read_only.frozen => Way::ReadImmutable,
            _ => {
                return Err(Error::new(ErrorKind::PermissionDenied, "open store")
                    .at(path)
                    .because(format!("the log of its database is not there and cannot be made: {}", read_only.reason))
                    .with_hint("open it once as somebody who can write to it"));
            }
        };
        Ok(Self { pool: Pool::new(root, path.join(DATABASE), way), locks, read_only: Some(read_only) })
    }

    /// The directory that the database and its log are in.
    pub(crate) fn directory(&self) -> &Dir {
        self.pool.root()
    }

    /// Why nothing can be written; `None` where it can.
    pub(crate) fn read_only(&self) -> Option<ReadOnly> {
        self.read_only
    }

    /// Refuses to write to a store that cannot be written.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub(crate) fn refuse_read_only(&self, op: &'static str) -> Result<()> {
        let Some(read_only) = self.read_only else { return Ok(()) };
        Err(Error::new(ErrorKind::PermissionDenied, op).because(format!("the store is read-only: {}", read_only.reason)).with_hint(
            "what is committed can be read, diffed, exported and mounted (`Store::mount_committed`); what changes the store needs it \
             writable",
        ))
    }

    /// Makes the empty file. Never by opening it: closing any descriptor of the database drops the locks that another `Store` of this
    /// process has on it.
    fn create_database(&self) -> Result<()> {
        let (root, name) = (self.pool.root(), DATABASE.as_bytes());
        if root.stat(name)?.is_some() {
            return Ok(());
        }
        match root.mknod(name, FileType::RegularFile, 0o600, (0, 0)) {
            Ok(()) => inode::set_mode(root.child_path_fd(name)?, 0o600),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes the empty index of the log, where a file system that copies on write (btrfs) can be told not to do so with it. SQLite maps
    /// that file, and without room for a page's copy whoever writes to the map dies of SIGBUS. (Before Linux 6.16 he does nevertheless.)
    fn create_log_index(&self) -> Result<()> {
        let (root, name) = (self.pool.root(), LOG_INDEX.as_bytes());
        if root.stat(name)?.is_some() {
            return Ok(());
        }
        let _queue = self.queue()?;
        // One that was not finished.
        match self.locks.unlink(name) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Closed before it has its name: a descriptor that is closed drops the locks of the whole process.
        let file = self.locks.create_file(name, 0o600)?;
        inode::set_mode(&file, 0o600)?;
        let in_place = inode::write_in_place(&file);
        drop(file);
        if in_place.is_err() {
            return self.locks.unlink(name);
        }
        match self.locks.rename_noreplace(name, root, name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.locks.unlink(name),
            done => done,
        }
    }

    /// Waits for this process's or thread's turn to write.
    fn queue(&self) -> Result<Turn> {
        self.refuse_read_only("write metadata")?;
        // A description of its own for each wait: threads queue as processes do, and a forked child shares none.
        Turn::wait(self.locks.open_file_rw(QUEUE)?.into())
    }
}

/// Now, in nanoseconds since 1970.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    // rem_euclid is below 1,000,000,000.
    let rest = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default();
    Timestamp { seconds: nanoseconds.div_euclid(1_000_000_000), nanoseconds: rest }
}

/// A number that is never negative, as SQLite holds it.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| corrupt(format!("{number} is negative")))
}

/// A row that none of our versions wrote.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "read metadata").at(DATABASE).because(reason)
}

fn parse<T: std::str::FromStr<Err = Error>>(text: &str) -> Result<T> {
    text.parse().map_err(|error| corrupt(format!("{} is not what stands there", text.escape_debug())).with_source(error))
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::new(ErrorKind::InvalidArgument, "write metadata").with_source(error))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt("a column is not the JSON that stands there").with_source(error))
}
