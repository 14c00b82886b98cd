//! Images whose layers' blobs were dropped once they were unpacked: they run, they are diffed and exported, and a full check judges them.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use plywood::Context;
use plywood::compression::Compression;
use plywood::digest::Digest;
use plywood::snapshot::{Key, Name};
use plywood::store::{
    BackendChoice, BlobPolicy, CheckOptions, CheckOutcome, ExportOptions, ImageSource, ImportOptions, Imported, Remedy, Store,
    StoreOptions,
};
use plywood::testing::{Image, Layer, Tree, model};

use crate::support::{Disk, Sandbox, is_root};

/// Two layers with all that a manifest has to say, implicit parents and a link into the layer below included.
fn image() -> Image {
    let base =
        Layer::new().dir("", 0o755).dir("etc", 0o755).dir("usr/lib", 0o2755).symlink("lib", "usr/lib").file("etc/old", "old");
    let base = base.file("usr/lib/so", vec![7; 70_000]).mode(0o4755).xattr("user.kind", "library").hardlink("so.1", "usr/lib/so");
    let base = base.fifo("usr/fifo").file("gone/one", "1").file("etc/3", "3");
    let top = Layer::new().file("lib/new", "through the symlink").mtime(1_600_000_000, 123_456_789).whiteout("etc/old");
    let top = top.opaque("gone").hardlink("linked", "etc/3").file("gone/two", [&[0; 100_000][..], b"end"].concat());
    Image::new().env("A=b").layer(base, Compression::Gzip).layer(top, Compression::Zstd)
}

/// How many layers' blobs stay until their trees are made: on the copy backend that of the lower layer.
fn unmade(store: &Store) -> usize {
    usize::from(store.backend().name() == "copy")
}

struct Scene {
    store: Store,
    image: Image,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(backend: BackendChoice) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(directory.path().join("store")).backend(backend);
        let scene = Self { store: Store::open_with(&options).unwrap(), image: image(), directory };
        scene.image.write_layout(scene.path("layout"), "latest").unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn import(&self, reference: &str, blobs: BlobPolicy) -> Imported {
        let options = ImportOptions::default().reference(reference).blobs(blobs);
        self.store.import(ImageSource::path(self.path("layout")), &options, &Context::default()).unwrap()
    }

    /// Digests of the layers' blobs that are in the store.
    fn kept(&self) -> usize {
        let image = self.store.image("app").unwrap();
        image.layers.iter().filter(|layer| self.store.content().blob(&layer.descriptor.digest).unwrap().is_some()).count()
    }

    fn check(&self) -> CheckOutcome {
        self.store.check(&CheckOptions::default().full(), &Context::default()).unwrap()
    }

    fn gc(&self) -> plywood::store::GcOutcome {
        self.store.gc(&Default::default(), &Context::default()).unwrap()
    }
}

/// What a container sees of the image `app`.
fn assert_seen(store: &Store, image: &Image) {
    let name = store.resolve("app").unwrap();
    let key = Key::new("look").unwrap();
    let mount = store.view(&key, Some(&name), &Default::default()).unwrap().detached().unwrap();
    let found = Tree::read(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd())).unwrap();
    plywood::testing::tree::assert_same_tree(&model::fold(&image.layers()).unwrap(), &found);
    drop(mount);
    store.remove(key.as_str()).unwrap();
}

fn find(directory: &Path, name: &str) -> PathBuf {
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == name {
                return path;
            }
            if path.symlink_metadata().unwrap().is_dir() {
                todo.push(path);
            }
        }
    }
    panic!("{name} is nowhere");
}

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root().disk(Disk::Ext4) } else { Sandbox::user_namespace() }
}

fn on_both(work: impl Fn(BackendChoice)) {
    [BackendChoice::Overlay, BackendChoice::Copy].into_iter().for_each(work);
}

