//! Snapshots that are read while a container writes to them: each file is read as it was at some instant or is said not to be, an archive is
//! always one, nothing outside is read, and nobody falls over.
//!
//! The steps of the writers follow `PLYWOOD_TEST_SEED`; `PLYWOOD_TEST_LONG=N` goes on for N seconds a backend instead of the few of an
//! ordinary run.

mod writers;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use plywood::progress::Reason;
use plywood::snapshot::{Key, Name};
use plywood::store::{BackendChoice, DiffOptions, DiffOutcome, GcOptions, ImportLayerOptions, LayerSource, Store};
use plywood::testing::{Layer, TemporaryStore};
use plywood::{Context, Durability, ErrorKind, Result};

use crate::support::work::{Dice, chain, seed};
use crate::support::{Disk, Sandbox, is_root};
use writers::{NAMES, SECRET, SECRET_BYTES, Writer, is_whole};

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root().disk(Disk::Ext4) } else { Sandbox::user_namespace() }
}

/// How long each backend is read.
fn time() -> Duration {
    let long = std::env::var("PLYWOOD_TEST_LONG").ok().and_then(|text| text.parse().ok());
    long.map_or(Duration::from_secs(3), Duration::from_secs)
}

/// What lies outside, and must be neither read nor changed.
struct Outside(tempfile::TempDir);

impl Outside {
    fn new() -> Self {
        let outside = Self(tempfile::tempdir().unwrap());
        fs::create_dir(outside.0.path().join("below")).unwrap();
        fs::write(outside.0.path().join("below/secret"), SECRET).unwrap();
        let secret = fs::File::create(outside.0.path().join("secret")).unwrap();
        nix::fcntl::fallocate(&secret, nix::fcntl::FallocateFlags::empty(), 0, SECRET_BYTES as i64).unwrap();
        secret.write_all_at(SECRET.as_bytes(), 0).unwrap();
        outside
    }

    /// What any change would show in.
    fn state(&self) -> Vec<(u64, i64, i64)> {
        let metadata = ["", "below", "below/secret", "secret"].map(|name| fs::metadata(self.0.path().join(name)).unwrap());
        metadata.iter().map(|metadata| (metadata.len(), metadata.ctime(), metadata.ctime_nsec())).collect()
    }
}

fn base(store: &Store) -> Name {
    let layer = NAMES.iter().fold(Layer::new(), |layer, name| layer.dir(*name, 0o755).file(format!("{name}/below"), "below"));
    let layer = (0..30).fold(layer.dir("etc", 0o755), |layer, n| layer.file(format!("etc/{n}"), format!("below {n}")));
    let layer = layer.file("one", "of two names").hardlink("other", "one");
    let imported = store.import_layer(LayerSource::reader(&*layer.tar()), &ImportLayerOptions::default(), &Context::default());
    Name::from(&imported.unwrap().chain_id)
}

/// Checks what a diff says: it is an archive to every reader, of nothing that lies outside, and its files are whole.
fn check_layer(store: &Store, parent: &Name, layer: &[u8], outcome: &DiffOutcome) {
    assert_eq!(outcome.descriptor.size, layer.len() as u64);
    let torn: Vec<&str> =
        outcome.report.skipped.iter().filter(|skip| skip.reason == Reason::ChangedWhileRead).map(|skip| &*skip.path).collect();
    let mut sizes = BTreeMap::new();
    for entry in tar::Archive::new(layer).entries().unwrap() {
        let mut entry = entry.unwrap();
        let (path, mut content) = (String::from_utf8(entry.path_bytes().into_owned()).unwrap(), Vec::new());
        entry.read_to_end(&mut content).unwrap();
        assert_eq!(entry.size(), content.len() as u64, "{path}");
        assert!(!content.starts_with(SECRET.as_bytes()), "{path} is a secret of the host");
        if path.rsplit('/').next().unwrap().starts_with("whole") && entry.header().entry_type().is_file() {
            assert!(is_whole(&content), "{path} is a mixture");
            assert!(!torn.contains(&path.as_str()), "{path} never changed under its reader");
        }
        assert!(sizes.insert(path.clone(), content.len()).is_none(), "{path} stands there twice");
    }
    // And to the strictest.
    let options = ImportLayerOptions::default().parent(parent.as_str()).diff_id(outcome.diff_id.clone());
    let imported = store.import_layer(LayerSource::reader(layer), &options, &Context::default());
    imported.map_err(|error| chain(&error)).unwrap();
}

/// A name that no layer can say is an error, and no fault of the reader.
fn sayable<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::Unsupported && error.to_string().contains(".wh.") => Ok(None),
        done => done.map(Some),
    }
}

fn diff(store: &Store, key: &str) -> Result<Option<(Vec<u8>, DiffOutcome)>> {
    let mut layer = Vec::new();
    let outcome = sayable(store.diff(key, &mut layer, &DiffOptions::default(), &Context::default()))?;
    Ok(outcome.map(|outcome| (layer, outcome)))
}

