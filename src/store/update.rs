//! `update`: labels, all of them or by field path.

use super::{Store, no_snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Info, Labels};
use crate::span::verb;

/// What [`Store::update`] does to a snapshot's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelUpdate {
    replace: bool,
    set: Labels,
    remove: Vec<String>,
}

impl LabelUpdate {
    /// These labels and no others.
    pub fn replace_all(labels: Labels) -> Self {
        Self { replace: true, set: labels, remove: Vec::new() }
    }

    /// Leaves every label that is not named in what follows.
    pub fn keep() -> Self {
        Self { replace: false, set: Labels::new(), remove: Vec::new() }
    }

    /// Sets one label.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.remove.retain(|removed| *removed != name);
        self.set.insert(name, value.into());
        self
    }

    /// Removes one label; one that is not there is success.
    #[must_use]
    pub fn remove(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.set.remove(&name);
        self.remove.push(name);
        self
    }

    /// As containerd says it: `labels` replaces all, `labels.<name>` sets one, to nothing or absent removes it; no path at all is
    /// `labels`.
    ///
    /// # Errors
    /// `InvalidArgument` for the path of a field that cannot be changed.
    pub fn from_field_paths<'a>(labels: &Labels, paths: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut update = Self::keep();
        let mut any = false;
        for path in paths {
            any = true;
            if path == "labels" {
                update = Self::replace_all(labels.clone());
            } else if let Some(name) = path.strip_prefix("labels.") {
                update = match labels.get(name).filter(|value| !value.is_empty()) {
                    Some(value) => update.set(name, value),
                    None => update.remove(name),
                };
            } else {
                return Err(Error::new(ErrorKind::InvalidArgument, "update").at(path).because("only labels can be changed"));
            }
        }
        Ok(if any { update } else { Self::replace_all(labels.clone()) })
    }

    /// Changes labels.
    pub(crate) fn apply(&self, labels: &mut Labels) {
        if self.replace {
            labels.clear();
        }
        for name in &self.remove {
            labels.remove(name);
        }
        labels.extend(self.set.clone());
    }
}

impl Store {
    /// Changes labels, and the time of the update with them, nothing else. Durable when it returns.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// use plywood::store::LabelUpdate;
    ///
    /// let info = store.update("web-1", &LabelUpdate::keep().set("owner", "ada"))?;
    /// assert_eq!(info.labels["owner"], "ada");
    /// assert!(info.updated > info.created);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`, `NoSpace`, `Io`.
    pub fn update(&self, name: &str, update: &LabelUpdate) -> Result<Info> {
        verb!("update", key = name).run(|_| self.update_now(name, update))
    }

    fn update_now(&self, name: &str, update: &LabelUpdate) -> Result<Info> {
        self.refuse_read_only("update")?;
        let transaction = self.metadata().write()?;
        let row = transaction.snapshot(name)?.ok_or_else(|| no_snapshot("update", name))?;
        let id = row.id;
        let mut labels = transaction.labels(id)?;
        update.apply(&mut labels);
        transaction.replace_labels(id, &labels)?;
        transaction.touch(id)?;
        let row = transaction.snapshot_by_id(id)?.ok_or_else(|| no_snapshot("update", name))?;
        let info = transaction.info(row)?;
        transaction.commit()?;
        Ok(info)
    }
}
