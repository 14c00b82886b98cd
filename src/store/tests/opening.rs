//! Making a store and opening it.

use super::*;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

#[test]
fn a_store_and_the_directories_above_it_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/b/store");
    let fake: Arc<dyn Backend> = Arc::new(Fake::new(&root));
    let store = Store::open_with(&StoreOptions::new(&root).backend(BackendChoice::Custom(fake))).unwrap();
    assert_eq!(store.root(), root);
    for name in ["", "trees", "locks", "blobs", "ingest"] {
        assert_eq!(root.join(name).metadata().unwrap().permissions().mode() & 0o7777, 0o700, "{name}");
    }
    assert_eq!(root.join("plywood.db").metadata().unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn the_stores_directory_is_private_whatever_the_one_above_says() {
    let directory = tempfile::tempdir().unwrap();
    let above = directory.path().join("above");
    std::fs::create_dir(&above).unwrap();
    let group = if rustix::process::geteuid().is_root() { 4242 } else { rustix::process::getegid().as_raw() };
    std::os::unix::fs::chown(&above, None, Some(group)).unwrap();
    std::fs::set_permissions(&above, std::fs::Permissions::from_mode(0o2777)).unwrap();
    let acl = std::process::Command::new("setfacl").args(["-d", "-m", "u:1234:rwx,g::rwx,o::rwx"]).arg(&above).status();
    if !acl.is_ok_and(|status| status.success()) {
        crate::sys::test_support::skip(
            "the_stores_directory_is_private_whatever_the_one_above_says",
            "no setfacl, or no ACLs here",
        );
    }
    let root = above.join("store");
    let fake: Arc<dyn Backend> = Arc::new(Fake::new(&root));
    let _store = Store::open_with(&StoreOptions::new(&root).backend(BackendChoice::Custom(fake))).unwrap();
    for name in ["", "trees", "locks"] {
        let path = root.join(name);
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o700, "{name}");
        assert_eq!(metadata.gid(), rustix::process::getegid().as_raw(), "{name}");
        let acls = ::xattr::list(&path).unwrap().filter(|acl| acl.as_encoded_bytes().starts_with(b"system.posix_acl")).count();
        assert_eq!(acls, 0, "{name}");
    }
}

#[test]
fn a_directory_that_is_used_for_something_else_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("thesis.tex"), "").unwrap();
    let fake = Arc::new(Fake::new(&root));
    let error = open(&directory, &fake).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
    std::fs::remove_file(root.join("thesis.tex")).unwrap();
    // The root of a fresh ext4.
    std::fs::create_dir(root.join("lost+found")).unwrap();
    open(&directory, &fake).unwrap();
}

#[test]
fn a_store_of_somebody_else_is_refused_even_by_root() {
    let store = Scratch::new();
    let (directory, fake) = (store.directory, store.fake);
    drop(store.store);
    if !rustix::process::geteuid().is_root() {
        return crate::sys::test_support::skip("a_store_of_somebody_else_is_refused_even_by_root", "only root can give it away");
    }
    let root = directory.path().join("store");
    std::os::unix::fs::chown(&root, Some(4242), None).unwrap();
    let error = open(&directory, &fake).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.reason(), Some("it belongs to the user 4242, and this process is 0"));
    std::os::unix::fs::chown(&root, Some(0), None).unwrap();
    open(&directory, &fake).unwrap();
}

#[test]
fn a_root_that_cannot_be_written_is_permission_denied_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    // Not even root can make a directory here.
    let fake = Arc::new(Fake::new(directory.path()));
    let backend: Arc<dyn Backend> = Arc::<Fake>::clone(&fake);
    let options = StoreOptions::new("/sys/kernel/plywood/store").backend(BackendChoice::Custom(backend));
    assert_eq!(kind_of(Store::open_with(&options)), ErrorKind::PermissionDenied);

    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let backend: Arc<dyn Backend> = fake;
    let error = Store::open_with(&StoreOptions::new(file.join("store")).backend(BackendChoice::Custom(backend))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
}

