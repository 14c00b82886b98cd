//! A file system that fills up in the middle of a verb: `NoSpace`, nothing left of it, and the next try succeeds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plywood::compression::Compression;
use plywood::snapshot::{Key, Kind, Name};
use plywood::store::{
    BackendChoice, CheckOptions, ExportOptions, ImageSource, ImportLayerOptions, ImportOptions, LayerSource, Store, StoreOptions,
};
use plywood::testing::{Image, Layer};
use plywood::{Context, Error, ErrorKind, Result};

use crate::support::work::{chain, writable};
use crate::support::{Disk, Sandbox, skip};

/// What a file system runs out of.
#[derive(Clone, Copy, Debug)]
enum Scarce {
    Bytes,
    Inodes,
}

impl Scarce {
    /// How much is left of it, from much to nothing.
    fn rooms(self) -> &'static [u64] {
        match self {
            Self::Bytes => &[1_300_000, 200_000, 60_000, 16_000, 0],
            Self::Inodes => &[50, 20, 5, 1, 0],
        }
    }
}

/// Takes all of a file system but a little. Gives it back when it is dropped.
struct Ballast {
    path: PathBuf,
    /// How many inodes were free before.
    inodes: u64,
}

const MOMENT: Duration = Duration::from_millis(10);

/// How many inodes are free. To ask for it makes xfs hurry with those that were unlinked.
fn free_inodes(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).unwrap().f_ffree
}

impl Ballast {
    fn leaving(path: PathBuf, scarce: Scarce, room: u64) -> Self {
        let directory = path.parent().unwrap().to_owned();
        let inodes = free_inodes(&directory);
        fs::create_dir(&path).unwrap();
        // What was deleted before is free only when the journal is written.
        sync(&directory);
        let room = match scarce {
            Scarce::Bytes => {
                let kept = path.join("room");
                let file = File::create(&kept).unwrap();
                if room > 0 {
                    allocate(&file, room).unwrap();
                }
                (12..28).rev().for_each(|power| take_bytes(&path, 1 << power));
                sync(&directory);
                // What the file system kept for its own delayed work.
                (12..16).rev().for_each(|power| take_bytes(&path, 1 << power));
                vec![kept]
            }
            Scarce::Inodes => {
                let (mut made, mut moment) = (Vec::<PathBuf>::new(), 0);
                // Twice in vain: xfs gives back a moment later what was unlinked.
                while moment < 2 {
                    let next = path.join(made.len().to_string());
                    match File::create(&next) {
                        Ok(_) => {
                            made.push(next);
                            moment = 0;
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                            free_inodes(&path);
                            std::thread::sleep(MOMENT);
                            moment += 1;
                        }
                    }
                }
                made.split_off(made.len() - room as usize)
            }
        };
        room.iter().for_each(|file| fs::remove_file(file).unwrap());
        sync(&directory);
        Self { path, inodes }
    }
}

/// Fills files with so many bytes each, until there are no more.
fn take_bytes(directory: &Path, size: u64) {
    for number in 0.. {
        let path = directory.join(format!("{size} {number}"));
        let Ok(file) = File::options().write(true).create(true).truncate(false).open(&path) else { return };
        if file.metadata().unwrap().len() == 0 && allocate(&file, size).is_err() {
            return fs::remove_file(&path).unwrap();
        }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).unwrap();
        let directory = self.path.parent().unwrap();
        sync(directory);
        // But those that were taken meanwhile by what was tried.
        for _ in 0..200 {
            if free_inodes(directory) + 100 >= self.inodes {
                break;
            }
            std::thread::sleep(MOMENT);
        }
    }
}

fn allocate(file: &File, size: u64) -> rustix::io::Result<()> {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size)
}

fn sync(directory: &Path) {
    rustix::fs::syncfs(File::open(directory).unwrap()).unwrap();
}

