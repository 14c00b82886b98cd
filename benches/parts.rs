//! How fast the parts are, each alone, through the public interface: `cargo bench --features testing`.
//!
//! Stores are made where temporary files go (`TMPDIR`): that file system is measured as well. Mounts are detached and die with their
//! descriptor. What cannot run here says SKIP. Without `--bench` (as `cargo test --benches` runs it) everything runs once and is small.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)] // a program, not the library

use std::fs;
use std::hint::black_box;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use plywood::compression::{Compression, Decoder};
use plywood::digest::{Algorithm, Hasher, Tee};
use plywood::snapshot::{Key, Name};
use plywood::store::{BackendChoice, ImportLayerOptions, LayerSource, Store};
use plywood::tar::{Limits, Reader};
use plywood::testing::{Layer, TemporaryStore, temporary_directory};
use plywood::{Context, Result};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// How large the inputs are.
struct Scale {
    members: usize,
    bytes: usize,
    files: usize,
    chains: &'static [usize],
    snapshots: &'static [usize],
}

const FULL: Scale = Scale { members: 20_000, bytes: 64 << 20, files: 5_000, chains: &[1, 10, 100], snapshots: &[10, 10_000] };
const QUICK: Scale = Scale { members: 200, bytes: 1 << 20, files: 100, chains: &[1, 3], snapshots: &[3, 10] };

fn main() {
    let scale = if std::env::args().any(|argument| argument == "--bench") { FULL } else { QUICK };
    let mut criterion = Criterion::default().configure_from_args();
    tar_reader(&mut criterion, &scale);
    decode(&mut criterion, &scale);
    for (name, choice) in [("overlay", BackendChoice::Overlay), ("copy", BackendChoice::Copy)] {
        match store(&choice) {
            Ok(_) => {
                import(&mut criterion, &scale, name, &choice);
                diff(&mut criterion, &scale, name, &choice);
                diff_of_bytes(&mut criterion, &scale, name, &choice);
                mount(&mut criterion, &scale, name, &choice);
            }
            Err(error) => println!("SKIP parts, {name}: no such store can be made here: {error}"),
        }
    }
    bare_mount(&mut criterion, &scale);
    copies(&mut criterion, &scale);
    by_number_of_snapshots(&mut criterion, &scale);
    criterion.final_summary();
}

fn store(choice: &BackendChoice) -> Result<TemporaryStore> {
    Store::temporary_with(|options| options.backend(choice.clone()))
}

/// Text that compresses about as programs do, and is the same everywhere.
fn text(length: usize) -> Vec<u8> {
    let (mut state, mut bytes) = (1_u64, Vec::with_capacity(length + 8));
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = (state >> 33) & 0x3ff;
        bytes.extend_from_slice(&(word * word).to_le_bytes()[..3]);
    }
    bytes.truncate(length);
    bytes
}

/// A hundred files in a directory, a kilobyte each, no two alike.
fn small_files(count: usize) -> Layer {
    let body = text(1024 + count);
    (0..count).fold(Layer::new(), |layer, number| {
        let layer = if number % 100 == 0 { layer.dir(format!("usr/{}", number / 100), 0o755) } else { layer };
        layer.file(format!("usr/{}/file-{number}", number / 100), &body[number..number + 1024])
    })
}

fn tar_reader(criterion: &mut Criterion, scale: &Scale) {
    let members = small_files(scale.members).tar();
    let large = Layer::new().file("large", text(scale.bytes)).tar();
    let mut group = criterion.benchmark_group("tar");
    for (what, archive, throughput) in [
        ("members", &members, Throughput::Elements((scale.members + scale.members.div_ceil(100)) as u64)),
        ("bytes", &large, Throughput::Bytes(large.len() as u64)),
    ] {
        group.throughput(throughput);
        group.bench_function(BenchmarkId::new("plywood", what), |bencher| bencher.iter(|| read_tar(archive)));
        group.bench_function(BenchmarkId::new("tar crate", what), |bencher| {
            bencher.iter(|| {
                for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
                    io::copy(&mut entry.unwrap(), &mut io::sink()).unwrap();
                }
            });
        });
    }
    group.finish();
}

