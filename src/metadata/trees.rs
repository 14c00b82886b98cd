//! Rows of trees: numbers that are never given twice, and what each tree rests on.
//!
//! A tree is `building` for as long as a lease holds it, `writable` under an Active or View snapshot, `frozen` once something
//! committed stands on it. `empty` is a layer that changed nothing: it has a row, so that it can be found and shared, and no directory.
//! `unmade` is frozen, but has no directory either: where trees are whole, one in the middle of an image is made when it is asked for, and
//! gets another number then. What it takes to make it, a blob of its layer, stays for as long as it is unmade.

use rusqlite::{OptionalExtension as _, Row, params};

use super::connection::failed;
use super::leases::LeaseId;
use super::transaction::{Reader, Transaction};
use super::{corrupt, facts, from_json, from_sql, parse, to_json, to_sql};
use crate::digest::DiffId;
use crate::entry::Attributes;
use crate::error::Result;
use crate::snapshot::Usage;
use crate::tree::{Applied, Fact, Ids, TreeId};

/// Where a tree is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TreeState {
    Building,
    Writable,
    Frozen,
    /// To be frozen as soon as it is made.
    Unmade,
    Empty,
}

impl TreeState {
    pub(super) fn parse(text: &str) -> Result<Self> {
        match text {
            "building" => Ok(Self::Building),
            "writable" => Ok(Self::Writable),
            "frozen" => Ok(Self::Frozen),
            "unmade" => Ok(Self::Unmade),
            "empty" => Ok(Self::Empty),
            _ => Err(corrupt(format!("{} is no state of a tree", text.escape_debug()))),
        }
    }
}

/// What a tree's row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeRow {
    pub(crate) id: TreeId,
    pub(crate) state: TreeState,
    /// The layer it was unpacked from.
    pub(crate) diff_id: Option<DiffId>,
    /// What it asked of its parent, with the answers on which it rests.
    pub(crate) facts: Vec<Fact>,
    /// The layer's own entry for the root directory.
    pub(crate) root: Option<Attributes>,
    /// It hides everything below.
    pub(crate) cut: bool,
    pub(crate) usage: Usage,
    /// What became of its owners, where it was unpacked.
    pub(crate) ids: Option<Ids>,
}

impl TreeRow {
    /// What unpacking the layer came to.
    pub(crate) fn into_applied(self) -> Applied {
        let mut applied = Applied::new(self.usage);
        (applied.facts, applied.root, applied.cut) = (self.facts, self.root, self.cut);
        applied.empty = self.state == TreeState::Empty;
        applied
    }
}

/// What became of unpacking a layer into a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpacked<'a> {
    pub(crate) diff_id: &'a DiffId,
    pub(crate) ids: Ids,
    pub(crate) applied: &'a Applied,
}

const COLUMNS: &str = "id, iif(made, state, 'unmade'), diff_id, facts, root, cut, inodes, bytes, ids FROM trees";

