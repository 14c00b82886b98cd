//! Rows of snapshots and their labels; chains.
//!
//! A chain is never stored: it is computed from the rows, topmost first, so that it cannot disagree with them.

use std::collections::HashSet;

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, Row, params};

use super::connection::failed;
use super::transaction::{Reader, Transaction};
use super::trees::TreeState;
use super::{corrupt, from_json, from_sql, now, parse, timestamp, to_json, to_sql};
use crate::digest::{ChainId, DiffId};
use crate::entry::{Attributes, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Info, Kind, Labels, Usage};
use crate::tree::TreeId;

/// A snapshot's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SnapshotId(pub(super) i64);

/// What a snapshot's row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotRow {
    pub(crate) id: SnapshotId,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) parent: Option<SnapshotId>,
    pub(crate) parent_name: Option<String>,
    pub(crate) tree: TreeId,
    pub(crate) tree_state: TreeState,
    /// The tree hides everything below.
    pub(crate) cut: bool,
    /// Attributes of the root directory; of an Active one when it was made.
    pub(crate) root: Attributes,
    pub(crate) diff_id: Option<DiffId>,
    /// The name, where an import gave it.
    pub(crate) chain_id: Option<ChainId>,
    /// Of a Committed one.
    pub(crate) usage: Option<Usage>,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
}

/// A snapshot to be inserted on a tree that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSnapshot<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
    pub(crate) parent: Option<SnapshotId>,
    pub(crate) tree: TreeId,
    pub(crate) root: &'a Attributes,
    pub(crate) labels: &'a Labels,
}

/// A layer to be committed under its chain id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewLayer<'a> {
    /// The Committed snapshot below, which an import made.
    pub(crate) parent: Option<&'a SnapshotRow>,
    /// Computed over the whole uncompressed stream: the caller vouches for that.
    pub(crate) diff_id: &'a DiffId,
    /// A finished tree, frozen or empty.
    pub(crate) tree: TreeId,
    /// What the root directory is where the layer says nothing of it; as in the parent by default.
    pub(crate) root: Option<&'a Attributes>,
    pub(crate) labels: &'a Labels,
}

/// What an Active snapshot becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Committed<'a> {
    pub(crate) name: &'a str,
    /// The one that it has, or a new one where it has none.
    pub(crate) parent: Option<SnapshotId>,
    pub(crate) root: &'a Attributes,
    pub(crate) usage: Usage,
    pub(crate) labels: &'a Labels,
}

/// Which snapshots a listing takes; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) kind: Option<Kind>,
    pub(crate) parent: Option<String>,
    pub(crate) prefix: Option<String>,
    /// Name, and value where that counts.
    pub(crate) labels: Vec<(String, Option<String>)>,
}

const COLUMNS: &str = "s.id, s.name, s.kind, s.parent, p.name, s.tree, iif(t.made, t.state, 'unmade'), t.cut, s.root, s.diff_id, s.chain_id, s.inodes, \
     s.bytes, s.created, s.updated FROM snapshots s JOIN trees t ON t.id = s.tree LEFT JOIN snapshots p ON p.id = s.parent";

