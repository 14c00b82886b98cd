//! What does not grow with the number of snapshots: opening a store, stat, prepare and remove make the same system calls among a thousand
//! as among ten, but for the pages of an index that is a level higher. Counted, never timed; `benches/parts.rs` has the times.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use plywood::snapshot::Key;
use plywood::store::{BackendChoice, Store, StoreOptions};
use plywood::testing::temporary_directory;
use plywood::tree::Ids;

use crate::support::skip;
use crate::support::tracer::{self, At};

/// Tells the process that is to be traced what to do, and in which store.
const DOES: &str = "PLYWOOD_TEST_COUNTED";

/// What is counted, one after the other in a store of each size.
const VERBS: [&str; 4] = ["open", "stat", "prepare", "remove"];

/// How many pages of the database one statement more may read or write, for each index that is a level higher.
const PAGES: usize = 12;

/// Whoever runs this, root or not.
fn open(root: &Path) -> Store {
    Store::open_with(&StoreOptions::new(root).backend(BackendChoice::Copy).ids(Ids::Squash)).unwrap()
}

/// Makes a store of so many snapshots. Most of them are rows and directories as `prepare` leaves them, made at once.
fn fill(root: &Path, count: u64) {
    let store = open(root);
    store.prepare(&Key::new("first").unwrap(), None, &Default::default()).unwrap();
    drop(store);
    let database = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
    database.execute_batch("BEGIN").unwrap();
    for number in 2..=count {
        let (tree, name) = (number.cast_signed(), format!("snapshot-{}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        database.execute("INSERT INTO trees (id, state, backend) VALUES (?1, 'writable', 'copy')", [tree]).unwrap();
        let row = "INSERT INTO snapshots (name, kind, tree, root, created, updated) \
                   SELECT ?2, kind, ?1, root, created, updated FROM snapshots WHERE name = 'first'";
        database.execute(row, rusqlite::params![tree, name]).unwrap();
        fs::create_dir_all(root.join(format!("trees/{tree}/fs"))).unwrap();
    }
    database.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

fn perform(verb: &str, root: &Path) {
    let open = || open(root);
    let key = Key::new("box").unwrap();
    match verb {
        "open" => {
            tracer::be_traced();
            open();
        }
        "stat" => {
            let store = open();
            tracer::be_traced();
            store.stat("first").unwrap();
        }
        "prepare" => {
            let store = open();
            tracer::be_traced();
            store.prepare(&key, None, &Default::default()).unwrap();
        }
        // What the verb before it made.
        _ => {
            let store = open();
            tracer::be_traced();
            store.remove(key.as_str()).unwrap();
        }
    }
}

/// Not a test of its own: what the other traces.
#[test]
fn performs() {
    let Ok(text) = std::env::var(DOES) else { return };
    let (verb, root) = text.split_once('\n').unwrap();
    perform(verb, Path::new(root));
    std::process::exit(0);
}

/// The calls of a verb by name, how often each.
#[expect(clippy::zombie_processes, reason = "the tracer waits for it")]
fn calls(verb: &str, root: &Path) -> BTreeMap<&'static str, usize> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "scale::performs", "--nocapture"])
        .env(DOES, format!("{verb}\n{}", root.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let traced = tracer::follow(&child, At::Everything, &mut ());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(traced.status, Some(0), "{verb}: {said}");
    let mut calls = BTreeMap::new();
    for call in traced.calls {
        *calls.entry(call).or_default() += 1;
    }
    calls
}

#[test]
fn opening_and_a_snapshots_verbs_cost_the_same_among_many() {
    const NAME: &str = "opening_and_a_snapshots_verbs_cost_the_same_among_many";
    if let Err(reason) = tracer::available() {
        return skip(NAME, &reason);
    }
    let place = temporary_directory().unwrap();
    let (few, many) = (place.path().join("few"), place.path().join("many"));
    fill(&few, 10);
    fill(&many, 1000);
    for verb in VERBS {
        let (few, many) = (calls(verb, &few), calls(verb, &many));
        for name in few.keys().chain(many.keys()) {
            let count = |calls: &BTreeMap<_, usize>| calls.get(name).copied().unwrap_or_default();
            // Of the database and its log, a page at a time.
            let more = if name.starts_with("pread") || name.starts_with("pwrite") { PAGES } else { 0 };
            assert!(
                count(&many) <= count(&few) + more,
                "{verb}: {name} {} times among ten snapshots, {} times among a thousand\n{few:?}\n{many:?}",
                count(&few),
                count(&many)
            );
        }
    }
}
