//! Several threads, several stores on one directory, several processes, and forks.

use super::*;
use crate::sys::test_support::Child;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

const ALONE: &str = "PLYWOOD_TEST_ALONE";

/// The same test binary again, to run one test of this file in a process of its own.
fn this_test(name: &str, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("store::tests::processes::{name}"), "--nocapture", "--include-ignored"]).env(ALONE, argument);
    command
}

/// Runs a test in a process of its own, where no other test's thread holds anything when it forks.
fn alone(name: &str, work: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    let output = this_test(name, "alone").output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

/// Runs `work` in a forked child.
fn fork(work: impl FnOnce()) {
    let child = Child { user: None, sub_ids: None };
    let done = child.run(|| {
        work();
        Ok(String::new())
    });
    assert_eq!(done, Ok(String::new()));
}

fn all_names(store: &Store) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    store.walk(&Filter::all(), |info| Ok(names.extend([info.name]))).unwrap();
    names
}

#[test]
fn threads_share_a_store() {
    let store = Scratch::new();
    store.base("base", None);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..10 {
                    let key = format!("{thread}-{round}");
                    store.prepare(&key, Some("base")).unwrap();
                    store.update(&key, &LabelUpdate::keep().set("round", round.to_string())).unwrap();
                    store.stat(&key).unwrap();
                    if round % 2 == 0 {
                        store.commit(&format!("{key} committed"), &key).unwrap();
                    } else {
                        store.remove(&key).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(all_names(&store).len(), 1 + 6 * 5);
    store.empty_trash(&crate::Context::default()).unwrap();
    assert_eq!(store.names("trees").len(), 1 + 6 * 5);
}

#[test]
fn of_many_who_want_one_key_or_one_commit_one_gets_it() {
    let store = Scratch::new();
    let count = |work: &(dyn Fn(&Store) -> Result<()> + Sync)| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| work(&store.again()))).collect();
            let results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            let kinds: BTreeSet<_> =
                results.iter().filter_map(|result| result.as_ref().err()).map(|error| error.kind().as_str()).collect();
            (results.iter().filter(|result| result.is_ok()).count(), kinds)
        })
    };
    let key = Key::new("key").unwrap();
    let prepared = count(&|store| store.prepare(&key, None, &PrepareOptions::default()).map(drop));
    assert_eq!(prepared, (1, BTreeSet::from(["AlreadyExists"])));
    let name = Name::new("name").unwrap();
    let (committed, kinds) = count(&|store| store.commit(&name, &key, &CommitOptions::default()).map(drop));
    assert_eq!(committed, 1);
    assert!(kinds.is_subset(&BTreeSet::from(["AlreadyExists", "NotFound"])), "{kinds:?}");
    let (removed, kinds) = count(&|store| store.remove("name"));
    assert_eq!((removed, kinds), (1, BTreeSet::from(["NotFound"])));
    store.empty_trash(&crate::Context::default()).unwrap();
    assert_eq!(store.names("trees"), [""; 0]);
}

#[test]
fn two_stores_on_one_directory_are_one_store() {
    let store = Scratch::new();
    let other = store.again();
    store.prepare("key", None).unwrap();
    assert_eq!(other.stat("key").unwrap(), store.stat("key").unwrap());
    // Closing one leaves the other its locks and its database.
    drop(store.again());
    other.remove("key").unwrap();
    assert_eq!(kind_of(store.stat("key")), ErrorKind::NotFound);
    let (fake, directory) = (store.fake, store.directory);
    drop(store.store);
    other.prepare(&Key::new("key").unwrap(), None, &PrepareOptions::default()).unwrap();
    drop(other);
    open(&directory, &fake).unwrap().stat("key").unwrap();
}

