//! The format: making it, recognising it, bringing an earlier one up to date, refusing a later one. The tables of format 1 are in
//! `schema.sql`; what each later one adds is in a file of its own.
//!
//! `user_version` is the format's number, `application_id` says that the database is a plywood store's. A store is of one backend and
//! style, from its creation on.

use rusqlite::params;

use super::connection::failed;
use super::transaction::{Reader, Transaction};
use super::{DATABASE, Metadata, now};
use crate::error::{Error, ErrorKind, Result};

/// The format that this version reads and writes.
const FORMAT: i64 = 3;
/// What leads from each format to the next, that of 1 first.
const STEPS: [&str; 2] = [include_str!("format_2.sql"), include_str!("format_3.sql")];
/// "plyw" in ASCII.
const APPLICATION: i64 = 0x706c_7977;

/// What a store is, from its creation on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreRow {
    pub(crate) backend: String,
    /// How the backend writes trees; empty where it has one way.
    pub(crate) style: String,
    pub(crate) created_by: String,
    /// The boot in which leftovers were last looked for.
    pub(crate) boot: String,
}

impl Metadata {
    /// Whether the database is a store's, in the format that this version knows; one of an earlier format is brought to it.
    ///
    /// # Errors
    /// `IncompatibleFormat` for a store of a later version; `Corrupt` for what is no database of ours; `PermissionDenied`, `NoSpace`,
    /// `Io`.
    pub(crate) fn is_made(&self) -> Result<bool> {
        let made = match self.format()? {
            None => false,
            Some(FORMAT) => true,
            Some(_) => self.migrate().map(|()| true)?,
        };
        if made {
            self.pool.remember_files()?;
        }
        Ok(made)
    }

    /// Brings the database to this version's format, in one transaction: before it, and after a crash in it, all is as it was.
    fn migrate(&self) -> Result<()> {
        let _queue = self.queue()?;
        // Another process may have been faster.
        let Some(found) = self.format()?.filter(|&found| found < FORMAT) else { return Ok(()) };
        let steps = STEPS.iter().skip(usize::try_from(found.saturating_sub(1)).unwrap_or_default());
        let steps: String = steps.copied().collect();
        let lent = self.pool.lend()?;
        let connection = lent.connection();
        connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {FORMAT}; COMMIT;"))
            .map_err(|error| failed("migrate metadata", error))
            .inspect_err(|_| drop(connection.execute_batch("ROLLBACK")))?;
        tracing::info!(from = found, to = FORMAT, "the store's format was brought up to date");
        Ok(())
    }

    /// Turns the empty database into a store's. Durable when it returns.
    ///
    /// # Errors
    /// As [`is_made`](Self::is_made); `NoSpace`.
    pub(crate) fn make(&self, new: &StoreRow) -> Result<()> {
        let _queue = self.queue()?;
        let lent = self.pool.lend()?;
        let connection = lent.connection();
        let fail = |error| failed("create metadata", error);
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).map_err(fail)?;
        let schema = [include_str!("schema.sql"), &STEPS.concat()].concat();
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE; {schema} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};"
            ))
            .and_then(|()| {
                let row = params![new.backend, new.style, new.created_by, now(), new.boot];
                connection.execute(
                    "INSERT INTO store (id, backend, style, created_by, created, boot) VALUES (1, ?1, ?2, ?3, ?4, ?5)",
                    row,
                )
            })
            .and_then(|_| connection.execute_batch("COMMIT"))
            .map_err(fail)
            .inspect_err(|_| drop(connection.execute_batch("ROLLBACK")))?;
        self.pool.remember_files()
    }

    /// The format of what is there; `None` for nothing yet.
    fn format(&self) -> Result<Option<i64>> {
        let lent = self.pool.lend()?;
        let read = |pragma: &str| {
            let statement = format!("PRAGMA {pragma}");
            lent.connection().query_row(&statement, [], |row| row.get::<_, i64>(0)).map_err(|error| failed("read format", error))
        };
        let (application, format) = (read("application_id")?, read("user_version")?);
        match (application, format) {
            (0, 0) if read("schema_version")? == 0 => Ok(None),
            (APPLICATION, 1..=FORMAT) => Ok(Some(format)),
            (APPLICATION, _) => Err(Error::new(ErrorKind::IncompatibleFormat, "open store")
                .at(DATABASE)
                .because(format!("the store has format {format}, this version of plywood knows formats up to {FORMAT}"))
                .with_hint("use the version of plywood that wrote it, or a later one")),
            _ => Err(Error::new(ErrorKind::Corrupt, "open store").at(DATABASE).because("it is not a plywood store's database")),
        }
    }
}

impl Reader<'_> {
    /// What the store is.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn store(&self) -> Result<StoreRow> {
        self.connection()
            .query_row("SELECT backend, style, created_by, boot FROM store", [], |row| {
                Ok(StoreRow { backend: row.get(0)?, style: row.get(1)?, created_by: row.get(2)?, boot: row.get(3)? })
            })
            .map_err(|error| failed("read store", error))
    }
}

impl Transaction<'_> {
    /// Remembers the boot in which leftovers were looked for.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn set_boot(&self, boot: &str) -> Result<()> {
        self.connection().execute("UPDATE store SET boot = ?1", [boot]).map(drop).map_err(|error| failed("write store", error))
    }
}
