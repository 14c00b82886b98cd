//! Containers that fight back: whatever they do in their root while it is read, nothing outside is read, changed or deleted.

mod attacks;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{OFlag, RenameFlags, open, openat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use plywood::progress::Progress;
use plywood::snapshot::{Key, Name};
use plywood::store::{BackendChoice, DiffOptions, ImportLayerOptions, LayerSource, Store};
use plywood::testing::{Layer, TemporaryStore};
use plywood::{Context, ErrorKind};

use crate::support::work::chain;
use crate::support::{Disk, Sandbox, is_root};

const SECRET: &str = "a secret of the host";

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root().disk(Disk::Ext4) } else { Sandbox::user_namespace() }
}

fn stores() -> Vec<TemporaryStore> {
    let open = |backend| Store::temporary_with(|options| options.backend(backend)).unwrap();
    [BackendChoice::Overlay, BackendChoice::Copy].map(open).into()
}

/// Swaps a directory, a symlink that leads out, a file and a FIFO for each other as fast as it can, until it is told to stop.
fn fight(root: &Path, outside: &Path, stop: &AtomicBool) {
    let dir = open(root, OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    fs::create_dir_all(root.join("dir/below/deep")).unwrap();
    fs::write(root.join("dir/secret"), "inside").unwrap();
    fs::write(root.join("file"), "inside").unwrap();
    symlink(outside, root.join("out")).unwrap();
    symlink(outside.join("secret"), root.join("dir/below/secret")).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
    let swap = |one: &str, other: &str| renameat2(&dir, one, &dir, other, RenameFlags::RENAME_EXCHANGE).is_ok();
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        swap("dir", "out");
        swap("file", "fifo");
        swap("dir", "file");
        let _ = renameat2(&dir, "dir/below", &dir, "moved", RenameFlags::empty());
        let _ = renameat2(&dir, "moved", &dir, "dir/below", RenameFlags::empty());
        round += 1;
        let name = root.join(format!("new-{}", round % 50));
        drop(fs::remove_file(&name).or_else(|_| fs::write(&name, vec![b'x'; (round % 9000) as usize])));
    }
}

#[test]
fn a_container_that_swaps_its_files_leads_nobody_out() {
    let body = || {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), SECRET).unwrap();
        for store in stores() {
            let layer = (0..50).fold(Layer::new().dir("etc", 0o755), |layer, n| layer.file(format!("etc/{n}"), "below"));
            let base = store.import_layer(LayerSource::reader(&*layer.tar()), &ImportLayerOptions::default(), &Context::default());
            let parent = Name::from(&base.unwrap().chain_id);
            for round in 0..3 {
                let key = Key::new(format!("{round}")).unwrap();
                let target = tempfile::tempdir().unwrap();
                let mounted = store.prepare(&key, Some(&parent), &Default::default()).unwrap().attach(target.path()).unwrap();
                let stop = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| fight(target.path(), outside.path(), &stop));
                    for _ in 0..15 {
                        let mut layer = Vec::new();
                        let done = store.diff(key.as_str(), &mut layer, &DiffOptions::default(), &Context::default()).map(drop);
                        let done = done.and_then(|()| store.changes(key.as_str(), &Context::default(), |_| Ok(())));
                        let done = done.and_then(|()| store.usage(key.as_str()).map(drop));
                        if let Err(error) = done {
                            stop.store(true, Ordering::Relaxed);
                            panic!("{} {}", store.backend().name(), chain(&error));
                        }
                        assert!(!layer.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()), "the secret got out");
                    }
                    let in_use = store.commit(&Name::new("never").unwrap(), &key, &Default::default());
                    stop.store(true, Ordering::Relaxed);
                    assert_eq!(in_use.unwrap_err().kind(), ErrorKind::InUse);
                });
                assert_eq!(store.remove(key.as_str()).unwrap_err().kind(), ErrorKind::InUse);
                mounted.close().unwrap();
                store.remove(key.as_str()).unwrap();
                store.empty_trash(&Context::default()).unwrap();
            }
            assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), SECRET);
        }
    };
    sandbox().run(|| {
        body();
    });
}

/// Twelve times as deep as the kernel's longest path.
const DEPTH: usize = 1300;