#[test]
fn layers_without_blobs_run_are_judged_and_go() {
    sandbox().run(|| {
        on_both(|backend| {
            let scene = Scene::new(backend);
            scene.import("app", BlobPolicy::Drop);
            let unmade = unmade(&scene.store);
            assert_eq!(scene.kept(), unmade);
            scene.gc();
            assert_seen(&scene.store, &scene.image);
            let outcome = scene.check();
            assert_eq!((outcome.findings.len(), outcome.compared, outcome.unproven), (0, outcome.trees, 0), "{outcome:?}");
            // Unpacked in this store, as another one would be imported beside it; nothing is made twice.
            assert_eq!(scene.import("again", BlobPolicy::Drop).unpacked, 0);
            assert_eq!(scene.kept(), unmade);
            scene.store.untag("again").unwrap();

            // A byte that rots is found by the manifest alone, and nothing here can mend it.
            let rotten = find(&scene.path("store/trees"), "two");
            let times = rotten.metadata().unwrap();
            let file = fs::OpenOptions::new().write(true).open(&rotten).unwrap();
            file.write_all_at(b"x", 5000).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH
                + std::time::Duration::new(times.mtime().try_into().unwrap(), times.mtime_nsec().try_into().unwrap());
            file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
            let outcome = scene.store.check(&CheckOptions::default().full().repair(), &Context::default()).unwrap();
            let finding = outcome.findings.iter().find(|finding| finding.path == rotten).unwrap_or_else(|| panic!("{outcome:?}"));
            assert!(matches!(&finding.remedy, Remedy::Stays { hint } if hint.contains("import app again")), "{finding:?}");
            scene.import("app", BlobPolicy::Drop);
            assert_eq!(scene.check().findings.len(), 0);
            assert_seen(&scene.store, &scene.image);

            // The manifests go with the trees.
            scene.store.untag("app").unwrap();
            scene.gc();
            assert!(fs::read_dir(scene.path("store/blobs/sha256")).unwrap().next().is_none());
        });
    });
}

#[test]
fn an_image_without_blobs_is_exported_from_its_trees_and_says_so() {
    sandbox().run(|| {
        on_both(|backend| {
            let scene = Scene::new(backend.clone());
            let imported = scene.import("app", BlobPolicy::Drop).image;
            let exported = scene.store.export("app", &scene.path("out"), &ExportOptions::default(), &Context::default()).unwrap();
            let dropped: Vec<_> = exported.remade.iter().map(|remade| remade.dropped.clone()).collect();
            assert_eq!(dropped, digests(&imported)[unmade(&scene.store)..]);
            assert_ne!(exported.manifest.digest, imported.manifest.digest);

            let options = StoreOptions::new(scene.path("second")).backend(backend);
            let second = Store::open_with(&options).unwrap();
            let options = ImportOptions::default().reference("app");
            let again = second.import(ImageSource::path(scene.path("out")), &options, &Context::default()).unwrap().image;
            assert_seen(&second, &scene.image);
            assert_eq!(again.config.env(), ["A=b"]);
            // What plywood wrote it writes again: also the image that lost its blobs.
            let diff_ids = |image: &plywood::store::Image| image.config.diff_ids().to_vec();
            let dropped = ImportOptions::default().reference("app").blobs(BlobPolicy::Drop);
            second.import(ImageSource::path(scene.path("out")), &dropped, &Context::default()).unwrap();
            second.gc(&Default::default(), &Context::default()).unwrap();
            let exported = second.export("app", &scene.path("third"), &ExportOptions::default(), &Context::default()).unwrap();
            assert_eq!((exported.manifest.digest, exported.remade), (again.manifest.digest.clone(), Vec::new()));
            assert_eq!(diff_ids(&again), diff_ids(&second.image("app").unwrap()));

            // A container on top of it.
            let key = Key::new("box").unwrap();
            scene.store.prepare(&key, Some(&scene.store.resolve("app").unwrap()), &Default::default()).unwrap();
            scene.store.commit(&Name::new("app:2").unwrap(), &key, &Default::default()).unwrap();
            let exported =
                scene.store.export("app:2", &scene.path("fourth"), &ExportOptions::default(), &Context::default()).unwrap();
            let remade = 2 - unmade(&scene.store);
            assert_eq!((exported.layers.len(), exported.remade.len(), exported.base.as_deref()), (3, remade, Some("app")));
        });
    });
}

#[test]
fn blobs_that_another_image_keeps_stay_and_those_that_are_wanted_come_back() {
    sandbox().run(|| {
        on_both(|backend| {
            let scene = Scene::new(backend);
            let kept = scene.import("kept", BlobPolicy::Keep).image;
            scene.import("app", BlobPolicy::Drop);
            assert_eq!(scene.kept(), 2);
            scene.store.untag("kept").unwrap();
            let unmade = unmade(&scene.store);
            assert_eq!(scene.gc().blobs.len(), 2 - unmade);
            assert_eq!(scene.kept(), unmade);
            scene.import("app", BlobPolicy::Keep);
            assert_eq!(scene.kept(), 2);
            let exported = scene.store.export("app", &scene.path("out"), &ExportOptions::default(), &Context::default()).unwrap();
            assert_eq!((exported.manifest.digest, exported.remade.len()), (kept.manifest.digest, 0));
            assert_eq!(scene.check().findings.len(), 0);
        });
    });
}

