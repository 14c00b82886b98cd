//! Bytes of blobs that no row names: what a crash between a rename and its transaction leaves, blobs that a caller ingested by hand
//! and nothing uses, and ingests that nobody will go on with.
//!
//! Unlike a tree, a blob is nobody's data: it can be had again by its digest, so it is deleted.

use std::time::Duration;

use super::Store;
use crate::content::Content;
use crate::digest::Digest;
use crate::error::Result;
use crate::metadata::{Metadata, Survives};
use crate::progress::Context;

/// How long an interrupted ingest waits for somebody to go on with it.
pub(super) const INGEST_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// Deletes the ingests that nobody will go on with.
    pub(super) fn delete_dead_ingests(&self) -> Result<u64> {
        self.content().clean_ingests(INGEST_IDLE)
    }

    /// Deletes what no row names. Safe beside every other verb.
    pub(super) fn delete_orphans(&self, cx: &Context<'_>) -> Result<()> {
        let ingests = self.delete_dead_ingests()?;
        let known: std::collections::HashSet<_> = self.metadata().read()?.known_blobs()?.into_iter().collect();
        let orphans = self.content().blobs()?.into_iter().map(|(digest, _)| digest).filter(|digest| !known.contains(digest));
        let mut blobs = 0u64;
        for digest in orphans {
            cx.check("gc")?;
            blobs = blobs.saturating_add(u64::from(delete_unless_named(self.metadata(), self.content(), &digest)?));
        }
        tracing::debug!(ingests, blobs, "orphans deleted");
        Ok(())
    }
}

/// Deletes a blob's file if no row names it, and says whether it did.
pub(super) fn delete_unless_named(metadata: &Metadata, content: &Content, digest: &Digest) -> Result<bool> {
    // A file and its row come in one transaction: within one of ours there is no row still to come.
    let transaction = metadata.write_to_survive(Survives::Process)?;
    let is_orphan = transaction.blob(digest)?.is_none() && !transaction.is_trash(digest)?;
    let aside = if is_orphan { content.set_aside(digest)? } else { None };
    drop(transaction);
    aside.map_or(Ok(()), |aside| content.delete(&aside))?;
    Ok(is_orphan)
}