#[test]
fn nothing_is_left_where_making_a_store_fails() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/store");
    std::fs::create_dir_all(root.join("plywood.db-wal/in the way")).unwrap();
    let fake: Arc<dyn Backend> = Arc::new(Fake::new(&root));
    let options = StoreOptions::new(&root).backend(BackendChoice::Custom(fake));
    Store::open_with(&options).unwrap_err();
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    Store::open_with(&options).unwrap();
}

#[test]
fn a_store_of_a_later_format_is_refused_with_both_numbers() {
    let store = Scratch::new();
    let (directory, fake) = (store.directory, store.fake);
    drop(store.store);
    let connection = rusqlite::Connection::open(directory.path().join("store/plywood.db")).unwrap();
    connection.execute_batch("PRAGMA user_version = 7").unwrap();
    drop(connection);
    let error = open(&directory, &fake).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IncompatibleFormat);
    assert_eq!(error.reason(), Some("the store has format 7, this version of plywood knows formats up to 3"));
    assert!(directory.path().join("store/plywood.db").exists(), "and left alone");
}

#[test]
fn what_is_no_store_is_corrupt_and_left_alone() {
    for content in
        [&b"not a database, whatever its name may say, and long enough to be looked at as one by SQLite"[..], &[0x41; 8192]]
    {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("plywood.db"), content).unwrap();
        let fake = Arc::new(Fake::new(&root));
        assert_eq!(kind_of(open(&directory, &fake)), ErrorKind::Corrupt);
        assert_eq!(std::fs::read(root.join("plywood.db")).unwrap(), content);
    }
}

#[test]
fn a_store_that_was_only_begun_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let fake = Arc::new(Fake::new(&root));
    // A crash after each step of making one.
    std::fs::create_dir(&root).unwrap();
    drop(open(&directory, &fake).unwrap());
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::create_dir_all(root.join("trees")).unwrap();
    std::fs::write(root.join("plywood.db"), "").unwrap();
    drop(open(&directory, &fake).unwrap());
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::create_dir_all(&root).unwrap();
    // A power cut, too: the file system has kept this name and lost the database's.
    std::fs::write(root.join("plywood.db-journal"), [0; 512]).unwrap();
    drop(open(&directory, &fake).unwrap());
    assert!(!root.join("plywood.db-journal").exists());
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::create_dir_all(&root).unwrap();
    let connection = rusqlite::Connection::open(root.join("plywood.db")).unwrap();
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    drop(connection);
    let store = open(&directory, &fake).unwrap();
    assert_eq!(store.metadata().read().unwrap().store().unwrap().backend, "fake");
}

#[test]
fn a_store_keeps_the_backend_that_it_was_made_with() {
    let store = Scratch::new();
    for choice in [BackendChoice::Overlay, BackendChoice::Copy] {
        let error = Store::open_with(&StoreOptions::new(store.path("")).backend(choice)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("made with the fake backend"), "{error}");
    }
}

#[test]
fn many_who_open_at_once_open_one_store() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::new(&directory.path().join("store")));
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (directory, fake) = (&directory, &fake);
            scope.spawn(move || {
                let store = open(directory, fake).unwrap();
                store.prepare(&Key::new(format!("{number}")).unwrap(), None, &PrepareOptions::default()).unwrap();
            });
        }
    });
    let mut count = 0;
    open(&directory, &fake).unwrap().walk(&Filter::all(), |_| Ok(count += 1)).unwrap();
    assert_eq!(count, 8);
}

#[test]
fn a_lock_that_keeps_nobody_out_would_be_noticed() {
    let store = Scratch::new();
    let home = crate::store::directories::Home::open(&store.path(""), crate::sys::flock::Sharing::Shared).unwrap();
    assert!(home.excludes().unwrap());
}
