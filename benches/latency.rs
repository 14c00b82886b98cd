//! How long a container waits for its root file system: `cargo bench --features testing --bench latency`, as root.
//!
//! On an ext4 of its own (a loop device with direct I/O on a file of TMPDIR, in a mount namespace that ends with the program) the store
//! takes turns with the system calls and the one SQLite transaction that nobody can do without: three directories, `fsopen`, `fsconfig`
//! and `fsmount`, and a row that is inserted with `synchronous = FULL`. Each line that begins with `ratio` is the median of ours over the
//! median of theirs, measured in turn. 1,000 containers are prepared and mounted from one image, and removed: there the ratio is that of the
//! last hundred to the first, of ours and of theirs. Without `--bench` (as `cargo test --benches` runs it) all is small.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)] // a program, not the library

mod disk;

use std::cell::RefCell;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use nix::sys::resource::Resource;
use plywood::compression::Compression;
use plywood::mount::{Detached, Mounted};
use plywood::snapshot::{Key, Name};
use plywood::store::{ImageSource, ImportOptions, Store, StoreOptions};
use plywood::testing::{Image, Layer, temporary_directory};
use plywood::{Context, Result};
use rusqlite::Connection;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Overlayfs's limit, with the row for a view's root; see `SEMANTICS.md`, §8.
const HIGHEST: usize = 499;

struct Scale {
    layers: &'static [usize],
    containers: usize,
}

const FULL: Scale = Scale { layers: &[10, 100, HIGHEST], containers: 1000 };
const QUICK: Scale = Scale { layers: &[3], containers: 20 };

fn main() -> Result<()> {
    let scale = if std::env::args().any(|argument| argument == "--bench") { FULL } else { QUICK };
    if !disk::can_be_made() {
        println!("SKIP latency: needs root and loop devices");
        return Ok(());
    }
    // A descriptor for each mount that is there at once.
    let (_, most) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let place = temporary_directory()?;
    disk::own_mounts();
    let Some(disk) = disk::new_disk(place.path(), "ext4", 4 << 30) else {
        println!("SKIP latency: no mkfs.ext4");
        return Ok(());
    };
    let store = Store::open_with(&StoreOptions::new(disk.join("store")))?;
    let mut criterion = Criterion::default().configure_from_args();
    for &layers in scale.layers {
        let parent = import(&store, place.path(), layers)?;
        let bare = RefCell::new(Bare::new(&disk.join(format!("bare-{layers}")), layers));
        disk::sync(&disk);
        if let Err(error) = store.view(&Key::new("tried")?, Some(&parent), &Default::default())?.detached() {
            println!("SKIP latency: nothing can be mounted here: {error}");
            return Ok(());
        }
        store.remove("tried")?;
        prepare_and_remove(&mut criterion, (&store, &parent), &bare, layers);
        if layers == scale.layers[0] {
            view(&mut criterion, (&store, &parent), &bare, layers);
            many(&store, &parent, &bare, &disk, scale.containers)?;
        }
    }
    criterion.final_summary();
    Ok(())
}

/// An image of so many layers, each with a file of its own. Gives the topmost.
fn import(store: &Store, place: &Path, layers: usize) -> Result<Name> {
    let layer = |number| Layer::new().dir("etc", 0o755).file(format!("etc/{number}"), "x");
    let image = (0..layers).fold(Image::new(), |image, number| image.layer(layer(number), Compression::None));
    let layout = place.join(format!("layout-{layers}"));
    image.write_layout(&layout, "latest").unwrap();
    let imported = store.import(ImageSource::path(&layout), &ImportOptions::default(), &Context::default())?;
    Ok(Name::from(&imported.image.chain_id.unwrap()))
}

/// What is left without a store.
struct Bare {
    place: PathBuf,
    lowers: Vec<PathBuf>,
    database: Connection,
    next: i64,
}

impl Bare {
    fn new(place: &Path, layers: usize) -> Self {
        let lowers: Vec<PathBuf> = (0..layers).map(|number| place.join(format!("lower-{number}"))).collect();
        for (number, lower) in lowers.iter().enumerate() {
            fs::create_dir_all(lower.join("etc")).unwrap();
            fs::write(lower.join(format!("etc/{number}")), "x").unwrap();
        }
        let database = Connection::open(place.join("database")).unwrap();
        database
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                 CREATE TABLE containers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL) STRICT;",
            )
            .unwrap();
        Self { place: place.to_owned(), lowers, database, next: 0 }
    }

    fn prepare(&mut self) -> OwnedFd {
        self.next += 1;
        let tree = self.place.join(self.next.to_string());
        let (upper, work) = (tree.join("upper"), tree.join("work"));
        [&tree, &upper, &work].into_iter().try_for_each(fs::create_dir).unwrap();
        self.insert();
        self.mount(Some((&upper, &work)))
    }

    fn insert(&self) {
        let mut statement = self.database.prepare_cached("INSERT INTO containers VALUES (?1, ?2, 0)").unwrap();
        statement.execute((self.next, format!("container-{}", self.next))).unwrap();
    }

    fn remove(&self, mount: OwnedFd, id: i64) {
        drop(mount);
        self.database.prepare_cached("DELETE FROM containers WHERE id = ?1").unwrap().execute([id]).unwrap();
    }

    fn mount(&self, writable: Option<(&Path, &Path)>) -> OwnedFd {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for lower in self.lowers.iter().rev() {
            rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir+", lower).unwrap();
        }
        if let Some((upper, work)) = writable {
            rustix::mount::fsconfig_set_string(context.as_fd(), "upperdir", upper).unwrap();
            rustix::mount::fsconfig_set_string(context.as_fd(), "workdir", work).unwrap();
        }
        rustix::mount::fsconfig_create(context.as_fd()).unwrap();
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
    }

    /// What the removed left, uncounted, as the store's trash is.
    fn clear(&self) {
        let _ = fs::remove_dir_all(self.place.join(self.next.to_string()));
    }
}