#[test]
fn collections_run_beside_everything_else() {
    let store = Scratch::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = store.again();
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                other.gc(&GcOptions::default(), &crate::Context::default()).unwrap();
            }
        });
        let workers: Vec<_> = (0..3)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..15 {
                        let lease = store.lease().unwrap();
                        let row = store.layer_under(lease.id(), None, &format!("{thread} {round}"), |_| {});
                        let key = format!("{thread}-{round}");
                        store.prepare(&key, Some(&row.name)).unwrap();
                        lease.release().unwrap();
                        assert!(store.fake.path(row.tree).exists());
                        store.commit(&format!("{key} committed"), &key).unwrap();
                    }
                })
            })
            .collect();
        let finished: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(finished.iter().all(std::result::Result::is_ok));
    });
    assert_eq!(all_names(&store).len(), 3 * 15 * 2);
}

/// The other half of the next test: works in a store until it is killed.
#[test]
#[ignore = "run by processes_share_a_store_and_may_be_killed"]
fn work_until_killed() {
    let Some(root) = std::env::var_os(ALONE).map(std::path::PathBuf::from) else { return };
    let fake: Arc<dyn Backend> = Arc::new(Fake::new(&root));
    let store = Store::open_with(&StoreOptions::new(&root).backend(BackendChoice::Custom(fake))).unwrap();
    let me = std::process::id();
    for round in 0_u64.. {
        let key = Key::new(format!("{me} {round}")).unwrap();
        store.prepare(&key, None, &PrepareOptions::default()).unwrap();
        store.commit(&Name::new(format!("{me} {round} committed")).unwrap(), &key, &CommitOptions::default()).unwrap();
        println!("acknowledged {me} {round} committed");
        if round % 3 == 2 {
            store.remove(&format!("{me} {} committed", round - 1)).unwrap();
            println!("removed {me} {} committed", round - 1);
        }
    }
}

#[test]
fn processes_share_a_store_and_may_be_killed() {
    let store = Scratch::new();
    let mut expected = BTreeSet::new();
    for _ in 0..3 {
        let workers: Vec<_> = (0..3)
            .map(|_| this_test("work_until_killed", store.path("").to_str().unwrap()).stdout(Stdio::piped()).spawn().unwrap())
            .collect();
        for mut worker in workers {
            let mut lines = BufReader::new(worker.stdout.take().unwrap())
                .lines()
                .map_while(std::result::Result::ok)
                .filter(|line| line.contains("committed"));
            let mut acknowledged: Vec<_> = lines.by_ref().take(8).collect();
            worker.kill().unwrap();
            worker.wait().unwrap();
            acknowledged.extend(lines);
            for line in acknowledged {
                match line.split_once("acknowledged ") {
                    Some((_, name)) => drop(expected.insert(name.to_owned())),
                    None => drop(expected.remove(line.split_once("removed ").unwrap().1)),
                }
            }
        }
    }
    let after = store.again();
    let there: BTreeSet<_> = all_names(&after);
    // A removal may have happened without having been told; a commit that was told is there.
    let missing: Vec<_> = expected.difference(&there).collect();
    assert!(missing.len() <= 9, "{missing:?}");
    after.gc(&GcOptions::default(), &crate::Context::default()).unwrap();
    let trees: BTreeSet<_> = store.names("trees").into_iter().collect();
    let named: BTreeSet<_> = after.metadata().read().unwrap().known_trees().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(trees, named, "each has its tree, and nothing else has one");
    assert_eq!(store.names("locks").iter().filter(|name| *name != "writers").count(), 0);
}

