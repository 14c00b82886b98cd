//! The way through a [`Store`]: layers imported one on the other, the last one mounted.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::compression::Compression;
use crate::error::{Error, Result};
use crate::mount::Mounted;
use crate::progress::Context;
use crate::snapshot::{Key, Name};
use crate::store::{ImageSource, ImportLayerOptions, ImportOptions, LayerSource, Store};
use crate::testing::temporary::temporary_directory;
use crate::testing::{Image, Layer};
use crate::tree::Access;

/// A mounted snapshot of a store, which goes when this is dropped.
#[derive(Debug)]
#[must_use = "the snapshot is unmounted and removed when this is dropped"]
pub struct Shown {
    mounted: Option<Mounted>,
    store: Store,
    key: Key,
}

impl Shown {
    /// The snapshot's key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Takes the mount away and keeps the snapshot.
    ///
    /// # Errors
    /// Those of unmounting.
    pub fn unmount(&mut self) -> Result<()> {
        self.mounted.take().map_or(Ok(()), Mounted::close)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.mounted.take());
        drop(self.store.remove(self.key.as_str()));
    }
}

/// Imports layers, bottom first, and gives the name under which the last one is committed; none for no layers.
///
/// # Errors
/// As [`Store::import_layer`].
pub fn import_layers(store: &Store, layers: &[Layer]) -> Result<Option<Name>> {
    layers.iter().try_fold(None, |parent, layer| import_onto(store, parent.as_ref(), layer.tar().as_slice()).map(Some))
}

/// Imports layers, bottom first, as one image, and gives the name under which the last one is committed; none for no layers.
///
/// # Errors
/// As [`Store::import`].
pub fn import_image(store: &Store, layers: &[Layer]) -> Result<Option<Name>> {
    let directory = temporary_directory()?;
    let image = layers.iter().fold(Image::new(), |image, layer| image.layer(layer.clone(), Compression::Gzip));
    image.write_layout(directory.path(), "image").map_err(|error| Error::io("write layout", error))?;
    let options = ImportOptions::default().reference("image");
    let imported = store.import(ImageSource::path(directory.path()), &options, &Context::default())?;
    Ok(imported.image.layers.last().map(|layer| Name::from(&layer.chain_id)))
}

/// Imports one layer onto a committed parent.
///
/// # Errors
/// As [`Store::import_layer`].
pub fn import_onto(store: &Store, parent: Option<&Name>, layer: impl Read) -> Result<Name> {
    let options = ImportLayerOptions { parent: parent.map(|name| name.as_str().to_owned()), ..Default::default() };
    let imported = store.import_layer(LayerSource::reader(layer), &options, &Context::default())?;
    Ok(Name::from(&imported.chain_id))
}

/// Mounts a committed snapshot at a directory, as a View or as an Active snapshot under a key of its own.
///
/// # Errors
/// As [`Store::view`], [`Store::prepare`] and [`Mount::attach`](crate::mount::Mount::attach).
pub fn show(store: &Store, parent: Option<&Name>, at: &Path, access: Access) -> Result<Shown> {
    static SHOWN: AtomicU64 = AtomicU64::new(0);
    let key = Key::new(format!("shown-{}", SHOWN.fetch_add(1, Ordering::Relaxed)))?;
    let mount = match access {
        Access::ReadOnly => store.view(&key, parent, &Default::default())?,
        Access::ReadWrite => store.prepare(&key, parent, &Default::default())?,
    };
    let mut shown = Shown { mounted: None, store: store.clone(), key };
    shown.mounted = Some(mount.attach(at)?);
    Ok(shown)
}

/// An unpacker for [`conformance`](super::conformance): layers go through this store, and the tree is seen through its mount.
pub fn through_store(store: &Store, access: Access) -> impl Fn(&[Layer], &Path) -> Result<Shown> {
    let store = store.clone();
    move |layers, at| show(&store, import_layers(&store, layers)?.as_ref(), at, access)
}
