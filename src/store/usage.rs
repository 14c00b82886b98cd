//! `usage`: what a snapshot alone takes.

use tracing::field::Empty;

use super::{Store, no_snapshot};
use crate::error::Result;
use crate::snapshot::{Kind, Usage};
use crate::span::verb;

impl Store {
    /// What a snapshot takes, without its parents. Of a Committed one it was counted once; of an Active one it is counted now, and
    /// may be off by what is written meanwhile. A layer's tree that several snapshots share counts for each of them; one that is not made
    /// yet (of the copy backend, in the middle of an image) takes nothing.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// let usage = store.usage("web-1")?;
    /// println!("{} bytes in {} inodes", usage.bytes, usage.inodes);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn usage(&self, name: &str) -> Result<Usage> {
        verb!("usage", key = name, bytes = Empty, entries = Empty).run(|span| {
            let usage = self.usage_now(name)?;
            span.record("bytes", usage.bytes);
            span.record("entries", usage.inodes);
            Ok(usage)
        })
    }

    fn usage_now(&self, name: &str) -> Result<Usage> {
        let row = self.metadata().read()?.snapshot(name)?.ok_or_else(|| no_snapshot("usage", name))?;
        match (row.kind, row.usage) {
            (Kind::Committed, Some(usage)) => Ok(usage),
            _ => self.backend().usage(row.tree),
        }
    }
}
