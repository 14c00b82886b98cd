//! Reading and writing the database: [`Reader`] sees one state of it, [`Transaction`] changes it as a whole or not at all.
//!
//! Writers queue before SQLite hears of them, each for as many transactions as there are others before him, so that SQLite's own busy
//! wait, which starves the unlucky, never runs; and the log is copied back into the database only under that lock. Both are for short
//! work: unpacking, deleting and hashing happen outside. What is read and written is left to the other files here, each of which adds its
//! verbs to these two types.

use std::ops::Deref;

use rusqlite::Connection;

use super::connection::{Lent, failed};
use super::{LOG, Metadata};
use crate::error::Result;
use crate::sys::turn::Turn;

/// The log is copied back into the database when it has grown to this many bytes.
const LOG_MAX: u64 = 4 << 20;

/// What a transaction survives once it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survives {
    /// A power cut.
    PowerCut,
    /// The end of the process. Later transactions that survive a power cut carry this one with them.
    Process,
}

/// One state of the database, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Reader<'m> {
    lent: Lent<'m>,
    survives: Survives,
}

/// Changes that happen as a whole. Dropped without [`commit`](Self::commit) they do not happen.
#[derive(Debug)]
#[must_use = "dropping a transaction rolls it back"]
pub(crate) struct Transaction<'m> {
    metadata: &'m Metadata,
    // Dropped in this order: the connection is out of the transaction before the next writer's turn comes.
    reader: Reader<'m>,
    _queue: Turn,
}

impl Metadata {
    /// Begins to read.
    ///
    /// # Errors
    /// `Locked` after a long wait for a recovery; `Corrupt`, `Io`.
    pub(crate) fn read(&self) -> Result<Reader<'_>> {
        let lent = self.pool.lend()?;
        begin(&lent, "BEGIN DEFERRED")?;
        Ok(Reader { lent, survives: Survives::PowerCut })
    }

    /// Waits for its turn and begins to write, to be durable.
    ///
    /// # Errors
    /// `PermissionDenied`, `Corrupt`, `Io`; `Locked` where a foreign program writes to the database.
    pub(crate) fn write(&self) -> Result<Transaction<'_>> {
        self.write_to_survive(Survives::PowerCut)
    }

    /// The same, and says what the result is to survive.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn write_to_survive(&self, survives: Survives) -> Result<Transaction<'_>> {
        let queue = self.queue()?;
        let reader = Reader { lent: self.pool.lend()?, survives };
        if survives == Survives::Process {
            synchronous(&reader.lent, "NORMAL")?;
        }
        begin(&reader.lent, "BEGIN IMMEDIATE")?;
        Ok(Transaction { metadata: self, reader, _queue: queue })
    }
}

fn begin(lent: &Lent<'_>, statement: &str) -> Result<()> {
    lent.connection().execute_batch(statement).map_err(|error| failed("begin", error))
}

fn synchronous(lent: &Lent<'_>, level: &str) -> Result<()> {
    lent.connection().execute_batch(&format!("PRAGMA synchronous = {level}")).map_err(|error| failed("pragma synchronous", error))
}

impl Reader<'_> {
    pub(super) fn connection(&self) -> &Connection {
        self.lent.connection()
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let connection = self.lent.connection();
        let ended = connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        let restored = self.survives == Survives::PowerCut || synchronous(&self.lent, "FULL").is_ok();
        if !(ended && restored) {
            // What would lose the next transaction is never lent again.
            self.lent.poison();
        }
    }
}

impl<'m> Deref for Transaction<'m> {
    type Target = Reader<'m>;

    fn deref(&self) -> &Reader<'m> {
        &self.reader
    }
}

impl Transaction<'_> {
    #[cfg(test)]
    pub(super) fn ticket(&self) -> i64 {
        self._queue.ticket()
    }

    /// Makes the changes happen, and begins to write anew in the same turn, to survive a power cut. Says whether the log grew.
    ///
    /// Where it did, the new transaction's changes make it grow again: SQLite begins to overwrite a log only where all of it was copied
    /// back, which is done in somebody's turn alone. On a file system that [keeps the order](crate::sys::write_order) of what is done to
    /// names and inodes, the log's new length, without which those changes are nothing, is then on the disk together with everything
    /// that was done before the commit, or after it, and its sync carries that.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the changes may have happened.
    pub(crate) fn commit_and_go_on(mut self) -> Result<(Self, bool)> {
        let before = self.metadata.log_size()?;
        self.connection().execute_batch("COMMIT").map_err(|error| failed("commit", error))?;
        let grew = self.metadata.log_size()? > before;
        if self.reader.survives == Survives::Process {
            synchronous(&self.reader.lent, "FULL")?;
            self.reader.survives = Survives::PowerCut;
        }
        begin(&self.reader.lent, "BEGIN IMMEDIATE")?;
        Ok((self, grew))
    }

    /// Makes the changes happen. Durable when it returns, as far as was asked for.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: then nothing happened.
    pub(crate) fn commit(self) -> Result<()> {
        self.connection().execute_batch("COMMIT").map_err(|error| failed("commit", error))?;
        // The changes stand. What follows is housekeeping, which the next writer does where this one cannot.
        let _ = self.metadata.copy_back(self.connection());
        Ok(())
    }
}

impl Metadata {
    fn log_size(&self) -> Result<u64> {
        Ok(self.pool.root().stat(LOG.as_bytes())?.map_or(0, |stat| stat.size))
    }

    /// Copies the log back and empties it, where it has grown. Only under the writers' lock. Readers that are at work may keep it
    /// from being emptied; the next writer tries again.
    fn copy_back(&self, connection: &Connection) -> Result<()> {
        if self.log_size()? <= LOG_MAX {
            return Ok(());
        }
        let fail = |error| failed("checkpoint", error);
        connection.busy_timeout(std::time::Duration::ZERO).map_err(fail)?;
        let copied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(fail);
        connection.busy_timeout(super::connection::RECOVERY_TIMEOUT).map_err(fail)?;
        copied
    }
}
