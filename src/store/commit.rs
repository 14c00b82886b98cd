//! `commit`: an Active snapshot becomes a Committed one.
//!
//! The tree is frozen and made durable first, under a lock of its own, so that two processes do not freeze it at once; then one
//! transaction turns the row. A failure between the two thaws the tree, and after a crash there its next mount does; freezing can be
//! done again.

use tracing::Span;
use tracing::field::Empty;

use super::prepare::no_parent;
use super::{Store, no_snapshot};
use crate::entry::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Subject;
use crate::metadata::{Committed, Reader, SnapshotRow};
use crate::progress::Context;
use crate::snapshot::{Info, Key, Kind, Labels, Name, Usage};
use crate::span::verb;
use crate::tree::{Applied, TreeId};

/// How [`Store::commit`] makes a Committed snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitOptions {
    /// The committed snapshot's labels: these alone, those of the Active one are not inherited. None by default.
    pub labels: Labels,
    /// A Committed snapshot to put it on, where it was prepared on nothing: a layer that was unpacked before what it stands on was there.
    /// What it has is seen over that parent from then on; a root directory that is as it was made becomes the parent's, and so does a
    /// directory that is as `mkdir` makes it (0755, 0:0) and whose time nobody set: the layer implied it. None by default;
    /// the parent that it has already is allowed.
    pub parent: Option<Name>,
}

impl CommitOptions {
    /// With these labels.
    #[must_use]
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Onto this parent.
    #[must_use]
    pub fn parent(mut self, parent: Name) -> Self {
        self.parent = Some(parent);
        self
    }
}

