//! What an embedder's process keeps to itself: no thread survives a call, no signal handler is set, and working directory, umask and
//! environment stay as they were, whatever a verb does and however it ends. Many threads may use a store at once, and so may a child
//! after a fork.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use plywood::progress::Progress;
use plywood::store::{BackendChoice, CheckOptions, ImageSource, Store, StoreOptions};
use plywood::testing::{Layer, TemporaryStore};
use plywood::{Context, ErrorKind, Parallelism};

use crate::support::verbs::{every_verb, image};
use crate::support::{Sandbox, is_root};

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root() } else { Sandbox::user_namespace() }
}

fn store(backend: BackendChoice) -> TemporaryStore {
    // More threads than this machine may have processors.
    Store::temporary_with(|options: StoreOptions| options.backend(backend).parallelism(Parallelism::new(4))).unwrap()
}

/// What all threads of a process share, and a library must not touch.
#[derive(Debug, PartialEq, Eq)]
struct Shared {
    working_directory: PathBuf,
    root: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    /// The umask, and which signals are ignored or caught.
    status: Vec<String>,
}

impl Shared {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let counts = |line: &&str| ["Umask:", "SigIgn:", "SigCgt:"].iter().any(|name| line.starts_with(name));
        Self {
            working_directory: fs::read_link("/proc/self/cwd").unwrap(),
            root: fs::read_link("/proc/self/root").unwrap(),
            environment: std::env::vars_os().collect(),
            status: status.lines().filter(counts).map(str::to_owned).collect(),
        }
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// A thread that was waited for is listed for a moment yet: whoever ended it is told before the kernel is done with it.
#[track_caller]
fn no_thread_survived(before: usize) {
    let gone = (0..100_000).any(|_| {
        std::thread::yield_now();
        threads() == before
    });
    assert!(gone, "{} threads, {before} before", threads());
}

/// Looks at the process from within a verb, in whichever thread; ends it after so many looks.
struct Looks {
    before: Shared,
    count: AtomicU64,
    most: u64,
}

impl Progress for Looks {
    fn entries(&self, _count: u64) {
        assert_eq!(self.before, Shared::now());
    }

    fn is_cancelled(&self) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed) >= self.most
    }
}

fn looks(most: u64) -> Looks {
    Looks { before: Shared::now(), count: AtomicU64::new(0), most }
}

#[test]
fn nothing_of_the_process_changes_and_no_thread_survives() {
    sandbox().run(|| {
        let (before, count) = (Shared::now(), threads());
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            let store = store(backend);
            let looks = looks(u64::MAX);
            every_verb(&store, "one", &Context::new(&looks));
            assert!(looks.count.into_inner() > 100);
            drop(store);
            no_thread_survived(count);
        }
        assert_eq!(Shared::now(), before);
    });
}

#[test]
fn no_thread_survives_what_fails_or_is_cancelled() {
    sandbox().run(|| {
        let count = threads();
        let directory = plywood::testing::temporary_directory().unwrap();
        image().write_layout(directory.path().join("image"), "one").unwrap();
        let archive = image().docker_archive(&["piped"]);
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            let mut most = 0;
            // Cancelled at every point at which it asks, until it comes to its end.
            loop {
                let store = store(backend.clone());
                let ended =
                    |looks: Looks, source: ImageSource<'_>| store.import(source, &Default::default(), &Context::new(&looks));
                let ends = [
                    ended(looks(most), ImageSource::path(directory.path().join("image"))),
                    ended(looks(most), ImageSource::reader(&archive[..])),
                ];
                no_thread_survived(count);
                if ends.iter().all(Result::is_ok) {
                    break;
                }
                for error in ends.into_iter().filter_map(Result::err) {
                    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                }
                most += 1;
            }
            assert!(most > 3, "{most}");
            let store = store(backend);
            let cut = &archive[..archive.len() / 2];
            store.import(ImageSource::reader(cut), &Default::default(), &Context::default()).unwrap_err();
            let broken = Layer::new().file("a", vec![1; 300_000]).tar();
            let layer = plywood::store::LayerSource::reader(&broken[..200_000]);
            store.import_layer(layer, &Default::default(), &Context::default()).unwrap_err();
            store.diff("nobody", std::io::sink(), &Default::default(), &Context::default()).unwrap_err();
            no_thread_survived(count);
        }
    });
}

#[test]
fn many_threads_do_all_that_can_be_done_in_one_store_at_once() {
    sandbox().run(|| {
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            let store = store(backend);
            std::thread::scope(|scope| {
                for who in ["a", "b", "c", "d"] {
                    let store = &store;
                    scope.spawn(move || every_verb(store, who, &Context::default()));
                }
            });
            let outcome = store.check(&CheckOptions::default().full(), &Context::default()).unwrap();
            assert!(outcome.is_sound(), "{:?}", outcome.findings);
        }
    });
}

#[test]
fn a_child_does_all_that_can_be_done_with_the_store_of_its_parent() {
    sandbox().run(|| {
        for backend in [BackendChoice::Overlay, BackendChoice::Copy] {
            let store = store(backend);
            every_verb(&store, "before", &Context::default());
            in_a_child(|| every_verb(&store, "child", &Context::default()));
            every_verb(&store, "parent", &Context::default());
            assert!(store.stat("kept-child").is_ok());
            let outcome = store.check(&CheckOptions::default().full(), &Context::default()).unwrap();
            assert!(outcome.is_sound(), "{:?}", outcome.findings);
        }
    });
}

/// Forks, without executing anything.
#[allow(unsafe_code)]
#[track_caller]
fn in_a_child(work: impl FnOnce()) {
    // SAFETY: no other thread of this process (a sandbox, whose main thread waits) holds a lock that the child could wait for.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: it has no preconditions and does not return; what the parent is to write is not written twice.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
}
