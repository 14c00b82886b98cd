//! The list of what has no row any more but may still have bytes. It outlives the process that put something on it.

use rusqlite::Row;

use super::connection::failed;
use super::transaction::{Reader, Transaction};
use super::{corrupt, from_sql, parse};
use crate::digest::Digest;
use crate::error::Result;
use crate::tree::TreeId;

/// Bytes that are to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trash {
    /// A tree's directory.
    Tree(TreeId),
    /// A blob's file. The digest may have come back meanwhile: then it is not on the list any more.
    Blob(Digest),
}

impl Reader<'_> {
    /// What is to be deleted, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn trash(&self, limit: u32) -> Result<Vec<Trash>> {
        let fail = |error| failed("read trash", error);
        let mut statement = self.connection().prepare_cached("SELECT tree, blob FROM trash ORDER BY id LIMIT ?1").map_err(fail)?;
        let rows = statement.query_map([limit], |row| Ok(trash(row))).map_err(fail)?;
        rows.map(|row| row.map_err(fail)?).collect()
    }

    /// Whether a blob's file is (still) to be deleted.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn is_trash(&self, digest: &Digest) -> Result<bool> {
        self.connection()
            .query_row("SELECT EXISTS (SELECT 1 FROM trash WHERE blob = ?1)", [digest.to_string()], |row| row.get(0))
            .map_err(|error| failed("read trash", error))
    }
}

impl Transaction<'_> {
    /// Takes something off the list: its bytes are gone.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn forget_trash(&self, trash: &Trash) -> Result<()> {
        let connection = self.connection();
        match trash {
            Trash::Tree(tree) => connection.execute("DELETE FROM trash WHERE tree = ?1", [super::to_sql(tree.0)]),
            Trash::Blob(digest) => connection.execute("DELETE FROM trash WHERE blob = ?1", [digest.to_string()]),
        }
        .map(drop)
        .map_err(|error| failed("write trash", error))
    }
}

fn trash(row: &Row<'_>) -> Result<Trash> {
    let fail = |error| failed("read trash", error);
    if let Some(tree) = row.get::<_, Option<i64>>(0).map_err(fail)? {
        return Ok(Trash::Tree(TreeId(from_sql(tree)?)));
    }
    let blob: Option<String> = row.get(1).map_err(fail)?;
    Ok(Trash::Blob(parse(&blob.ok_or_else(|| corrupt("an entry of the trash names nothing"))?)?))
}
