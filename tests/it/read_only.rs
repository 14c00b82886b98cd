//! Stores that cannot be written: on read-only file systems, through read-only mounts beside a writer, and in directories that are closed
//! to the process. What is committed is read, mounted, diffed, exported and checked; what would change something says why it cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use plywood::compression::Compression;
use plywood::mount::Mount;
use plywood::snapshot::{Key, Name};
use plywood::store::{
    BackendChoice, CheckOptions, ExportOptions, Filter, ImageSource, ImportLayerOptions, ImportOptions, LabelUpdate, LayerSource,
    LeaseOptions, Store, StoreOptions,
};
use plywood::testing::{Image, Layer, Tree};
use plywood::tree::Ids;
use plywood::{Context, ErrorKind, Result};

use crate::support::{Disk, Sandbox, Tool, is_root, require};

/// On the sandbox's disk; for an ordinary user, who has none, in a directory of his own.
fn path(name: &str) -> PathBuf {
    static OWN: OnceLock<PathBuf> = OnceLock::new();
    let place = if is_root() { std::env::temp_dir() } else { OWN.get_or_init(|| tempfile::tempdir().unwrap().keep()).clone() };
    place.join(name)
}

fn options(backend: &BackendChoice) -> StoreOptions {
    let options = StoreOptions::new(path("store")).backend(backend.clone());
    if is_root() { options } else { options.ids(Ids::Squash) }
}

/// What a store holds, to be found again.
struct Made {
    bottom: Name,
    /// Of both layers, and of the snapshot that was committed on them.
    diffs: Vec<(String, Vec<u8>)>,
    /// As a view shows it; `None` where nothing can be mounted.
    seen: Option<Tree>,
}

fn diff(store: &Store, name: &str) -> Vec<u8> {
    let mut layer = Vec::new();
    store.diff(name, &mut layer, &Default::default(), &Context::default()).unwrap();
    layer
}

fn seen(mount: &Mount) -> Option<Tree> {
    // Not on the disk, which may be read-only.
    let target = tempfile::tempdir_in("/tmp").unwrap();
    let mounted = match mount.attach(target.path()) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !is_root() => return None,
        attached => attached.unwrap(),
    };
    let tree = Tree::read(target.path()).unwrap();
    mounted.close().unwrap();
    Some(tree)
}

fn make(backend: &BackendChoice) -> Made {
    let cx = Context::default();
    let store = Store::open_with(&options(backend)).unwrap();
    let import = |layer: Layer, parent: Option<&Name>| {
        let tar = layer.tar();
        let mut options = ImportLayerOptions::default();
        if let Some(parent) = parent {
            options = options.parent(parent.as_str());
        }
        Name::from(&store.import_layer(LayerSource::reader(&tar[..]), &options, &cx).unwrap().chain_id)
    };
    let bottom =
        import(Layer::new().dir("", 0o710).mtime(1_000_000, 5).dir("etc", 0o755).file("etc/motd", "hello").file("gone", ""), None);
    let top = import(Layer::new().whiteout("gone").file("etc/new", "new").symlink("link", "/etc/motd"), Some(&bottom));
    store.prepare(&Key::new("build").unwrap(), Some(&top), &Default::default()).unwrap();
    let work = Name::new("work").unwrap();
    store.commit(&work, &Key::new("build").unwrap(), &Default::default()).unwrap();
    let view = store.view(&Key::new("look").unwrap(), Some(&top), &Default::default()).unwrap();
    store.prepare(&Key::new("box").unwrap(), Some(&work), &Default::default()).unwrap();
    let names = [bottom.as_str(), top.as_str(), "work", "box"];
    let diffs = names.map(|name| (name.to_owned(), diff(&store, name))).to_vec();
    let seen = seen(&view);
    Made { bottom, diffs, seen }
}