/// Every file of a store but its database, what serves that, and the empty tree, with its size.
fn files(root: &Path) -> BTreeMap<PathBuf, u64> {
    let walk = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.unwrap());
    let all = walk.map(|entry| (entry.path().strip_prefix(root).unwrap().to_owned(), fs::symlink_metadata(entry.path()).unwrap()));
    // Directories grow by blocks, and stay so.
    let sized = all.map(|(path, stat)| (path, if stat.is_dir() { 0 } else { stat.size() }));
    let is_own = |path: &Path| {
        ["reserve", "locks", "plywood.db", "plywood.db-wal", "plywood.db-shm", "trees/0"].iter().any(|name| path.starts_with(name))
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

/// Where it is tried.
struct Place {
    root: PathBuf,
    disk: PathBuf,
    scarce: Scarce,
}

impl Place {
    fn ballast(&self, room: u64) -> Ballast {
        Ballast::leaving(self.disk.join("ballast"), self.scarce, room)
    }

    /// Does a thing with less and less room. Each time it succeeds, or fails with `NoSpace` and leaves the store as it was; then with room
    /// enough it succeeds. `ready` makes what it needs while there is room, `undo` takes away what a success has made.
    fn with_less_and_less_room(
        &self,
        what: &str,
        ready: impl Fn(&Store),
        work: impl Fn(&Store) -> Result<()>,
        undo: impl Fn(&Store),
    ) {
        let (mut failures, scarce) = (0, self.scarce);
        for &room in scarce.rooms() {
            let store = Store::open(&self.root).unwrap();
            collect(&store);
            ready(&store);
            let before = files(&self.root);
            let ballast = self.ballast(room);
            let done = work(&store);
            let told = format!("{what} with {room} {scarce:?}: {}", done.as_ref().err().map(chain).unwrap_or_default());
            if let Err(error) = &done {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{told}");
                assert!(names_a_path(error), "{told}");
                assert_eq!(files(&self.root), before, "{told}");
                failures += 1;
            }
            drop(ballast);
            if done.is_err() {
                // What was to be committed can be gone on with.
                if store.stat("key").is_ok() {
                    drop(store.mounts("key").unwrap().detached().unwrap());
                }
                assert_sound(&store, &told);
                work(&store).unwrap_or_else(|error| panic!("again after {told}: {}", chain(&error)));
            }
            undo(&store);
        }
        println!("{what}: {failures} failures for want of {scarce:?}");
        assert!(failures > 0, "{what} always found room");
    }
}

/// Whether an error, or what it comes from, says where.
fn names_a_path(error: &Error) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.filter_map(|cause| cause.downcast_ref::<Error>()).any(|cause| cause.path().is_some())
}

fn collect(store: &Store) {
    store.gc(&Default::default(), &Context::default()).unwrap_or_else(|error| panic!("{}", chain(&error)));
}

fn assert_sound(store: &Store, told: &str) {
    let outcome = store.check(&CheckOptions::default().full(), &Context::default()).unwrap();
    assert!(outcome.is_sound(), "{told}: {:?}", outcome.findings);
}

