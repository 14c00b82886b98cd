//! Images that come in blob by blob: what is needed, in which order it may come, what is refused, and what is left when it stops.

mod hostile;
#[cfg(feature = "cli")]
mod registry;
mod resume;

use std::collections::BTreeMap;
use std::path::Path;

use plywood::compression::Compression;
use plywood::descriptor::Descriptor;
use plywood::digest::Digest;
use plywood::snapshot::{Key, Name};
use plywood::store::{
    BackendChoice, BlobPolicy, CheckOptions, ImageIndex, ImageManifest, ImageSource, ImportOptions, Pull, PullOptions, Store,
    StoreOptions,
};
use plywood::testing::{Image, Layer, Tree};
use plywood::tree::Ids;
use plywood::{Context, ErrorKind, Parallelism, Result};

use crate::support::is_root;

/// A registry's view of an image: documents and blobs by digest.
struct Registry {
    index: ImageIndex,
    index_bytes: Vec<u8>,
    manifest: ImageManifest,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Registry {
    fn new(image: &Image) -> Self {
        let directory = tempfile::tempdir().unwrap();
        image.write_layout(directory.path(), "1").unwrap();
        Self::of_layout(directory.path())
    }

    fn of_layout(directory: &Path) -> Self {
        let files = std::fs::read_dir(directory.join("blobs/sha256")).unwrap().map(|file| file.unwrap().path());
        let blobs = files.map(|path| {
            let digest = format!("sha256:{}", path.file_name().unwrap().to_str().unwrap());
            (digest.parse().unwrap(), std::fs::read(path).unwrap())
        });
        let blobs: BTreeMap<Digest, Vec<u8>> = blobs.collect();
        let index_bytes = std::fs::read(directory.join("index.json")).unwrap();
        let index = ImageIndex::new(index_bytes.clone(), None).unwrap();
        let descriptor = index.choose(None).unwrap();
        let manifest = ImageManifest::of(&descriptor, blobs[&descriptor.digest].clone()).unwrap();
        Self { index, index_bytes, manifest, blobs }
    }

    fn config(&self) -> &[u8] {
        &self.blobs[&self.manifest.config().digest]
    }

    fn blob(&self, descriptor: &Descriptor) -> &[u8] {
        &self.blobs[&descriptor.digest]
    }

    fn begin(&self, store: &Store) -> Result<Pull> {
        self.begin_with(store, &PullOptions::default())
    }

    fn begin_with(&self, store: &Store, options: &PullOptions) -> Result<Pull> {
        store.pull(&self.manifest, self.config(), options, &Context::default())
    }

    /// Pushes one layer, in chunks.
    fn push(&self, pull: &Pull, layer: &Descriptor) -> Result<()> {
        let Some(mut ingest) = pull.ingest(layer, &Context::default())? else { return Ok(()) };
        for chunk in self.blob(layer)[ingest.offset() as usize..].chunks(1000) {
            ingest.write(chunk)?;
        }
        ingest.finish(&Context::default())
    }

    /// Lets one layer be read.
    fn stream(&self, pull: &Pull, layer: &Descriptor) -> Result<()> {
        let cx = Context::default();
        let Some(mut ingest) = pull.ingest(layer, &cx)? else { return Ok(()) };
        ingest.copy_from(&self.blob(layer)[ingest.offset() as usize..], &cx)?;
        ingest.finish(&cx)
    }

    fn layers(&self) -> Vec<Descriptor> {
        self.manifest.layers().cloned().collect()
    }
}

/// Layers that hide, replace, link and imply parents, so that guesses are right for some and wrong for others.
fn image() -> Image {
    let base =
        Layer::new().dir("usr", 0o755).dir("usr/lib", 0o750).file("usr/lib/a", vec![b'a'; 300_000]).symlink("lib", "usr/lib");
    let base = base.dir("srv", 0o700).file("srv/kept", "kept").file("srv/gone", "gone");
    let middle = Layer::new().file("lib/through", "a symlink of the lower tree").whiteout("srv/gone");
    let top = Layer::new().file("srv/new", "its parent is implied").hardlink("usr/linked", "usr/lib/a");
    Image::new().layer(base, Compression::Gzip).layer(middle, Compression::Zstd).layer(top, Compression::None)
}

fn options(root: &Path, backend: BackendChoice) -> StoreOptions {
    StoreOptions::new(root).backend(backend).ids(if is_root() { Ids::Exact } else { Ids::Squash })
}

fn open(root: &Path, backend: BackendChoice) -> Store {
    Store::open_with(&options(root, backend)).unwrap()
}

/// The backends that work here.
fn backends() -> Vec<BackendChoice> {
    if is_root() { vec![BackendChoice::Overlay, BackendChoice::Copy] } else { vec![BackendChoice::Copy] }
}

/// In a store of each backend.
fn on_each_backend(check: impl Fn(&Store)) {
    for backend in backends() {
        let directory = tempfile::tempdir().unwrap();
        check(&open(directory.path(), backend));
    }
}

fn tree_of(store: &Store, name: &str) -> Tree {
    let name = Name::from(&store.image(name).unwrap().chain_id.unwrap());
    let mount = store.view(&Key::new("look").unwrap(), Some(&name), &Default::default()).unwrap();
    let tree = if is_root() {
        let place = tempfile::tempdir().unwrap();
        let mounted = mount.attach(place.path()).unwrap();
        let tree = Tree::read(place.path()).unwrap();
        mounted.close().unwrap();
        tree
    } else {
        Tree::read(mount.source()).unwrap()
    };
    store.remove("look").unwrap();
    tree
}

fn imported(image: &Image) -> (Tree, String) {
    let directory = tempfile::tempdir().unwrap();
    image.write_layout(directory.path().join("image"), "1").unwrap();
    let store = open(&directory.path().join("store"), backends().remove(0));
    let imported = store.import(ImageSource::path(directory.path().join("image")), &ImportOptions::default(), &Context::default());
    (tree_of(&store, "1"), imported.unwrap().image.chain_id.unwrap().to_string())
}

#[test]
fn in_any_order_and_by_any_way_it_is_what_an_import_makes() {
    let (image, cx) = (image(), Context::default());
    let (tree, chain_id) = imported(&image);
    let registry = Registry::new(&image);
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
        for push in [Registry::push, Registry::stream] {
            on_each_backend(|store| {
                let pull = registry.begin_with(store, &PullOptions::default().index(registry.index.clone())).unwrap();
                let layers = registry.layers();
                assert_eq!(pull.missing().len(), 3);
                for (count, index) in order.into_iter().enumerate() {
                    push(&registry, &pull, &layers[index]).unwrap();
                    assert_eq!(pull.missing().len(), 2 - count);
                }
                let pulled = pull.finish("x:1", &cx).unwrap();
                assert_eq!((pulled.unpacked, pulled.lacking.len()), (3, 0), "{order:?} {}", store.backend().name());
                assert_eq!(pulled.image.chain_id.as_ref().unwrap().to_string(), chain_id);
                assert_eq!(
                    (&pulled.image.target, &pulled.image.manifest),
                    (registry.index.descriptor(), registry.manifest.descriptor())
                );
                assert!(store.leases().unwrap().is_empty());
                // All of it is reached, and nothing else is there.
                let outcome = store.gc(&Default::default(), &cx).unwrap();
                assert_eq!((outcome.blobs.len(), outcome.snapshots.len(), outcome.trees), (0, 0, 0));
                assert_eq!(tree_of(store, "x:1"), tree, "{order:?} {}", store.backend().name());
                assert!(store.check(&Default::default(), &cx).unwrap().findings.is_empty());
            });
        }
    }
}