/// Takes blobs out of a layout.
fn take_out(layout: &Path, digests: &[Digest]) {
    for digest in digests {
        fs::remove_file(layout.join("blobs/sha256").join(digest.to_hex())).unwrap();
    }
}

fn digests(image: &plywood::store::Image) -> Vec<Digest> {
    image.layers.iter().map(|layer| layer.descriptor.digest.clone()).collect()
}

#[test]
fn a_source_may_lack_the_blobs_of_layers_that_are_here() {
    sandbox().run(|| {
        on_both(|backend| {
            let scene = Scene::new(backend);
            let first = digests(&scene.import("first", BlobPolicy::Drop).image);
            scene.gc();
            take_out(&scene.path("layout"), &first);
            let imported = scene.import("app", BlobPolicy::Keep);
            let unmade = unmade(&scene.store);
            assert_eq!((imported.unpacked, &imported.lacking[..]), (0, &first[unmade..]));
            scene.store.untag("first").unwrap();
            scene.gc();
            assert_seen(&scene.store, &scene.image);
            let outcome = scene.check();
            assert_eq!((outcome.findings.len(), outcome.unproven), (0, 0), "{outcome:?}");
            let exported = scene.store.export("app", &scene.path("out"), &ExportOptions::default(), &Context::default()).unwrap();
            assert_eq!(exported.remade.len(), 2 - unmade);

            // Another image on the same layers brings its own alone.
            let larger = scene.image.clone().layer(Layer::new().dir("", 0o755).file("more", "more"), Compression::Gzip);
            larger.write_layout(scene.path("larger"), "latest").unwrap();
            take_out(&scene.path("larger"), &first);
            let options = ImportOptions::default().reference("app");
            let imported = scene.store.import(ImageSource::path(scene.path("larger")), &options, &Context::default()).unwrap();
            assert_eq!((imported.unpacked, &imported.lacking[..]), (1, &first[unmade..]));
            scene.gc();
            assert_seen(&scene.store, &larger);
            assert_eq!((scene.kept(), scene.check().findings.len()), (1 + unmade, 0));
        });
    });
}

#[test]
fn a_blob_that_is_needed_or_that_nobody_has_read_is_named() {
    sandbox().run(|| {
        on_both(|backend| {
            let scene = Scene::new(backend);
            let known = digests(&scene.import("app", BlobPolicy::Drop).image);
            let refused = |layout: &str, blob: &Digest| {
                take_out(&scene.path(layout), std::slice::from_ref(blob));
                let before = names(&scene.store);
                let options = ImportOptions::default().reference("other");
                let error = scene.store.import(ImageSource::path(scene.path(layout)), &options, &Context::default()).unwrap_err();
                assert_eq!(error.kind(), plywood::ErrorKind::NotFound, "{error:?}");
                assert_eq!(error.path(), Some(Path::new(&blob.to_string())), "{error:?}");
                assert_eq!(names(&scene.store), before);
                scene.gc();
                assert_eq!(scene.check().findings.len(), 0);
            };

            // The upper layer on layers that say something else of its implied parents: its tree cannot stand there.
            let base = Layer::new().dir("", 0o755).dir("lib", 0o700).dir("etc", 0o700).file("etc/3", "another");
            let top = scene.image.layers()[1].clone();
            Image::new()
                .layer(base, Compression::Gzip)
                .layer(top, Compression::Zstd)
                .write_layout(scene.path("base"), "latest")
                .unwrap();
            refused("base", &known[1]);

            // The same layer in another blob, which this image alone calls by the layer's diff id.
            let layers = scene.image.layers().to_vec();
            let again =
                Image::new().env("A=b").layer(layers[0].clone(), Compression::None).layer(layers[1].clone(), Compression::Zstd);
            again.write_layout(scene.path("again"), "latest").unwrap();
            let second = Store::open(scene.path("second")).unwrap();
            let unknown = second.import(ImageSource::path(scene.path("again")), &Default::default(), &Context::default()).unwrap();
            refused("again", &digests(&unknown.image)[0]);
        });
    });
}

/// Of all snapshots and images.
fn names(store: &Store) -> Vec<String> {
    let mut all: Vec<String> = store.images().unwrap().into_iter().map(|image| image.reference).collect();
    store
        .walk(&plywood::store::Filter::all(), |info| {
            all.push(info.name);
            Ok(())
        })
        .unwrap();
    all
}
