//! What is there after a step failed, or the process ended after it.

use super::*;
use crate::tree::TreeId;
use std::sync::atomic::Ordering;

#[test]
fn nothing_is_left_of_a_prepare_that_fails() {
    let store = Scratch::new();
    store.fake.fails.store(true, Ordering::SeqCst);
    assert_eq!(kind_of(store.prepare("key", None)), ErrorKind::NoSpace);
    assert_eq!(kind_of(store.stat("key")), ErrorKind::NotFound);
    assert_eq!(store.names("trees"), [""; 0]);
    store.prepare("key", None).unwrap();
}

#[test]
fn a_commit_that_fails_leaves_the_active_one() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    store.fake.fails.store(true, Ordering::SeqCst);
    assert_eq!(kind_of(store.commit("name", "key")), ErrorKind::NoSpace);
    assert_eq!(store.stat("key").unwrap().kind, Kind::Active);
    assert_eq!(kind_of(store.stat("name")), ErrorKind::NotFound);
    store.commit("name", "key").unwrap();
}

#[test]
fn a_transaction_that_is_dropped_did_not_happen() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    for survives in [Survives::PowerCut, Survives::Process] {
        let transaction = store.metadata().write_to_survive(survives).unwrap();
        let row = transaction.snapshot("key").unwrap().unwrap();
        transaction.remove_snapshot(&row).unwrap();
        drop(transaction);
        store.stat("key").unwrap();
    }
}

/// Leaves the store as a process does that is killed now: its locks go, its rows and files stay.
fn die(store: &Store) {
    let session = store.inner.session.lock().unwrap().take();
    drop(session);
}

#[test]
fn bytes_of_unknown_digest_that_a_dead_process_took_in_go_when_the_store_is_opened() {
    let store = Scratch::new();
    let dead = store.root().join("ingest/new-1-99");
    std::fs::write(&dead, "worthless").unwrap();
    let resumable = store.root().join(format!("ingest/sha256-{}", "0".repeat(64)));
    std::fs::write(&resumable, "somebody may go on").unwrap();
    let _again = store.again();
    assert!(!dead.exists());
    assert!(resumable.exists());
}

#[test]
fn a_tree_that_never_got_its_name_is_cleared_when_the_store_is_opened() {
    let store = Scratch::new();
    let session = store.session().unwrap();
    let transaction = store.metadata().write().unwrap();
    let tree = transaction.allocate_tree(session, "fake").unwrap();
    transaction.commit().unwrap();
    store.fake.fill(tree, "never named");
    // While its process lives, it stays.
    let other = store.again();
    assert!(store.fake.path(tree).exists());
    die(&store);
    let third = store.again();
    assert!(!store.fake.path(tree).exists());
    assert_eq!(third.metadata().read().unwrap().known_trees().unwrap(), []);
    assert_eq!(third.metadata().read().unwrap().leases().unwrap().len(), 0);
    drop(other);
}

#[test]
fn what_was_removed_is_deleted_though_the_process_died_before() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    store.remove("key").unwrap();
    assert_eq!(store.names("trees").len(), 1, "the bytes come later");
    let other = store.again();
    assert_eq!(other.empty_trash(&crate::Context::default()).unwrap(), 1);
    assert_eq!(store.names("trees"), [""; 0]);
}

#[test]
fn a_tree_that_no_row_names_moves_to_lost_and_found_after_a_reboot() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    store.fake.fill(TreeId(77), "a container's data");
    store.fake.fill(TreeId(0), "");
    drop(store.again());
    assert!(store.fake.path(TreeId(77)).exists(), "in the same boot nobody looks");
    let another_boot = |store: &Scratch| {
        let transaction = store.metadata().write().unwrap();
        transaction.set_boot("another boot").unwrap();
        transaction.commit().unwrap();
        drop(store.again());
    };
    another_boot(&store);
    assert_eq!(store.names("lost+found"), ["77"]);
    assert_eq!(std::fs::read_to_string(store.path("lost+found/77/content")).unwrap(), "a container's data");
    store.fake.fill(TreeId(77), "once more");
    another_boot(&store);
    assert_eq!(store.names("lost+found"), ["77", "77.1"]);
    assert_eq!(store.names("trees"), ["0", "1"], "the empty tree and what has a row stay");
    assert_eq!(store.gc(&GcOptions::default(), &crate::Context::default()).unwrap().trees, 0, "never deleted unasked");
    assert_eq!(store.names("lost+found").len(), 2);
    let cx = crate::Context::default();
    let plan = store.gc(&GcOptions::default().lost_found().dry_run(), &cx).unwrap();
    assert_eq!(plan.lost.iter().map(|tree| tree.name.as_str()).collect::<Vec<_>>(), ["77", "77.1"]);
    assert!(plan.lost.iter().all(|tree| tree.bytes > 0));
    assert_eq!(store.names("lost+found").len(), 2);
    assert_eq!(store.gc(&GcOptions::default().lost_found(), &cx).unwrap().lost, plan.lost);
    assert_eq!(store.names("lost+found"), [""; 0]);
    // A collection looks in the same boot too.
    store.fake.fill(TreeId(78), "after the database was put back");
    assert_eq!(store.gc(&GcOptions::default(), &cx).unwrap().lost[0].name, "78");
    assert_eq!(store.names("trees"), ["0", "1"]);
}

