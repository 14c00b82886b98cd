//! `stat`: what is known of one snapshot.

use super::{Store, no_snapshot};
use crate::error::Result;
use crate::snapshot::Info;

impl Store {
    /// What is known of the snapshot of this key or name.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// let info = store.stat("web-1")?;
    /// assert_eq!(info.parent, None);
    /// assert_eq!(info.created, info.updated);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn stat(&self, name: &str) -> Result<Info> {
        let reader = self.metadata().read()?;
        let row = reader.snapshot(name)?.ok_or_else(|| no_snapshot("stat", name))?;
        reader.info(row)
    }
}
