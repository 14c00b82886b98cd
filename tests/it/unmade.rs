//! Images on the copy backend: the import makes the topmost tree alone, and those below it are made when somebody asks for them.

use std::fs;
use std::path::{Path, PathBuf};

use plywood::compression::Compression;
use plywood::digest::Digest;
use plywood::snapshot::{Key, Name};
use plywood::store::{
    BackendChoice, BlobPolicy, CheckOptions, CheckOutcome, Damage, ImageSource, ImportLayerOptions, ImportOptions, Imported,
    LayerSource, Remedy, Store, StoreOptions,
};
use plywood::testing::tree::assert_same_tree;
use plywood::testing::{Image, Layer, Tree, model};
use plywood::tree::Ids;
use plywood::{Context, ErrorKind, Parallelism};

use crate::support::{Disk, Sandbox, is_root};

/// Markers of both kinds, links and implied parents that lead into the layers below, a layer that changes nothing but the root.
fn layers() -> Vec<Layer> {
    let base = Layer::new().dir("", 0o755).dir("etc", 0o2750).mtime(7, 8).dir("usr/lib", 0o755).symlink("lib", "usr/lib");
    let base = base.file("etc/old", "old").file("etc/3", "3").hardlink("etc/three", "etc/3").file("gone/one/deep", "1");
    let middle = Layer::new().file("lib/new", "through the symlink").whiteout("etc/old").hardlink("linked", "etc/3");
    let middle = middle.opaque("gone").file("gone/two", [&[0; 100_000][..], b"end"].concat()).file("usr/lib", "now a file");
    let root = Layer::new().dir("", 0o711).mtime(5, 6);
    let top = Layer::new().dir("usr", 0o500).file("usr/bin/run", "run").mode(0o4755).xattr("user.kind", "program").whiteout("lib");
    vec![base, middle, root, top]
}

fn image_of(layers: &[Layer]) -> Image {
    layers.iter().fold(Image::new(), |image, layer| image.layer(layer.clone(), Compression::Gzip))
}

struct Scene {
    store: Store,
    layers: Vec<Layer>,
    directory: tempfile::TempDir,
}

impl Scene {
    /// A store with the image `app`.
    fn new(blobs: BlobPolicy) -> Self {
        Self::with(blobs, Parallelism::default())
    }

    fn with(blobs: BlobPolicy, parallelism: Parallelism) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(directory.path().join("store")).backend(BackendChoice::Copy).parallelism(parallelism);
        let scene = Self { store: Store::open_with(&options).unwrap(), layers: layers(), directory };
        assert_eq!(scene.import("app", &scene.layers, blobs).unpacked, 4);
        assert_eq!(scene.trees(), 1);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn import(&self, reference: &str, layers: &[Layer], blobs: BlobPolicy) -> Imported {
        let layout = self.path(reference);
        image_of(layers).write_layout(&layout, "latest").unwrap();
        let options = ImportOptions::default().reference(reference).blobs(blobs);
        let imported = self.store.import(ImageSource::path(&layout), &options, &Context::default());
        fs::remove_dir_all(layout).unwrap();
        imported.unwrap()
    }

    /// The stack of the lowest layers.
    fn name(&self, count: usize) -> Name {
        Name::from(&image_of(&self.layers[..count]).chain_id().unwrap())
    }

    fn fold(&self, count: usize) -> Tree {
        model::fold(&self.layers[..count]).unwrap()
    }

    /// How many trees have bytes.
    fn trees(&self) -> usize {
        let trees = fs::read_dir(self.path("store/trees")).unwrap();
        trees.filter(|tree| tree.as_ref().unwrap().path().join("fs").exists()).count()
    }

    fn blobs_of_layers(&self) -> Vec<bool> {
        let image = self.store.image("app").unwrap();
        image.layers.iter().map(|layer| self.store.content().blob(&layer.descriptor.digest).unwrap().is_some()).collect()
    }

    fn blob(&self, layer: usize) -> PathBuf {
        let digest: Digest = self.store.image("app").unwrap().layers[layer].descriptor.digest.clone();
        self.path("store/blobs/sha256").join(digest.to_hex())
    }