#[test]
fn trees_whose_database_is_gone_are_put_aside_before_their_numbers_are_given_again() {
    let store = Scratch::new();
    store.fake.fill(TreeId(1), "a container's data");
    let (directory, fake) = (store.directory, store.fake);
    drop(store.store);
    for name in ["plywood.db", "plywood.db-wal"] {
        std::fs::remove_file(directory.path().join("store").join(name)).unwrap();
    }
    let store = super::open(&directory, &fake).unwrap();
    let root = store.root().to_owned();
    let key = crate::snapshot::Key::new("another").unwrap();
    drop(store.prepare(&key, None, &Default::default()).unwrap());
    assert!(fake.path(TreeId(1)).exists());
    assert_eq!(std::fs::read_to_string(root.join("lost+found/1/content")).unwrap(), "a container's data");
}

#[test]
fn numbers_of_trees_never_come_back() {
    let store = Scratch::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5 {
        store.prepare("key", None).unwrap();
        assert!(seen.insert(store.names("trees")));
        store.remove("key").unwrap();
        store.empty_trash(&crate::Context::default()).unwrap();
        drop(store.again());
    }
}

#[test]
fn the_log_does_not_grow_for_ever() {
    let store = Scratch::new();
    store.prepare("key", None).unwrap();
    let value = "x".repeat(100_000);
    for number in 0..200 {
        store.update("key", &LabelUpdate::keep().set("large", format!("{number}{value}"))).unwrap();
    }
    let length = std::fs::metadata(store.path("plywood.db-wal")).unwrap().len();
    assert!(length < 8 << 20, "{length}");
}

#[test]
fn what_cannot_be_deleted_keeps_nothing_else_and_nobody_out() {
    let store = Scratch::new();
    let session = store.session().unwrap();
    let transaction = store.metadata().write().unwrap();
    let tree = transaction.allocate_tree(session, "fake").unwrap();
    transaction.commit().unwrap();
    store.fake.fill(tree, "never named");
    store.prepare("key", None).unwrap();
    store.remove("key").unwrap();
    *store.fake.stuck.lock().unwrap() = Some(tree);
    die(&store);
    let again = store.again();
    assert_eq!(kind_of(again.gc(&GcOptions::default(), &crate::Context::default())), ErrorKind::InUse);
    assert_eq!(store.names("trees"), [tree.to_string()], "the others are gone");
    *store.fake.stuck.lock().unwrap() = None;
    assert_eq!(again.gc(&GcOptions::default(), &crate::Context::default()).unwrap().trees, 1);
    assert_eq!(store.names("trees"), [""; 0]);
}

#[test]
fn what_killed_processes_tried_out_is_cleared_and_what_living_ones_try_is_not() {
    let store = Scratch::new();
    let dead = store.path("trees/.probe-1-0");
    std::fs::create_dir_all(dead.join("0/upper")).unwrap();
    let trees = crate::sys::Dir::open(store.path("trees")).unwrap();
    let living = crate::sys::capabilities::Scratch::new(&trees).unwrap();
    store.gc(&GcOptions::default(), &crate::Context::default()).unwrap();
    assert!(!dead.exists());
    assert_eq!(store.names("trees").len(), 1);
    drop(living);
    assert_eq!(store.names("trees"), [""; 0]);
}

#[test]
fn what_a_killed_process_took_in_is_deleted_unless_somebody_may_go_on_with_it() {
    use std::os::unix::fs::PermissionsExt as _;

    let store = Scratch::new();
    let names = ["sha256-discarded", "sha256-resumable", "new-1-0"];
    for (name, mode) in names.into_iter().zip([0o700, 0o600, 0o600]) {
        let path = store.path("ingest").join(name);
        std::fs::write(&path, "half").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    drop(store.again());
    assert_eq!(store.names("ingest"), ["sha256-resumable"]);
}