/// A tree that no path reaches the end of.
fn dig(root: &Path, depth: usize) {
    let mut at: OwnedFd = open(root, OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    let name = "a-directory-of-a-name-of-some-length";
    for _ in 0..depth {
        mkdirat(&at, name, Mode::S_IRWXU).unwrap();
        at = openat(at.as_fd(), name, OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    }
}

#[test]
fn a_container_that_digs_deep_is_committed_and_removed_all_the_same() {
    let body = || {
        for store in stores() {
            let key = Key::new("deep").unwrap();
            let target = tempfile::tempdir().unwrap();
            let mounted = store.prepare(&key, None, &Default::default()).unwrap().attach(target.path()).unwrap();
            dig(target.path(), DEPTH);
            mounted.close().unwrap();
            assert_eq!(store.usage("deep").unwrap().inodes, DEPTH as u64 + 1);
            let mut count = 0;
            store
                .changes("deep", &Context::default(), |_| {
                    count += 1;
                    Ok(())
                })
                .unwrap();
            assert!(count >= DEPTH, "{count}");
            let name = Name::new("deep committed").unwrap();
            store.commit(&name, &key, &Default::default()).unwrap();
            let child = Key::new("child").unwrap();
            store.prepare(&child, Some(&name), &Default::default()).unwrap();
            store.remove("child").unwrap();
            store.remove("deep committed").unwrap();
            store.empty_trash(&Context::default()).unwrap();
        }
    };
    sandbox().run(|| {
        body();
    });
}

/// Starts a program now and then, and looks at what it has inherited.
struct Starts {
    store: String,
    calls: AtomicU64,
    inherited: Mutex<Vec<String>>,
}

impl Starts {
    fn start(&self) {
        if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(7) {
            let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
            let open = String::from_utf8_lossy(&output.stdout).into_owned();
            let ours = |line: &&str| line.contains(&self.store) || line.contains("overlay") || line.contains("anon_inode");
            self.inherited.lock().unwrap().extend(open.lines().filter(ours).map(str::to_owned));
        }
    }
}

impl Progress for Starts {
    fn bytes(&self, _: u64) {
        self.start();
    }

    fn entries(&self, _: u64) {
        self.start();
    }

    fn is_cancelled(&self) -> bool {
        self.start();
        false
    }
}

#[test]
fn no_descriptor_of_a_verb_reaches_a_program_that_is_started_meanwhile() {
    let body = || {
        for store in stores() {
            let starts =
                Starts { store: store.root().display().to_string(), calls: AtomicU64::new(0), inherited: Mutex::default() };
            let cx = Context::new(&starts);
            let layer = |name: &str| (0..5).fold(Layer::new().dir("d", 0o755), |layer, n| layer.file(format!("d/{name}{n}"), "x"));
            let base = store.import_layer(LayerSource::reader(&*layer("a").tar()), &Default::default(), &cx).unwrap().chain_id;
            let options = ImportLayerOptions::default().parent(base.to_string());
            let top = store.import_layer(LayerSource::reader(&*layer("b").tar()), &options, &cx).unwrap().chain_id;
            store.diff(&top.to_string(), std::io::sink(), &DiffOptions::default(), &cx).unwrap();
            store.gc(&Default::default(), &cx).unwrap();
            assert!(starts.calls.load(Ordering::Relaxed) > 20);
            assert_eq!(*starts.inherited.lock().unwrap(), [""; 0]);
        }
    };
    sandbox().run(|| {
        body();
    });
}

/// ext4 gives an inode 65,000 names.
#[test]
fn a_layer_with_more_names_of_a_file_than_the_file_system_has_is_refused_with_a_way_out() {
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let names = |count| (0..count).fold(Layer::new().file("a", "x"), |layer, n| layer.hardlink(format!("{n}"), "a")).tar();
        let store = Store::temporary_with(|options| options.backend(BackendChoice::Overlay)).unwrap();
        let import = |tar: &[u8]| store.import_layer(LayerSource::reader(tar), &Default::default(), &Context::default());
        import(&names(64_999)).unwrap();
        let error = import(&names(65_000)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", chain(&error));
        assert!(error.reason().unwrap().ends_with("the file system gives a no more names than it has"), "{error}");
        assert!(error.reason().unwrap().starts_with("member 65001 at offset"), "{error}");
        assert!(error.hint().unwrap().contains("xfs"), "{error}");
    });
}