impl Reader<'_> {
    /// A tree's row.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn tree(&self, id: TreeId) -> Result<Option<TreeRow>> {
        let fail = |error| failed("read tree", error);
        let mut statement = self.connection().prepare_cached(&format!("SELECT {COLUMNS} WHERE id = ?1")).map_err(fail)?;
        statement.query_row([to_sql(id.0)], |row| Ok(tree(row))).optional().map_err(fail)?.transpose()
    }

    /// The finished trees that a layer was unpacked to, owners treated this way. Each may stand on any chain that gives the answers
    /// of its facts.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn shareable_trees(&self, diff_id: &DiffId, ids: Ids) -> Result<Vec<TreeRow>> {
        let fail = |error| failed("read trees", error);
        let mut statement = self
            .connection()
            .prepare_cached(&format!(
                "SELECT {COLUMNS} WHERE diff_id = ?1 AND ids = ?2 AND state IN ('frozen', 'empty') \
                 AND id NOT IN (SELECT tree FROM damaged_trees) ORDER BY id"
            ))
            .map_err(fail)?;
        let rows = statement.query_map(params![diff_id.to_string(), ids_text(ids)], |row| Ok(tree(row))).map_err(fail)?;
        rows.map(|row| row.map_err(fail)?).collect()
    }

    /// The trees whose builders' leases are these, or no lease at all where one of them has died.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn trees_built_under(&self, lease: LeaseId) -> Result<Vec<TreeId>> {
        let fail = |error| failed("read trees", error);
        let mut statement = self.connection().prepare_cached("SELECT id FROM trees WHERE lease = ?1").map_err(fail)?;
        let rows = statement.query_map([lease.0], |row| row.get::<_, i64>(0)).map_err(fail)?;
        rows.map(|id| from_sql(id.map_err(fail)?).map(TreeId)).collect()
    }

    /// Every tree that has a row or is in the trash: what may have a directory.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn known_trees(&self) -> Result<Vec<TreeId>> {
        let fail = |error| failed("read trees", error);
        let mut statement = self
            .connection()
            .prepare_cached("SELECT id FROM trees UNION SELECT tree FROM trash WHERE tree IS NOT NULL")
            .map_err(fail)?;
        let rows = statement.query_map([], |row| row.get::<_, i64>(0)).map_err(fail)?;
        rows.map(|id| from_sql(id.map_err(fail)?).map(TreeId)).collect()
    }

    /// Frozen and empty trees that no snapshot stands on and no lease keeps.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn unused_trees(&self) -> Result<Vec<TreeId>> {
        let fail = |error| failed("read trees", error);
        let mut statement = self
            .connection()
            .prepare_cached(
                "SELECT id FROM trees t WHERE state <> 'building' AND NOT EXISTS (SELECT 1 FROM snapshots WHERE tree = t.id) \
                 AND NOT EXISTS (SELECT 1 FROM leased_trees WHERE tree = t.id) \
                 AND NOT EXISTS (SELECT 1 FROM held_trees WHERE tree = t.id)",
            )
            .map_err(fail)?;
        let rows = statement.query_map([], |row| row.get::<_, i64>(0)).map_err(fail)?;
        rows.map(|id| from_sql(id.map_err(fail)?).map(TreeId)).collect()
    }

    /// Whether no snapshot stands on a finished tree and no lease keeps it.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn tree_is_unused(&self, id: TreeId) -> Result<bool> {
        let fail = |error| failed("read trees", error);
        let mut statement = self
            .connection()
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM trees WHERE id = ?1 AND state <> 'building')")
            .map_err(fail)?;
        let finished: bool = statement.query_row([to_sql(id.0)], |row| row.get(0)).map_err(fail)?;
        Ok(finished && self.tree_users(id)? == 0 && !self.tree_is_leased(id)? && !self.tree_is_held(id)?)
    }

    /// Whether a lease keeps a finished tree.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn tree_is_leased(&self, id: TreeId) -> Result<bool> {
        let fail = |error| failed("read leases", error);
        let mut statement =
            self.connection().prepare_cached("SELECT EXISTS (SELECT 1 FROM leased_trees WHERE tree = ?1)").map_err(fail)?;
        statement.query_row([to_sql(id.0)], |row| row.get(0)).map_err(fail)
    }
}

