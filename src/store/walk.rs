//! `walk`: every snapshot, or those that a filter takes.

use super::Store;
use crate::error::Result;
use crate::metadata::Selection;
use crate::snapshot::{Info, Kind};

/// Which snapshots [`Store::walk`] visits: those for which every condition holds; all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Of this kind.
    pub kind: Option<Kind>,
    /// On this parent.
    pub parent: Option<String>,
    /// Whose key or name begins so.
    pub name_prefix: Option<String>,
    /// With all these labels: a name, and a value where that counts.
    pub labels: Vec<(String, Option<String>)>,
}

impl Filter {
    /// Takes every snapshot.
    pub fn all() -> Self {
        Self::default()
    }

    /// Of this kind alone.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// On this parent alone.
    #[must_use]
    pub fn parent(mut self, parent: impl Into<String>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// Whose key or name begins so alone.
    #[must_use]
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.name_prefix = Some(prefix.into());
        self
    }

    /// With this label alone, of whatever value.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>) -> Self {
        self.labels.push((name.into(), None));
        self
    }

    /// With this label of this value alone.
    #[must_use]
    pub fn label_is(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((name.into(), Some(value.into())));
        self
    }
}

impl Store {
    /// Calls `visit` for every snapshot that the filter takes, in the order of their names' bytes, as all of them were at one instant.
    /// `visit` may use the store. Its first error ends the walk and comes back.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// use plywood::{snapshot::Kind, store::Filter};
    ///
    /// let mut active = Vec::new();
    /// store.walk(&Filter::all().kind(Kind::Active), |info| {
    ///     active.push(info.name);
    ///     Ok(())
    /// })?;
    /// assert_eq!(active, ["web-1"]);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `visit`; `Io`.
    pub fn walk(&self, filter: &Filter, visit: impl FnMut(Info) -> Result<()>) -> Result<()> {
        let Filter { kind, parent, name_prefix, labels } = filter.clone();
        let selection = Selection { kind, parent, prefix: name_prefix, labels };
        // Read whole before the first visit: nothing is held while the caller works.
        let snapshots = self.metadata().read()?.snapshots(&selection)?;
        snapshots.into_iter().try_for_each(visit)
    }
}
