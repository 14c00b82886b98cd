//! What it costs that an import survives a power cut: `cargo bench --features testing --bench durability`, as root.
//!
//! A layer of one large file and one of 60,000 small ones come into new stores on an ext4 of their own (a loop device with direct I/O on
//! a file of TMPDIR, in a mount namespace that ends with the program): with full durability, with relaxed, and relaxed with one
//! `syncfs` behind it; then all again while another process keeps 2 GiB of the same file system dirty. Times are medians, in turn.
//! Without `--bench` all is a hundredth of that. `--rounds N` says how often (3).

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)] // a program, not the library

mod disk;

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use plywood::compression::Compression;
use plywood::store::{ImageSource, ImportOptions, Store, StoreOptions};
use plywood::testing::{Image, Layer, temporary_directory};
use plywood::{Context, Durability, Result};

use disk::{new_disk, sync};

/// Tells the program that it is to keep a file dirty, and how many bytes of it.
const DIRTY: &str = "PLYWOOD_BENCH_DIRTY";

#[derive(Clone, Copy, Debug)]
enum Way {
    Relaxed,
    Full,
    RelaxedThenSyncfs,
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
    let scale = if is_full { 1 } else { 100 };
    let input = temporary_directory()?;
    let cases = [
        Case { name: "one file of 512 MiB", layout: layout(input.path(), "large", large((512 << 20) / scale)) },
        Case { name: "60,000 files", layout: layout(input.path(), "small", small(60_000 / scale)) },
    ];
    let disk = new_disk(input.path(), 12 << 30);
    let dirty = (2 << 30) / scale as u64;
    for case in &cases {
        let idle = measure(case, &disk, rounds)?;
        let mut busy = start_dirty(&disk.join("dirty"), dirty);
        let beside = measure(case, &disk, rounds);
        busy.kill().unwrap();
        busy.wait().unwrap();
        fs::remove_file(disk.join("dirty")).unwrap();
        sync(&disk);
        let [relaxed, full, syncfs] = idle;
        let [relaxed_beside, full_beside, syncfs_beside] = beside?;
        println!("{}: relaxed {relaxed:.2} s, full {full:.2} s, relaxed and syncfs {syncfs:.2} s", case.name);
        println!("  full / relaxed: {:.2}", full / relaxed);
        println!(
            "  beside dirty data: relaxed {relaxed_beside:.2} s, full {full_beside:.2} s, relaxed and syncfs {syncfs_beside:.2} s"
        );
        let (ours, theirs) = (full_beside - full, syncfs_beside - syncfs);
        println!("  more than alone: full {ours:.2} s, syncfs {theirs:.2} s: {:.2}", ours / theirs);
    }
    Ok(())
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

/// The median time of each way, in seconds.
fn measure(case: &Case, disk: &Path, rounds: usize) -> Result<[f64; 3]> {
    let ways = [Way::Relaxed, Way::Full, Way::RelaxedThenSyncfs];
    let mut times = ways.map(|_| Vec::new());
    for _ in 0..rounds {
        for (way, times) in ways.into_iter().zip(&mut times) {
            times.push(import(case, disk, way)?.as_secs_f64());
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}

fn import(case: &Case, disk: &Path, way: Way) -> Result<Duration> {
    let root = disk.join("store");
    let durability = if matches!(way, Way::Full) { Durability::Full } else { Durability::Relaxed };
    let store = Store::open_with(&StoreOptions::new(&root).durability(durability))?;
    sync(disk);
    let began = Instant::now();
    let point = File::open(disk).unwrap();
    store.import(ImageSource::path(&case.layout), &ImportOptions::default(), &Context::default())?;
    if matches!(way, Way::RelaxedThenSyncfs) {
        rustix::fs::syncfs(&point).unwrap();
    }
    let took = began.elapsed();
    drop(store);
    fs::remove_dir_all(&root).unwrap();
    sync(disk);
    Ok(took)
}

fn start_dirty(path: &Path, size: u64) -> Child {
    let ready = path.with_extension("ready");
    let child = Command::new(std::env::current_exe().unwrap()).env(DIRTY, format!("{}\n{size}", path.display())).spawn().unwrap();
    while fs::remove_file(&ready).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// Writes the file again and again, all of it every two seconds: what the kernel writes back is dirty again soon.
fn keep_dirty(path: &Path, size: u64) -> ! {
    const STEP: u64 = 1 << 20;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let mut file = File::create(path).unwrap();
    let bytes = content(STEP as usize, 7);
    let pause = Duration::from_secs(2).mul_f64(STEP as f64 / size as f64);
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