    /// What a container on the lowest layers sees.
    fn assert_seen(&self, count: usize) {
        let key = Key::new("look").unwrap();
        let mount = self.store.prepare(&key, Some(&self.name(count)), &Default::default()).unwrap();
        assert_same_tree(&self.fold(count), &Tree::read(mount.source()).unwrap());
        self.store.remove("look").unwrap();
        self.store.empty_trash(&Context::default()).unwrap();
    }

    fn check(&self, options: CheckOptions) -> CheckOutcome {
        self.store.check(&options, &Context::default()).unwrap()
    }

    #[track_caller]
    fn assert_sound(&self) {
        let outcome = self.check(CheckOptions::default());
        assert!(outcome.is_sound(), "{:?}", outcome.findings);
        let outcome = self.check(CheckOptions::default().full());
        assert_eq!((outcome.findings.len(), outcome.unproven), (0, 0), "{outcome:?}");
    }

    fn gc(&self) -> plywood::store::GcOutcome {
        self.store.gc(&Default::default(), &Context::default()).unwrap()
    }
}

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root().disk(Disk::Ext4) } else { Sandbox::user_namespace() }
}

#[test]
fn an_import_makes_one_tree_and_each_other_one_is_made_when_it_is_asked_for() {
    sandbox().run(|| {
        for (parallelism, order) in [(Parallelism::ONE, [1, 2, 3, 4]), (Parallelism::default(), [2, 4, 1, 3])] {
            let scene = Scene::with(BlobPolicy::Keep, parallelism);
            let taken: Vec<u64> = (1..=4).map(|count| scene.store.usage(scene.name(count).as_str()).unwrap().inodes).collect();
            assert_eq!((taken[0], taken[1], taken[2]), (0, 0, 0), "{taken:?}");
            assert!(taken[3] > 5, "{taken:?}");
            scene.assert_sound();
            for count in order {
                scene.assert_seen(count);
                scene.assert_sound();
                assert!(scene.store.usage(scene.name(count).as_str()).unwrap().inodes > 0 || count == 3);
            }
            // The third layer has no tree of its own.
            assert_eq!(scene.trees(), 3);
            (1..=4).for_each(|count| scene.assert_seen(count));
            assert_eq!(scene.trees(), 3, "each is made once");
            assert_eq!((scene.gc().trees, scene.trees()), (0, 3));
        }
    });
}

/// Asks for the two lowest layers in some way.
type Ask = fn(&Scene);

#[test]
fn whoever_looks_at_a_layer_in_the_middle_finds_it() {
    let asks: [(&str, usize, Ask); 8] = [
        ("view", 2, |scene| {
            let mount = scene.store.view(&Key::new("view").unwrap(), Some(&scene.name(2)), &Default::default()).unwrap();
            assert_same_tree(&scene.fold(2), &Tree::read(mount.source()).unwrap());
        }),
        ("read", 2, |scene| {
            let root = scene.store.open_root(scene.name(2).as_str()).unwrap();
            let names: Vec<_> = root.read_dir("gone").unwrap().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["two"]);
        }),
        // It is compared with the layer below, which is made, too.
        ("diff", 3, |scene| {
            let mut layer = Vec::new();
            let outcome = scene.store.diff(scene.name(2).as_str(), &mut layer, &Default::default(), &Context::default()).unwrap();
            let source = LayerSource::reader(layer.as_slice());
            let options = ImportLayerOptions::default().parent(scene.name(1).as_str()).diff_id(outcome.diff_id);
            let again = scene.store.import_layer(source, &options, &Context::default()).unwrap();
            let mount = scene.store.view(&Key::new("again").unwrap(), Some(&Name::from(&again.chain_id)), &Default::default());
            assert_same_tree(&scene.fold(2), &Tree::read(mount.unwrap().source()).unwrap());
            scene.store.remove("again").unwrap();
            scene.store.remove(&again.chain_id.to_string()).unwrap();
            scene.gc();
        }),
        ("changes", 3, |scene| {
            let mut paths = Vec::new();
            let visit = |changed: plywood::store::Changed| {
                paths.push(changed.path.to_string());
                Ok(())
            };
            scene.store.changes(scene.name(2).as_str(), &Context::default(), visit).unwrap();
            assert!(paths.contains(&"etc/old".to_owned()) && !paths.contains(&"lib".to_owned()), "{paths:?}");
        }),
        ("import of a layer on it", 3, |scene| {
            let tar = Layer::new().file("more", "more").tar();
            let options = ImportLayerOptions::default().parent(scene.name(2).as_str());
            scene.store.import_layer(LayerSource::reader(tar.as_slice()), &options, &Context::default()).unwrap();
        }),
        ("import of another image on it", 3, |scene| {
            let other = [&scene.layers[..2], &[Layer::new().file("more", "more").whiteout("linked")]].concat();
            assert_eq!(scene.import("other", &other, BlobPolicy::Keep).unpacked, 1);
            let key = Key::new("other").unwrap();
            let mount = scene.store.prepare(&key, Some(&scene.store.resolve("other").unwrap()), &Default::default()).unwrap();
            assert_same_tree(&model::fold(&other).unwrap(), &Tree::read(mount.source()).unwrap());
            scene.store.remove("other").unwrap();
            scene.store.empty_trash(&Context::default()).unwrap();
        }),
        ("import of the image that it is", 2, |scene| {
            assert_eq!(scene.import("lower", &scene.layers[..2], BlobPolicy::Keep).unpacked, 0);
        }),
        ("export", 1, |scene| {
            let exported =
                scene.store.export(scene.name(2).as_str(), &scene.path("out"), &Default::default(), &Context::default()).unwrap();
            assert_eq!(exported.layers.len(), 2, "their blobs are there");
        }),
    ];
    sandbox().run(|| {
        for (what, trees, ask) in asks {
            let scene = Scene::new(BlobPolicy::Keep);
            ask(&scene);
            assert_eq!(scene.trees(), trees, "{what}");
            let outcome = scene.check(CheckOptions::default().full());
            assert!(outcome.is_sound(), "{what}: {:?}", outcome.findings);
            (1..=4).for_each(|count| scene.assert_seen(count));
        }
    });
}

