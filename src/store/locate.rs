//! Which snapshots a directory belongs to, of whoever has it by its path: out of a mount that was told to somebody.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Store;
use super::directories::TREES;
use crate::error::{ErrorKind, Result};
use crate::snapshot::{Info, Kind};
use crate::sys::{Dir, inode};
use crate::tree::TreeId;

/// What both backends call the directory that is mounted.
const FS: &[u8] = b"fs";

impl Store {
    /// The snapshots whose tree stands at a path of the host, symlinks followed: one, or the Committed ones that share it. What counts is the
    /// directory that is there, not how its path is spelled. None for what is not of this store, or is not there.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn snapshots_at(&self, path: &Path) -> Result<Vec<Info>> {
        let number = path.parent().and_then(Path::file_name).filter(|_| path.is_absolute());
        let number = number.and_then(|name| name.to_str()).filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let (Some(number), Some(FS)) = (number, path.file_name().map(OsStrExt::as_bytes)) else { return Ok(Vec::new()) };
        let Ok(tree) = number.parse().map(TreeId) else { return Ok(Vec::new()) };
        let Some(own) = self.directory().child(TREES.as_bytes())?.try_child(number.as_bytes())? else { return Ok(Vec::new()) };
        let Some(own) = own.stat(FS)?.filter(|stat| stat.is_dir()) else { return Ok(Vec::new()) };
        let there = match Dir::open(path).and_then(|dir| inode::stat(&dir)) {
            Ok(there) => there,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if !there.same_inode(&own) {
            return Ok(Vec::new());
        }
        let reader = self.metadata().read()?;
        reader.snapshots_on(tree)?.into_iter().map(|row| reader.info(row)).collect()
    }

    /// The snapshot that a View or an Active one at a path shows when nothing is written to it: the one below it, or the Committed one that
    /// stands there itself. `None` for what is not of this store.
    ///
    /// # Errors
    /// As [`snapshots_at`](Self::snapshots_at).
    pub(crate) fn frozen_at(&self, path: &Path) -> Result<Option<Frozen>> {
        let mut found = self.snapshots_at(path)?.into_iter();
        Ok(match found.next() {
            Some(info) if info.kind == Kind::View => Some(Frozen { name: info.parent }),
            // Where several share a tree it is not told which of them is meant.
            Some(info) if info.kind == Kind::Committed && found.next().is_none() => Some(Frozen { name: Some(info.name) }),
            _ => None,
        })
    }
}

/// What cannot change: a Committed snapshot, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub(crate) name: Option<String>,
}
