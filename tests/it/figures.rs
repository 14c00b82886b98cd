//! What `stats` and `disk_usage` say of a store is what the disk says: compared with a walk of the store's directory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use plywood::compression::Compression;
use plywood::content::{Expected, Started};
use plywood::digest::Algorithm;
use plywood::snapshot::{Key, Kind, Name};
use plywood::store::{
    BackendChoice, BlobPolicy, DiskUsage, Filter, Held, ImageSource, ImportLayerOptions, ImportOptions, LayerSource, LeaseOptions,
    Store,
};
use plywood::testing::{Image, Layer};
use plywood::{Context, Parallelism};

use crate::support::{Sandbox, is_root};

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root() } else { Sandbox::user_namespace() }
}

/// Inodes and allocated bytes below a path, each inode once: `du -s --block-size=1`.
fn du(path: &Path) -> (u64, u64) {
    let mut seen = BTreeSet::new();
    let (mut inodes, mut bytes) = (0, 0);
    for entry in walkdir::WalkDir::new(path) {
        let metadata = entry.unwrap().path().symlink_metadata().unwrap();
        if seen.insert((metadata.dev(), metadata.ino())) {
            inodes += 1;
            bytes += metadata.blocks() * 512;
        }
    }
    (inodes, bytes)
}

/// Sum of the sizes of all files below a path.
fn sizes(path: &Path) -> u64 {
    let files = walkdir::WalkDir::new(path).into_iter().map(|entry| entry.unwrap().metadata().unwrap());
    files.filter(fs::Metadata::is_file).map(|metadata| metadata.size()).sum()
}

fn base() -> Layer {
    Layer::new().dir("etc", 0o755).file("etc/motd", vec![b'm'; 100_000]).file("etc/a", "a").file("etc/b", "b")
}

/// Whiteouts are hardlinks of one inode where the backend has them.
fn upper(content: &str) -> Layer {
    Layer::new().file("etc/own", content.repeat(20_000)).whiteout("etc/a").whiteout("etc/b")
}

fn import(store: &Store, directory: &Path, name: &str, image: &Image, blobs: BlobPolicy) {
    let layout = directory.join(name);
    image.write_layout(&layout, name).unwrap();
    store.import(ImageSource::path(layout), &ImportOptions::default().blobs(blobs), &Context::default()).unwrap();
}

fn of<'a>(usage: &'a DiskUsage, reference: &str) -> &'a plywood::store::ImageUsage {
    usage.images.iter().find(|image| image.references.iter().any(|name| name == reference)).unwrap()
}

