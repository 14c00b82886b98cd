//! A file system that fills up in the middle of a verb: `NoSpace`, nothing left of it, and the next try succeeds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use plywood::compression::Compression;
use plywood::snapshot::{Key, Kind, Name};
use plywood::store::{
    BackendChoice, ExportOptions, ImageSource, ImportLayerOptions, ImportOptions, LayerSource, Store, StoreOptions,
};
use plywood::testing::{Image, Layer};
use plywood::{Context, ErrorKind, Result};

use crate::support::work::chain;
use crate::support::{Disk, Sandbox};

/// Takes all of a file system but so many bytes. Gives it back when it is dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn leaving(directory: &Path, bytes: u64) -> Self {
        let path = directory.join("ballast");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        file.sync_all().unwrap();
        let length = file.metadata().unwrap().len().saturating_sub(bytes);
        file.set_len(length).unwrap();
        file.sync_all().unwrap();
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// Every file of a store but its database and what serves that, with its size.
fn files(root: &Path) -> BTreeMap<PathBuf, u64> {
    let walk = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.unwrap());
    let all = walk.map(|entry| (entry.path().strip_prefix(root).unwrap().to_owned(), fs::symlink_metadata(entry.path()).unwrap()));
    // Directories grow by blocks, and stay so.
    let sized = all.map(|(path, stat)| (path, if stat.is_dir() { 0 } else { stat.size() }));
    let is_own = |path: &Path| {
        ["reserve", "locks", "plywood.db", "plywood.db-wal", "plywood.db-shm"].iter().any(|name| path.starts_with(name))
    };
    // Of a commit that fails, `work` comes back with the next mount.
    sized.filter(|(path, _)| !is_own(path) && !path.ends_with("work")).collect()
}

fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn large() -> Layer {
    (0..40).fold(Layer::new().dir("large", 0o755), |layer, file| layer.file(format!("large/{file}"), noise(20_000 + file)))
}

/// Does a thing with less and less room. Each time it succeeds, or fails with `NoSpace` and leaves the store as it was; then with room
/// enough it succeeds. `ready` makes what it needs while there is room, `undo` takes away what a success has made.
fn with_less_and_less_room(
    (root, disk): (&Path, &Path),
    what: &str,
    ready: impl Fn(&Store),
    work: impl Fn(&Store) -> Result<()>,
    undo: impl Fn(&Store),
) {
    let mut failures = 0;
    for room in [2_000_000, 1_300_000, 900_000, 500_000, 200_000, 60_000, 16_000, 4096, 0] {
        let store = Store::open(root).unwrap();
        store.gc(&Default::default(), &Context::default()).unwrap();
        ready(&store);
        let before = files(root);
        let ballast = Ballast::leaving(disk, room);
        let done = work(&store);
        if let Err(error) = &done {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{what} with {room}: {}", chain(error));
            assert_eq!(files(root), before, "{what} with {room}: {}", chain(error));
            failures += 1;
        }
        drop(ballast);
        if done.is_err() {
            // What was to be committed can be gone on with.
            if store.stat("key").is_ok() {
                drop(store.mounts("key").unwrap().detached().unwrap());
            }
            work(&store).unwrap_or_else(|error| panic!("{what} after {room}: {}", chain(&error)));
        }
        undo(&store);
    }
    println!("{what}: {failures} failures");
    assert!(failures > 0, "{what} always found room");
}

fn fill(backend: &BackendChoice) {
    let disk = std::env::temp_dir();
    let root = disk.join("store");
    let layouts = Path::new("/mnt/layouts");
    let base = Layer::new().dir("etc", 0o755).file("etc/a", noise(150_000));
    let small = Image::new().layer(base.clone(), Compression::None);
    small.write_layout(layouts.join("small"), "latest").unwrap();
    Image::new()
        .layer(base, Compression::None)
        .layer(large(), Compression::Gzip)
        .write_layout(layouts.join("large"), "latest")
        .unwrap();
    let store = Store::open_with(&StoreOptions::new(&root).backend(backend.clone())).unwrap();
    let import = |store: &Store, name: &str| {
        let options = ImportOptions::default().reference(name);
        store.import(ImageSource::path(layouts.join(name)), &options, &Context::default()).map(drop)
    };
    import(&store, "small").unwrap();
    drop(store);

    let collect = |store: &Store| drop(store.gc(&Default::default(), &Context::default()).unwrap());
    let at = (&*root, &*disk);
    let undo = |store: &Store| {
        store.untag("large").unwrap();
        collect(store);
    };
    with_less_and_less_room(at, "import", |_| {}, |store| import(store, "large"), undo);
    let tar = large().tar();
    let onto = |store: &Store| {
        let options = ImportLayerOptions::default().parent(small.chain_id().unwrap().to_string());
        store.import_layer(LayerSource::reader(tar.as_slice()), &options, &Context::default()).map(drop)
    };
    with_less_and_less_room(at, "import layer", |_| {}, onto, collect);
    let (key, name) = (Key::new("key").unwrap(), Name::new("name").unwrap());
    let parent = Name::from(&small.chain_id().unwrap());
    let prepare = |store: &Store| store.prepare(&key, Some(&parent), &Default::default()).map(drop);
    with_less_and_less_room(at, "prepare", |_| {}, prepare, |store| store.remove("key").unwrap());
    let commit = |store: &Store| {
        let done = store.commit(&name, &key, &Default::default()).map(drop);
        if done.is_ok() {
            return Ok(());
        }
        assert_eq!(store.stat("key").unwrap().kind, Kind::Active);
        done
    };
    let ready = |store: &Store| prepare(store).unwrap();
    with_less_and_less_room(at, "commit", ready, commit, |store| store.remove("name").unwrap());

    // Whoever exports to a full disk is told so, and the layout stays what it was.
    let store = Store::open(&root).unwrap();
    import(&store, "large").unwrap();
    let layout = disk.join("layout");
    let export = |what: &str| store.export(what, &layout, &ExportOptions::default(), &Context::default()).map(drop);
    export("small").unwrap();
    let index = fs::read(layout.join("index.json")).unwrap();
    let ballast = Ballast::leaving(&disk, 8192);
    let error = export("large").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", chain(&error));
    assert_eq!(fs::read(layout.join("index.json")).unwrap(), index);
    drop(ballast);
    export("large").unwrap();
    fs::remove_dir_all(&layout).unwrap();

    // Room can be made on a disk that has none, by whoever opens the store then.
    drop(store);
    let ballast = Ballast::leaving(&disk, 0);
    let store = Store::open(&root).unwrap_or_else(|error| panic!("{}", chain(&error)));
    store.untag("large").unwrap_or_else(|error| panic!("{}", chain(&error)));
    store.gc(&Default::default(), &Context::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
    drop(ballast);
    drop(store);
    fs::remove_dir_all(&root).unwrap();
    fs::remove_dir_all(layouts).unwrap();
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    Sandbox::root().disk(Disk::SmallExt4(16 << 20)).run(|| {
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            fill(&backend);
        }
    });
}