#[test]
fn a_forked_child_goes_on_and_so_does_its_parent() {
    alone("a_forked_child_goes_on_and_so_does_its_parent", || {
        let store = Scratch::new();
        store.base("base", None);
        let other = store.again();
        fork(|| {
            store.stat("base").unwrap();
            store.prepare("child", Some("base")).unwrap();
            other.update("child", &LabelUpdate::keep().set("from", "the child")).unwrap();
            store.commit("child committed", "child").unwrap();
            // A grandchild too.
            fork(|| store.prepare("grandchild", Some("child committed")).unwrap());
            other.stat("grandchild").unwrap();
        });
        assert_eq!(all_names(&store), BTreeSet::from(["base", "child committed", "grandchild"].map(str::to_owned)));
        store.prepare("parent", Some("child committed")).unwrap();
        store.gc(&GcOptions::default(), &crate::Context::default()).unwrap();
        assert_eq!(store.names("trees").len(), 4);
    });
}

#[test]
fn a_store_that_is_dropped_in_a_child_stays_whole_in_the_parent() {
    alone("a_store_that_is_dropped_in_a_child_stays_whole_in_the_parent", || {
        let store = Scratch::new();
        store.prepare("key", None).unwrap();
        let lease = store.lease().unwrap();
        let clone = store.store.clone();
        fork(move || {
            drop(lease);
            drop(clone);
        });
        // The parent's session is still alive: what it is building is not cleared away by another.
        let session = store.session().unwrap();
        let transaction = store.metadata().write().unwrap();
        let tree = transaction.allocate_tree(session, "fake").unwrap();
        transaction.commit().unwrap();
        store.fake.fill(tree, "being built");
        drop(store.again());
        assert!(store.fake.path(tree).exists());
    });
}

#[test]
fn a_child_that_outlives_its_parents_store_holds_the_database_for_real() {
    const NAME: &str = "a_child_that_outlives_its_parents_store_holds_the_database_for_real";
    alone(NAME, || {
        let scratch = Scratch::new();
        scratch.prepare("before", None).unwrap();
        let (fake, root, database) = (Arc::clone(&scratch.fake), scratch.path(""), scratch.path("plywood.db"));
        let Scratch { store, directory: _directory, .. } = scratch;
        let store = Mutex::new(Some(store));
        let take = || store.lock().unwrap().take().unwrap();
        let (mut asked, ask) = std::io::pipe().unwrap();
        let (answered, answer) = std::io::pipe().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The parent closes its store when the child asks for it.
                let mut byte = [0];
                asked.read_exact(&mut byte).unwrap();
                drop(take());
                (&answer).write_all(&byte).unwrap();
            });
            fork(|| {
                let store = take();
                store.stat("before").unwrap();
                (&ask).write_all(&[1]).unwrap();
                (&answered).read_exact(&mut [0]).unwrap();
                // Now nobody but the child has the database open. If it did not hold the locks that SQLite believes it holds, a
                // foreign program would take itself for the last user as it closes, and delete the log.
                let foreign = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select count(*) from snapshots').fetchone(); c.close()";
                match Command::new("python3").args(["-c", foreign]).arg(&database).status() {
                    Ok(status) if status.success() => {}
                    _ => crate::sys::test_support::skip(NAME, "there is no python3 with sqlite3"),
                }
                assert!(root.join("plywood.db-wal").exists(), "the log is still there");
                store.prepare(&Key::new("after").unwrap(), None, &PrepareOptions::default()).unwrap();
            });
        });
        let again = Store::open_with(&StoreOptions::new(&root).backend(BackendChoice::Custom(fake))).unwrap();
        again.stat("after").unwrap();
    });
}

#[test]
fn a_fork_while_another_thread_is_inside_is_told_apart() {
    alone("a_fork_while_another_thread_is_inside_is_told_apart", || {
        let store = Scratch::new();
        store.prepare("key", None).unwrap();
        let reader = store.metadata().read().unwrap();
        fork(|| {
            let error = store.stat("key").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.hint().is_some());
        });
        drop(reader);
        store.stat("key").unwrap();
    });
}

#[test]
fn no_descriptor_reaches_a_program_that_is_started() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    let _lease = store.lease().unwrap();
    let _reader = store.metadata().read().unwrap();
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let open = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!open.contains(store.directory.path().to_str().unwrap()), "{open}");
}
