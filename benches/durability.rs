//! What it costs that an import survives a power cut: `cargo bench --features testing --bench durability`, as root.
//!
//! A layer of one large file and one of 60,000 small ones come into new stores on an ext4 and an xfs of their own (a loop device with
//! direct I/O on a file of TMPDIR, in a mount namespace that ends with the program): with full durability, with relaxed, and relaxed with
//! one `syncfs` behind it, or with an `fsync` of each file and directory after batched write-back; then all again while another process
//! keeps 2 GiB of the same file system dirty. Times are medians, in turn. Without `--bench` all is a hundredth of that. `--rounds N` says
//! how often (3), `--file-system NAME` on which one alone.
//!
//! Seconds of a whole import, two processors, Linux 6.18, medians of three rounds (xfs: one):
//!
//! | made durable by | ext4: alone | beside 2 GiB | xfs: alone | beside 2 GiB |
//! |---|---|---|---|---|
//! | one file of 512 MiB: nothing | 1.78 | 2.61 | 1.88 | 2.46 |
//! | the same: as an import does it | 1.77 | 2.66 | 1.84 | 2.53 |
//! | the same: `syncfs` | 1.80 | 3.58 | 1.80 | 3.38 |
//! | the same: `fsync` of each, 2 in flight | 1.79 | 2.76 | 1.86 | 2.50 |
//! | 60,000 files: nothing | 0.92 | 1.90 | 0.98 | 1.77 |
//! | the same: as an import does it | 1.35 | 2.51 | 1.44 | 2.54 |
//! | the same: `syncfs` | 1.35 | 3.16 | 1.38 | 3.36 |
//! | the same: `fsync` of each, 2 in flight | 6.78 | 7.99 | 7.06 | 8.14 |
//! | the same: `fsync` of each, 32 in flight | 2.17 | 3.55 | 2.27 | 3.62 |
//!
//! Alone an import uses `syncfs`: to write each file back while others are unpacked makes the 60,000 cost 1.60 s on ext4, for it takes a
//! write for each where `syncfs` takes few for all. Beside the other process's data that way costs less than half of what `syncfs` costs
//! more than nothing, and for a large file next to nothing.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, unsafe_code, missing_docs)] // a program, not the library

mod disk;

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use plywood::compression::Compression;
use plywood::store::{ImageSource, ImportOptions, Store, StoreOptions};
use plywood::testing::{Image, Layer, temporary_directory};
use plywood::{Context, Durability, Result};

use disk::{new_disk, own_mounts, sync};

/// Tells the program that it is to keep a file dirty, and how many bytes of it.
const DIRTY: &str = "PLYWOOD_BENCH_DIRTY";

/// How long the other process takes to write all of its file.
const TURN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
enum Way {
    Relaxed,
    Full,
    RelaxedThenSyncfs,
    /// Write-back of every file is begun, and waited for; then each file and directory is synced, by so many threads.
    RelaxedThenFsyncs(usize),
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Full => "full",
            Self::RelaxedThenSyncfs => "relaxed, then syncfs",
            Self::RelaxedThenFsyncs(_) => "relaxed, then fsync of each",
        }
    }
}

/// What an import took, and its final step of that, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    all: f64,
    end: f64,
}

struct Case {
    name: &'static str,
    layout: PathBuf,
}

fn main() -> Result<()> {
    if let Ok(text) = std::env::var(DIRTY) {
        let (path, size) = text.split_once('\n').unwrap();
        keep_dirty(Path::new(path), size.parse().unwrap());
    }
    let arguments: Vec<String> = std::env::args().collect();
    let is_full = arguments.iter().any(|argument| argument == "--bench");
    let rounds = arguments.iter().position(|argument| argument == "--rounds").and_then(|at| arguments.get(at + 1));
    let rounds = rounds.map_or(3, |rounds| rounds.parse().unwrap());
    if !disk::can_be_made() {
        println!("SKIP durability: needs root and loop devices");
        return Ok(());
    }
    let wanted = arguments.iter().position(|argument| argument == "--file-system").and_then(|at| arguments.get(at + 1));
    let scale = if is_full { 1 } else { 100 };
    let input = temporary_directory()?;
    let cases = [
        Case { name: "one file of 512 MiB", layout: layout(input.path(), "large", large((512 << 20) / scale)) },
        Case { name: "60,000 files", layout: layout(input.path(), "small", small(60_000 / scale)) },
    ];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let ways =
        [Way::Relaxed, Way::Full, Way::RelaxedThenSyncfs, Way::RelaxedThenFsyncs(threads), Way::RelaxedThenFsyncs(threads * 16)];
    let dirty = (2 << 30) / scale as u64;
    own_mounts();
    for file_system in ["ext4", "xfs"] {
        if wanted.is_some_and(|wanted| wanted != file_system) {
            continue;
        }
        let Some(disk) = new_disk(input.path(), file_system, 12 << 30) else {
            println!("SKIP durability on {file_system}: no mkfs.{file_system}");
            continue;
        };
        for case in &cases {
            let alone = measure(case, &disk, &ways, rounds, Duration::ZERO)?;
            let mut busy = start_dirty(&disk.join("dirty"), dirty);
            // Our own sync has written the other's data as well: he needs so long until all of it is dirty again.
            let beside = measure(case, &disk, &ways, rounds, TURN);
            busy.kill().unwrap();
            busy.wait().unwrap();
            fs::remove_file(disk.join("dirty")).unwrap();
            sync(&disk);
            show(&format!("{file_system}, {}", case.name), &ways, &alone, &beside?);
        }
    }
    Ok(())
}

