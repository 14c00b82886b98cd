use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A store's root directory, and what is in it.
struct Store {
    directory: tempfile::TempDir,
    content: Content,
}

impl Store {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let content = Content::open(&Dir::open(directory.path()).unwrap()).unwrap();
        Self { directory, content }
    }

    /// What another process would have: the same files, no memory.
    fn elsewhere(&self) -> Content {
        Content::open(&Dir::open(self.directory.path()).unwrap()).unwrap()
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.path().join("blobs").join(digest.algorithm().as_str()).join(digest.to_hex())
    }

    fn is_empty(&self) -> bool {
        self.names("ingest").is_empty() && self.content.blobs().unwrap().is_empty()
    }
}

fn expected(bytes: &[u8]) -> Expected {
    Expected::digest(Algorithm::Sha256.digest(bytes)).size(bytes.len() as u64)
}

fn ingest(content: &Content, expected: &Expected) -> Ingest {
    match content.start(expected).unwrap() {
        Started::Ingest(ingest) => ingest,
        Started::Present(blob) => panic!("{blob:?} is there"),
    }
}

fn add(content: &Content, expected: &Expected, reader: &mut dyn Read, cx: &Context<'_>) -> Result<Added> {
    let mut ingest = match content.start_afresh(expected, &Context::default())? {
        Started::Present(blob) => return Ok(Added { blob, is_new: false }),
        Started::Ingest(ingest) => ingest,
    };
    ingest.copy_from(reader, cx)?;
    ingest.verify()?.publish()
}

fn read(blob: &Blob) -> Vec<u8> {
    blob.read_to_vec(1 << 20).unwrap()
}

