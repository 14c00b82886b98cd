//! The rows against each other, and against the names, sizes and numbers of inodes on the disk; and every blob against its digest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

use super::findings::Amendment;
use super::parallel::in_parallel;
use super::{Check, Damage, OP, Seen};
use crate::content::Content;
use crate::digest::{ChainId, Digest, Hasher};
use crate::entry::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{BlobRow, SnapshotId, SnapshotRow, TreeRow, TreeState};
use crate::snapshot::Kind;
use crate::store::directories::{LOST, TREES};
use crate::tree::TreeId;

/// A frozen tree that takes less than what it took, a quarter of that apart, has lost something.
const QUARTER: u64 = 4;

/// So little less says nothing: file systems round.
const SLACK: u64 = 1 << 20;

impl Check<'_> {
    /// The database itself. Where that is damaged, what its rows say is still compared with the rest, as far as they can be read.
    pub(super) fn database(&self) -> Result<()> {
        let found = self.store.metadata().read()?.integrity(self.options.full)?;
        for detail in found {
            self.tell(crate::metadata::DATABASE, Damage::Database { detail });
        }
        Ok(())
    }

    pub(super) fn structure(&self) -> Result<Seen> {
        let mut seen = Seen::default();
        self.snapshots()?;
        self.images()?;
        self.trees(&mut seen)?;
        self.blobs(&mut seen)?;
        self.unmade(&mut seen)?;
        self.lost()?;
        Ok(seen)
    }

    /// Names that are proofs, and what a snapshot has from its tree and parent.
    fn snapshots(&self) -> Result<()> {
        let reader = self.store.metadata().read()?;
        // What the layers make the root directory, from the lowest on.
        let mut roots: BTreeMap<SnapshotId, Attributes> = BTreeMap::new();
        for (name, _) in reader.all_snapshots()? {
            self.cx.check(OP)?;
            let shown = name.escape_debug();
            let row = match reader.snapshot(&name) {
                Ok(Some(row)) => row,
                Ok(None) => continue,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.tell_of_row(format!("the snapshot {shown} cannot be read: {}", reason(&error)), None);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (Some(chain_id), Some(diff_id)) = (&row.chain_id, &row.diff_id) else { continue };
            // A parent that cannot be read is told of by itself.
            let Ok(parent) = row.parent.map(|parent| reader.snapshot_by_id(parent)).transpose() else { continue };
            let parent = parent.flatten();
            if ChainId::of(parent.as_ref().and_then(|parent| parent.chain_id.as_ref()), diff_id) != *chain_id {
                self.tell_of_row(format!("the snapshot {shown} is not the layer {diff_id} on its parent"), None);
            }
            let Ok(Some(tree)) = reader.tree(row.tree) else { continue };
            if tree.diff_id.as_ref().is_some_and(|of| of != diff_id) {
                self.tell_of_tree(
                    row.tree,
                    "",
                    Damage::Facts { detail: "it is of another layer than what stands on it".to_owned() },
                )?;
            }
            // A committed container that got a chain id has a root of its own.
            let unpacked = tree.diff_id.is_some();
            let root = tree.root.or_else(|| roots.get(&parent?.id).cloned()).filter(|_| unpacked);
            if let Some(root) = root.as_ref().filter(|root| **root != row.root) {
                let amendment = Amendment::Root(row.id, Box::new(root.clone()));
                let detail = format!("the snapshot {shown} has not the root directory that its layers give it");
                self.tell_of_row(detail, Some(amendment));
            }
            roots.insert(row.id, root.unwrap_or(row.root));
        }
        Ok(())
    }

    fn images(&self) -> Result<()> {
        let reader = self.store.metadata().read()?;
        for reference in reader.image_references()? {
            match reader.image(&reference) {
                Ok(Some(image)) => {
                    for descriptor in [&image.manifest, &image.config] {
                        if !image.blobs.contains(&descriptor.digest) {
                            let digest = &descriptor.digest;
                            let image = reference.escape_debug();
                            self.tell_of_row(format!("the image {image} keeps no blob {digest} that it needs"), None);
                        }
                    }
                }
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let image = reference.escape_debug();
                    self.tell_of_row(format!("the image {image} cannot be read: {}", reason(&error)), None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn trees(&self, seen: &mut Seen) -> Result<()> {
        let rows = self.store.metadata().read()?.all_trees()?;
        let found = Mutex::new(BTreeMap::new());
        self.outcome().trees = rows.len() as u64;
        in_parallel(self.options.workers(), rows, |(tree, row), _| {
            self.cx.check(OP)?;
            let wrong = match row {
                Ok(row) => self.tree(&row)?,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let detail = reason(&error);
                    self.tell_of_tree(tree, "", Damage::Facts { detail: format!("it cannot be read: {detail}") })?;
                    Some(detail)
                }
                Err(error) => return Err(error),
            };
            if let Some(wrong) = wrong {
                found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(tree, wrong);
            }
            Ok(())
        })?;
        let found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.damaged_trees.extend(found);
        self.stray_trees()
    }

    /// A tree's directory against its row; says what is damaged.
    fn tree(&self, row: &TreeRow) -> Result<Option<String>> {
        if matches!(row.state, TreeState::Building | TreeState::Empty | TreeState::Unmade) {
            return Ok(None);
        }
        let usage = match self.store.backend().usage(row.id) {
            Ok(usage) => usage,
            Err(error) if is_damage(&error) => {
                // A key may have been removed, and its bytes with it.
                let there = self.store.metadata().read()?.tree(row.id)?.is_some_and(|now| now.state == row.state);
                if !there {
                    return Ok(None);
                }
                self.tell_of_tree(row.id, "", Damage::NoTree)?;
                return Ok(Some(format!("it is not there or cannot be read: {}", reason(&error))));
            }
            Err(error) => return Err(error),
        };
        if row.state != TreeState::Frozen {
            return Ok(None);
        }
        self.cx.progress().entries(usage.inodes);
        if usage.inodes != row.usage.inodes {
            let damage = Damage::Inodes { expected: row.usage.inodes, found: usage.inodes };
            let told = damage.to_string();
            self.tell_of_tree(row.id, "", damage)?;
            return Ok(Some(told));
        }
        let least = row.usage.bytes.saturating_sub(row.usage.bytes.div_euclid(QUARTER)).saturating_sub(SLACK);
        if usage.bytes < least && !self.options.full {
            self.tell_of_tree(row.id, "", Damage::Shrunk { expected: row.usage.bytes, found: usage.bytes })?;
        }
        Ok(None)
    }

    /// Trees that are still to be made: each needs a blob of its layer. Whether that gives it is for a full check to find out.
    fn unmade(&self, seen: &mut Seen) -> Result<()> {
        let reader = self.store.metadata().read()?;
        for (tree, row) in reader.all_trees()? {
            let Some(diff_id) = row.ok().filter(|row| row.state == TreeState::Unmade).and_then(|row| row.diff_id) else { continue };
            let is_there = reader.blobs_of(&diff_id)?.iter().any(|blob| !seen.damaged_blobs.contains_key(&blob.digest));
            if !is_there && reader.tree(tree)?.is_some() {
                seen.damaged_trees.insert(tree, Damage::NoLayer.to_string());
                self.tell_of_tree(tree, "", Damage::NoLayer)?;
            }
        }
        Ok(())
    }

    fn stray_trees(&self) -> Result<()> {
        let trees = self.store.directory().child(TREES.as_bytes())?;
        // First the directories, then the rows: a row is there before its directory.
        let mut there = BTreeSet::new();
        for entry in trees.entries()? {
            let name = entry?.name;
            there.extend(std::str::from_utf8(&name).ok().and_then(|text| text.parse().ok()).map(TreeId));
        }
        let known: BTreeSet<_> = self.store.metadata().read()?.known_trees()?.into_iter().collect();
        for tree in there.difference(&known).filter(|&&tree| tree != TreeId::EMPTY) {
            self.tell(PathBuf::from(TREES).join(tree.to_string()), Damage::StrayTree);
        }
        Ok(())
    }

    fn lost(&self) -> Result<()> {
        let Some(lost) = self.store.directory().try_child(LOST)? else { return Ok(()) };
        for entry in lost.entries()? {
            use std::os::unix::ffi::OsStrExt as _;
            let name = entry?.name;
            self.tell(PathBuf::from("lost+found").join(std::ffi::OsStr::from_bytes(&name)), Damage::Lost);
        }
        Ok(())
    }

    fn blobs(&self, seen: &mut Seen) -> Result<()> {
        let files: BTreeMap<Digest, u64> = self.store.content().blobs()?.into_iter().collect();
        let reader = self.store.metadata().read()?;
        let digests = reader.blob_digests()?;
        self.outcome().blobs = digests.len() as u64;
        for digest in &digests {
            self.cx.check(OP)?;
            let row = match reader.blob(digest) {
                Ok(Some(row)) => row,
                Ok(None) => continue,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.tell_of_row(format!("the row of the blob {digest} cannot be read: {}", reason(&error)), None);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // A file that came after the directory was listed.
            let size = match files.get(digest) {
                Some(size) => Some(*size),
                None => size_of(self.store.content(), digest)?,
            };
            let damage = match size {
                None => Damage::NoBlob,
                Some(found) if found != row.size => Damage::BlobSize { expected: row.size, found },
                Some(_) => continue,
            };
            seen.damaged_blobs.insert(digest.clone(), damage.to_string());
            // What a full check says of its bytes says more.
            if !self.options.full || damage == Damage::NoBlob {
                self.tell_of_blob(digest, damage)?;
            }
        }
        let known: BTreeSet<_> = reader.known_blobs()?.into_iter().collect();
        for digest in files.keys().filter(|digest| !known.contains(digest)) {
            let directory = PathBuf::from("blobs").join(digest.algorithm().as_str());
            self.tell(directory.join(digest.to_hex()), Damage::StrayBlob);
        }
        Ok(())
    }

    /// Hashes every blob.
    pub(super) fn hash_blobs(&self, seen: &mut Seen) -> Result<()> {
        let rows = {
            let reader = self.store.metadata().read()?;
            reader.blob_digests()?.into_iter().filter_map(|digest| reader.blob(&digest).ok().flatten()).collect::<Vec<_>>()
        };
        let found = Mutex::new(Vec::new());
        in_parallel(self.options.workers(), rows, |row, _| {
            if let Some(damage) = self.hash_blob(&row)? {
                found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((row, damage));
            }
            Ok(())
        })?;
        for (row, damage) in found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            match damage {
                None => {
                    seen.damaged_blobs.remove(&row.digest);
                    seen.whole_blobs.push(row.digest);
                }
                Some(damage) => {
                    seen.damaged_blobs.insert(row.digest.clone(), damage.to_string());
                    self.tell_of_blob(&row.digest, damage)?;
                }
            }
        }
        self.outcome().hashed = seen.whole_blobs.len() as u64;
        Ok(())
    }

    /// What is wrong with a blob's bytes; nothing at all where it is not there.
    fn hash_blob(&self, row: &BlobRow) -> Result<Option<Option<Damage>>> {
        let unreadable = |error: &Error| Damage::BlobUnreadable { error: error.to_string() };
        let blob = match self.store.content().blob(&row.digest) {
            Ok(Some(blob)) => blob,
            Ok(None) => return Ok(None),
            Err(error) if is_damage(&error) => return Ok(Some(Some(unreadable(&error)))),
            Err(error) => return Err(error),
        };
        let mut hasher = Hasher::new(row.digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        let mut reader = blob.reader();
        loop {
            self.cx.check(OP)?;
            match std::io::Read::read(&mut reader, &mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(buffer.get(..count).unwrap_or_default());
                    self.cx.progress().bytes(count as u64);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let error = Error::io("read", error);
                    return if is_damage(&error) { Ok(Some(Some(unreadable(&error)))) } else { Err(error) };
                }
            }
        }
        let found = hasher.finish();
        Ok(Some(if found != row.digest {
            Some(if blob.size() == row.size {
                Damage::BlobContent { found }
            } else {
                Damage::BlobSize { expected: row.size, found: blob.size() }
            })
        } else if blob.size() != row.size {
            // The bytes are right, so the row is wrong.
            let detail = format!("the row of the blob {} says {} bytes, and it has {}", row.digest, row.size, blob.size());
            self.tell_of_row(detail, Some(Amendment::Size(row.digest.clone(), blob.size())));
            None
        } else {
            None
        }))
    }
}

/// The size of a blob's file; `None` where there is none.
fn size_of(content: &Content, digest: &Digest) -> Result<Option<u64>> {
    match content.blob(digest) {
        Ok(blob) => Ok(blob.map(|blob| blob.size())),
        Err(error) if is_damage(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error says something about what was read, and not about whoever reads.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt)
        || matches!(
            error.raw_os_error(),
            Some(
                libc::EIO
                    | libc::EUCLEAN
                    | libc::EBADMSG
                    | libc::ENODATA
                    | libc::ENOTDIR
                    | libc::ENXIO
                    | libc::EISDIR
                    | libc::ELOOP
            )
        )
}

/// An error's reason with its first cause.
pub(super) fn reason(error: &Error) -> String {
    let own = error.reason().map_or_else(|| error.to_string(), str::to_owned);
    match std::error::Error::source(error) {
        Some(cause) => format!("{own}: {cause}"),
        None => own,
    }
}

/// Whether a snapshot's tree was unpacked from a layer whose name proves it.
pub(super) fn is_proven(row: &SnapshotRow) -> bool {
    row.kind == Kind::Committed && row.chain_id.is_some() && row.diff_id.is_some()
}