fn show(title: &str, ways: &[Way], alone: &[Took], beside: &[Took]) {
    println!("{title}");
    println!("  {:<42}{:>16}{:>24}{:>10}", "seconds (of them the final step)", "alone", "beside dirty data", "more");
    for ((way, alone), beside) in ways.iter().zip(alone).zip(beside) {
        let in_flight = match way {
            Way::RelaxedThenFsyncs(threads) => format!(", {threads} in flight"),
            _ => String::new(),
        };
        let name = format!("{}{in_flight}", way.name());
        let end = |took: &Took| format!("{:.2} ({:.2})", took.all, took.end);
        println!("  {name:<42}{:>16}{:>24}{:>10.2}", end(alone), end(beside), beside.all - alone.all);
    }
    if let [relaxed, full, ..] = alone {
        println!("  full / relaxed, alone: {:.2}", full.all / relaxed.all);
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Bytes that compress to three quarters.
fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend(random(&mut state).to_le_bytes().map(|byte| byte & 63));
    }
    bytes.truncate(size);
    bytes
}

fn large(size: usize) -> Layer {
    Layer::new().dir("", 0o755).file("large", content(size, 1))
}

/// Of 3 KiB on average, a thousand to a directory.
fn small(count: usize) -> Layer {
    let mut layer = Layer::new().dir("", 0o755);
    for number in 0..count {
        let folder = number / 1000;
        if number % 1000 == 0 {
            layer = layer.dir(format!("{folder}"), 0o755);
        }
        layer = layer.file(format!("{folder}/{number}"), content(number * 37 % 6000, number as u64));
    }
    layer
}

fn layout(directory: &Path, name: &str, layer: Layer) -> PathBuf {
    let path = directory.join(name);
    Image::new().layer(layer, Compression::Gzip).write_layout(&path, "latest").unwrap();
    path
}

/// The median time of each way.
fn measure(case: &Case, disk: &Path, ways: &[Way], rounds: usize, pause: Duration) -> Result<Vec<Took>> {
    let mut times: Vec<Vec<Took>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (way, times) in ways.iter().zip(&mut times) {
            times.push(import(case, disk, *way, pause)?);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn median(mut times: Vec<Took>) -> Took {
    times.sort_by(|one, other| one.all.total_cmp(&other.all));
    times[times.len() / 2]
}

fn import(case: &Case, disk: &Path, way: Way, pause: Duration) -> Result<Took> {
    let root = disk.join("store");
    let durability = if matches!(way, Way::Full) { Durability::Full } else { Durability::Relaxed };
    let store = Store::open_with(&StoreOptions::new(&root).durability(durability))?;
    sync(disk);
    std::thread::sleep(pause);
    let began = Instant::now();
    let point = File::open(disk).unwrap();
    store.import(ImageSource::path(&case.layout), &ImportOptions::default(), &Context::default())?;
    let ended = Instant::now();
    match way {
        Way::RelaxedThenSyncfs => rustix::fs::syncfs(&point).unwrap(),
        Way::RelaxedThenFsyncs(threads) => sync_each(&root, threads),
        Way::Relaxed | Way::Full => {}
    }
    let took = Took { all: began.elapsed().as_secs_f64(), end: ended.elapsed().as_secs_f64() };
    drop(store);
    fs::remove_dir_all(&root).unwrap();
    sync(disk);
    Ok(took)
}

/// Makes all files and directories below this one durable, each by itself: nothing of other programs is waited for.
fn sync_each(root: &Path, threads: usize) {
    let (mut files, mut directories) = (Vec::new(), vec![root.to_owned()]);
    let mut next = 0;
    while let Some(directory) = directories.get(next) {
        next += 1;
        for entry in fs::read_dir(directory).unwrap().map(std::result::Result::unwrap).collect::<Vec<_>>() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    let write_back = libc::SYNC_FILE_RANGE_WRITE;
    by_all(&files, threads, &|file: &File| write_back_range(file, write_back));
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | write_back | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    by_all(&files, threads, &|file: &File| write_back_range(file, wait));
    // What names the files first: on ext4 it commits the transaction that holds all of their inodes, too.
    directories.reverse();
    by_all(&directories, threads, &|file: &File| rustix::fs::fsync(file).unwrap());
    by_all(&files, threads, &|file: &File| rustix::fs::fsync(file).unwrap());
}

fn write_back_range(file: &File, flags: u32) {
    // SAFETY: no pointers; the descriptor is borrowed for the whole call.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn by_all(paths: &[PathBuf], threads: usize, act: &(impl Fn(&File) + Sync)) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    act(&File::open(path).unwrap());
                }
            });
        }
    });
}

fn start_dirty(path: &Path, size: u64) -> Child {
    let ready = path.with_extension("ready");
    let child = Command::new(std::env::current_exe().unwrap()).env(DIRTY, format!("{}\n{size}", path.display())).spawn().unwrap();
    while fs::remove_file(&ready).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// Writes the file again and again, all of it every [`TURN`]: what the kernel writes back is dirty again soon.
fn keep_dirty(path: &Path, size: u64) -> ! {
    const STEP: u64 = 1 << 20;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let mut file = File::create(path).unwrap();
    let bytes = content(STEP as usize, 7);
    let pause = TURN.mul_f64(STEP as f64 / size as f64);
    for turn in 0_u64.. {
        file.seek(SeekFrom::Start(0)).unwrap();
        let began = Instant::now();
        for step in 0..size / STEP {
            file.write_all(&bytes).unwrap();
            if turn > 0 {
                let due = pause.mul_f64((step + 1) as f64);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
        if turn == 0 {
            File::create(path.with_extension("ready")).unwrap();
        }
    }
    unreachable!()
}