#[test]
fn checked_bytes_are_published_under_their_digest() {
    for algorithm in ALGORITHMS {
        let store = Store::new();
        let digest = algorithm.digest(b"hello");
        let mut ingest = ingest(&store.content, &Expected::digest(digest.clone()).size(5));
        ingest.write(b"hel").unwrap();
        ingest.write(b"").unwrap();
        ingest.write(b"lo").unwrap();
        let blob = ingest.finish().unwrap();
        assert_eq!((blob.digest(), blob.size(), read(&blob).as_slice()), (&digest, 5, &b"hello"[..]));
        assert_eq!(std::fs::read(store.blob_path(&digest)).unwrap(), b"hello");
        assert_eq!(std::fs::metadata(store.blob_path(&digest)).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(store.names("ingest").is_empty());
        assert_eq!(store.content.blobs().unwrap(), [(digest.clone(), 5)]);
        assert!(matches!(store.elsewhere().start(&Expected::digest(digest)).unwrap(), Started::Present(_)));
    }
}

#[test]
fn wrong_bytes_leave_nothing() {
    let store = Store::new();
    for bytes in [&b"hellO"[..], b"hell", b"hello!", b""] {
        let error = add(&store.content, &expected(b"hello"), &mut &*bytes, &Context::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{bytes:?}");
        assert!(store.is_empty(), "{bytes:?}");
    }
    let mut other = ingest(&store.content, &expected(b"hello"));
    other.write(b"hellO").unwrap();
    assert_eq!(other.finish().unwrap_err().kind(), ErrorKind::DigestMismatch);
    assert!(store.is_empty());
}

#[test]
fn more_bytes_than_declared_stop_at_once() {
    struct Endless(u64);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(0);
            self.0 += buffer.len() as u64;
            Ok(buffer.len())
        }
    }
    let store = Store::new();
    let mut endless = Endless(0);
    let error = add(&store.content, &expected(b"hello"), &mut endless, &Context::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    assert!(endless.0 < 1 << 20, "{} bytes were read", endless.0);
    assert!(store.is_empty());
}

#[test]
fn a_declared_size_that_contradicts_the_blob_is_refused() {
    let store = Store::new();
    add(&store.content, &expected(b"hello"), &mut &b"hello"[..], &Context::default()).unwrap();
    let error = store.content.start(&Expected::digest(Algorithm::Sha256.digest(b"hello")).size(6)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[test]
fn an_interrupted_ingest_goes_on_in_the_same_process_without_hashing_again() {
    let store = Store::new();
    let mut first = ingest(&store.content, &expected(b"hello, world"));
    first.write(b"hello").unwrap();
    drop(first);
    let mut second = ingest(&store.content, &expected(b"hello, world"));
    assert_eq!((second.offset(), second.hashed_again()), (5, 0));
    second.write(b", wor").unwrap();
    drop(second);
    let mut third = ingest(&store.content, &expected(b"hello, world"));
    assert_eq!((third.offset(), third.hashed_again()), (10, 0));
    third.copy_from(&b"ld"[..], &Context::default()).unwrap();
    assert_eq!(read(&third.finish().unwrap()), b"hello, world");
}

#[test]
fn an_interrupted_ingest_goes_on_in_another_process_and_is_hashed_once_more() {
    let store = Store::new();
    let mut first = ingest(&store.content, &expected(b"hello, world"));
    first.write(b"hello").unwrap();
    drop(first);

    let mut second = ingest(&store.elsewhere(), &expected(b"hello, world"));
    assert_eq!((second.offset(), second.hashed_again()), (5, 5));
    second.write(b", wo").unwrap();
    drop(second);

    // The first process hashes only what the other one wrote.
    let mut third = ingest(&store.content, &expected(b"hello, world"));
    assert_eq!((third.offset(), third.hashed_again()), (9, 4));
    third.write(b"rld").unwrap();
    assert_eq!(read(&third.finish().unwrap()), b"hello, world");
}

#[test]
fn a_remembered_hash_is_not_used_for_another_file() {
    let store = Store::new();
    let mut first = ingest(&store.content, &expected(b"hello, world"));
    first.write(b"hello").unwrap();
    drop(first);
    // Another process finds it wrong and begins afresh, with other bytes of the same number.
    let elsewhere = store.elsewhere();
    ingest(&elsewhere, &expected(b"hello, world")).abort().unwrap();
    let mut wrong = ingest(&elsewhere, &expected(b"hello, world"));
    wrong.write(b"HELLO").unwrap();
    drop(wrong);

    let mut last = ingest(&store.content, &expected(b"hello, world"));
    assert_eq!((last.offset(), last.hashed_again()), (5, 5));
    last.write(b", world").unwrap();
    assert_eq!(last.finish().unwrap_err().kind(), ErrorKind::DigestMismatch);
    assert!(store.is_empty());
}

#[test]
fn a_failed_reader_keeps_what_came() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
    }
    let store = Store::new();
    let mut ingest_ = ingest(&store.content, &expected(b"hello"));
    ingest_.copy_from(b"hel".chain(Broken), &Context::default()).unwrap_err();
    assert_eq!(ingest_.offset(), 3);
    // Too few bytes are no verdict on those that came.
    assert_eq!(ingest_.finish().unwrap_err().kind(), ErrorKind::DigestMismatch);
    let mut ingest_ = ingest(&store.content, &expected(b"hello"));
    assert_eq!(ingest_.offset(), 3);
    ingest_.write(b"lo").unwrap();
    ingest_.finish().unwrap();
}

#[test]
fn an_aborted_or_discarded_ingest_is_gone() {
    let store = Store::new();
    let mut aborted = ingest(&store.content, &expected(b"hello"));
    aborted.write(b"hel").unwrap();
    aborted.abort().unwrap();
    assert!(store.is_empty());
    let mut discarded = ingest(&store.content, &expected(b"hello")).discard_on_drop();
    discarded.write(b"hel").unwrap();
    drop(discarded);
    assert!(store.is_empty());
    assert_eq!(ingest(&store.content, &expected(b"hello")).offset(), 0);
}

#[test]
fn however_many_ask_at_once_one_copy_is_written() {
    let store = Store::new();
    let bytes = vec![7; 300_000];
    let writers = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            // Each with its own idea of the store, as processes have.
            let content = store.elsewhere();
            let (bytes, writers) = (&bytes, &writers);
            scope.spawn(move || {
                let added = add(&content, &expected(bytes), &mut bytes.as_slice(), &Context::default()).unwrap();
                writers.fetch_add(usize::from(added.is_new), Ordering::Relaxed);
                assert_eq!(read(&added.blob), *bytes);
            });
        }
    });
    assert_eq!(writers.into_inner(), 1);
    assert!(store.names("ingest").is_empty());
}

#[test]
fn a_waiter_goes_on_where_an_interrupted_writer_stopped() {
    let store = Store::new();
    let mut first = ingest(&store.content, &expected(b"hello"));
    first.write(b"hel").unwrap();
    std::thread::scope(|scope| {
        let content = store.elsewhere();
        let waiter = scope.spawn(move || {
            let mut second = ingest(&content, &expected(b"hello"));
            second.write(&b"hello"[usize::try_from(second.offset()).unwrap()..]).unwrap();
            second.finish().unwrap()
        });
        drop(first);
        assert_eq!(read(&waiter.join().unwrap()), b"hello");
    });
}