fn read_tar(archive: &[u8]) -> u64 {
    let cx = Context::default();
    let mut reader = Reader::new(archive, Limits::default(), &cx);
    let mut sum = 0;
    while let Some(entry) = reader.next().unwrap() {
        black_box(&entry);
        while let Some(chunk) = reader.chunk().unwrap() {
            sum += chunk.data.len() as u64;
        }
    }
    sum
}

fn decode(criterion: &mut Criterion, scale: &Scale) {
    let archive = Layer::new().file("large", text(scale.bytes)).tar();
    let layer = Layer::new().file("large", text(scale.bytes));
    let mut group = criterion.benchmark_group("decode");
    group.sample_size(20).throughput(Throughput::Bytes(archive.len() as u64));
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        group.bench_function(format!("{algorithm:?} alone"), |bencher| {
            bencher.iter(|| {
                let mut hasher = Hasher::new(algorithm);
                archive.chunks(64 << 10).for_each(|chunk| hasher.update(chunk));
                hasher.finish()
            });
        });
    }
    for compression in [Compression::Gzip, Compression::Zstd] {
        let packed = layer.packed(compression);
        group.bench_function(format!("{compression:?} alone"), |bencher| {
            bencher.iter(|| drain(Decoder::new(packed.as_slice()).unwrap()));
        });
        group.bench_function(format!("{compression:?} with both digests"), |bencher| {
            bencher.iter(|| {
                let blob = Tee::new(packed.as_slice(), Algorithm::Sha256);
                drain(Tee::new(Decoder::new(blob).unwrap(), Algorithm::Sha256))
            });
        });
    }
    group.finish();
}

fn drain(mut reader: impl Read) -> u64 {
    let (mut buffer, mut sum) = (vec![0; 64 << 10], 0);
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => return sum,
            count => sum += count as u64,
        }
    }
}

fn import_layer(store: &Store, tar: &[u8], parent: Option<&Name>) -> Name {
    let options = parent.map_or_else(ImportLayerOptions::default, |name| ImportLayerOptions::default().parent(name.as_str()));
    Name::from(&store.import_layer(LayerSource::reader(tar), &options, &Context::default()).unwrap().chain_id)
}

/// From the tar to a durable, named tree, into a new store each time; making and deleting the store is not counted.
fn import(criterion: &mut Criterion, scale: &Scale, name: &str, choice: &BackendChoice) {
    let layer = small_files(scale.files).packed(Compression::Gzip);
    let mut group = criterion.benchmark_group("import of small files");
    group.sample_size(10).throughput(Throughput::Elements(scale.files as u64));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let store = store(choice).unwrap();
                let start = Instant::now();
                import_layer(&store, &layer, None);
                spent += start.elapsed();
            }
            spent
        });
    });
    group.finish();
}

/// The layer of a container that edited, deleted and made a tenth of the files each.
fn diff(criterion: &mut Criterion, scale: &Scale, name: &str, choice: &BackendChoice) {
    let store = store(choice).unwrap();
    let parent = import_layer(&store, &small_files(scale.files).tar(), None);
    let mount = store.prepare(&Key::new("box").unwrap(), Some(&parent), &Default::default()).unwrap();
    let mounted = match mount.detached() {
        Ok(mounted) => mounted,
        Err(error) => return println!("SKIP parts, diff on {name}: nothing can be mounted here: {error}"),
    };
    let root = PathBuf::from(format!("/proc/self/fd/{}", mounted.as_fd().as_raw_fd()));
    for number in (0..scale.files).step_by(10) {
        let path = |number: usize| root.join(format!("usr/{}/file-{number}", number / 100));
        fs::write(path(number), "edited").unwrap();
        fs::remove_file(path(number + 1)).unwrap();
        fs::write(root.join(format!("usr/{}/new-{number}", number / 100)), "new").unwrap();
    }
    drop(mounted);
    let mut group = criterion.benchmark_group("diff");
    group.sample_size(10).throughput(Throughput::Elements(3 * scale.files as u64 / 10));
    group.bench_function(name, |bencher| {
        bencher.iter(|| store.diff("box", io::sink(), &Default::default(), &Context::default()).unwrap());
    });
    group.finish();
}