impl Reader<'_> {
    /// The snapshot of this key or name.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn snapshot(&self, name: &str) -> Result<Option<SnapshotRow>> {
        self.one_snapshot(&format!("SELECT {COLUMNS} WHERE s.name = ?1"), name)
    }

    /// The snapshot of this row.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn snapshot_by_id(&self, id: SnapshotId) -> Result<Option<SnapshotRow>> {
        self.one_snapshot(&format!("SELECT {COLUMNS} WHERE s.id = ?1"), id.0)
    }

    /// The snapshot that an import committed under this chain id.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn layer(&self, chain_id: &ChainId) -> Result<Option<SnapshotRow>> {
        self.one_snapshot(&format!("SELECT {COLUMNS} WHERE s.chain_id = ?1"), chain_id.to_string())
    }

    fn one_snapshot(&self, query: &str, key: impl rusqlite::ToSql) -> Result<Option<SnapshotRow>> {
        let fail = |error| failed("read snapshot", error);
        let mut statement = self.connection().prepare_cached(query).map_err(fail)?;
        statement.query_row([key], |row| Ok(snapshot(row))).optional().map_err(fail)?.transpose()
    }

    /// What is told of a snapshot.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn info(&self, row: SnapshotRow) -> Result<Info> {
        let labels = self.labels(row.id)?;
        Ok(info(row, labels))
    }

    /// A snapshot's labels.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn labels(&self, id: SnapshotId) -> Result<Labels> {
        let fail = |error| failed("read labels", error);
        let mut statement = self.connection().prepare_cached("SELECT name, value FROM labels WHERE snapshot = ?1").map_err(fail)?;
        let labels = statement.query_map([id.0], |row| Ok((row.get(0)?, row.get(1)?))).map_err(fail)?;
        labels.collect::<Result<_, _>>().map_err(fail)
    }

    /// Every snapshot that is selected, in the order of names.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn snapshots(&self, selection: &Selection) -> Result<Vec<Info>> {
        let fail = |error| failed("list snapshots", error);
        let (condition, values) = selection.condition();
        let values = || rusqlite::params_from_iter(&values);
        let mut labels: BTreeMap<i64, Labels> = BTreeMap::new();
        let mut statement = self
            .connection()
            .prepare_cached(&format!(
                "SELECT l.snapshot, l.name, l.value FROM labels l JOIN snapshots s ON s.id = l.snapshot \
                 LEFT JOIN snapshots p ON p.id = s.parent WHERE {condition}"
            ))
            .map_err(fail)?;
        let mut rows = statement.query(values()).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let label = row.get(1).and_then(|name| Ok((name, row.get(2)?))).map_err(fail)?;
            labels.entry(row.get(0).map_err(fail)?).or_default().extend([label]);
        }
        // In the order of the table, which reads each page once, and sorted here. Nothing is read but what is told.
        let query = format!(
            "SELECT s.id, s.name, s.kind, s.diff_id, s.created, s.updated, p.name \
             FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent WHERE {condition}"
        );
        let mut statement = self.connection().prepare_cached(&query).map_err(fail)?;
        let mut rows = statement.query(values()).map_err(fail)?;
        let mut snapshots = Vec::new();
        while let Some(row) = rows.next().map_err(fail)? {
            let text = |column: usize| row.get_ref(column).and_then(|value| Ok(value.as_str_or_null()?)).map_err(fail);
            let required = |column: usize| text(column)?.ok_or_else(|| corrupt("a column is null"));
            let time = |column: usize| row.get(column).map(timestamp).map_err(fail);
            snapshots.push(Info {
                name: required(1)?.to_owned(),
                kind: kind(required(2)?)?,
                parent: text(6)?.map(str::to_owned),
                diff_id: text(3)?.map(parse).transpose()?,
                labels: labels.remove(&row.get(0).map_err(fail)?).unwrap_or_default(),
                created: time(4)?,
                updated: time(5)?,
            });
        }
        snapshots.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(snapshots)
    }

    /// The names of up to `limit` children, in their order.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn children(&self, id: SnapshotId, limit: u32) -> Result<Vec<String>> {
        let fail = |error| failed("read children", error);
        let mut statement = self
            .connection()
            .prepare_cached("SELECT name FROM snapshots WHERE parent = ?1 ORDER BY name LIMIT ?2")
            .map_err(fail)?;
        let names = statement.query_map(params![id.0, limit], |row| row.get(0)).map_err(fail)?;
        names.collect::<Result<_, _>>().map_err(fail)
    }

    /// The trees that a snapshot stacks, its own first: up to a cut, without empty layers, of repeated trees the topmost alone.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn chain(&self, id: SnapshotId) -> Result<Vec<TreeId>> {
        let fail = |error| failed("read chain", error);
        let mut statement = self
            .connection()
            .prepare_cached(
                "WITH RECURSIVE up (parent, tree, cut, state, depth) AS ( \
                     SELECT s.parent, s.tree, t.cut, t.state, 0 FROM snapshots s JOIN trees t ON t.id = s.tree WHERE s.id = ?1 \
                     UNION ALL \
                     SELECT s.parent, s.tree, t.cut, t.state, up.depth + 1 \
                     FROM up JOIN snapshots s ON s.id = up.parent JOIN trees t ON t.id = s.tree WHERE NOT up.cut \
                 ) SELECT depth, tree FROM up WHERE state <> 'empty'",
            )
            .map_err(fail)?;
        let rows = statement.query_map([id.0], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).map_err(fail)?;
        let mut rows = rows.collect::<Result<Vec<_>, _>>().map_err(fail)?;
        // They come so, which SQLite does not promise; and it would sort all, twice, to promise it.
        rows.sort_by_key(|&(depth, _)| depth);
        let mut seen = HashSet::with_capacity(rows.len());
        rows.into_iter().filter(|&(_, tree)| seen.insert(tree)).map(|(_, tree)| from_sql(tree).map(TreeId)).collect()
    }

    /// Names of imported layers whose chain id begins with these hex digits, at most `limit`; of one algorithm where one is named.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn layers_by_prefix(&self, prefix: &str, limit: u32) -> Result<Vec<String>> {
        let fail = |error| failed("resolve", error);
        let ranges = if prefix.contains(':') {
            vec![prefix.to_owned()]
        } else {
            vec![format!("sha256:{prefix}"), format!("sha512:{prefix}")]
        };
        let mut names = Vec::new();
        // `g` is greater than every hex digit.
        let query = "SELECT name FROM snapshots WHERE chain_id >= ?1 AND chain_id < ?1 || 'g' ORDER BY chain_id LIMIT ?2";
        for start in ranges {
            let mut statement = self.connection().prepare_cached(query).map_err(fail)?;
            let found = statement.query_map(params![start, limit], |row| row.get(0)).map_err(fail)?;
            for name in found {
                names.push(name.map_err(fail)?);
            }
        }
        Ok(names)
    }

    /// Imported layers that nothing reaches: no key, no name that a person gave, no image, no lease, none of `roots`. Those on top
    /// come before those below them.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn unreached_layers(&self, roots: &[&str]) -> Result<Vec<SnapshotRow>> {
        let fail = |error| failed("collect", error);
        // A parent is older than its children, so its row's number is smaller.
        let query = format!(
            "WITH RECURSIVE kept (id) AS ( \
                 SELECT id FROM snapshots WHERE chain_id IS NULL \
                 UNION SELECT snapshot FROM image_layers UNION SELECT snapshot FROM leased_snapshots \
                 UNION SELECT id FROM snapshots WHERE name IN (SELECT value FROM json_each(?1)) \
                 UNION SELECT s.parent FROM kept JOIN snapshots s ON s.id = kept.id WHERE s.parent IS NOT NULL \
             ) SELECT {COLUMNS} WHERE s.id NOT IN (SELECT id FROM kept) ORDER BY s.id DESC"
        );
        let mut statement = self.connection().prepare(&query).map_err(fail)?;
        let rows = statement.query_map([to_json(&roots)?], |row| Ok(snapshot(row))).map_err(fail)?;
        rows.map(|row| row.map_err(fail)?).collect()
    }

    /// Whether a layer that was unreached, and none of the caller's roots, still is, now that those on top of it have gone.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn is_unreached(&self, id: SnapshotId) -> Result<bool> {
        let fail = |error| failed("collect", error);
        let mut statement = self
            .connection()
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM snapshots s WHERE s.id = ?1 AND s.chain_id IS NOT NULL) \
                 AND NOT EXISTS (SELECT 1 FROM snapshots WHERE parent = ?1) \
                 AND NOT EXISTS (SELECT 1 FROM image_layers WHERE snapshot = ?1) \
                 AND NOT EXISTS (SELECT 1 FROM leased_snapshots WHERE snapshot = ?1)",
            )
            .map_err(fail)?;
        statement.query_row([id.0], |row| row.get(0)).map_err(fail)
    }

    /// How many snapshots stand on a tree.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn tree_users(&self, tree: TreeId) -> Result<u64> {
        let fail = |error| failed("read trees", error);
        let mut statement = self.connection().prepare_cached("SELECT COUNT(*) FROM snapshots WHERE tree = ?1").map_err(fail)?;
        from_sql(statement.query_row([to_sql(tree.0)], |row| row.get(0)).map_err(fail)?)
    }
}

