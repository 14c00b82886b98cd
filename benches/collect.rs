//! What a collection costs those who work meanwhile: `cargo bench --features testing --bench collect`.
//!
//! A store gets 10,000 layers in chains of ten and 100,000 blobs, written straight into its database and directories; half of them are
//! kept by a lease. Then somebody prepares and removes snapshots without a pause, first alone, then beside a collection. At last a
//! container of 60,000 files is removed. Without `--bench` all is a hundredth of that; `--layers N` says how many there are.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)] // a program, not the library

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plywood::digest::{Algorithm, ChainId, DiffId};
use plywood::snapshot::Key;
use plywood::store::{BackendChoice, GcOptions, LeaseOptions, Store, StoreOptions};
use plywood::testing::temporary_directory;
use plywood::{Context, Result};
use rusqlite::params;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let given = arguments.iter().position(|argument| argument == "--layers").and_then(|at| arguments.get(at + 1));
    let full = if arguments.iter().any(|argument| argument == "--bench") { 10_000 } else { 100 };
    let layers = given.map_or(full, |number| number.parse().unwrap());
    let directory = temporary_directory()?;
    let options = StoreOptions::new(directory.path().join("store")).backend(BackendChoice::Copy);
    let store = Store::open_with(&options)?;
    store.add_lease("kept", &LeaseOptions::default().duration(Duration::MAX))?;
    drop(store);
    fill(&directory.path().join("store"), layers);

    let (store, other) = (Store::open_with(&options)?, Store::open_with(&options)?);
    let alone = beside(&other, || {
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    println!("prepare alone: {alone}");
    let mut outcome = None;
    let began = Instant::now();
    let meanwhile = beside(&other, || {
        outcome = Some(store.gc(&GcOptions::default(), &Context::default())?);
        Ok(())
    })?;
    let outcome = outcome.unwrap();
    println!(
        "gc of {} of {layers} layers, {} of {} blobs: {:.2} s",
        outcome.snapshots.len(),
        outcome.blobs.len(),
        layers * 10,
        began.elapsed().as_secs_f64()
    );
    println!("prepare beside it: {meanwhile}");

    let files = layers * 6;
    let mount = store.prepare(&Key::new("large")?, None, &Default::default())?;
    for number in 0..files {
        let folder = mount.source().join((number / 1000).to_string());
        if number % 1000 == 0 {
            fs::create_dir(&folder).unwrap();
        }
        fs::write(folder.join(number.to_string()), [7; 100]).unwrap();
    }
    let began = Instant::now();
    store.remove("large")?;
    println!("remove of {files} files: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    let began = Instant::now();
    let meanwhile = beside(&other, || store.empty_trash(&Context::default()).map(drop))?;
    println!("their bytes: {:.2} s; prepare beside it: {meanwhile}", began.elapsed().as_secs_f64());
    Ok(())
}

/// What somebody who prepares and removes without a pause sees while `work` runs.
fn beside(store: &Store, work: impl FnOnce() -> Result<()>) -> Result<String> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let preparing = scope.spawn(|| -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            let key = Key::new("small")?;
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                drop(store.prepare(&key, None, &Default::default())?);
                times.push(began.elapsed());
                store.remove(key.as_str())?;
            }
            Ok(times)
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let mut times = preparing.join().unwrap()?;
        worked?;
        times.sort_unstable();
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len() - 1)).unwrap().as_secs_f64() * 1e3;
        Ok(format!("{} times, median {:.1} ms, 99% {:.1} ms, longest {:.1} ms", times.len(), at(50), at(99), at(100)))
    })
}

fn fill(root: &Path, layers: usize) {
    let mut database = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
    let transaction = database.transaction().unwrap();
    let lease: i64 = transaction.query_row("SELECT id FROM leases WHERE name = 'kept'", [], |row| row.get(0)).unwrap();
    let directory =
        serde_json::json!({ "mode": 0o755, "uid": 0, "gid": 0, "mtime": { "seconds": 0, "nanoseconds": 0 }, "xattrs": [] });
    let mut below: Option<(i64, ChainId)> = None;
    for number in 0..layers {
        if number % 10 == 0 {
            below = None;
        }
        let diff_id = DiffId(Algorithm::Sha256.digest(format!("layer {number}").as_bytes()));
        let chain_id = ChainId::of(below.as_ref().map(|below| &below.1), &diff_id);
        transaction
            .execute(
                "INSERT INTO trees (state, backend, diff_id, ids) VALUES ('frozen', 'copy', ?1, 'exact')",
                [diff_id.to_string()],
            )
            .unwrap();
        let tree = transaction.last_insert_rowid();
        fs::create_dir_all(root.join(format!("trees/{tree}/fs"))).unwrap();
        let parent = below.map(|below| below.0);
        let root = directory.to_string();
        let row = params![chain_id.to_string(), parent, tree, root, diff_id.to_string()];
        transaction
            .execute(
                "INSERT INTO snapshots (name, kind, parent, tree, root, diff_id, chain_id, inodes, bytes, created, updated) \
                 VALUES (?1, 'committed', ?2, ?3, ?4, ?5, ?1, 1, 4096, 1, 1)",
                row,
            )
            .unwrap();
        let snapshot = transaction.last_insert_rowid();
        if number / 10 % 2 == 0 {
            transaction.execute("INSERT INTO leased_snapshots (lease, snapshot) VALUES (?1, ?2)", [lease, snapshot]).unwrap();
        }
        below = Some((snapshot, chain_id));
    }
    for number in 0..layers * 10 {
        let content = format!("blob {number}");
        let digest = Algorithm::Sha256.digest(content.as_bytes());
        fs::write(root.join("blobs/sha256").join(digest.to_hex()), &content).unwrap();
        let size = i64::try_from(content.len()).unwrap();
        transaction
            .execute(
                "INSERT INTO blobs (digest, size, media_type, created) VALUES (?1, ?2, 'text/plain', 1)",
                params![digest.to_string(), size],
            )
            .unwrap();
        if number % 2 == 0 {
            transaction
                .execute("INSERT INTO leased_blobs (lease, digest) VALUES (?1, ?2)", params![lease, digest.to_string()])
                .unwrap();
        }
    }
    transaction.commit().unwrap();
}
