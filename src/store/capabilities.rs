//! `capabilities`: what can be done where the store stands.

use super::{Store, directories};
use crate::backend::Capabilities;
use crate::error::Result;

impl Store {
    /// What this kernel, the store's file system and this user can do, found out by trying in the store's directory: some dozen short
    /// trials, so not for every run. Nothing of them is left.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// for capability in store.capabilities()?.list {
    ///     println!("{capability}");
    /// }
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `PermissionDenied`, `NoSpace`, `Io`.
    pub fn capabilities(&self) -> Result<Capabilities> {
        Capabilities::probe_in(&self.directory().child(directories::TREES.as_bytes())?)
    }
}
