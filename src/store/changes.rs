//! `changes`: the paths that a snapshot adds, modifies or deletes, without a layer being written.

use serde::Serialize;
use tracing::field::Empty;

use super::Store;
use crate::entry::{Entry, EntrySink, Status};
use crate::error::{Error, Result};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::span::verb;

/// One path that a snapshot changes in its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Changed {
    /// Where; the empty path is the root directory.
    #[serde(serialize_with = "escaped")]
    pub path: EntryPath,
    /// How. A directory below which something changed is modified.
    #[serde(serialize_with = "word")]
    pub status: Status,
}

impl Store {
    /// Calls `visit` for every path that a snapshot of any kind changes in its parent, in the order of a layer: what
    /// [`diff`](Self::diff) would write, without reading more content than comparing needs. Its first error ends this and comes back.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// store.changes("web-1", &Default::default(), |changed| {
    ///     println!("{:?} /{}", changed.status, changed.path);
    ///     Ok(())
    /// })?;
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` for a name that no layer can say; `Cancelled`, `Io`; those of `visit`.
    pub fn changes(&self, name: &str, cx: &Context<'_>, mut visit: impl FnMut(Changed) -> Result<()>) -> Result<()> {
        verb!("changes", key = name, bytes = Empty, entries = Empty).count(cx, |_, cx| {
            self.refuse_damaged("changes", name)?;
            self.stream_changes("changes", name, &mut List(&mut visit), cx).map(drop)
        })
    }
}

struct List<'a>(&'a mut dyn FnMut(Changed) -> Result<()>);

impl EntrySink for List<'_> {
    fn entry(&mut self, entry: &Entry, status: Status) -> Result<()> {
        (self.0)(Changed { path: entry.path.clone(), status })
    }

    fn data(&mut self, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn wants_data(&self) -> bool {
        false
    }
}

fn escaped<S: serde::Serializer>(path: &EntryPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

fn word<S: serde::Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match status {
        Status::Added => "added",
        Status::Modified => "modified",
        Status::Deleted => "deleted",
    })
}