#[test]
fn what_is_known_by_its_chain_id_is_not_needed() {
    let cx = Context::default();
    // The same layers in other blobs, but for the topmost.
    let plain = image().layers().into_iter().fold(Image::new(), |plain, layer| plain.layer(layer, Compression::None));
    on_each_backend(|store| {
        store.import(ImageSource::reader(&plain.docker_archive(&["old:1"])[..]), &ImportOptions::default(), &cx).unwrap();
        let registry = Registry::new(&image());
        let pull = registry.begin(store).unwrap();
        assert_eq!(pull.missing(), []);
        let pulled = pull.finish("new:1", &cx).unwrap();
        assert_eq!((pulled.unpacked, pulled.lacking.len()), (0, 2));
        assert_eq!(store.image("new:1").unwrap().chain_id, store.image("old:1").unwrap().chain_id);
    });
}

#[test]
fn what_another_way_brought_is_found() {
    let (registry, cx) = (Registry::new(&image()), Context::default());
    on_each_backend(|store| {
        let pull = registry.begin(store).unwrap();
        for layer in registry.layers() {
            use plywood::content::{Expected, Started};
            let Started::Ingest(mut ingest) = store.content().start(&Expected::from(&layer)).unwrap() else {
                panic!("it is there")
            };
            ingest.copy_from(registry.blob(&layer), &cx).unwrap();
            ingest.finish().unwrap();
        }
        assert_eq!(pull.missing().len(), 3);
        assert!(pull.ingest(&registry.layers()[1], &cx).unwrap().is_none());
        assert_eq!(pull.missing().len(), 2);
        assert_eq!(pull.finish("x:1", &cx).unwrap().unpacked, 3);
    });
}

#[test]
fn dropped_blobs_are_gone_when_the_image_is_named() {
    let (registry, cx) = (Registry::new(&image()), Context::default());
    on_each_backend(|store| {
        let pull = registry.begin_with(store, &PullOptions::default().blobs(BlobPolicy::Drop)).unwrap();
        registry.layers().iter().for_each(|layer| registry.stream(&pull, layer).unwrap());
        pull.finish("x:1", &cx).unwrap();
        // The copy backend has no trees of the lower ones yet.
        let kept = if store.backend().is_whole() { 2 } else { 0 };
        for (index, layer) in registry.layers().iter().enumerate() {
            assert_eq!(store.content().blob(&layer.digest).unwrap().is_some(), index < kept);
        }
        assert!(store.content().blob(&registry.manifest.descriptor().digest).unwrap().is_some());
    });
}