/// All that can be done with what `make` made, and what cannot.
fn use_it(made: &Made, backend: &BackendChoice, reason: &str) {
    let cx = Context::default();
    let store = Store::open_with(&StoreOptions::new(path("store"))).unwrap();
    assert!(store.read_only_reason().is_some_and(|found| found.contains(reason)), "{:?}", store.read_only_reason());
    for (name, layer) in &made.diffs {
        assert!(diff(&store, name) == *layer, "{name}");
    }
    let top = &made.diffs[1].0;
    for name in ["look", "work", top] {
        assert_eq!(std::io::read_to_string(store.open_file(name, "link").unwrap()).unwrap(), "hello");
        assert_eq!(
            store.read_dir(name, "/").unwrap().iter().map(|(name, _)| name.to_str().unwrap()).collect::<Vec<_>>(),
            ["etc", "link"]
        );
    }
    assert!(store.open_root(made.bottom.as_str()).unwrap().metadata("gone").is_ok());
    let mut count = 0;
    let counted = store.walk(&Filter::all(), |_| {
        count += 1;
        Ok(())
    });
    counted.unwrap();
    assert_eq!(count, 5);
    assert_eq!(seen(&store.mounts("look").unwrap()), made.seen);
    let bare = store.mount_committed(top);
    if matches!(backend, BackendChoice::Overlay) {
        let bare = bare.unwrap();
        assert_eq!(seen(&bare), made.seen, "its root too");
        assert_eq!(bare.options().unwrap_err().kind(), ErrorKind::Unsupported);
        // A single layer, below a root of its own.
        assert!(seen(&store.mount_committed(made.bottom.as_str()).unwrap()).unwrap().get("gone").is_some());
    } else {
        assert_eq!(seen(&bare.unwrap()), made.seen);
    }
    let layout = tempfile::tempdir_in("/tmp").unwrap();
    store.export("work", layout.path(), &ExportOptions::default(), &cx).unwrap();
    for options in [CheckOptions::default(), CheckOptions::default().full()] {
        let outcome = store.check(&options, &cx).unwrap();
        assert!(outcome.is_sound(), "{:?}", outcome.findings);
    }

    let key = Key::new("new").unwrap();
    let name = Name::new("new").unwrap();
    let tar = Layer::new().file("x", "").tar();
    let imported = || store.import_layer(LayerSource::reader(&tar[..]), &Default::default(), &cx).map(drop);
    let refused: [(&str, Result<()>); 10] = [
        ("prepare", store.prepare(&key, Some(&made.bottom), &Default::default()).map(drop)),
        ("view", store.view(&key, Some(&made.bottom), &Default::default()).map(drop)),
        ("commit", store.commit(&name, &Key::new("box").unwrap(), &Default::default()).map(drop)),
        ("mounts", store.mounts("box").map(drop)),
        ("remove", store.remove("box")),
        ("import_layer", imported()),
        ("update", store.update("work", &LabelUpdate::keep().set("a", "b")).map(drop)),
        ("add_lease", store.add_lease("l", &LeaseOptions::default()).map(drop)),
        ("gc", store.gc(&Default::default(), &cx).map(drop)),
        ("repair", store.check(&CheckOptions::default().repair(), &cx).map(drop)),
    ];
    for (verb, refused) in refused {
        let error = refused.expect_err(verb);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{verb}");
        assert!(
            error.reason().is_some_and(|text| text.starts_with("the store is read-only: ") && text.contains(reason)),
            "{verb}: {error}"
        );
        assert!(error.hint().is_some() && error.path().is_some(), "{verb}");
    }
    // Several of one process, at once.
    let again = Store::open(path("store")).unwrap();
    assert_eq!(again.stat("work").unwrap(), store.stat("work").unwrap());
}

const BACKENDS: [BackendChoice; 2] = [BackendChoice::Overlay, BackendChoice::Copy];

fn mount(arguments: &[&str]) {
    Tool::new("mount").args(arguments).ok();
}