impl Transaction<'_> {
    /// Inserts an Active or View snapshot on a tree, which from now on is nobody's to clear away.
    ///
    /// # Errors
    /// `AlreadyExists`, `Io`.
    pub(crate) fn insert_snapshot(&self, new: &NewSnapshot<'_>) -> Result<SnapshotRow> {
        if self.snapshot(new.name)?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "make snapshot").at(new.name));
        }
        let fail = |error| failed("insert snapshot", error);
        self.connection()
            .prepare_cached("UPDATE trees SET state = 'writable', lease = NULL WHERE id = ?1")
            .and_then(|mut statement| statement.execute([to_sql(new.tree.0)]))
            .map_err(fail)?;
        let now = now();
        self.connection()
            .prepare_cached(
                "INSERT INTO snapshots (name, kind, parent, tree, root, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
            )
            .and_then(|mut statement| {
                let root = serde_json::to_string(new.root).unwrap_or_default();
                let parent = new.parent.map(|parent| parent.0);
                statement.execute(params![new.name, new.kind.as_str(), parent, to_sql(new.tree.0), root, now])
            })
            .map_err(fail)?;
        let id = SnapshotId(self.connection().last_insert_rowid());
        self.replace_labels(id, new.labels)?;
        self.inserted(id)
    }

    /// Commits an unpacked layer under its chain id.
    ///
    /// # Errors
    /// `AlreadyExists` where somebody else was faster: take theirs. `NotFound` where the tree has been collected meanwhile.
    pub(crate) fn insert_layer(&self, new: &NewLayer<'_>) -> Result<SnapshotRow> {
        let below = match new.parent {
            None => None,
            Some(parent) => Some(parent.chain_id.as_ref().ok_or_else(|| {
                Error::new(ErrorKind::InvalidArgument, "commit layer")
                    .at(&parent.name)
                    .because("the parent was not imported, so the stack has no chain id")
            })?),
        };
        let chain_id = ChainId::of(below, new.diff_id);
        if self.layer(&chain_id)?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "commit layer").at(chain_id.to_string()));
        }
        let gone = |what: String| Error::new(ErrorKind::NotFound, "commit layer").at(what).because("it was removed meanwhile");
        let tree = self.tree(new.tree)?.ok_or_else(|| gone(format!("tree {}", new.tree)))?;
        if !matches!(tree.state, TreeState::Frozen | TreeState::Unmade | TreeState::Empty) {
            return Err(corrupt(format!("tree {} is not finished", new.tree)));
        }
        let below_root = match new.parent {
            None => Attributes::implied(),
            Some(parent) => self.snapshot_by_id(parent.id)?.ok_or_else(|| gone(parent.name.clone()))?.root,
        };
        let root = tree.root.or(new.root.cloned()).unwrap_or(below_root);
        let name = chain_id.to_string();
        self.connection()
            .execute(
                "INSERT INTO snapshots (name, kind, parent, tree, root, diff_id, chain_id, inodes, bytes, created, updated) \
                 VALUES (?1, 'committed', ?2, ?3, ?4, ?5, ?1, ?6, ?7, ?8, ?8)",
                params![
                    name,
                    new.parent.map(|parent| parent.id.0),
                    to_sql(new.tree.0),
                    to_json(&root)?,
                    new.diff_id.to_string(),
                    to_sql(tree.usage.inodes),
                    to_sql(tree.usage.bytes),
                    now()
                ],
            )
            .map_err(|error| failed("insert layer", error))?;
        let id = SnapshotId(self.connection().last_insert_rowid());
        self.replace_labels(id, new.labels)?;
        self.inserted(id)
    }

    /// Turns an Active snapshot into a Committed one of another name; its tree is frozen from now on.
    ///
    /// # Errors
    /// `AlreadyExists`, `Io`.
    pub(crate) fn commit_snapshot(&self, active: &SnapshotRow, committed: &Committed<'_>) -> Result<SnapshotRow> {
        let &Committed { name, parent, root, usage, labels } = committed;
        if self.snapshot(name)?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "commit").at(name));
        }
        let fail = |error| failed("commit snapshot", error);
        let (inodes, bytes) = (to_sql(usage.inodes), to_sql(usage.bytes));
        self.connection()
            .execute(
                "UPDATE trees SET state = 'frozen', inodes = ?2, bytes = ?3 WHERE id = ?1",
                params![to_sql(active.tree.0), inodes, bytes],
            )
            .map_err(fail)?;
        self.connection()
            .execute(
                "UPDATE snapshots SET name = ?2, kind = 'committed', root = ?3, inodes = ?4, bytes = ?5, created = ?6, updated = ?6, \
                 parent = ?7 WHERE id = ?1",
                params![active.id.0, name, to_json(root)?, inodes, bytes, now(), parent.map(|parent| parent.0)],
            )
            .map_err(fail)?;
        // A key might have had a damaged tree mounted that has a successor; a name has not.
        self.connection().execute("DELETE FROM held_trees WHERE snapshot = ?1", [active.id.0]).map_err(fail)?;
        self.replace_labels(active.id, labels)?;
        self.inserted(active.id)
    }

    fn inserted(&self, id: SnapshotId) -> Result<SnapshotRow> {
        self.snapshot_by_id(id)?.ok_or_else(|| corrupt("a row that was just written is not there"))
    }

    /// Sets all labels, and nothing else: not the time of the update.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn replace_labels(&self, id: SnapshotId, labels: &Labels) -> Result<()> {
        let fail = |error| failed("write labels", error);
        let connection = self.connection();
        connection
            .prepare_cached("DELETE FROM labels WHERE snapshot = ?1")
            .and_then(|mut statement| statement.execute([id.0]))
            .map_err(fail)?;
        let mut statement =
            connection.prepare_cached("INSERT INTO labels (snapshot, name, value) VALUES (?1, ?2, ?3)").map_err(fail)?;
        for (name, value) in labels {
            statement.execute(params![id.0, name, value]).map_err(fail)?;
        }
        Ok(())
    }

    /// Moves the time of the update to now.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn touch(&self, id: SnapshotId) -> Result<()> {
        // Never backwards, and never the same twice, whatever the clock does.
        self.connection()
            .execute("UPDATE snapshots SET updated = MAX(?2, updated + 1) WHERE id = ?1", params![id.0, now()])
            .map(drop)
            .map_err(|error| failed("touch snapshot", error))
    }

    /// Remembers the diff id that a first diff of a Committed snapshot computed.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn set_diff_id(&self, id: SnapshotId, diff_id: &DiffId) -> Result<()> {
        self.connection()
            .execute(
                "UPDATE snapshots SET diff_id = ?2 WHERE id = ?1 AND kind = 'committed' AND diff_id IS NULL",
                params![id.0, diff_id.to_string()],
            )
            .map(drop)
            .map_err(|error| failed("write diff id", error))
    }

    /// Removes a snapshot's row; where nothing else stands on its tree, that goes to the trash in the same instant. Gives the tree
    /// that went.
    ///
    /// # Errors
    /// `Corrupt` where it has children or an image stands on it (the caller has looked); `Io`.
    pub(crate) fn remove_snapshot(&self, row: &SnapshotRow) -> Result<Option<TreeId>> {
        self.connection()
            .execute("DELETE FROM snapshots WHERE id = ?1", [row.id.0])
            .map_err(|error| failed("remove snapshot", error))?;
        if self.tree_users(row.tree)? > 0 || self.tree_is_leased(row.tree)? {
            return Ok(None);
        }
        self.trash_tree(row.tree)
    }
}