fn fill(backend: &BackendChoice, scarce: Scarce) {
    let disk = std::env::temp_dir();
    let root = disk.join("store");
    let layouts = Path::new("/mnt/layouts");
    let base = Layer::new().dir("etc", 0o755).file("etc/a", noise(150_000));
    let small = Image::new().layer(base.clone(), Compression::None);
    small.write_layout(layouts.join("small"), "latest").unwrap();
    let large_image = Image::new().layer(base, Compression::None).layer(large(), Compression::Gzip);
    large_image.write_layout(layouts.join("large"), "latest").unwrap();
    let store = Store::open_with(&StoreOptions::new(&root).backend(backend.clone())).unwrap();
    let import = |store: &Store, name: &str| {
        let options = ImportOptions::default().reference(name);
        store.import(ImageSource::path(layouts.join(name)), &options, &Context::default()).map(drop)
    };
    import(&store, "small").unwrap();
    drop(store);

    // Enough for what follows, and fewer to be taken again and again.
    let most = matches!(scarce, Scarce::Inodes).then(|| Ballast::leaving(disk.join("most"), scarce, 350));
    let at = Place { root: root.clone(), disk: disk.clone(), scarce };
    let undo = |store: &Store| {
        store.untag("large").unwrap();
        collect(store);
    };
    at.with_less_and_less_room("import", |_| {}, |store| import(store, "large"), undo);
    let tar = large().tar();
    let onto = |store: &Store| {
        let options = ImportLayerOptions::default().parent(small.chain_id().unwrap().to_string());
        store.import_layer(LayerSource::reader(tar.as_slice()), &options, &Context::default()).map(drop)
    };
    at.with_less_and_less_room("import layer", |_| {}, onto, collect);
    let (key, name) = (Key::new("key").unwrap(), Name::new("name").unwrap());
    let parent = Name::from(&small.chain_id().unwrap());
    let prepare = |store: &Store| store.prepare(&key, Some(&parent), &Default::default()).map(drop);
    at.with_less_and_less_room("prepare", |_| {}, prepare, |store| store.remove("key").unwrap());
    let commit = |store: &Store| {
        let done = store.commit(&name, &key, &Default::default()).map(drop);
        if done.is_ok() {
            return Ok(());
        }
        assert_eq!(store.stat("key").unwrap().kind, Kind::Active);
        done
    };
    let written = |store: &Store| {
        prepare(store).unwrap();
        fs::write(writable(store, "key").unwrap().join("data"), noise(100_000)).unwrap();
    };
    at.with_less_and_less_room("commit", written, commit, |store| store.remove("name").unwrap());

    // Whoever writes a layer or a layout to a full disk is told so, and a layout stays what it was.
    written(&Store::open(&root).unwrap());
    let layer = disk.join("layer");
    let diff = |store: &Store| {
        let file = File::create(&layer).map_err(|error| Error::io("create", error).at(&layer))?;
        // The caller's own file: he knows where it is.
        store.diff("key", file, &Default::default(), &Context::default()).map(drop).map_err(|error| error.at(&layer))
    };
    at.with_less_and_less_room("diff", |_| {}, diff, |_| fs::remove_file(&layer).unwrap());
    let store = Store::open(&root).unwrap();
    store.remove("key").unwrap();
    import(&store, "large").unwrap();
    let layout = disk.join("layout");
    let export = |store: &Store, what: &str| {
        let before = files(&layout);
        let done = store.export(what, &layout, &ExportOptions::default(), &Context::default()).map(drop);
        if done.is_err() {
            assert_eq!(files(&layout), before);
        }
        done
    };
    let ready = |store: &Store| {
        fs::create_dir(&layout).unwrap();
        export(store, "small").unwrap();
        // Else the export's own lease would be given that room.
        fs::remove_file(root.join("reserve")).unwrap();
    };
    at.with_less_and_less_room("export", ready, |store| export(store, "large"), |_| fs::remove_dir_all(&layout).unwrap());

    // Room can be made on a disk that has none, by whoever has the store open, and by whoever opens it then.
    for is_open in [true, false] {
        // This one holds room back again.
        let mut store = Store::open(&root).unwrap();
        import(&store, "large").unwrap();
        written(&store);
        assert!(root.join("reserve").exists());
        let ballast = at.ballast(0);
        if !is_open {
            drop(store);
            store = Store::open(&root).unwrap_or_else(|error| panic!("{}", chain(&error)));
        }
        store.remove("key").unwrap_or_else(|error| panic!("{}", chain(&error)));
        store.untag("large").unwrap_or_else(|error| panic!("{}", chain(&error)));
        collect(&store);
        let is_gone = |name: &str| store.stat(name).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        assert!(is_gone("key") && is_gone(large_image.chain_id().unwrap().to_string().as_str()));
        // That is room enough for something new.
        prepare(&store).unwrap_or_else(|error| panic!("{}", chain(&error)));
        drop(ballast);
        store.remove("key").unwrap();
        assert_sound(&store, "removed on a full disk");
    }
    drop((store, most));
    fs::remove_dir_all(&root).unwrap();
    fs::remove_dir_all(layouts).unwrap();
}

fn everywhere(scarce: Scarce) {
    for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
        println!("{backend:?}");
        fill(&backend, scarce);
    }
}

#[test]
fn an_ext4_without_room_is_told_and_nothing_is_left() {
    Sandbox::root().disk(Disk::SmallExt4).run(|| everywhere(Scarce::Bytes));
}

#[test]
fn an_ext4_without_inodes_is_told_and_nothing_is_left() {
    Sandbox::root().disk(Disk::SmallExt4).run(|| everywhere(Scarce::Inodes));
}

#[test]
fn an_xfs_without_room_is_told_and_nothing_is_left() {
    Sandbox::root().disk(Disk::SmallXfs).run(|| everywhere(Scarce::Bytes));
}

#[test]
fn an_xfs_without_inodes_is_told_and_nothing_is_left() {
    Sandbox::root().disk(Disk::SmallXfs).run(|| everywhere(Scarce::Inodes));
}

#[test]
fn a_btrfs_without_room_is_told_and_nothing_is_left() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(16)) {
        // SQLite's index of the log is mapped.
        let told = "before Linux 6.16 whoever writes to a mapped file of a full btrfs dies of SIGBUS";
        return skip("full_disk::a_btrfs_without_room_is_told_and_nothing_is_left", told);
    }
    Sandbox::root().disk(Disk::SmallBtrfs).run(|| everywhere(Scarce::Bytes));
}