/// The layer of a container that wrote few large files, into a file, beside an archive of the same by `tar` and its digest by `sha256sum`.
fn diff_of_bytes(criterion: &mut Criterion, scale: &Scale, name: &str, choice: &BackendChoice) {
    let (store, place) = (store(choice).unwrap(), temporary_directory().unwrap());
    let mount = store.prepare(&Key::new("box").unwrap(), None, &Default::default()).unwrap();
    let mounted = match mount.detached() {
        Ok(mounted) => mounted,
        Err(error) => return println!("SKIP parts, diff of bytes on {name}: nothing can be mounted here: {error}"),
    };
    let root = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), mounted.as_fd().as_raw_fd()));
    let content = text(scale.bytes);
    for number in 0..4 {
        fs::write(root.join(number.to_string()), &content).unwrap();
    }
    let archive = place.path().join("archive");
    let mut group = criterion.benchmark_group("diff of bytes");
    group.sample_size(10).throughput(Throughput::Bytes(4 * content.len() as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let file = fs::File::create(&archive).unwrap();
            store.diff("box", file, &Default::default(), &Context::default()).unwrap()
        });
    });
    let script = format!("tar -cf {0} -C {1} . && sha256sum {0} >{0}.sum", archive.display(), root.display());
    group.bench_function(format!("{name}: tar, sha256sum"), |bencher| bencher.iter(|| run("sh", &["-c", &script])));
    group.finish();
}

/// A writable copy of a tree, durable, beside `cp -a --reflink=auto` and a sync.
fn copies(criterion: &mut Criterion, scale: &Scale) {
    let store = store(&BackendChoice::Copy).unwrap();
    let parent = import_layer(&store, &small_files(scale.files).tar(), None);
    let shown = store.view(&Key::new("shown").unwrap(), Some(&parent), &Default::default()).unwrap();
    let (original, place) = (shown.source(), temporary_directory().unwrap());
    let mut group = criterion.benchmark_group("copy of a tree");
    group.sample_size(10).throughput(Throughput::Elements(scale.files as u64));
    let key = Key::new("box").unwrap();
    group.bench_function("prepare", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let start = Instant::now();
                store.prepare(&key, Some(&parent), &Default::default()).unwrap();
                spent += start.elapsed();
                store.remove(key.as_str()).unwrap();
                store.empty_trash(&Context::default()).unwrap();
            }
            spent
        });
    });
    group.bench_function("cp -a --reflink=auto, sync -f", |bencher| {
        let copy = place.path().join("copy");
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let start = Instant::now();
                run("cp", &["-a", "--reflink=auto", original.to_str().unwrap(), copy.to_str().unwrap()]);
                run("sync", &["-f", copy.to_str().unwrap()]);
                spent += start.elapsed();
                fs::remove_dir_all(&copy).unwrap();
            }
            spent
        });
    });
    group.finish();
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).status().unwrap();
    assert!(done.success(), "{program} {arguments:?}: {done}");
}

/// A container's root comes and goes: prepare, mount, unmount, remove. The bytes that `remove` leaves for later are deleted uncounted.
fn mount(criterion: &mut Criterion, scale: &Scale, name: &str, choice: &BackendChoice) {
    let (store, key) = (store(choice).unwrap(), Key::new("box").unwrap());
    let (mut parent, mut depth) = (None, 0);
    let mut group = criterion.benchmark_group("prepare, mount, remove");
    group.sample_size(20);
    for &layers in scale.chains {
        while depth < layers {
            let layer = Layer::new().dir("etc", 0o755).file(format!("etc/{depth}"), "x");
            parent = Some(import_layer(&store, &layer.tar(), parent.as_ref()));
            depth += 1;
        }
        let round = || store.prepare(&key, parent.as_ref(), &Default::default())?.detached();
        let tried = round().map(drop);
        store.remove(key.as_str()).unwrap();
        if let Err(error) = tried {
            println!("SKIP parts, mount on {name}: nothing can be mounted here: {error}");
            break;
        }
        group.bench_function(BenchmarkId::new(name, layers), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let start = Instant::now();
                    drop(round().unwrap());
                    store.remove(key.as_str()).unwrap();
                    spent += start.elapsed();
                    store.empty_trash(&Context::default()).unwrap();
                }
                spent
            });
        });
    }
    group.finish();
}

