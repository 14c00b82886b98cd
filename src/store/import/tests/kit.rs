//! Images and layouts as values, a store over a backend that unpacks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::backend::{Backend, Frozen, Roots};
use crate::compression::{Compression, Encoder};
use crate::descriptor::{Descriptor, MediaType};
use crate::digest::{Algorithm, DiffId, Digest};
use crate::entry::{Attributes, Change, Entry, EntrySink, EntryStream, Node, Status};
use crate::error::Result;
use crate::mount::{Base, Mount};
use crate::path::EntryPath;
use crate::progress::Context;
use crate::snapshot::Usage;
use crate::store::{BackendChoice, ImageSource, ImportOptions, Imported, Store, StoreOptions};
use crate::tree::{Access, Answer, Applied, Ids, Question, TreeId};

/// Reads layers to their end and remembers which trees there are. A tree's own changes are one file named after its number.
#[derive(Debug, Default)]
pub(super) struct Drain {
    trees: Mutex<BTreeSet<TreeId>>,
    applied: Mutex<usize>,
}

impl Drain {
    /// How many layers were unpacked.
    pub(super) fn applied(&self) -> usize {
        *self.applied.lock().unwrap()
    }
}

impl Backend for Drain {
    fn name(&self) -> &'static str {
        "drain"
    }

    fn longest_chain(&self) -> usize {
        4
    }

    fn create(&self, tree: TreeId, _: &[TreeId], _: &Attributes) -> Result<()> {
        self.trees.lock().unwrap().insert(tree);
        Ok(())
    }

    fn apply(&self, tree: TreeId, _: &[TreeId], layer: &mut dyn EntryStream, _: Ids, _: &Context<'_>) -> Result<Applied> {
        let mut empty = true;
        while layer.next()?.is_some() {
            empty = false;
        }
        *self.applied.lock().unwrap() += 1;
        self.trees.lock().unwrap().insert(tree);
        let mut applied = Applied::new(Usage::new(1, 512));
        applied.empty = empty;
        Ok(applied)
    }

    fn answer(&self, _: &[TreeId], _: &[Question]) -> Result<Vec<Answer>> {
        Ok(Vec::new())
    }

    fn shares_trees(&self) -> bool {
        false
    }

    fn diff(&self, tree: TreeId, _: &[TreeId], _: Roots<'_>, out: &mut dyn EntrySink, _: &Context<'_>) -> Result<()> {
        let path = EntryPath::parse(format!("tree-{tree}")).unwrap();
        let change = Change::Upsert { node: Node::File { size: 2 }, attributes: Attributes::implied() };
        out.entry(&Entry { path, change }, Status::Added)?;
        out.data(b"ok")
    }

    fn mount(&self, _: TreeId, _: &[TreeId], access: Access) -> Result<Mount> {
        Ok(Mount::bind(Base::open("/")?, EntryPath::ROOT, access))
    }

    fn commit(&self, _: TreeId) -> Result<Frozen> {
        Ok(Frozen::new(Usage::new(1, 512), Attributes::implied()))
    }

    fn usage(&self, _: TreeId) -> Result<Usage> {
        Ok(Usage::new(1, 512))
    }

    fn remove(&self, tree: TreeId) -> Result<()> {
        self.trees.lock().unwrap().remove(&tree);
        Ok(())
    }
}

/// A store in a directory of its own.
pub(super) struct Home {
    pub(super) directory: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) backend: Arc<Drain>,
}

impl Home {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let backend = Arc::new(Drain::default());
        let options = StoreOptions::new(directory.path().join("store")).backend(BackendChoice::Custom(backend.clone()));
        Self { store: Store::open_with(&options).unwrap(), directory, backend }
    }

    pub(super) fn import(&self, layout: &Layout) -> Result<Imported> {
        self.import_with(layout, &ImportOptions::default())
    }

    pub(super) fn import_with(&self, layout: &Layout, options: &ImportOptions) -> Result<Imported> {
        self.store.import(ImageSource::path(layout.write()), options, &Context::default())
    }

    /// Nothing is left of whatever was tried.
    #[track_caller]
    pub(super) fn assert_empty(&self) {
        let reader = self.store.metadata().read().unwrap();
        assert!(reader.images().unwrap().is_empty(), "images");
        assert!(reader.snapshots(&Default::default()).unwrap().is_empty(), "snapshots");
        assert!(reader.unused_blobs().unwrap().is_empty() && reader.trash(9).unwrap().is_empty(), "rows");
        assert!(reader.known_trees().unwrap().is_empty(), "rows of trees");
        assert!(self.backend.trees.lock().unwrap().is_empty(), "trees");
        assert!(self.store.content().blobs().unwrap().is_empty(), "blobs");
        let ingests = std::fs::read_dir(self.directory.path().join("store/ingest")).unwrap();
        assert_eq!(ingests.count(), 0, "ingests");
    }
}