impl Selection {
    /// As a condition on `s` (the snapshot) and `p` (its parent), with its values in order.
    fn condition(&self) -> (String, Vec<String>) {
        let mut condition = "1".to_owned();
        let mut values = Vec::new();
        let mut place = |value: &str| {
            values.push(value.to_owned());
            values.len()
        };
        if let Some(kind) = self.kind {
            condition += &format!(" AND s.kind = ?{}", place(kind.as_str()));
        }
        if let Some(parent) = &self.parent {
            condition += &format!(" AND p.name = ?{}", place(parent));
        }
        if let Some(prefix) = &self.prefix {
            let number = place(prefix);
            condition += &format!(" AND substr(s.name, 1, length(?{number})) = ?{number}");
        }
        for (name, value) in &self.labels {
            let name = place(name);
            let value = value.as_ref().map_or(String::new(), |value| format!(" AND x.value = ?{}", place(value)));
            condition += &format!(" AND EXISTS (SELECT 1 FROM labels x WHERE x.snapshot = s.id AND x.name = ?{name}{value})");
        }
        (condition, values)
    }
}

fn info(row: SnapshotRow, labels: Labels) -> Info {
    Info {
        name: row.name,
        kind: row.kind,
        parent: row.parent_name,
        diff_id: row.diff_id,
        labels,
        created: row.created,
        updated: row.updated,
    }
}