#[test]
fn blobs_of_what_is_not_made_stay_until_it_is() {
    sandbox().run(|| {
        let scene = Scene::new(BlobPolicy::Drop);
        scene.gc();
        assert_eq!(scene.blobs_of_layers(), [true, true, false, false], "two are to be unpacked again");
        scene.assert_sound();
        scene.assert_seen(2);
        scene.gc();
        assert_eq!(scene.blobs_of_layers(), [true, false, false, false]);
        scene.assert_seen(1);
        assert_eq!(scene.gc().blobs.len(), 1);
        assert_eq!(scene.blobs_of_layers(), [false; 4]);
        scene.assert_sound();
        // What goes takes its blobs along.
        let scene = Scene::new(BlobPolicy::Drop);
        scene.store.untag("app").unwrap();
        let outcome = scene.gc();
        assert_eq!((outcome.snapshots.len(), outcome.trees), (4, 1));
        assert!(fs::read_dir(scene.path("store/blobs/sha256")).unwrap().next().is_none());
    });
}

/// Nothing gives the second layer any more, and it is told; the image brings it back.
fn lose_a_blob(lose: impl Fn(&Path), full: bool) {
    let scene = Scene::new(BlobPolicy::Keep);
    lose(&scene.blob(1));
    let error = scene.store.prepare(&Key::new("early").unwrap(), Some(&scene.name(2)), &Default::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert_eq!(scene.trees(), 1, "and nothing is left");
    let options = if full { CheckOptions::default().full() } else { CheckOptions::default() };
    let outcome = scene.check(options.clone().repair());
    let unmade: Vec<_> = outcome.findings.iter().filter(|finding| finding.damage == Damage::NoLayer).collect();
    assert_eq!(unmade.len(), 1, "{outcome:?}");
    assert!(matches!(&unmade[0].remedy, Remedy::Stays { hint } if hint.contains("import app again")), "{unmade:?}");
    assert!(unmade[0].images.contains(&"app".to_owned()), "{unmade:?}");
    let error = scene.store.prepare(&Key::new("late").unwrap(), Some(&scene.name(2)), &Default::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    scene.assert_seen(1);
    // What is there is not hurt by what is not; only a check's word for it is.
    scene.import("app", &scene.layers, BlobPolicy::Keep);
    scene.gc();
    scene.assert_sound();
    (1..=4).for_each(|count| scene.assert_seen(count));
}

#[test]
fn a_layer_that_no_blob_gives_is_found_and_comes_back_with_the_image() {
    sandbox().run(|| {
        for full in [false, true] {
            lose_a_blob(|blob| fs::remove_file(blob).unwrap(), full);
            lose_a_blob(|blob| fs::write(blob, "short").unwrap(), full);
        }
        lose_a_blob(
            |blob| {
                let mut bytes = fs::read(blob).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x55;
                fs::write(blob, bytes).unwrap();
            },
            true,
        );
    });
}

#[test]
fn a_damaged_tree_is_made_anew_and_those_below_it_are_left_unmade() {
    sandbox().run(|| {
        let scene = Scene::new(BlobPolicy::Keep);
        let tree = fs::read_dir(scene.path("store/trees")).unwrap().next().unwrap().unwrap().path();
        fs::write(tree.join("fs/etc/three"), "rotten").unwrap();
        let outcome = scene.check(CheckOptions::default().full().repair());
        assert!(outcome.is_sound() && !outcome.findings.is_empty(), "{outcome:?}");
        scene.gc();
        assert_eq!(scene.trees(), 1);
        scene.assert_sound();
        scene.assert_seen(4);
    });
}

#[test]
fn of_many_who_ask_at_once_one_makes_it() {
    sandbox().run(|| {
        let scene = Scene::new(BlobPolicy::Keep);
        let name = scene.name(2);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (store, name) = (scene.store.clone(), &name);
                scope.spawn(move || {
                    store.view(&Key::new(format!("view-{number}")).unwrap(), Some(name), &Default::default()).unwrap();
                });
            }
        });
        assert_eq!(scene.trees(), 2);
        scene.assert_sound();
    });
}