impl Transaction<'_> {
    /// Gives out a number. Its tree is `building` until it gets a snapshot or is finished, and cleared away when the lease dies before.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn allocate_tree(&self, lease: LeaseId, backend: &str) -> Result<TreeId> {
        self.connection()
            .prepare_cached("INSERT INTO trees (state, lease, backend) VALUES ('building', ?1, ?2)")
            .and_then(|mut statement| statement.execute(params![lease.0, backend]))
            .map_err(|error| failed("allocate tree", error))?;
        from_sql(self.connection().last_insert_rowid()).map(TreeId)
    }

    /// Takes down what unpacking found; the tree can be shared from now on, and its lease keeps it. Its bytes are durable already.
    ///
    /// # Errors
    /// `NotFound` where the lease died meanwhile; `Io`.
    pub(crate) fn finish_tree(&self, id: TreeId, lease: LeaseId, unpacked: &Unpacked<'_>) -> Result<()> {
        let Applied { facts, root, cut, empty, usage, .. } = unpacked.applied;
        let root = root.as_ref().map(to_json).transpose()?;
        let state = if *empty { "empty" } else { "frozen" };
        let changed = self
            .connection()
            .execute(
                "UPDATE trees SET state = ?3, lease = NULL, diff_id = ?4, ids = ?5, facts = ?6, root = ?7, cut = ?8, inodes = ?9, \
                 bytes = ?10 WHERE id = ?1 AND lease = ?2",
                params![
                    to_sql(id.0),
                    lease.0,
                    state,
                    unpacked.diff_id.to_string(),
                    ids_text(unpacked.ids),
                    facts::encode(facts),
                    root,
                    cut,
                    to_sql(usage.inodes),
                    to_sql(usage.bytes)
                ],
            )
            .map_err(|error| failed("finish tree", error))?;
        if changed == 0 {
            let error = crate::Error::new(crate::ErrorKind::NotFound, "finish tree").at(format!("tree {id}"));
            return Err(error.because("it is not being built under this lease"));
        }
        self.lease_tree(lease, id)
    }

    /// Takes down what a layer asked of nothing, on which it was applied to a writable tree, and whether it hides everything below. The
    /// tree is no layer for that: whoever has it may write to it.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn note_applied(&self, id: TreeId, applied: &Applied) -> Result<()> {
        self.connection()
            .execute(
                "UPDATE trees SET facts = ?2, cut = ?3 WHERE id = ?1 AND state = 'writable'",
                params![to_sql(id.0), facts::encode(&applied.facts), applied.cut],
            )
            .map(drop)
            .map_err(|error| failed("apply layer", error))
    }

    /// The same of a tree whose layer is read and checked, and which is not made for now: it has no bytes.
    ///
    /// # Errors
    /// As [`finish_tree`](Self::finish_tree).
    pub(crate) fn finish_unmade_tree(&self, id: TreeId, lease: LeaseId, unpacked: &Unpacked<'_>) -> Result<()> {
        self.finish_tree(id, lease, unpacked)?;
        self.connection()
            .execute("UPDATE trees SET made = 0, inodes = 0, bytes = 0 WHERE id = ?1 AND state = 'frozen'", [to_sql(id.0)])
            .map(drop)
            .map_err(|error| failed("finish tree", error))
    }

    /// Drops the row of a number under which there is nothing, and on which nothing stands.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn forget_tree(&self, id: TreeId) -> Result<()> {
        self.connection()
            .execute("DELETE FROM trees WHERE id = ?1", [to_sql(id.0)])
            .map(drop)
            .map_err(|error| failed("forget tree", error))
    }

    /// Drops a tree's row and puts its bytes on the list of what is to be deleted. `None` for one that has gone already, and for an
    /// empty or unmade one, which has no bytes.
    ///
    /// # Errors
    /// `Corrupt` where a snapshot stands on it; `Io`.
    pub(crate) fn trash_tree(&self, id: TreeId) -> Result<Option<TreeId>> {
        let fail = |error| failed("remove tree", error);
        let state: Option<String> = self
            .connection()
            .query_row("DELETE FROM trees WHERE id = ?1 RETURNING iif(made, state, 'unmade')", [to_sql(id.0)], |row| row.get(0))
            .optional()
            .map_err(fail)?;
        match state.as_deref() {
            None | Some("empty" | "unmade") => Ok(None),
            Some(_) => {
                self.connection().execute("INSERT INTO trash (tree) VALUES (?1)", [to_sql(id.0)]).map_err(fail)?;
                Ok(Some(id))
            }
        }
    }
}

fn ids_text(ids: Ids) -> &'static str {
    match ids {
        Ids::Exact => "exact",
        Ids::Squash => "squash",
    }
}

fn parse_ids(text: &str) -> Result<Ids> {
    match text {
        "exact" => Ok(Ids::Exact),
        "squash" => Ok(Ids::Squash),
        _ => Err(corrupt(format!("{} is no policy for owners", text.escape_debug()))),
    }
}

fn tree(row: &Row<'_>) -> Result<TreeRow> {
    let fail = |error| failed("read tree", error);
    let text = |column: usize| row.get::<_, Option<String>>(column).map_err(fail);
    let state = text(1)?.ok_or_else(|| corrupt("a tree has no state"))?;
    let facts: Option<Vec<u8>> = row.get(3).map_err(fail)?;
    Ok(TreeRow {
        id: TreeId(from_sql(row.get(0).map_err(fail)?)?),
        state: TreeState::parse(&state)?,
        diff_id: text(2)?.map(|text| parse(&text)).transpose()?,
        facts: facts.map_or(Ok(Vec::new()), |blob| facts::decode(&blob))?,
        root: text(4)?.map(|text| from_json(&text)).transpose()?,
        cut: row.get(5).map_err(fail)?,
        usage: Usage::new(from_sql(row.get(6).map_err(fail)?)?, from_sql(row.get(7).map_err(fail)?)?),
        ids: text(8)?.map(|text| parse_ids(&text)).transpose()?,
    })
}
