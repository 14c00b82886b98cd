//! What is known to be damaged, whom it hits, and how a mended tree takes the place of a damaged one.
//!
//! A tree that a running container may have mounted never goes while its key is there, though no row stands on it any more.

use std::collections::BTreeSet;

use rusqlite::params;

use super::connection::failed;
use super::leases::LeaseId;
use super::snapshots::{SnapshotId, SnapshotRow};
use super::transaction::{Reader, Transaction};
use super::trees::TreeRow;
use super::{from_sql, now, parse, to_json, to_sql};
use crate::digest::Digest;
use crate::entry::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::tree::TreeId;

/// Who stands on something damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Names and keys.
    pub(crate) snapshots: Vec<String>,
    /// References.
    pub(crate) images: Vec<String>,
}

/// The snapshots on a tree, and all above them.
const ABOVE: &str = "WITH RECURSIVE above (id) AS (SELECT id FROM snapshots WHERE tree = ?1 \
     UNION SELECT s.id FROM above JOIN snapshots s ON s.parent = above.id)";

impl Reader<'_> {
    /// What SQLite finds wrong with the database itself: structure, constraints, foreign keys. `full` compares indexes with tables too.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn integrity(&self, full: bool) -> Result<Vec<String>> {
        let fail = |error| failed("check database", error);
        let query = if full { "PRAGMA integrity_check" } else { "PRAGMA quick_check" };
        let mut statement = self.connection().prepare(query).map_err(fail)?;
        let mut found: Vec<String> = statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(fail)?;
        found.retain(|line| line != "ok");
        let mut statement = self.connection().prepare("PRAGMA foreign_key_check").map_err(fail)?;
        let mut rows = statement.query([]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let text = |column: usize| row.get::<_, String>(column).map_err(fail);
            found.push(format!("a row of {} names a row of {} that is not there", text(0)?, text(2)?));
        }
        Ok(found)
    }

    /// The numbers of all trees, and each row as far as it can be read.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn all_trees(&self) -> Result<Vec<(TreeId, Result<TreeRow>)>> {
        let fail = |error| failed("read trees", error);
        let mut statement = self.connection().prepare_cached("SELECT id FROM trees ORDER BY id").map_err(fail)?;
        let ids: Vec<i64> = statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(fail)?;
        let gone = || Error::new(ErrorKind::Corrupt, "read tree").because("its row is not there");
        ids.into_iter()
            .map(|id| {
                let tree = TreeId(from_sql(id)?);
                Ok((tree, self.tree(tree).and_then(|row| row.ok_or_else(gone))))
            })
            .collect()
    }

    /// The snapshots that stand on a tree.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn snapshots_on(&self, tree: TreeId) -> Result<Vec<SnapshotRow>> {
        let fail = |error| failed("read snapshots", error);
        let mut statement =
            self.connection().prepare_cached("SELECT name FROM snapshots WHERE tree = ?1 ORDER BY id").map_err(fail)?;
        let names: Vec<String> =
            statement.query_map([to_sql(tree.0)], |row| row.get(0)).and_then(Iterator::collect).map_err(fail)?;
        Ok(names.iter().map(|name| self.snapshot(name)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The digests of all blobs.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn blob_digests(&self) -> Result<Vec<Digest>> {
        let fail = |error| failed("read blobs", error);
        let mut statement = self.connection().prepare_cached("SELECT digest FROM blobs ORDER BY digest").map_err(fail)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(fail)?;
        rows.map(|digest| parse(&digest.map_err(fail)?)).collect()
    }

    /// The references of all images.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn image_references(&self) -> Result<Vec<String>> {
        let fail = |error| failed("read images", error);
        let mut statement = self.connection().prepare_cached("SELECT reference FROM images ORDER BY reference").map_err(fail)?;
        statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(fail)
    }

    /// The names of all snapshots, parents before their children, each with the tree it stands on.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn all_snapshots(&self) -> Result<Vec<(String, TreeId)>> {
        let fail = |error| failed("read snapshots", error);
        let mut statement = self.connection().prepare_cached("SELECT name, tree FROM snapshots ORDER BY id").map_err(fail)?;
        let rows: Vec<(String, i64)> =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).and_then(Iterator::collect).map_err(fail)?;
        rows.into_iter().map(|(name, tree)| Ok((name, TreeId(from_sql(tree)?)))).collect()
    }

    /// Who stands on a tree, up to `limit` of each.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn hit_by_tree(&self, tree: TreeId, limit: u32) -> Result<Hit> {
        let fail = |error| failed("read snapshots", error);
        let names = |query: &str| -> Result<Vec<String>> {
            let mut statement = self.connection().prepare_cached(&format!("{ABOVE} {query}")).map_err(fail)?;
            statement.query_map(params![to_sql(tree.0), limit], |row| row.get(0)).and_then(Iterator::collect).map_err(fail)
        };
        Ok(Hit {
            snapshots: names("SELECT name FROM snapshots WHERE id IN (SELECT id FROM above) ORDER BY id LIMIT ?2")?,
            images: names(
                "SELECT DISTINCT reference FROM image_layers WHERE snapshot IN (SELECT id FROM above) ORDER BY reference LIMIT ?2",
            )?,
        })
    }

    /// The images that need a blob, up to `limit`.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn hit_by_blob(&self, digest: &Digest, limit: u32) -> Result<Hit> {
        let fail = |error| failed("read images", error);
        let mut statement = self
            .connection()
            .prepare_cached("SELECT reference FROM image_blobs WHERE digest = ?1 ORDER BY reference LIMIT ?2")
            .map_err(fail)?;
        let images = statement.query_map(params![digest.to_string(), limit], |row| row.get(0)).and_then(Iterator::collect);
        Ok(Hit { snapshots: Vec::new(), images: images.map_err(fail)? })
    }

    /// The trees that are known to be damaged.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn damaged_trees(&self) -> Result<BTreeSet<TreeId>> {
        let fail = |error| failed("read damage", error);
        let mut statement = self.connection().prepare_cached("SELECT tree FROM damaged_trees").map_err(fail)?;
        let trees = statement.query_map([], |row| row.get::<_, i64>(0)).map_err(fail)?;
        trees.map(|tree| from_sql(tree.map_err(fail)?).map(TreeId)).collect()
    }

    /// The blobs that are known to be damaged.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn damaged_blobs(&self) -> Result<BTreeSet<Digest>> {
        let fail = |error| failed("read damage", error);
        let mut statement = self.connection().prepare_cached("SELECT digest FROM damaged_blobs").map_err(fail)?;
        let digests = statement.query_map([], |row| row.get::<_, String>(0)).map_err(fail)?;
        digests.map(|digest| parse(&digest.map_err(fail)?)).collect()
    }

    /// Refuses trees of which one is known to be damaged, in the name of whoever stands on them.
    ///
    /// # Errors
    /// `Corrupt`, with the way out; `Io`.
    pub(crate) fn refuse_damaged(&self, op: &'static str, name: &str, trees: &[TreeId]) -> Result<()> {
        let damaged = self.damaged_trees()?;
        let Some(tree) = trees.iter().find(|tree| damaged.contains(tree)) else { return Ok(()) };
        let images = self.hit_by_tree(*tree, 1)?.images;
        let again = images.first().map_or_else(String::new, |image| format!(", or import {} again", image.escape_debug()));
        Err(Error::new(ErrorKind::Corrupt, op)
            .at(name)
            .because(format!("it stands on tree {tree}, which a check found damaged"))
            .with_hint(format!("mend it with `plywood check --full --repair`{again}")))
    }

    /// Refuses blobs of which one is known to be damaged, in the name of the image that needs them.
    ///
    /// # Errors
    /// `Corrupt`, with the way out; `Io`.
    pub(crate) fn refuse_damaged_blobs(&self, op: &'static str, name: &str, blobs: &[Digest]) -> Result<()> {
        let damaged = self.damaged_blobs()?;
        let Some(digest) = blobs.iter().find(|digest| damaged.contains(digest)) else { return Ok(()) };
        Err(Error::new(ErrorKind::Corrupt, op)
            .at(name)
            .because(format!("its blob {digest} was found damaged by a check"))
            .with_hint("import the image again"))
    }

    /// Whether a tree stays for keys that may have it mounted, though nothing stands on it.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn tree_is_held(&self, tree: TreeId) -> Result<bool> {
        self.connection()
            .query_row("SELECT EXISTS (SELECT 1 FROM held_trees WHERE tree = ?1)", [to_sql(tree.0)], |row| row.get(0))
            .map_err(|error| failed("read trees", error))
    }
}