#[test]
fn bytes_of_unknown_digest_get_one() {
    let store = Store::new();
    let mut unnamed = ingest(&store.content, &Expected::unknown(Algorithm::Sha512).size(5));
    unnamed.write(b"hello").unwrap();
    let blob = unnamed.finish().unwrap();
    assert_eq!(*blob.digest(), Algorithm::Sha512.digest(b"hello"));
    // A second time there is nothing to publish.
    let again = add(&store.content, &Expected::unknown(Algorithm::Sha512), &mut &b"hello"[..], &Context::default()).unwrap();
    assert!(!again.is_new);
    assert!(store.names("ingest").is_empty());
    drop(ingest(&store.content, &Expected::unknown(Algorithm::Sha256)));
    assert!(store.names("ingest").is_empty(), "nobody could go on with it");
}

#[test]
fn spooled_bytes_have_no_name_and_go_with_their_blob() {
    let store = Store::new();
    let blob = store.content.spool(&Expected::unknown(Algorithm::Sha256), &mut &b"hello"[..], &Context::default()).unwrap();
    assert!(store.is_empty());
    assert_eq!((read(&blob).as_slice(), blob.digest()), (&b"hello"[..], &Algorithm::Sha256.digest(b"hello")));
}

#[test]
fn readers_have_positions_of_their_own_and_outlive_the_name() {
    let store = Store::new();
    let blob = add(&store.content, &expected(b"hello"), &mut &b"hello"[..], &Context::default()).unwrap().blob;
    let (mut one, mut two) = (blob.reader(), blob.reader());
    let mut buffer = [0; 2];
    one.read_exact(&mut buffer).unwrap();
    store.content.remove(blob.digest()).unwrap();
    store.content.remove(blob.digest()).unwrap();
    assert!(store.content.blob(blob.digest()).unwrap().is_none());
    let mut rest = String::new();
    one.read_to_string(&mut rest).unwrap();
    two.read_exact(&mut buffer).unwrap();
    assert_eq!((rest.as_str(), &buffer), ("llo", b"he"));
    assert_eq!(blob.read_to_vec(4).unwrap_err().kind(), ErrorKind::LimitExceeded);
}

#[test]
fn a_blob_that_was_cut_is_an_error_and_no_end_of_file() {
    let store = Store::new();
    let blob = add(&store.content, &expected(b"hello"), &mut &b"hello"[..], &Context::default()).unwrap().blob;
    let path = store.blob_path(blob.digest());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(2).unwrap();
    let error = Error::io("read", blob.reader().read_to_end(&mut Vec::new()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn cleaning_spares_what_is_held_and_what_is_young() {
    let store = Store::new();
    let mut held = ingest(&store.content, &expected(b"held"));
    held.write(b"h").unwrap();
    let mut dropped = ingest(&store.content, &expected(b"dropped"));
    dropped.write(b"d").unwrap();
    drop(dropped);
    let unnamed = ingest(&store.content, &Expected::unknown(Algorithm::Sha256));
    // A process that was killed leaves these without a lock.
    let dead = store.directory.path().join("ingest/new-1-99");
    std::fs::File::create(&dead).unwrap().write_all(b"x").unwrap();

    assert_eq!(store.content.clean_ingests(Duration::from_secs(3600)).unwrap(), 1);
    assert!(!dead.exists());
    assert_eq!(store.names("ingest").len(), 3);
    assert_eq!(store.content.clean_ingests(Duration::ZERO).unwrap(), 1);
    assert_eq!(store.names("ingest").len(), 2);
    held.write(b"eld").unwrap();
    held.finish().unwrap();
    drop(unnamed);
    assert!(store.names("ingest").is_empty());
}

#[test]
fn nothing_but_regular_files_is_taken_for_a_blob() {
    let store = Store::new();
    let digest = Algorithm::Sha256.digest(b"hello");
    std::os::unix::fs::symlink("/etc/passwd", store.blob_path(&digest)).unwrap();
    store.content.blob(&digest).unwrap_err();
}

#[test]
fn directories_are_private_whatever_the_umask() {
    let store = Store::new();
    for directory in ["blobs", "blobs/sha256", "blobs/sha512", "ingest"] {
        assert_eq!(std::fs::metadata(store.directory.path().join(directory)).unwrap().mode() & 0o7777, 0o700, "{directory}");
    }
}

#[test]
fn a_cancelled_copy_stops() {
    struct Cancel;
    impl crate::progress::Progress for Cancel {
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let store = Store::new();
    let error = add(&store.content, &expected(b"hello"), &mut &b"hello"[..], &Context::new(&Cancel)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(store.is_empty());
}