fn kind(text: &str) -> Result<Kind> {
    [Kind::Committed, Kind::Active, Kind::View]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| corrupt(format!("{} is no kind of snapshot", text.escape_debug())))
}

fn snapshot(row: &Row<'_>) -> Result<SnapshotRow> {
    let fail = |error| failed("read snapshot", error);
    let text = |column: usize| row.get_ref(column).and_then(|value| Ok(value.as_str_or_null()?.map(str::to_owned))).map_err(fail);
    let number = |column: usize| row.get::<_, Option<i64>>(column).map_err(fail);
    let required = |column: usize| text(column)?.ok_or_else(|| corrupt("a column is null"));
    let usage = match (number(11)?, number(12)?) {
        (Some(inodes), Some(bytes)) => Some(Usage::new(from_sql(inodes)?, from_sql(bytes)?)),
        _ => None,
    };
    Ok(SnapshotRow {
        id: SnapshotId(row.get(0).map_err(fail)?),
        name: required(1)?,
        kind: kind(&required(2)?)?,
        parent: number(3)?.map(SnapshotId),
        parent_name: text(4)?,
        tree: TreeId(from_sql(row.get(5).map_err(fail)?)?),
        tree_state: TreeState::parse(&required(6)?)?,
        cut: row.get(7).map_err(fail)?,
        root: from_json(&required(8)?)?,
        diff_id: text(9)?.map(|text| parse(&text)).transpose()?,
        chain_id: text(10)?.map(|text| parse(&text)).transpose()?,
        usage,
        created: timestamp(row.get(13).map_err(fail)?),
        updated: timestamp(row.get(14).map_err(fail)?),
    })
}