impl Transaction<'_> {
    /// Remembers that a tree is damaged. A tree that has gone is not.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn mark_tree_damaged(&self, tree: TreeId, reason: &str) -> Result<()> {
        self.write_damage(
            "INSERT INTO damaged_trees (tree, found, reason) SELECT id, ?2, ?3 FROM trees WHERE id = ?1 \
             ON CONFLICT (tree) DO UPDATE SET reason = excluded.reason",
            params![to_sql(tree.0), now(), reason],
        )
    }

    /// The same of a blob.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn mark_blob_damaged(&self, digest: &Digest, reason: &str) -> Result<()> {
        self.write_damage(
            "INSERT INTO damaged_blobs (digest, found, reason) SELECT digest, ?2, ?3 FROM blobs WHERE digest = ?1 \
             ON CONFLICT (digest) DO UPDATE SET reason = excluded.reason",
            params![digest.to_string(), now(), reason],
        )
    }

    /// Takes it back: the tree was looked at in full, and is whole.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn clear_tree_damage(&self, tree: TreeId) -> Result<()> {
        self.write_damage("DELETE FROM damaged_trees WHERE tree = ?1", params![to_sql(tree.0)])
    }

    /// The same of a blob.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn clear_blob_damage(&self, digest: &Digest) -> Result<()> {
        self.write_damage("DELETE FROM damaged_blobs WHERE digest = ?1", params![digest.to_string()])
    }

    /// Keeps a tree, whatever its state, where it is there.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn lease_tree_if_there(&self, lease: LeaseId, tree: TreeId) -> Result<()> {
        let statement = "INSERT OR IGNORE INTO leased_trees (lease, tree) SELECT ?1, id FROM trees WHERE id = ?2";
        self.write_damage(statement, params![lease.0, to_sql(tree.0)])
    }

    /// Keeps a blob where it is there.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn lease_blob_if_there(&self, lease: LeaseId, digest: &Digest) -> Result<()> {
        let statement = "INSERT OR IGNORE INTO leased_blobs (lease, digest) SELECT ?1, digest FROM blobs WHERE digest = ?2";
        self.write_damage(statement, params![lease.0, digest.to_string()])
    }

    /// Keeps a tree no longer.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn unlease_tree(&self, lease: LeaseId, tree: TreeId) -> Result<()> {
        self.write_damage("DELETE FROM leased_trees WHERE lease = ?1 AND tree = ?2", params![lease.0, to_sql(tree.0)])
    }

    /// Gives a snapshot the root directory that its layers give it.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn set_root(&self, snapshot: SnapshotId, root: &Attributes) -> Result<()> {
        self.write_damage("UPDATE snapshots SET root = ?2 WHERE id = ?1", params![snapshot.0, to_json(root)?])
    }

    /// Gives a blob's row the size that its bytes have, whose digest is right.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn set_blob_size(&self, digest: &Digest, size: u64) -> Result<()> {
        self.write_damage("UPDATE blobs SET size = ?2 WHERE digest = ?1", params![digest.to_string(), to_sql(size)])
    }

    fn write_damage(&self, statement: &str, values: &[&dyn rusqlite::ToSql]) -> Result<()> {
        self.connection().execute(statement, values).map(drop).map_err(|error| failed("write damage", error))
    }

    /// Puts a finished tree in the place of a damaged or unmade one: whatever stood on that stands on the new one from now on. The old
    /// one is never shared again, and stays for as long as one of the keys above it is there, which may have it mounted; without such a
    /// key it goes to the trash. Says whether it did. Of one that was not made nothing stays.
    ///
    /// # Errors
    /// `NotFound` where the old one has gone meanwhile; `Io`.
    pub(crate) fn replace_tree(&self, old: TreeId, new: TreeId) -> Result<bool> {
        let fail = |error| failed("replace tree", error);
        let connection = self.connection();
        let usage = self.tree(new)?.map(|row| row.usage).unwrap_or_default();
        connection
            .execute(
                &format!(
                    "{ABOVE} INSERT OR IGNORE INTO held_trees (tree, snapshot) \
                     SELECT ?1, id FROM snapshots WHERE kind <> 'committed' AND id IN (SELECT id FROM above)"
                ),
                [to_sql(old.0)],
            )
            .map_err(fail)?;
        let moved = connection
            .execute(
                "UPDATE snapshots SET tree = ?2, inodes = ?3, bytes = ?4 WHERE tree = ?1 AND kind = 'committed'",
                params![to_sql(old.0), to_sql(new.0), to_sql(usage.inodes), to_sql(usage.bytes)],
            )
            .map_err(fail)?;
        if moved == 0 {
            return Err(Error::new(ErrorKind::NotFound, "replace tree")
                .at(format!("tree {old}"))
                .because("nothing stands on it any more"));
        }
        // Whatever else its row says: that may be what is damaged.
        if connection.execute("DELETE FROM trees WHERE id = ?1 AND made = 0", [to_sql(old.0)]).map_err(fail)? > 0 {
            return Ok(false);
        }
        connection.execute("UPDATE trees SET diff_id = NULL WHERE id = ?1", [to_sql(old.0)]).map_err(fail)?;
        if self.tree_is_held(old)? || self.tree_is_leased(old)? {
            return Ok(false);
        }
        self.trash_tree(old).map(|_| true)
    }
}