/// Every file of the database that is there, and what remains of it.
fn database(missing: &[&str]) {
    if missing.contains(&"-wal") {
        let connection = rusqlite::Connection::open(path("store/plywood.db")).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    for name in missing {
        let _ = fs::remove_file(path(&format!("store/plywood.db{name}")));
    }
}

#[test]
fn on_a_read_only_file_system() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let disk = path("");
        let disk = disk.to_str().unwrap();
        for backend in &BACKENDS {
            // What was committed last is in the log alone; a copy of the store may lack the log's index.
            for missing in [&[][..], &["-shm"], &["-shm", "-wal"]] {
                let made = make(backend);
                database(missing);
                mount(&["-o", "remount,ro", disk]);
                use_it(&made, backend, "mounted read-only");
                mount(&["-o", "remount,rw", disk]);
                // Nothing is the matter with it.
                let store = Store::open(path("store")).unwrap();
                assert_eq!(store.read_only_reason(), None);
                store.remove("box").unwrap();
                drop(store);
                fs::remove_dir_all(path("store")).unwrap();
            }
        }
    });
}

#[test]
fn in_an_image_of_a_store() {
    if !require("read_only::in_an_image_of_a_store", &["mkfs.erofs"]) {
        return;
    }
    Sandbox::root().disk(Disk::Ext4).run(|| {
        for backend in &BACKENDS {
            let made = make(backend);
            let image = path("image").to_str().unwrap().to_owned();
            Tool::new("mkfs.erofs").args(["--quiet", &image, path("store").to_str().unwrap()]).ok();
            fs::remove_dir_all(path("store")).unwrap();
            fs::create_dir(path("store")).unwrap();
            mount(&["-t", "erofs", "-o", "loop,ro", &image, path("store").to_str().unwrap()]);
            use_it(&made, backend, "mounted read-only");
            Tool::new("umount").arg(path("store")).ok();
            fs::remove_dir(path("store")).unwrap();
            fs::remove_file(&image).unwrap();
        }
    });
}

#[test]
fn through_a_read_only_mount_beside_somebody_who_writes() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        for backend in &BACKENDS {
            let made = make(backend);
            let (store, shown) = (path("store"), path("shown"));
            fs::create_dir_all(&shown).unwrap();
            mount(&["--bind", store.to_str().unwrap(), shown.to_str().unwrap()]);
            mount(&["-o", "remount,bind,ro", shown.to_str().unwrap()]);
            let writer = Store::open(&store).unwrap();
            let reader = Store::open(&shown).unwrap();
            assert_eq!((writer.read_only_reason(), reader.read_only_reason().is_some()), (None, true));
            for n in 0..50 {
                let key = Key::new(format!("{n}")).unwrap();
                assert_eq!(reader.stat(key.as_str()).unwrap_err().kind(), ErrorKind::NotFound);
                writer.prepare(&key, Some(&made.bottom), &Default::default()).unwrap();
                assert_eq!(reader.stat(key.as_str()).unwrap(), writer.stat(key.as_str()).unwrap());
                writer.remove(key.as_str()).unwrap();
            }
            writer.gc(&Default::default(), &Context::default()).unwrap();
            assert!(diff(&reader, "work") == diff(&writer, "work"));
            drop((writer, reader));
            // Nobody else has it open.
            let reader = Store::open(&shown).unwrap();
            assert!(reader.stat("box").is_ok());
            drop(reader);
            Tool::new("umount").arg(&shown).ok();
            fs::remove_dir_all(&store).unwrap();
        }
    });
}

fn close(directory: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn in_a_directory_that_is_closed_to_an_ordinary_user() {
    Sandbox::user().run(|| {
        let made = make(&BackendChoice::Copy);
        close(&path("store"), 0o500);
        use_it(&made, &BackendChoice::Copy, "may not write its directory");
        // All of it, as `chmod -R a-w` does it.
        for name in ["trees", "locks", "blobs", "ingest"] {
            close(&path("store").join(name), 0o500);
        }
        for name in ["plywood.db", "plywood.db-wal", "plywood.db-shm"] {
            close(&path("store").join(name), 0o400);
        }
        use_it(&made, &BackendChoice::Copy, "may not write its directory");
        close(&path("store"), 0o700);
        fs::remove_file(path("store/plywood.db-shm")).unwrap();
        close(&path("store"), 0o500);
        let error = Store::open(path("store")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.reason().unwrap().contains("log") && error.hint().is_some(), "somebody may write: {error}");
        for name in ["", "trees", "locks", "blobs", "ingest"] {
            close(&path("store").join(name), 0o700);
        }
        fs::remove_dir_all(path("")).unwrap();
    });
}

#[test]
fn nothing_is_made_where_there_is_no_store() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        fs::create_dir(path("store")).unwrap();
        let disk = path("");
        mount(&["-o", "remount,ro", disk.to_str().unwrap()]);
        assert_eq!(Store::open(path("store")).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(Store::open(path("other")).unwrap_err().kind(), ErrorKind::PermissionDenied);
        mount(&["-o", "remount,rw", disk.to_str().unwrap()]);
        assert_eq!(fs::read_dir(path("store")).unwrap().count(), 0);
    });
}

