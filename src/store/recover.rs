//! What opening clears away: what dead processes were making, and directories that no row names.
//!
//! A tree that was being built under a dead process's lease never had a name: its bytes are deleted. A directory without any row is
//! there only after a power cut or after the database was put back from elsewhere. It may be a container's data, so it is never
//! deleted: it moves to `lost+found`. Looking for such directories takes time, and is needed only once in each boot.

use super::directories::{LOST, private_directory};
use super::orphans::INGEST_IDLE;
use super::{LostTree, Store, directories};
use crate::error::{ErrorKind, Result};
use crate::metadata::Survives;
use crate::progress::Context;
use crate::sys::usage::{Taken, taken};
use crate::sys::{Dir, boot, capabilities};
use crate::tree::TreeId;

impl Store {
    /// Clears away what is left of crashes.
    pub(super) fn recover(&self) -> Result<()> {
        for tree in self.end_dead_leases()? {
            // It is in the trash: what cannot be deleted now is no reason not to open the store.
            if let Err(error) = self.delete_trash_tree(tree) {
                tracing::warn!(%tree, %error, "what a dead process was making cannot be deleted");
            }
        }
        if let Err(error) = self.content().clean_ingests(INGEST_IDLE) {
            tracing::warn!(%error, "what a dead process was taking in cannot be deleted");
        }
        let boot = boot::id();
        if boot.is_empty() || self.metadata().read()?.store()?.boot != boot {
            self.find_lost_trees()?;
            self.clear_probes();
            self.delete_orphans(&Context::default())?;
            let transaction = self.metadata().write_to_survive(Survives::Process)?;
            transaction.set_boot(&boot)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Deletes what trials of dead processes left among the trees. It is a few empty files: what cannot be deleted does no harm.
    pub(super) fn clear_probes(&self) {
        let cleared = self.directory().child(directories::TREES.as_bytes()).and_then(|trees| capabilities::clear_probes(&trees));
        if let Err(error) = cleared {
            tracing::warn!(%error, "what a dead process was trying out cannot be deleted");
        }
    }

    /// Moves trees without a row to `lost+found`.
    pub(super) fn find_lost_trees(&self) -> Result<()> {
        let trees = self.directory().child(directories::TREES.as_bytes())?;
        // First the directories, then the rows: a row is there before its directory.
        let mut found = Vec::new();
        for entry in trees.entries()? {
            let name = entry?.name;
            let number = std::str::from_utf8(&name).ok().and_then(|text| text.parse().ok());
            found.extend(number.map(TreeId).filter(|&tree| tree != TreeId::EMPTY));
        }
        let known = self.metadata().read()?.known_trees()?;
        let known: std::collections::HashSet<_> = known.into_iter().collect();
        found.retain(|tree| !known.contains(tree));
        if found.is_empty() {
            return Ok(());
        }
        let lost = private_directory(self.directory(), LOST)?;
        for tree in found {
            tracing::warn!(%tree, "a tree that no snapshot names was moved to lost+found");
            move_to(&trees, tree, &lost)?;
        }
        trees.sync()?;
        lost.sync()
    }
}

impl Store {
    /// What lies in `lost+found`, in the order of names.
    pub(super) fn lost_trees(&self) -> Result<Vec<LostTree>> {
        let Some(lost) = self.directory().try_child(LOST)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in lost.entries()? {
            let name = entry?.name;
            let Taken { inodes, bytes } = match lost.try_child(&name) {
                Ok(Some(tree)) => taken(&tree)?,
                _ => Taken::default(),
            };
            found.push(LostTree { name: name.escape_ascii().to_string(), inodes, bytes });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Deletes what lies in `lost+found`.
    pub(super) fn delete_lost_trees(&self, cx: &Context<'_>) -> Result<()> {
        let Some(lost) = self.directory().try_child(LOST)? else { return Ok(()) };
        for entry in lost.entries()? {
            cx.check("gc")?;
            lost.remove_tree(&entry?.name)?;
        }
        lost.sync()
    }
}

fn move_to(trees: &Dir, tree: TreeId, lost: &Dir) -> Result<()> {
    let name = tree.to_string();
    for attempt in 0_u32.. {
        let free = if attempt == 0 { name.clone() } else { format!("{name}.{attempt}") };
        match trees.rename_noreplace(name.as_bytes(), lost, free.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            // Another process opens the store too.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            done => return done,
        }
    }
    Ok(())
}