/// One layer of a [`TestImage`].
#[derive(Clone)]
pub(super) struct TestLayer {
    pub(super) tar: Vec<u8>,
    pub(super) blob: Vec<u8>,
    pub(super) descriptor: Value,
}

/// An image, whose parts can be spoilt before it is laid out.
#[derive(Clone)]
pub(super) struct TestImage {
    pub(super) layers: Vec<TestLayer>,
    pub(super) config: Value,
    pub(super) manifest: Value,
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

pub(super) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!(Descriptor::new(media_type, digest(bytes), bytes.len() as u64))
}

/// A tar of these files.
pub(super) fn tar_of<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(super) fn pack(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), compression, None).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer with one file of this name.
pub(super) fn layer_tar(name: &str) -> Vec<u8> {
    tar_of([(name, name.as_bytes())])
}

impl TestImage {
    /// An image of one layer for each name, gzipped.
    pub(super) fn new(names: &[&str]) -> Self {
        let layers: Vec<TestLayer> = names
            .iter()
            .map(|name| {
                let tar = layer_tar(name);
                let blob = pack(&tar, Compression::Gzip);
                TestLayer { tar, blob, descriptor: json!({ "mediaType": MediaType::LAYER_GZIP }) }
            })
            .collect();
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| DiffId(digest(&layer.tar))).collect();
        let config = json!({
            "created": "2026-01-01T00:00:00Z", "os": "linux", "architecture": "amd64",
            "config": { "Env": ["A=b"], "Cmd": ["/bin/sh"], "User": "nobody", "Labels": { "x": "y" } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
        });
        let manifest = json!({ "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "annotations": { "note": "kept" } });
        Self { layers, config, manifest }
    }

    /// Puts the image's blobs into a layout, and gives the descriptor of its manifest.
    pub(super) fn add_to(&self, layout: &mut Layout) -> Value {
        let mut manifest = self.manifest.clone();
        let config = layout.add(self.config.to_string().as_bytes());
        if manifest.get("config").is_none() {
            manifest["config"] = json!({ "mediaType": MediaType::CONFIG, "digest": config.0, "size": config.1 });
        }
        if manifest.get("layers").is_none() {
            let layers = self.layers.iter().map(|layer| {
                let (digest, size) = layout.add(&layer.blob);
                let mut descriptor = layer.descriptor.clone();
                for (key, value) in [("digest", json!(digest)), ("size", json!(size))] {
                    descriptor.as_object_mut().unwrap().entry(key).or_insert(value);
                }
                descriptor
            });
            manifest["layers"] = layers.collect();
        }
        let bytes = manifest.to_string();
        layout.add(bytes.as_bytes());
        descriptor(MediaType::MANIFEST, bytes.as_bytes())
    }

    /// A layout that holds this image under this name.
    pub(super) fn layout(&self, name: &str) -> Layout {
        let mut layout = Layout::new();
        let mut entry = self.add_to(&mut layout);
        if !name.is_empty() {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        layout.set_index(vec![entry]);
        layout
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Forward,
    Backward,
}

/// An OCI image layout, as its files.
#[derive(Clone)]
pub(super) struct Layout {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    directory: Arc<tempfile::TempDir>,
}

impl Layout {
    pub(super) fn new() -> Self {
        let files = BTreeMap::from([("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())]);
        Self { files, directory: Arc::new(tempfile::tempdir().unwrap()) }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) -> (Digest, usize) {
        let digest = digest(bytes);
        self.files.insert(format!("blobs/sha256/{}", digest.to_hex()), bytes.to_vec());
        (digest, bytes.len())
    }

    pub(super) fn set_index(&mut self, manifests: Vec<Value>) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        self.files.insert("index.json".to_owned(), index.to_string().into_bytes());
    }

    pub(super) fn digests(&self) -> Vec<Digest> {
        self.files.keys().filter_map(|name| format!("sha256:{}", name.strip_prefix("blobs/sha256/")?).parse().ok()).collect()
    }

    pub(super) fn blob(&self, digest: &Digest) -> &Vec<u8> {
        &self.files[&format!("blobs/sha256/{}", digest.to_hex())]
    }

    /// Writes the layout as a directory.
    pub(super) fn write(&self) -> PathBuf {
        let root = self.directory.path().to_owned();
        for (name, bytes) in &self.files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        root
    }

    pub(super) fn tar(&self, order: Order) -> Vec<u8> {
        let files = self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        match order {
            Order::Forward => tar_of(files),
            Order::Backward => tar_of(files.rev()),
        }
    }
}
