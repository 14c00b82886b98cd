//! Bytes of blobs that no row names: what a crash between a rename and its transaction leaves, blobs that a caller ingested by hand
//! and nothing uses, and ingests that nobody will go on with.
//!
//! Unlike a tree, a blob is nobody's data: it can be had again by its digest, so it is deleted.

use std::time::Duration;

use super::Store;
use crate::error::Result;
use crate::progress::Context;

/// How long an interrupted ingest waits for somebody to go on with it.
const INGEST_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

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
            // A file and its row come in one transaction: within one of ours there is no row still to come.
            let transaction = self.metadata().write()?;
            if transaction.blob(&digest)?.is_none() && !transaction.is_trash(&digest)? {
                self.content().remove(&digest)?;
                blobs = blobs.saturating_add(1);
            }
        }
        tracing::debug!(ingests, blobs, "orphans deleted");
        Ok(())
    }
}