/// What the kernel alone takes for the same: three directories, an overlay, and away with them. No store, nothing durable.
fn bare_mount(criterion: &mut Criterion, scale: &Scale) {
    let place = temporary_directory().unwrap();
    let mut group = criterion.benchmark_group("prepare, mount, remove");
    group.sample_size(20);
    for &layers in scale.chains {
        let lowers: Vec<PathBuf> = (0..layers).map(|number| place.path().join(format!("lower-{number}"))).collect();
        for (number, lower) in lowers.iter().enumerate() {
            fs::create_dir_all(lower.join("etc")).unwrap();
            fs::write(lower.join(format!("etc/{number}")), "x").unwrap();
        }
        if let Err(error) = bare_round(place.path(), &lowers) {
            println!("SKIP parts, bare mount: {error}");
            break;
        }
        group.bench_function(BenchmarkId::new("bare system calls", layers), |bencher| {
            bencher.iter(|| bare_round(place.path(), &lowers).unwrap());
        });
    }
    group.finish();
}

fn bare_round(place: &Path, lowers: &[PathBuf]) -> io::Result<()> {
    let tree = place.join("tree");
    let (upper, work) = (tree.join("upper"), tree.join("work"));
    [&tree, &upper, &work].into_iter().try_for_each(fs::create_dir)?;
    let mounted = bare_overlay(&upper, &work, lowers);
    fs::remove_dir_all(&tree)?;
    mounted
}

fn bare_overlay(upper: &Path, work: &Path, lowers: &[PathBuf]) -> io::Result<()> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in lowers.iter().rev() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir+", lower)?;
    }
    rustix::mount::fsconfig_set_string(context.as_fd(), "upperdir", upper)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "workdir", work)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(drop)?;
    Ok(())
}

/// What should not grow with the number of snapshots (open, stat, prepare and remove), and what may: walking them, beside the bare rows.
fn by_number_of_snapshots(criterion: &mut Criterion, scale: &Scale) {
    let (store, key) = (store(&BackendChoice::Copy).unwrap(), Key::new("box").unwrap());
    let mut group = criterion.benchmark_group("by number of snapshots");
    group.sample_size(20);
    let mut made = 0;
    for &count in scale.snapshots {
        while made < count {
            store.prepare(&Key::new(format!("snapshot-{made}")).unwrap(), None, &Default::default()).unwrap();
            made += 1;
        }
        group.bench_function(BenchmarkId::new("open", count), |bencher| bencher.iter(|| Store::open(store.root()).unwrap()));
        group.bench_function(BenchmarkId::new("stat", count), |bencher| bencher.iter(|| store.stat("snapshot-1").unwrap()));
        group.bench_function(BenchmarkId::new("prepare, remove", count), |bencher| {
            bencher.iter(|| {
                store.prepare(&key, None, &Default::default()).unwrap();
                store.remove(key.as_str()).unwrap();
            });
        });
        store.empty_trash(&Context::default()).unwrap();
        group.bench_function(BenchmarkId::new("walk", count), |bencher| {
            bencher.iter(|| {
                let mut seen = 0;
                let visit = |info| {
                    black_box(&info);
                    seen += 1;
                    Ok(())
                };
                store.walk(&Default::default(), visit).unwrap();
                assert_eq!(seen, count);
            });
        });
        let database = rusqlite::Connection::open(store.root().join("plywood.db")).unwrap();
        group.bench_function(BenchmarkId::new("bare SELECT", count), |bencher| {
            bencher.iter(|| assert_eq!(select(&database), count));
        });
    }
    group.finish();
}

/// Every column of every snapshot.
fn select(database: &rusqlite::Connection) -> usize {
    let mut statement = database.prepare_cached("SELECT * FROM snapshots ORDER BY id").unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut count = 0;
    while let Some(row) = rows.next().unwrap() {
        (0..columns).for_each(|column| drop(black_box(row.get::<_, rusqlite::types::Value>(column).unwrap())));
        count += 1;
    }
    count
}
