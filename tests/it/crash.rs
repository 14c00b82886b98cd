//! Processes that are killed at any moment: what the store says it has is whole, and nothing else is left.
//!
//! `PLYWOOD_TEST_LONG=N` kills N times instead of the few of an ordinary run; `PLYWOOD_TEST_SEED=N` repeats a run's choices.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plywood::Context;
use plywood::store::{BackendChoice, Store, StoreOptions};

use crate::support::work::{Dice, Worker, check_store, empty_store, seed, write_images};
use crate::support::{Disk, Sandbox, is_root};

/// Tells the process that is to be killed where the store is, and its seed.
const AT: &str = "PLYWOOD_TEST_KILLED_AT";

/// How long a process lives at most before it is killed.
const LIFE: u64 = 60_000;

fn open(root: &Path, backend: &BackendChoice) -> Store {
    Store::open_with(&StoreOptions::new(root).backend(backend.clone())).unwrap()
}

/// Not a test of its own: what the others start and kill.
#[test]
fn works_until_killed() {
    let Ok(text) = std::env::var(AT) else { return };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let [root, images, seed] = text.split('\n').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let seed: u64 = seed.parse().unwrap();
    let mut worker = Worker::new(Store::open(root).unwrap(), Path::new(images), format!("w{seed}"), seed);
    loop {
        worker.step();
    }
}

fn start(root: &Path, images: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::works_until_killed", "--nocapture"])
        .env(AT, format!("{}\n{}\n{seed}", root.display(), images.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills a process, which must not have ended by itself: that is a step that failed.
fn kill(mut child: Child) {
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(ended, None, "{}", String::from_utf8_lossy(&output.stderr));
}

/// Two at a time, each killed at a moment of its own.
fn kill_many(backend: &BackendChoice, count: u64) {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let directory = tempfile::tempdir().unwrap();
    let (root, images) = (directory.path().join("store"), directory.path().join("images"));
    write_images(&images);
    drop(open(&root, backend));
    for round in 0..count / 2 {
        let began = Instant::now();
        let mut children: Vec<_> = (0..2)
            .map(|_| {
                let child = start(&root, &images, dice.below(u64::MAX >> 1));
                (Duration::from_micros(dice.below(LIFE)), child)
            })
            .collect();
        children.sort_by_key(|(moment, _)| *moment);
        for (moment, child) in children {
            std::thread::sleep(moment.saturating_sub(began.elapsed()));
            kill(child);
        }
        let store = open(&root, backend);
        if round % 8 == 7 || round + 1 == count / 2 {
            check_store(&store);
            drop(store);
            empty_store(&open(&root, backend));
        } else if round % 3 == 0 {
            store.gc(&Default::default(), &Context::default()).unwrap();
        }
    }
}

fn both_backends() {
    let count = std::env::var("PLYWOOD_TEST_LONG").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
        kill_many(&backend, count / 2);
    }
}

#[test]
fn whoever_is_killed_leaves_a_whole_store() {
    let sandbox = if is_root() { Sandbox::root().disk(Disk::Ext4) } else { Sandbox::user_namespace() };
    sandbox.run(|| {
        both_backends();
    });
}