/// Directories into which their owner, who has no privileges, may not write: they are changed and moved all the same.
#[test]
fn what_is_closed_to_its_owner_is_merged_all_the_same() {
    Sandbox::user().run(|| {
        let closed = Layer::new()
            .dir("closed", 0o500)
            .mtime(3, 4)
            .file("closed/a", "a")
            .dir("closed/kept", 0o500)
            .file("closed/kept/x", "x");
        let base = closed.dir("read", 0o500).file("read/old", "old").dir("read/sub", 0o500).file("read/sub/deep", "deep");
        let next = Layer::new().file("closed/b", "b").whiteout("read/old").dir("read/moved", 0o500).dir("read/moved/sub", 0o500);
        let next = next
            .file("read/moved/sub/y", "y")
            .hardlink("linked", "read/sub/deep")
            .dir("closed/kept", 0o511)
            .file("closed/kept/z", "z");
        let last = Layer::new().whiteout("closed").file("read/sub/more", "more").opaque("read/moved").dir("read/moved", 0o550);
        let layers = [base, next, last];
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(directory.path().join("store")).backend(BackendChoice::Copy).ids(Ids::Squash);
        for parallelism in [Parallelism::ONE, Parallelism::default()] {
            let store = Store::open_with(&options.clone().parallelism(parallelism)).unwrap();
            let cx = Context::default();
            image_of(&layers).write_layout(directory.path().join("layout"), "latest").unwrap();
            store
                .import(ImageSource::path(directory.path().join("layout")), &ImportOptions::default().reference("app"), &cx)
                .unwrap();
            for count in [2, 1, 3] {
                let outcome = store.check(&CheckOptions::default().full(), &cx).unwrap();
                assert_eq!((outcome.findings.len(), outcome.unproven), (0, 0), "{outcome:?}");
                let name = Name::from(&image_of(&layers[..count]).chain_id().unwrap());
                let root = store.open_root(name.as_str()).unwrap();
                let mode = root.metadata("read").unwrap().mode;
                assert_eq!(mode, 0o500);
                let names: Vec<_> = root.read_dir("read").unwrap().into_iter().map(|(name, _)| name).collect();
                assert_eq!(names, [&["old", "sub"][..], &["moved", "sub"], &["moved", "sub"]][count - 1]);
            }
            store.untag("app").unwrap();
            store.gc(&Default::default(), &cx).unwrap();
        }
    });
}

/// To what a layer changes alone such a marker belongs, and in a whole tree nothing of it shows.
#[test]
fn a_marker_that_hides_nothing_is_no_damage() {
    sandbox().run(|| {
        let scene = Scene::new(BlobPolicy::Keep);
        let layers = [Layer::new().dir("a/b", 0o755), Layer::new().opaque("a/b"), Layer::new().file("c", "c")];
        for count in 1..=3 {
            scene.import(&format!("image-{count}"), &layers[..count], BlobPolicy::Keep);
            scene.assert_sound();
        }
    });
}