impl Store {
    /// Freezes the Active snapshot `key` into the Committed snapshot `name`, which can be a parent from then on. The key is free
    /// afterwards. No layer is written: see [`diff`](Self::diff). Durable when it returns.
    ///
    /// The caller has unmounted it, or at least stopped writing to it. Where somebody writes all the same, whom no mount shows, nothing
    /// breaks, but what he wrote last may be part of the snapshot, or not, or change in it; freeze him before (`cgroup.freeze`).
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::snapshot::{Key, Kind, Name};
    ///
    /// let key = Key::new("build")?;
    /// store.prepare(&key, None, &Default::default())?;
    /// let info = store.commit(&Name::new("base")?, &key, &Default::default())?;
    /// assert_eq!((info.name.as_str(), info.kind), ("base", Kind::Committed));
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound` without such a key or parent; `InvalidArgument` for a View or a Committed snapshot, and for another parent than it has;
    /// `AlreadyExists` where the name is taken, and the Active snapshot stays; `InUse` where it is mounted and the system tells;
    /// `LimitExceeded` where the stack is higher than the backend can mount; `Unsupported` for a new parent where trees hold all that is
    /// below them (the copy backend), or a layer was [applied](Self::apply) that is another tree on that parent; `NoSpace`, `Io`.
    pub fn commit(&self, name: &Name, key: &Key, options: &CommitOptions) -> Result<Info> {
        let verb = verb!("commit", key = key.as_str(), name = name.as_str(), bytes = Empty, entries = Empty);
        verb.run(|span| self.commit_in(span, name, key, options))
    }

    fn commit_in(&self, span: &Span, name: &Name, key: &Key, options: &CommitOptions) -> Result<Info> {
        self.refuse_read_only("commit")?;
        let tree = {
            let reader = self.metadata().read()?;
            if reader.snapshot(name.as_str())?.is_some() {
                return Err(Error::new(ErrorKind::AlreadyExists, "commit").at(name.as_str()));
            }
            let row = active("commit", reader.snapshot(key.as_str())?, key)?;
            self.new_parent(&reader, &row, options)?;
            row.tree
        };
        let _frozen_by_us = self.locks().wait(Subject::Tree(tree))?;
        {
            // Somebody else may have committed it while the lock was waited for: its tree must not be touched any more then.
            let now = active("commit", self.metadata().read()?.snapshot(key.as_str())?, key)?;
            if now.tree != tree {
                return Err(no_snapshot("commit", key.as_str()).because("it was committed by somebody else meanwhile"));
            }
        }
        let committed = self.freeze_and_name(span, name, key, tree, options);
        if committed.is_err()
            && let Err(error) = self.backend().thaw(tree)
        {
            tracing::warn!(%tree, %error, "a tree stays frozen though its commit failed; asking for its mounts thaws it");
        }
        committed
    }

    /// Under the tree's lock.
    fn freeze_and_name(&self, span: &Span, name: &Name, key: &Key, tree: TreeId, options: &CommitOptions) -> Result<Info> {
        let frozen = self.backend().commit(tree).map_err(|error| of_key("commit", key.as_str(), error))?;
        self.inherit(key, tree, options)?;
        span.record("bytes", frozen.usage.bytes);
        span.record("entries", frozen.usage.inodes);
        let transaction = self.metadata().write()?;
        let row = active("commit", transaction.snapshot(key.as_str())?, key)?;
        if row.tree != tree {
            return Err(no_snapshot("commit", key.as_str()).because("it was removed meanwhile"));
        }
        let (mut root, mut parent) = (frozen.root, row.parent);
        if let Some(new) = self.new_parent(&transaction, &row, options)? {
            parent = Some(new.id);
            root = if is_as_made(&root, &row) { new.root } else { root };
        }
        let as_what = Committed { name: name.as_str(), parent, root: &root, usage: frozen.usage, labels: &options.labels };
        let committed = transaction.commit_snapshot(&row, &as_what)?;
        let info = transaction.info(committed)?;
        transaction.commit()?;
        Ok(info)
    }

    /// Has the tree of a snapshot on nothing fit the parent that it is to get, or nothing where it gets none.
    fn inherit(&self, key: &Key, tree: TreeId, options: &CommitOptions) -> Result<()> {
        let (chain, mut applied) = {
            let reader = self.metadata().read()?;
            let row = active("commit", reader.snapshot(key.as_str())?, key)?;
            let parent = self.new_parent(&reader, &row, options)?;
            // What a layer asked that was applied to it.
            let mut applied = Applied::new(Usage::default());
            applied.facts = reader.tree(tree)?.map(|tree| tree.facts).unwrap_or_default();
            if row.parent.is_some() || (parent.is_none() && applied.facts.is_empty()) {
                return Ok(());
            }
            (parent.map_or(Ok(Vec::new()), |parent| reader.chain(parent.id))?, applied)
        };
        let cx = Context::default();
        if self.backend().inherit(tree, &chain, &mut applied, self.ids(), &cx)? {
            let report = cx.take_report();
            if let Some(first) = report.skipped.first() {
                tracing::warn!(key = key.as_str(), skipped = report.total, %first, "a directory is not whole as it is in the new parent");
            }
            return Ok(());
        }
        let on = options.parent.as_ref().map_or("nothing", Name::as_str);
        Err(Error::new(ErrorKind::Unsupported, "commit")
            .at(key.as_str())
            .because(format!("the layer that was applied to it is another tree on {on}"))
            .with_hint("prepare it on what it is to stand on, and apply the layer then"))
    }

    /// The parent that a snapshot on nothing is to get.
    fn new_parent(&self, reader: &Reader<'_>, row: &SnapshotRow, options: &CommitOptions) -> Result<Option<SnapshotRow>> {
        let Some(name) = options.parent.as_ref().filter(|name| row.parent_name.as_deref() != Some(name.as_str())) else {
            return Ok(None);
        };
        let refuse = |kind, reason: String| Err(Error::new(kind, "commit").at(&row.name).because(reason));
        if let Some(parent) = &row.parent_name {
            return refuse(
                ErrorKind::InvalidArgument,
                format!("it stands on {} already, and not on {name}", parent.escape_debug()),
            );
        }
        if !self.backend().shares_trees() {
            let reason =
                format!("the {} backend cannot put a snapshot on a parent that it was not prepared on", self.backend().name());
            return refuse(ErrorKind::Unsupported, reason);
        }
        let parent = reader.snapshot(name.as_str())?.ok_or_else(|| no_parent("commit", name))?;
        if parent.kind != Kind::Committed {
            return refuse(
                ErrorKind::InvalidArgument,
                format!("{name} is {}, and only a committed snapshot can be a parent", parent.kind),
            );
        }
        let chain = reader.chain(parent.id)?;
        reader.refuse_damaged("commit", &parent.name, &chain)?;
        self.check_height("commit", &row.name, chain.len().saturating_add(1))?;
        Ok(Some(parent))
    }
}

/// Whether nobody said what a snapshot's root directory is to be. A layer that does sets its time too, to one from before the snapshot; the
/// kernel's own is no earlier than that, but for the milliseconds by which a file system's clock is behind.
fn is_as_made(root: &Attributes, row: &SnapshotRow) -> bool {
    let said = |root: &Attributes| (root.mode, root.uid, root.gid, root.xattrs.clone());
    let is_kernels = root.mtime.seconds >= row.created.seconds.saturating_sub(1);
    said(root) == said(&row.root) && (root.mtime == row.root.mtime || is_kernels)
}

/// What a backend says of a tree that is in use, or with which it cannot do that, said of the key, which the caller knows.
pub(super) fn of_key(op: &'static str, key: &str, error: Error) -> Error {
    let kind = error.kind();
    if !matches!(kind, ErrorKind::InUse | ErrorKind::Unsupported) {
        return error;
    }
    let reason = error.reason().map_or_else(|| kind.to_string(), str::to_owned);
    let outer = Error::new(kind, op).at(key).because(reason);
    match error.hint().map(str::to_owned) {
        Some(hint) => outer.with_hint(hint).with_source(error),
        None => outer.with_source(error),
    }
}

/// The Active snapshot of a key; any other kind is an `InvalidArgument`.
pub(super) fn active(op: &'static str, row: Option<SnapshotRow>, key: &Key) -> Result<SnapshotRow> {
    let row = row.ok_or_else(|| no_snapshot(op, key.as_str()))?;
    if row.kind != Kind::Active {
        let reason = format!("its kind is {}; it takes an active snapshot", row.kind);
        return Err(Error::new(ErrorKind::InvalidArgument, op).at(key.as_str()).because(reason));
    }
    Ok(row)
}
