//! The store's behaviour, on a backend whose trees are plain directories of files.

mod collection;
mod crashes;
mod fake;
#[cfg(feature = "testing")]
mod id_maps;
#[cfg(feature = "testing")]
mod id_shift;
mod leases;
mod opening;
mod processes;
#[cfg(feature = "testing")]
mod races;
mod real;
#[cfg(feature = "testing")]
mod report;
mod snapshots;

use std::sync::Arc;

use super::*;
use crate::digest::{ChainId, DiffId};
use crate::error::Result;
use crate::metadata::{LeaseId, NewLayer, SnapshotRow, Survives, Unpacked};
use crate::snapshot::{Key, Kind, Labels, Name, Usage};
use crate::tree::Applied;
use fake::Fake;

/// A store in a directory that goes with it.
struct Scratch {
    store: Store,
    fake: Arc<Fake>,
    directory: tempfile::TempDir,
}

impl std::ops::Deref for Scratch {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::new(&directory.path().join("store")));
        let store = open(&directory, &fake).unwrap();
        Self { store, fake, directory }
    }

    /// The same store once more, as another process would open it.
    fn again(&self) -> Store {
        open(&self.directory, &self.fake).unwrap()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("store").join(name)
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(directory)) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn prepare(&self, key: &str, parent: Option<&str>) -> Result<()> {
        let parent = parent.map(|parent| self.store.resolve(parent).unwrap());
        self.store.prepare(&Key::new(key)?, parent.as_ref(), &PrepareOptions::default()).map(drop)
    }

    fn view(&self, key: &str, parent: Option<&str>) -> Result<()> {
        let parent = parent.map(|parent| self.store.resolve(parent).unwrap());
        self.store.view(&Key::new(key)?, parent.as_ref(), &PrepareOptions::default()).map(drop)
    }

    fn commit(&self, name: &str, key: &str) -> Result<crate::snapshot::Info> {
        self.store.commit(&Name::new(name)?, &Key::new(key)?, &CommitOptions::default())
    }

    /// A Committed snapshot of this name.
    fn base(&self, name: &str, parent: Option<&str>) {
        self.prepare("to be committed", parent).unwrap();
        self.commit(name, "to be committed").unwrap();
    }

    /// A layer as an import commits it; its chain id.
    fn layer(&self, parent: Option<&ChainId>, content: &str) -> ChainId {
        self.layer_with(parent, content, |_| {})
    }

    fn layer_with(&self, parent: Option<&ChainId>, content: &str, change: impl FnOnce(&mut Applied)) -> ChainId {
        let lease = self.store.lease().unwrap();
        let row = self.layer_under(lease.id(), parent, content, change);
        lease.release().unwrap();
        row.chain_id.unwrap()
    }

    fn layer_under(
        &self,
        lease: LeaseId,
        parent: Option<&ChainId>,
        content: &str,
        change: impl FnOnce(&mut Applied),
    ) -> SnapshotRow {
        let diff_id = diff_id(content);
        let mut applied = Applied::new(Usage::new(1, content.len() as u64));
        change(&mut applied);
        let transaction = self.metadata().write_to_survive(Survives::Process).unwrap();
        let tree = transaction.allocate_tree(lease, "fake").unwrap();
        transaction.commit().unwrap();
        if !applied.empty {
            self.fake.fill(tree, content);
        }
        let transaction = self.metadata().write_to_survive(Survives::Process).unwrap();
        transaction.finish_tree(tree, lease, &Unpacked { diff_id: &diff_id, ids: Ids::Exact, applied: &applied }).unwrap();
        let parent = parent.map(|parent| transaction.layer(parent).unwrap().unwrap());
        let row = transaction
            .insert_layer(&NewLayer { parent: parent.as_ref(), diff_id: &diff_id, tree, root: None, labels: &Labels::new() })
            .unwrap();
        transaction.lease_snapshot(lease, row.id).unwrap();
        transaction.commit().unwrap();
        row
    }
}

fn open(directory: &tempfile::TempDir, fake: &Arc<Fake>) -> Result<Store> {
    let backend: Arc<dyn Backend> = Arc::<Fake>::clone(fake);
    Store::open_with(&StoreOptions::new(directory.path().join("store")).backend(BackendChoice::Custom(backend)))
}

fn diff_id(content: &str) -> DiffId {
    DiffId(crate::digest::Algorithm::Sha256.digest(content.as_bytes()))
}

fn kind_of<T: fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}