/// How many trees have bytes.
fn trees(store: &Store) -> usize {
    let trees = std::fs::read_dir(store.root().join("trees")).unwrap();
    trees.filter(|tree| tree.as_ref().unwrap().path().join("fs").exists()).count()
}

#[test]
fn copies_are_made_of_the_topmost_layer_alone() {
    let (tree, _) = imported(&image());
    let (registry, cx) = (Registry::new(&image()), Context::default());
    for (order, stops_after) in [([0, 1, 2], 9), ([2, 1, 0], 9), ([1, 0, 2], 2), ([0, 2, 1], 1)] {
        for parallelism in [Parallelism::ONE, Parallelism::new(3)] {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open_with(&options(directory.path(), BackendChoice::Copy).parallelism(parallelism)).unwrap();
            let mut pull = registry.begin(&store).unwrap();
            for (count, layer) in order.into_iter().enumerate() {
                if count == stops_after {
                    drop(pull);
                    assert_eq!(trees(&store), 0, "what has no name yet is gone");
                    assert!(store.check(&CheckOptions::default().full(), &cx).unwrap().is_sound());
                    assert_eq!(store.gc(&Default::default(), &cx).unwrap().blobs.len(), 0);
                    pull = registry.begin(&store).unwrap();
                }
                registry.stream(&pull, &registry.layers()[layer]).unwrap();
            }
            pull.finish("x:1", &cx).unwrap();
            assert_eq!(trees(&store), 1, "{order:?}");
            let outcome = store.check(&CheckOptions::default().full(), &cx).unwrap();
            assert_eq!((outcome.findings.len(), outcome.unproven), (0, 0), "{outcome:?}");
            plywood::testing::tree::assert_same_tree(&tree, &tree_of(&store, "x:1"));
            let layers = image().layers();
            let lower = Image::new().layer(layers[0].clone(), Compression::Gzip).layer(layers[1].clone(), Compression::Zstd);
            assert_eq!(Registry::new(&lower).begin(&store).unwrap().finish("lower:1", &cx).unwrap().unpacked, 0);
            assert_eq!(trees(&store), 2, "an image's topmost layer is asked for");
        }
    }
}

#[test]
fn many_threads_bring_many_layers() {
    let layers = (0..24).map(|number| Layer::new().file(format!("d{number}/f"), vec![number; 50_000]).file("same", [number]));
    let image = layers.enumerate().fold(Image::new(), |image, (number, layer)| {
        image.layer(layer, if number % 2 == 0 { Compression::Gzip } else { Compression::Zstd })
    });
    let (tree, _) = imported(&image);
    let registry = Registry::new(&image);
    for parallelism in [Parallelism::ONE, Parallelism::new(4)] {
        for backend in backends() {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open_with(&options(directory.path(), backend).parallelism(parallelism)).unwrap();
            let pull = registry.begin(&store).unwrap();
            let (layers, pull_ref) = (registry.layers(), &pull);
            std::thread::scope(|scope| {
                for thread in 0..6 {
                    let mine: Vec<_> = layers.iter().skip(thread).step_by(6).rev().collect();
                    let registry = &registry;
                    scope.spawn(move || {
                        for (at, layer) in mine.into_iter().enumerate() {
                            if at % 2 == 0 { registry.push(pull_ref, layer) } else { registry.stream(pull_ref, layer) }.unwrap();
                        }
                    });
                }
            });
            assert_eq!(pull.finish("x:1", &Context::default()).unwrap().unpacked, 24);
            assert_eq!(tree_of(&store, "x:1"), tree);
        }
    }
}

#[test]
fn one_image_is_pulled_once_by_however_many() {
    let registry = Registry::new(&image());
    on_each_backend(|store| {
        let unpacked = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|number| {
                    let (store, registry) = (store.clone(), &registry);
                    scope.spawn(move || {
                        let pull = registry.begin(&store).unwrap();
                        registry.layers().iter().rev().for_each(|layer| registry.stream(&pull, layer).unwrap());
                        pull.finish(&format!("x:{number}"), &Context::default()).unwrap().unpacked
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(unpacked.iter().sum::<usize>(), 3, "{unpacked:?}");
        assert_eq!(store.images().unwrap().len(), 4);
    });
}

#[test]
fn whoever_waits_for_another_pull_can_be_told_to_stop() {
    struct Stop;
    impl plywood::progress::Progress for Stop {
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let registry = Registry::new(&image());
    on_each_backend(|store| {
        let pull = registry.begin(store).unwrap();
        let stopped = store.pull(&registry.manifest, registry.config(), &PullOptions::default(), &Context::new(&Stop));
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
        drop(pull);
        drop(registry.begin(store).unwrap());
    });
}