#[test]
fn several_stores_of_one_process_are_independent() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let stores: Vec<Store> = ["a", "b", "c"]
            .iter()
            .zip([BackendChoice::Overlay, BackendChoice::Copy, BackendChoice::Overlay])
            .map(|(name, backend)| Store::open_with(&StoreOptions::new(path(name)).backend(backend)).unwrap())
            .collect();
        let key = Key::new("box").unwrap();
        std::thread::scope(|scope| {
            for (n, store) in stores.iter().enumerate() {
                let key = &key;
                scope.spawn(move || {
                    for round in 0..20 {
                        let tar = Layer::new().file("which", format!("{n} {round}")).tar();
                        let cx = Context::default();
                        let layer = store.import_layer(LayerSource::reader(&tar[..]), &Default::default(), &cx).unwrap();
                        store.prepare(key, Some(&Name::from(&layer.chain_id)), &Default::default()).unwrap();
                        let found = std::io::read_to_string(store.open_file("box", "which").unwrap()).unwrap();
                        assert_eq!(found, format!("{n} {round}"));
                        store.remove("box").unwrap();
                        store.gc(&Default::default(), &cx).unwrap();
                    }
                });
            }
        });
        // What one loses is the others' still.
        for store in &stores {
            store.prepare(&key, None, &Default::default()).unwrap();
        }
        stores[0].remove("box").unwrap();
        assert_eq!(stores[0].stat("box").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(stores[1].stat("box").is_ok() && stores[2].stat("box").is_ok());
        let mounts = [&stores[1], &stores[2]].map(|store| store.mounts("box").unwrap().detached().unwrap());
        drop(mounts);
    });
}

#[test]
fn what_an_import_left_to_be_made_is_said() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let store = Store::open_with(&options(&BackendChoice::Copy)).unwrap();
        let image = Image::new()
            .layer(Layer::new().file("a", "a"), Compression::None)
            .layer(Layer::new().file("b", "b"), Compression::Gzip);
        let layout = tempfile::tempdir_in("/tmp").unwrap();
        image.write_layout(layout.path(), "latest").unwrap();
        let cx = Context::default();
        store.import(ImageSource::path(layout.path()), &ImportOptions::default().reference("app"), &cx).unwrap();
        let top = store.image("app").unwrap().chain_id.unwrap();
        let bottom = store.stat(&top.to_string()).unwrap().parent.unwrap();
        drop(store);
        let disk = path("");
        mount(&["-o", "remount,ro", disk.to_str().unwrap()]);
        let store = Store::open(path("store")).unwrap();
        assert!(seen(&store.mount_committed(&top.to_string()).unwrap()).unwrap().get("b").is_some());
        let out = tempfile::tempdir_in("/tmp").unwrap();
        store.export("app", out.path(), &ExportOptions::default(), &cx).unwrap();
        let refused = [store.open_root(&bottom).map(drop), store.mount_committed(&bottom).map(drop)];
        for refused in refused {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.reason().unwrap().contains("left to be made"), "{error}");
        }
        assert!(store.check(&CheckOptions::default().full(), &cx).unwrap().is_sound());
        drop(store);
        mount(&["-o", "remount,rw", disk.to_str().unwrap()]);
    });
}
