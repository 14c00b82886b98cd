//! A tree that was filled on nothing, for the parent that it gets with its commit.
//!
//! What a layer asked of the parent when it was applied ahead is answered. Who else unpacks a layer before what it stands on is there
//! (containerd's differ, `rebase`) makes a directory that the layer uses without an entry of its own as if nothing were below: 0755, 0:0,
//! while an implied directory keeps what it is below (SEMANTICS §1.6). Such a one is known by its times. Who describes a directory sets
//! its time, to one from before the unpacking; the kernel's lies between the directory's birth and its last change.

use super::{FS, Overlay, root};
use crate::apply::{self, Place};
use crate::diff::seen::{self, Form};
use crate::error::Result;
use crate::path::EntryPath;
use crate::progress::Context;
use crate::sys::durable::SyncPoint;
use crate::sys::{Dir, FileType, Root, inode, write_order, xattr};
use crate::tree::{Applied, Ids, TreeId};
use crate::whiteout::XattrStyle;

impl Overlay {
    pub(super) fn inherit_from(
        &self,
        tree: TreeId,
        chain: &[TreeId],
        applied: &mut Applied,
        ids: Ids,
        cx: &Context<'_>,
    ) -> Result<bool> {
        let (lower, own) = (self.view(chain)?, self.tree(tree)?);
        let point = SyncPoint::before_writes(&self.trees)?;
        let fs = own.child(FS.as_bytes())?;
        if !applied.facts.is_empty() {
            let place = Place::new(fs.try_clone()?, own);
            if !apply::settle(place, lower.as_ref(), self.form()?, applied, ids, cx)? {
                return Ok(false);
            }
        }
        let has_changed = match lower {
            Some(lower) => self.inherit_implied(&Root::new(fs), &lower)?,
            None => false,
        };
        if has_changed || !applied.facts.is_empty() {
            // No data of a file was written.
            if self.is_ordered() { write_order::sync(&self.trees)? } else { point.sync()? }
        }
        Ok(true)
    }

    /// Says whether there were any such directories.
    fn inherit_implied(&self, upper: &Root, lower: &Root) -> Result<bool> {
        let mut has_changed = false;
        let mut rest = vec![EntryPath::ROOT];
        while let Some(path) = rest.pop() {
            // One that is not below, or no directory there, is new, and so is all in it.
            let (Some(own), Some(below)) = (upper.literal_dir(&path)?, lower.literal_dir(&path)?) else { continue };
            if !path.is_root() && is_implied(&own, self.style)? {
                root::set(&own, &seen::read(&below, Form::Plain)?.attributes, self.style)?;
                has_changed = true;
            }
            if !path.is_root() && xattr::get(&own, self.style.opaque())?.is_some() {
                continue;
            }
            for entry in own.entries()? {
                let entry = entry?;
                if matches!(entry.file_type, FileType::Directory | FileType::Unknown) {
                    rest.extend(path.join(&entry.name).ok());
                }
            }
        }
        Ok(has_changed)
    }
}

/// Whether nobody said what a directory is to be.
fn is_implied(dir: &Dir, style: XattrStyle) -> Result<bool> {
    let stat = inode::stat(dir)?;
    if (stat.mode, stat.uid, stat.gid) != (0o755, 0, 0) {
        return Ok(false);
    }
    let Some((made, changed)) = inode::made_and_changed(dir) else { return Ok(false) };
    Ok((made..=changed).contains(&stat.mtime) && root::read(dir, style)?.xattrs.is_empty())
}