/// Reads a snapshot again and again while writers are at `root`; how often.
fn read_while_written(
    store: &Store,
    parent: &Name,
    key: &str,
    root: &Path,
    mounts: bool,
    time: Duration,
    dice: &mut Dice,
) -> usize {
    let (outside, stop) = (Outside::new(), AtomicBool::new(false));
    let before = outside.state();
    let (end, mut rounds) = (Instant::now() + time, 0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut writer = Writer::new(root, outside.0.path(), Dice::new(dice.below(1 << 31)), mounts);
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    writer.step();
                }
            });
        }
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while rounds < 3 || Instant::now() < end {
                rounds += 1;
                let usage = store.usage(key).map_err(|error| chain(&error)).unwrap();
                // What the writers hold is bounded; a walk that went astray would find more.
                assert!(usage.bytes < SECRET_BYTES as u64, "{usage:?}");
                sayable(store.changes(key, &Context::default(), |_| Ok(()))).map_err(|error| chain(&error)).unwrap();
                if let Some((layer, outcome)) = diff(store, key).map_err(|error| chain(&error)).unwrap() {
                    check_layer(store, parent, &layer, &outcome);
                }
                if rounds % 4 == 0 {
                    store.gc(&Default::default(), &Context::default()).unwrap();
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        read.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(outside.state(), before);
    rounds
}

/// In a store of each backend, with dice of its own.
fn on_each_backend(check: impl Fn(&TemporaryStore, &mut Dice)) {
    // As on most hosts: what is mounted shows wherever else the directory is mounted.
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>).unwrap();
    let seed = seed();
    for (number, backend) in [BackendChoice::Overlay, BackendChoice::Copy].into_iter().enumerate() {
        let store = Store::temporary_with(|options| options.backend(backend).durability(Durability::Relaxed)).unwrap();
        check(&store, &mut Dice::new(seed.wrapping_add(number as u64)));
    }
}

/// What a runtime does: the root is mounted, and the container works in the mount.
#[test]
fn a_container_that_writes_in_its_root_is_read() {
    let body = |store: &TemporaryStore, dice: &mut Dice| {
        let (parent, key, target) = (base(store), Key::new("live").unwrap(), tempfile::tempdir().unwrap());
        let mounted = store.prepare(&key, Some(&parent), &Default::default()).unwrap().attach(target.path()).unwrap();
        let rounds = read_while_written(store, &parent, "live", target.path(), true, time(), dice);
        println!("{}: read {rounds} times", store.backend().name());
        let in_use = store.commit(&Name::new("never").unwrap(), &key, &Default::default());
        assert_eq!(in_use.unwrap_err().kind(), ErrorKind::InUse);
        mounted.close().unwrap();
        // Now that nobody writes, it is what it is.
        let (once, again) = (diff(store, "live").unwrap(), diff(store, "live").unwrap());
        assert_eq!(once.map(|(layer, _)| layer), again.map(|(layer, _)| layer));
        store.remove("live").unwrap();
        store.empty_trash(&Context::default()).unwrap();
    };
    sandbox().run(|| {
        on_each_backend(body);
    });
}

/// What no runtime should do: the container's files are changed by somebody whom no mount shows, also while they are committed.
#[test]
fn a_tree_that_is_written_behind_the_stores_back_is_committed() {
    let body = |store: &TemporaryStore, dice: &mut Dice| {
        let parent = base(store);
        let end = Instant::now() + time();
        let mut commits = 0;
        while commits < 3 || Instant::now() < end {
            commits += 1;
            let key = Key::new("live").unwrap();
            store.prepare(&key, Some(&parent), &Default::default()).unwrap();
            let numbers = fs::read_dir(store.root().join("trees")).unwrap();
            let numbers = numbers.filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().parse::<u64>().ok());
            let root = store.root().join(format!("trees/{}/fs", numbers.max().unwrap()));
            let (outside, stop) = (Outside::new(), AtomicBool::new(false));
            let before = outside.state();
            let name = Name::new(format!("committed {commits}")).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    let mut writer = Writer::new(&root, outside.0.path(), Dice::new(dice.below(1 << 31)), false);
                    let stop = &stop;
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            writer.step();
                        }
                    });
                }
                let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    std::thread::sleep(Duration::from_millis(dice.below(20)));
                    store.commit(&name, &key, &Default::default()).map_err(|error| chain(&error)).unwrap();
                    assert!(store.usage(name.as_str()).unwrap().bytes < SECRET_BYTES as u64);
                    // It goes on writing to what is committed now.
                    if let Some((layer, outcome)) = diff(store, name.as_str()).map_err(|error| chain(&error)).unwrap() {
                        check_layer(store, &parent, &layer, &outcome);
                    }
                    store.remove(name.as_str()).unwrap();
                }));
                stop.store(true, Ordering::Relaxed);
                work.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
            assert_eq!(outside.state(), before);
            store.gc(&GcOptions::default().root(parent.clone()), &Context::default()).unwrap();
        }
        println!("{}: committed {commits} times", store.backend().name());
    };
    sandbox().run(|| {
        on_each_backend(body);
    });
}
