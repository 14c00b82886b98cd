//! A small store of each format there ever was, packed as it stood on the disk: this version opens it, brings it up to date, and finds
//! everything in it.
//!
//! `PLYWOOD_FIXTURE=tests/fixtures/format-N.tar.zst cargo test --all-features --test it fixture -- --ignored` makes the one of the
//! current format, once, when it is released.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use plywood::compression::Compression;
use plywood::snapshot::{Key, Kind, Name};
use plywood::store::{BackendChoice, GcOptions, ImageSource, Store, StoreOptions};
use plywood::testing::{Image, Layer, temporary_directory};
use plywood::tree::Ids;
use plywood::{Context, Result};

use crate::support::Tool;

fn open(root: &Path) -> Result<Store> {
    Store::open_with(&StoreOptions::new(root).backend(BackendChoice::Copy).ids(Ids::Squash))
}

/// What every fixture holds.
fn fill(store: &Store) {
    let cx = Context::default();
    let place = temporary_directory().unwrap();
    // The archive has neither nanoseconds nor 1970.
    let timed = |layer: Layer| layer.mtime(1_000_000_000, 0);
    let lower = timed(Layer::new().dir("etc", 0o755))
        .then(timed(Layer::new().file("etc/motd", "hello\n")))
        .then(timed(Layer::new().file("etc/old", "old\n")));
    let upper = timed(Layer::new().file("etc/new", "new\n")).whiteout("etc/old");
    let image = Image::new().layer(lower, Compression::Gzip).layer(upper, Compression::Zstd);
    image.write_layout(place.path().join("layout"), "app:1").unwrap();
    store.import(ImageSource::path(place.path().join("layout")), &Default::default(), &cx).unwrap();
    let parent = store.resolve("app:1").unwrap();
    for (key, content) in [("build", "built\n"), ("web", "served\n"), ("gone", "")] {
        let mount = store.prepare(&Key::new(key).unwrap(), Some(&parent), &Default::default()).unwrap();
        let file = mount.source().join("etc/motd");
        fs::write(&file, content).unwrap();
        let time = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        fs::File::open(file).unwrap().set_times(time).unwrap();
    }
    store.commit(&Name::new("built").unwrap(), &Key::new("build").unwrap(), &Default::default()).unwrap();
    store.diff("built", std::io::sink(), &Default::default(), &cx).unwrap();
    store.remove("gone").unwrap();
}

/// What is expected of every fixture.
fn look(store: &Store) {
    let cx = Context::default();
    let image = store.image("app:1").unwrap();
    let chain = image.chain_id.unwrap();
    assert_eq!(image.layers.len(), 2);
    for layer in &image.layers {
        assert!(store.content().blob(&layer.descriptor.digest).unwrap().is_some());
    }
    let mut kinds = Vec::new();
    store
        .walk(&Default::default(), |info| {
            kinds.push((info.name, info.kind));
            Ok(())
        })
        .unwrap();
    kinds.retain(|(name, _)| !name.starts_with("sha256:"));
    assert_eq!(kinds, [("built".to_owned(), Kind::Committed), ("web".to_owned(), Kind::Active)]);
    let info = store.stat("built").unwrap();
    assert_eq!(info.parent, Some(chain.to_string()));
    let outcome = store.diff("built", std::io::sink(), &Default::default(), &cx).unwrap();
    // Owners are in it, and the files are whoever's who unpacked them.
    if rustix::process::geteuid().is_root() {
        assert_eq!(info.diff_id, Some(outcome.diff_id), "it gives the same layer still");
    }
    let read = |key: &str, parent: &str| {
        let parent = store.resolve(parent).unwrap();
        let mount = store.prepare(&Key::new(key).unwrap(), Some(&parent), &Default::default()).unwrap();
        let root = mount.source();
        (fs::read_to_string(root.join("etc/motd")).unwrap(), root.join("etc/old").exists(), root.join("etc/new").exists())
    };
    assert_eq!(read("a", "app:1"), ("hello\n".to_owned(), false, true));
    assert_eq!(read("b", "built"), ("built\n".to_owned(), false, true));
    let web = store.mounts("web").unwrap();
    assert_eq!(fs::read_to_string(web.source().join("etc/motd")).unwrap(), "served\n");
    // Since format 3 its tree is not made before.
    assert_eq!(read("c", &image.layers[0].chain_id.to_string()), ("hello\n".to_owned(), true, false));
    for key in ["a", "b", "c"] {
        store.remove(key).unwrap();
    }
    let outcome = store.gc(&GcOptions::default(), &cx).unwrap();
    assert_eq!((outcome.snapshots.len(), outcome.blobs.len(), outcome.trees), (0, 0, 4), "of what was removed: {outcome:?}");
    assert!(outcome.lost.is_empty());
}

fn format_of(root: &Path) -> i64 {
    let database = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
    database.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

#[test]
fn stores_of_earlier_formats_are_opened_and_brought_up_to_date() {
    let current = temporary_directory().unwrap();
    let root = current.path().join("store");
    let store = open(&root).unwrap();
    fill(&store);
    look(&store);
    drop(store);
    let newest = format_of(&root);

    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut formats = Vec::new();
    for entry in fs::read_dir(fixtures).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(format) = name.strip_prefix("format-").and_then(|rest| rest.strip_suffix(".tar.zst")) else { continue };
        let format: i64 = format.parse().unwrap();
        let place = temporary_directory().unwrap();
        let root = place.path().join("store");
        // Of whoever runs the tests, as a store has to be.
        fs::create_dir(&root).unwrap();
        let mut archive = Vec::new();
        zstd::Decoder::new(fs::File::open(&path).unwrap()).unwrap().read_to_end(&mut archive).unwrap();
        Tool::new("tar").args(["-xp", "--no-same-owner", "-C"]).arg(&root).input(archive).ok();
        assert_eq!(format_of(&root), format);
        let store = open(&root).unwrap_or_else(|error| panic!("format {format}: {error}: {:?}", error.reason()));
        look(&store);
        drop(store);
        assert_eq!(format_of(&root), newest);
        formats.push(format);
    }
    formats.sort_unstable();
    assert_eq!(formats, (1..=newest).collect::<Vec<_>>());
}

#[test]
#[ignore = "writes the fixture of the current format, when it is released"]
fn a_fixture_is_made() {
    let place = temporary_directory().unwrap();
    let root = place.path().join("store");
    let store = open(&root).unwrap();
    fill(&store);
    drop(store);
    let file = fs::File::create(std::env::var_os("PLYWOOD_FIXTURE").expect("PLYWOOD_FIXTURE names the file to write")).unwrap();
    let mut archive = tar::Builder::new(zstd::Encoder::new(file, 19).unwrap());
    // The index of the log is made anew; the reserve is a megabyte of nothing.
    for name in ["plywood.db", "plywood.db-wal"] {
        archive.append_path_with_name(root.join(name), name).unwrap();
    }
    for name in ["blobs", "ingest", "trees", "locks"] {
        archive.append_dir_all(name, root.join(name)).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap();
}
