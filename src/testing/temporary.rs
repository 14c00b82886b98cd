//! Stores that go with their test.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::store::{Store, StoreOptions};
use crate::sys::inode;
use crate::tree::Ids;

/// A directory that is deleted when this is dropped, with all that a container may have left in it.
#[derive(Debug)]
#[must_use = "the directory is deleted when this is dropped"]
pub struct TemporaryDirectory(Option<TempDir>);

/// A store in a temporary directory, where the system keeps such (`TMPDIR`, else `/tmp`). It is a [`Store`] by deref; the directory is
/// deleted when this is dropped, so drop mounts of its snapshots before it.
///
/// ```
/// use plywood::snapshot::Key;
/// use plywood::store::Store;
///
/// let store = Store::temporary()?;
/// store.prepare(&Key::new("web-1")?, None, &Default::default())?;
/// assert_eq!(store.stat("web-1")?.parent, None);
/// # Ok::<_, plywood::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the store is deleted when this is dropped"]
pub struct TemporaryStore {
    store: Store,
    // After the store: it is dropped last.
    _directory: TemporaryDirectory,
}

impl Store {
    /// A store for one test, with whatever backend works here. Where this process cannot give files away (an ordinary user outside a user
    /// namespace), owners are squashed. Feature `testing`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn temporary() -> Result<TemporaryStore> {
        Self::temporary_with(|options| options)
    }

    /// A store for one test, with other options than by default.
    ///
    /// ```
    /// use plywood::store::{BackendChoice, Store};
    ///
    /// let store = Store::temporary_with(|options| options.backend(BackendChoice::Copy))?;
    /// assert_eq!(store.backend().name(), "copy");
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn temporary_with(change: impl FnOnce(StoreOptions) -> StoreOptions) -> Result<TemporaryStore> {
        Self::temporary_in(std::env::temp_dir(), |_, options| Ok(change(options)))
    }

    /// A store in a new directory within `place`. `change` also learns of a path beside the store, where nothing is: a place for the
    /// trees of a backend of one's own.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with), and those of `change`.
    pub fn temporary_in(
        place: impl AsRef<Path>,
        change: impl FnOnce(&Path, StoreOptions) -> Result<StoreOptions>,
    ) -> Result<TemporaryStore> {
        let directory = new_directory(place.as_ref())?;
        let mut options = StoreOptions::new(directory.path().join("store"));
        if !inode::may_give_away() {
            options.ids = Ids::Squash;
        }
        let options = change(&directory.path().join("trees"), options)?;
        Ok(TemporaryStore { store: Self::open_with(&options)?, _directory: directory })
    }
}

impl Deref for TemporaryStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// A [temporary store](Store::temporary) as a plain [`Store`] and the directory that it stands in.
///
/// # Errors
/// As [`Store::open`].
pub fn temporary_store() -> Result<(Store, TemporaryDirectory)> {
    let TemporaryStore { store, _directory } = Store::temporary()?;
    Ok((store, _directory))
}

/// A new directory, 0700, where the system keeps such.
///
/// # Errors
/// Those of making it.
pub fn temporary_directory() -> Result<TemporaryDirectory> {
    new_directory(&std::env::temp_dir())
}

fn new_directory(place: &Path) -> Result<TemporaryDirectory> {
    let directory = tempfile::Builder::new().prefix("plywood-").tempdir_in(place);
    Ok(TemporaryDirectory(Some(directory.map_err(|error| Error::io("make temporary directory", error))?)))
}

impl TemporaryDirectory {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("it is there until it is dropped").path()
    }
}

impl AsRef<Path> for TemporaryDirectory {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let Some(directory) = self.0.take() else { return };
        let path: PathBuf = directory.path().to_owned();
        if directory.close().is_err() {
            // A container's directories may be closed to their owner: each is opened before it is looked into.
            let mut folders = vec![path.clone()];
            while let Some(folder) = folders.pop() {
                drop(fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)));
                let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
                folders.extend(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
            }
            drop(fs::remove_dir_all(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::snapshot::{Key, Name};
    use crate::store::{BackendChoice, LayerSource};
    use crate::sys::test_support::Child;
    use crate::testing::Layer;

    /// What somebody can do whose files are his own, whoever runs the tests.
    fn as_an_ordinary_user(work: impl FnOnce()) {
        let child = Child { user: Some(12_345), sub_ids: None };
        child.run(|| Ok(work()).map(|()| String::new())).unwrap();
    }

    #[test]
    fn an_ordinary_users_snapshots_are_his_own_and_a_new_one_changes_nothing() {
        as_an_ordinary_user(|| {
            let cx = crate::Context::default();
            let store = Store::temporary_with(|options| options.backend(BackendChoice::Copy)).unwrap();
            let tar = Layer::new().file("a/b", "of root").tar();
            let layer = store.import_layer(LayerSource::reader(&tar[..]), &Default::default(), &cx).unwrap();
            for (key, parent) in [("alone", None), ("above", Some(Name::from(&layer.chain_id)))] {
                let mount = store.prepare(&Key::new(key).unwrap(), parent.as_ref(), &Default::default()).unwrap();
                // Over nothing the root directory itself is the change: it should be root's.
                let mut changed = 0;
                store.changes(key, &cx, |_| Ok(changed += 1)).unwrap();
                assert_eq!(changed, usize::from(parent.is_none()));
                fs::write(mount.source().join("new"), "").unwrap();
                store.commit(&Name::new(format!("{key}-1")).unwrap(), &Key::new(key).unwrap(), &Default::default()).unwrap();
                store.diff(&format!("{key}-1"), std::io::sink(), &Default::default(), &cx).unwrap();
            }
        });
    }

    #[test]
    fn an_ordinary_user_who_keeps_owners_is_told_that_he_cannot() {
        as_an_ordinary_user(|| {
            let exact = |options: StoreOptions| options.backend(BackendChoice::Copy).ids(Ids::Exact);
            let store = Store::temporary_with(exact).unwrap();
            let error = store.prepare(&Key::new("web").unwrap(), None, &Default::default()).unwrap_err();
            assert_eq!((error.kind(), error.op()), (ErrorKind::IdNotMapped, "create tree"));
            let tar = Layer::new().tar();
            let error = store.import_layer(LayerSource::reader(&tar[..]), &Default::default(), &Default::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::IdNotMapped);
            assert_eq!(fs::read_dir(store.root().join("trees")).unwrap().count(), 0);
        });
    }

    #[test]
    fn a_directory_goes_with_closed_ones_in_it() {
        let directory = temporary_directory().unwrap();
        let path = directory.path().to_owned();
        fs::create_dir_all(path.join("a/b/c")).unwrap();
        for closed in ["a/b/c", "a/b", "a"] {
            fs::set_permissions(path.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        drop(directory);
        assert!(!path.exists());
    }
}