/// Times of ours and of theirs, taken in turn.
#[derive(Default)]
struct Turns(RefCell<[Vec<Duration>; 2]>);

impl Turns {
    fn took(&self, ours: Duration, theirs: Duration) {
        let [all_ours, all_theirs] = &mut *self.0.borrow_mut();
        all_ours.push(ours);
        all_theirs.push(theirs);
    }

    fn print(&self, what: &str) {
        let [ours, theirs] = &*self.0.borrow();
        if !ours.is_empty() {
            ratio(what, ours, theirs);
        }
    }

    /// The last tenth to the first.
    fn print_growth(&self, what: &str) {
        for (times, whose) in self.0.borrow().iter().zip(["plywood", "system calls and a transaction"]) {
            let (count, part) = (times.len(), times.len() / 10);
            ratio(
                &format!("{what}, {whose}, the last {part} of {count} to the first {part}"),
                &times[count - part..],
                &times[..part],
            );
        }
    }
}

fn ratio(what: &str, one: &[Duration], other: &[Duration]) {
    let (one, other) = (median(one), median(other));
    println!("ratio {:.2}: {what} ({one:.0?} to {other:.0?}, medians)", one.as_secs_f64() / other.as_secs_f64());
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed())
}

/// Tells criterion of one of the two of each round, and keeps both for the ratio.
fn compare(criterion: &mut Criterion, what: &str, layers: usize, round: impl Fn() -> (Duration, Duration)) {
    let turns = Turns::default();
    let mut group = criterion.benchmark_group(what);
    group.sample_size(20);
    let names = ["plywood", "system calls and a transaction"];
    for (number, name) in names.into_iter().enumerate() {
        group.bench_function(BenchmarkId::new(name, layers), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let (ours, theirs) = round();
                    turns.took(ours, theirs);
                    spent += if number == 0 { ours } else { theirs };
                }
                spent
            });
        });
    }
    group.finish();
    turns.print(&format!("{what}, {layers} layers"));
}

fn prepare_and_remove(criterion: &mut Criterion, (store, parent): (&Store, &Name), bare: &RefCell<Bare>, layers: usize) {
    let key = Key::new("box").unwrap();
    let prepare = || -> Detached { store.prepare(&key, Some(parent), &Default::default()).unwrap().detached().unwrap() };
    let remove = |mount: Detached| {
        drop(mount);
        store.remove(key.as_str()).unwrap();
    };
    let round = || {
        let mut bare = bare.borrow_mut();
        let (mount, ours) = timed(prepare);
        let (bare_mount, theirs) = timed(|| bare.prepare());
        let ((), our_end) = timed(|| remove(mount));
        let ((), their_end) = timed(|| bare.remove(bare_mount, bare.next));
        store.empty_trash(&Context::default()).unwrap();
        bare.clear();
        ((ours, theirs), (our_end, their_end))
    };
    compare(criterion, "prepare and mount", layers, || round().0);
    compare(criterion, "unmount and remove", layers, || round().1);
}

/// A View with its row beside a read-only overlay with one; then the mount alone beside the bare mount.
fn view(criterion: &mut Criterion, (store, parent): (&Store, &Name), bare: &RefCell<Bare>, layers: usize) {
    let key = Key::new("look").unwrap();
    let round = || {
        let mut bare = bare.borrow_mut();
        let (view, made) = timed(|| store.view(&key, Some(parent), &Default::default()).unwrap());
        let (mount, mounted) = timed(|| view.detached().unwrap());
        bare.next += 1;
        let ((), inserted) = timed(|| bare.insert());
        let (bare_mount, bare_mounted) = timed(|| bare.mount(None));
        drop(mount);
        store.remove(key.as_str()).unwrap();
        bare.remove(bare_mount, bare.next);
        store.empty_trash(&Context::default()).unwrap();
        ((made + mounted, inserted + bare_mounted), (mounted, bare_mounted))
    };
    compare(criterion, "view and mount", layers, || round().0);
    compare(criterion, "mount of a view alone", layers, || round().1);
}

/// Containers of one image, all there at once, each mounted on a directory; and as many by the system calls alone, in turn.
fn many(store: &Store, parent: &Name, bare: &RefCell<Bare>, disk: &Path, count: usize) -> Result<()> {
    let (targets, mut bare) = (disk.join("targets"), bare.borrow_mut());
    let key = |number: usize| Key::new(format!("many-{number}"));
    let mut mounts: Vec<(Mounted, OwnedFd, i64)> = Vec::new();
    let (made, removed) = (Turns::default(), Turns::default());
    for number in 0..count {
        let (target, key) = (targets.join(number.to_string()), key(number)?);
        fs::create_dir_all(&target).unwrap();
        let (mount, ours) = timed(|| store.prepare(&key, Some(parent), &Default::default())?.attach(&target));
        let (bare_mount, theirs) = timed(|| bare.prepare());
        mounts.push((mount?, bare_mount, bare.next));
        made.took(ours, theirs);
    }
    for (number, (mount, bare_mount, id)) in mounts.into_iter().enumerate() {
        let key = key(number)?;
        let (done, ours) = timed(|| mount.close().and_then(|()| store.remove(key.as_str())));
        let ((), theirs) = timed(|| bare.remove(bare_mount, id));
        done?;
        removed.took(ours, theirs);
    }
    made.print_growth("prepare and mount");
    removed.print_growth("unmount and remove");
    store.empty_trash(&Context::default()).map(drop)
}
