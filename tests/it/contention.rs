//! Many processes in one store at once, some of them killed at random: nothing that should succeed fails, nobody waits for ever, and the
//! store is whole afterwards.
//!
//! `PLYWOOD_TEST_LONG=N` works for N seconds a backend instead of the few of an ordinary run.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use plywood::snapshot::{Key, Name};
use plywood::store::{BackendChoice, CheckOptions, Store, StoreOptions};
use plywood::{Context, ErrorKind};

use crate::support::work::{Dice, Worker, chain, check_store, empty_store, seed, write_images};
use crate::support::{Disk, Sandbox, is_root};

/// Tells a worker where the store is, its seed, and for how many milliseconds it works.
const AT: &str = "PLYWOOD_TEST_CONTENDS_AT";

const PROCESSES: u64 = 8;

/// Not a test of its own: one of the many, with two threads.
#[test]
fn works_beside_others() {
    let Ok(text) = std::env::var(AT) else { return };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let [root, images, seed, time] = text.split('\n').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let (seed, end) = (seed.parse::<u64>().unwrap(), Instant::now() + Duration::from_millis(time.parse().unwrap()));
    let store = Store::open(root).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let mut steps = File::options().append(true).create(true).open(steps_of(Path::new(root))).unwrap();
            let mut worker = Worker::new(store.clone(), Path::new(images), format!("w{seed}.{thread}"), seed ^ thread);
            scope.spawn(move || {
                while Instant::now() < end {
                    worker.step();
                    steps.write_all(b".").unwrap();
                }
                worker.check();
            });
        }
    });
}

/// How long a worker lives on average before it is killed, in milliseconds.
const LIFE: u64 = 4000;

struct Scene<'a> {
    root: &'a Path,
    images: &'a Path,
}

impl Scene<'_> {
    fn start(&self, seed: u64, time: Duration) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "contention::works_beside_others", "--nocapture"])
            .env(AT, format!("{}\n{}\n{seed}\n{}", self.root.display(), self.images.display(), time.as_millis()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

/// A file beside the store with a byte for each operation that was done.
fn steps_of(root: &Path) -> PathBuf {
    root.with_extension("steps")
}

/// So many work at once for so long; again and again one of them is killed, and another begins in its place.
fn contend(backend: &BackendChoice, time: Duration) {
    let mut dice = Dice::new(seed());
    let directory = tempfile::tempdir().unwrap();
    let (root, images) = (directory.path().join("store"), directory.path().join("images"));
    write_images(&images);
    let store = Store::open_with(&StoreOptions::new(&root).backend(backend.clone())).unwrap();
    let scene = Scene { root: &root, images: &images };
    let end = Instant::now() + time;
    let mut workers: Vec<Child> = (0..PROCESSES).map(|_| scene.start(dice.below(1 << 31), time)).collect();
    let mut killed = 0;
    loop {
        std::thread::sleep(Duration::from_millis(dice.below(2 * LIFE / PROCESSES)));
        let left = end.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(500) {
            break;
        }
        let mut victim = workers.swap_remove(dice.below(PROCESSES) as usize);
        let ended = victim.try_wait().unwrap();
        victim.kill().unwrap();
        let output = victim.wait_with_output().unwrap();
        assert_eq!(ended, None, "{}", String::from_utf8_lossy(&output.stderr));
        killed += 1;
        workers.push(scene.start(dice.below(1 << 31), left));
    }
    let deadline = end + Duration::from_secs(60);
    for mut worker in workers {
        while worker.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                worker.kill().unwrap();
                panic!("a worker waits for ever");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let steps = std::fs::metadata(steps_of(&root)).unwrap().len();
    println!("{backend:?}: {steps} operations; {killed} of {} processes killed", killed + PROCESSES);
    check_store(&store);
    // What the killed ones left half done goes, and nothing else is wrong.
    let outcome = store.check(&CheckOptions::default().full(), &Context::default()).unwrap();
    let damage: Vec<String> = outcome.findings.iter().filter(|finding| finding.stays()).map(ToString::to_string).collect();
    assert_eq!(damage, [""; 0]);
    // Its own lease ends with it.
    drop(store);
    empty_store(&Store::open(&root).unwrap());
}

#[test]
fn many_processes_share_a_store() {
    let sandbox = if is_root() { Sandbox::root().disk(Disk::Ext4) } else { Sandbox::user_namespace() };
    sandbox.run(|| {
        let seconds: u64 = std::env::var("PLYWOOD_TEST_LONG").ok().and_then(|count| count.parse().ok()).unwrap_or(2);
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            contend(&backend, Duration::from_secs(seconds));
        }
    });
}

/// Of many who want one name, one gets it; what the others wanted to commit can be mounted and committed as something else.
fn lose_a_name(backend: &BackendChoice) {
    let store = Store::temporary_with(|options| options.backend(backend.clone())).unwrap();
    let name = Name::new("name").unwrap();
    let keys: Vec<_> = (0..8).map(|number| Key::new(format!("key {number}")).unwrap()).collect();
    for key in &keys {
        store.prepare(key, None, &Default::default()).unwrap();
    }
    let all_there = Barrier::new(keys.len());
    let commit = |key: &Key| {
        all_there.wait();
        store.commit(&name, key, &Default::default())
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = keys.iter().map(|key| scope.spawn(|| commit(key))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for (key, result) in keys.iter().zip(results) {
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", chain(&error));
            drop(store.mounts(key.as_str()).unwrap().detached().unwrap());
            store.commit(&Name::new(format!("{key} after all")).unwrap(), key, &Default::default()).unwrap();
        }
    }
}

/// What is being committed cannot be mounted to be written to, and what is mounted cannot be committed.
fn mount_while_it_is_committed() {
    let store = Store::temporary_with(|options| options.backend(BackendChoice::Overlay)).unwrap();
    for round in 0..30 {
        let key = Key::new(format!("{round}")).unwrap();
        let mount = store.prepare(&key, None, &Default::default()).unwrap();
        let both_there = Barrier::new(2);
        let (committed, mounted) = std::thread::scope(|scope| {
            let mounted = scope.spawn(|| {
                both_there.wait();
                mount.detached()
            });
            both_there.wait();
            let committed = store.commit(&Name::new(format!("{round} committed")).unwrap(), &key, &Default::default());
            (committed, mounted.join().unwrap())
        });
        match (committed, mounted) {
            (Err(error), Ok(_)) => assert_eq!(error.kind(), ErrorKind::InUse, "{}", chain(&error)),
            (Ok(_), Err(error)) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}", chain(&error)),
            (committed, mounted) => panic!("{committed:?} {mounted:?}"),
        }
    }
}

#[test]
fn a_commit_has_its_snapshot_alone() {
    let sandbox = if is_root() { Sandbox::root().disk(Disk::Ext4) } else { Sandbox::user_namespace() };
    sandbox.run(|| {
        lose_a_name(&BackendChoice::Overlay);
        lose_a_name(&BackendChoice::Copy);
        mount_while_it_is_committed();
    });
}