/// What the figures have to fulfil whatever is in the store.
fn adds_up(store: &Store) -> DiskUsage {
    let (stats, usage) = (store.stats().unwrap(), store.disk_usage().unwrap());
    let sum = |parts: &[Held]| parts.iter().fold(Held::default(), |sum, &held| sum.and(held));
    assert_eq!(sum(&[usage.exclusive, usage.shared, usage.kept, usage.unused]), usage.total);
    assert_eq!(sum(&usage.images.iter().map(|image| image.unique).collect::<Vec<_>>()), usage.exclusive);
    assert_eq!(
        [stats.exclusive, stats.shared, stats.kept, stats.unused, stats.total],
        [usage.exclusive, usage.shared, usage.kept, usage.unused, usage.total]
    );

    // Each tree that something committed stands on, once.
    let trees = store.root().join("trees");
    let numbers = fs::read_dir(&trees).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let measured = store.measure_stats(&Context::default()).unwrap().measured.unwrap();
    let (mut inodes, mut bytes) = (0, 0);
    for number in numbers.filter(|number| number != "0") {
        let fs = trees.join(number).join("fs");
        if fs.exists() {
            let (of_tree, of_bytes) = du(&fs);
            (inodes, bytes) = (inodes + of_tree, bytes + of_bytes);
        }
    }
    let rest = [measured.writable, measured.trash];
    assert_eq!(stats.tree_inodes + rest.iter().map(|usage| usage.inodes).sum::<u64>(), inodes);
    assert_eq!(stats.total.trees + rest.iter().map(|usage| usage.bytes).sum::<u64>(), bytes);
    assert_eq!(stats.total.blobs, sizes(&store.root().join("blobs")), "no blob is in the trash");
    let directory = |path: &Path| path.metadata().unwrap().blocks() * 512;
    let ingest = store.root().join("ingest");
    assert_eq!(stats.ingest_bytes, du(&ingest).1 - directory(&ingest));
    let database: u64 = ["plywood.db", "plywood.db-wal"].iter().map(|name| directory(&store.root().join(name))).sum();
    assert_eq!(stats.database_bytes, database);

    let mut kinds = [0; 3];
    store
        .walk(&Filter::all(), |info| {
            kinds[[Kind::Committed, Kind::Active, Kind::View].iter().position(|kind| *kind == info.kind).unwrap()] += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!([stats.snapshots.committed, stats.snapshots.active, stats.snapshots.view], kinds);
    assert_eq!(stats.references, store.images().unwrap().len() as u64);
    usage
}

#[test]
fn the_figures_are_those_of_the_disk_and_add_up() {
    sandbox().run(|| {
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            let directory = plywood::testing::temporary_directory().unwrap();
            let options = |options: plywood::store::StoreOptions| options.backend(backend.clone()).parallelism(Parallelism::ONE);
            let store = Store::temporary_with(options).unwrap();
            assert_eq!(adds_up(&store).total, Held::default());

            let image = |content: &str| Image::new().layer(base(), Compression::Gzip).layer(upper(content), Compression::None);
            import(&store, directory.path(), "one", &image("1"), BlobPolicy::Keep);
            let alone = adds_up(&store);
            assert_eq!((alone.images.len(), alone.shared), (1, Held::default()));
            assert_eq!(alone.exclusive, of(&alone, "one").unique);

            // A second reference is the same image; a second image shares the lower layer.
            store.tag("one", "again").unwrap();
            assert_eq!(of(&adds_up(&store), "again").references, ["again", "one"]);
            import(&store, directory.path(), "two", &image("2"), BlobPolicy::Drop);
            let both = adds_up(&store);
            let (one, two) = (of(&both, "one"), of(&both, "two"));
            assert_eq!(one.shared.trees, two.shared.trees);
            assert!(one.shared.trees > 100_000 && one.unique.trees > 20_000 && one.layers == 2);
            assert_eq!(both.shared.trees, one.shared.trees, "it counts once");
            assert!(two.unique.blobs < one.unique.blobs, "its layers' blobs were dropped: {two:?}");

            // What only a name or a lease keeps, what only a key will keep, and what nobody keeps.
            let key = |key: &str| Key::new(key).unwrap();
            store.prepare(&key("build"), None, &Default::default()).unwrap();
            write_in(&store, "build", 50_000);
            store.commit(&Name::new("mine").unwrap(), &key("build"), &Default::default()).unwrap();
            let named = adds_up(&store).kept.trees;
            assert!(named > 50_000);
            let layer = |content: &str, lease: Option<&str>| {
                let options = lease.into_iter().fold(ImportLayerOptions::default(), ImportLayerOptions::lease);
                let tar = Layer::new().file("f", content.repeat(30_000)).tar();
                store.import_layer(LayerSource::reader(&tar[..]), &options, &Context::default()).unwrap();
            };
            store.add_lease("keep", &LeaseOptions::default()).unwrap();
            layer("k", Some("keep"));
            layer("x", None);
            let loose = adds_up(&store);
            assert!(loose.kept.trees > named + 30_000 && loose.unused.trees > 30_000, "{loose:?}");
            let top = Name::from(&store.image("one").unwrap().chain_id.unwrap());
            store.prepare(&key("box"), Some(&top), &Default::default()).unwrap();
            write_in(&store, "box", 70_000);
            let running = adds_up(&store);
            assert_eq!(of(&running, "one").unique.trees, 0, "the container stands on it");
            assert_eq!(running.total, loose.total, "what is written is not in it");
            store.view(&key("look"), Some(&top), &Default::default()).unwrap();

            // Removed, and not yet deleted; an ingest that is not finished.
            store.prepare(&key("gone"), None, &Default::default()).unwrap();
            store.remove("gone").unwrap();
            let Started::Ingest(mut ingest) = store.content().start(&Expected::unknown(Algorithm::Sha256)).unwrap() else {
                panic!()
            };
            ingest.write(&[7; 40_000]).unwrap();
            let stats = store.stats().unwrap();
            assert_eq!((stats.ingests, stats.trash.trees), (1, 1));
            assert!(stats.ingest_bytes >= 40_000);
            adds_up(&store);
            ingest.abort().unwrap();

            let before = adds_up(&store);
            let gone = store.gc(&Default::default(), &Context::default()).unwrap();
            let after = adds_up(&store);
            assert_eq!((after.unused, before.unused.blobs), (Held::default(), gone.blob_bytes));
            assert_eq!(after.total.bytes() + before.unused.bytes(), before.total.bytes(), "what nobody holds is what goes");
        }
    });
}

/// Writes a file into a writable snapshot, as a container would.
fn write_in(store: &Store, key: &str, bytes: usize) {
    let target = plywood::testing::temporary_directory().unwrap();
    let mounted = store.mounts(key).unwrap().attach(target.path()).unwrap();
    fs::write(target.path().join("written"), vec![b'w'; bytes]).unwrap();
    // The file system may allocate late.
    fs::File::open(target.path().join("written")).unwrap().sync_all().unwrap();
    mounted.close().unwrap();
}
