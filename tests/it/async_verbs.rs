//! The verbs for async callers: what is awaited is done, what is dropped is cancelled and taken back.

use std::io::{Read, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::Poll;

use plywood::content::Expected;
use plywood::digest::{Algorithm, Digest};
use plywood::progress::Progress;
use plywood::snapshot::{Key, Name};
use plywood::store::{CheckOptions, DiffOptions, ExportOptions, Filter, ImportOptions, LayerSource, Store};
use plywood::testing::{Layer, TemporaryStore};
use plywood::tokio::AsyncStore;
use plywood::{Error, ErrorKind};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use crate::support::verbs::image;
use crate::support::{Sandbox, is_root};

fn sandbox() -> Sandbox {
    if is_root() { Sandbox::root() } else { Sandbox::user_namespace() }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn store() -> (TemporaryStore, AsyncStore) {
    let store = Store::temporary().unwrap();
    let clone = AsyncStore::from(Store::clone(&store));
    (store, clone)
}

/// Counts what it is told.
#[derive(Default)]
struct Counts(AtomicU64);

impl Progress for Counts {
    fn bytes(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

#[test]
fn what_is_awaited_is_done() {
    sandbox().run(|| {
        let directory = plywood::testing::temporary_directory().unwrap();
        let path = |name: &str| directory.path().join(name);
        image().write_layout(path("image"), "one").unwrap();
        let (plain, store) = store();
        let counts = Arc::new(Counts::default());
        let store = store.with_progress(counts.clone());
        let done = runtime().block_on(async {
            let imported = store.import(path("image"), ImportOptions::default()).await?;
            let top = Name::from(imported.image.chain_id.as_ref().unwrap());
            let tar = Layer::new().file("a", "from afar").tar();
            let expected = Expected::digest(Algorithm::Sha256.digest(&tar)).size(tar.len() as u64);
            let told = counts.0.load(Ordering::Relaxed);
            let blob = store.ingest(expected.clone(), &tar[..]).await?;
            assert_eq!(counts.0.load(Ordering::Relaxed) - told, tar.len() as u64);
            let layer = store.import_layer(blob, Default::default()).await?;
            assert!(!layer.existed);
            let key = Key::new("box")?;
            store.view(Key::new("look")?, Some(top.clone()), Default::default()).await?;
            store.prepare(key.clone(), Some(top), Default::default()).await?;
            let (outcome, layer) = store.diff("box", Vec::new(), DiffOptions::default()).await?;
            assert_eq!(outcome.descriptor.size, layer.len() as u64);
            store.commit(Name::new("kept")?, key, Default::default()).await?;
            store.export("kept", path("out"), ExportOptions::default()).await?;
            store.remove("look").await?;
            assert!(store.check(CheckOptions::default().full()).await?.is_sound());
            assert_eq!(store.gc(Default::default()).await?.snapshots.len(), 1);
            assert_eq!(store.remove("look").await.unwrap_err().kind(), ErrorKind::NotFound);
            Ok::<_, Error>(())
        });
        done.unwrap();
        assert_eq!(plain.stat("kept").unwrap().name, "kept");
    });
}

/// Polls a future once, and drops it when `meanwhile` is over.
fn begin_and_drop<T>(runtime: &Runtime, future: impl Future<Output = T>, meanwhile: impl FnOnce()) {
    runtime.block_on(async {
        let mut future = Box::pin(future);
        std::future::poll_fn(|cx| {
            assert!(future.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        meanwhile();
    });
}

/// Says when it is read for the first time.
struct Watched<R>(R, Option<mpsc::Sender<()>>);

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.1.take().into_iter().for_each(|begun| begun.send(()).unwrap());
        self.0.read(bytes)
    }
}

#[test]
fn a_verb_whose_future_is_dropped_ends_and_leaves_nothing() {
    sandbox().run(|| {
        let (plain, store) = store();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (ended, end) = mpsc::channel();
        let source = Watched(reader, Some(begun));
        let work = store.run(move |store, cx| {
            let done = store.import_layer(LayerSource::reader(source), &Default::default(), cx);
            ended.send(done.as_ref().map(drop).map_err(Error::kind)).unwrap();
            done
        });
        let runtime = runtime();
        begin_and_drop(&runtime, work, || has_begun.recv().unwrap());
        // It waits for bytes; those that come are not wanted any more. Nobody may be there to read them.
        let tar = Layer::new().file("large", vec![b'l'; 4 << 20]).tar();
        let _ = writer.write_all(&tar);
        drop(writer);
        assert_eq!(end.recv().unwrap(), Err(ErrorKind::Cancelled));
        // Waits for the pool.
        drop(runtime);
        plain.walk(&Filter::all(), |info| panic!("{info:?}")).unwrap();
        let stats = plain.stats().unwrap();
        assert_eq!((stats.trees, stats.ingests), Default::default());
    });
}

#[test]
fn a_future_that_was_never_polled_does_nothing_and_a_panic_goes_on_in_the_task() {
    sandbox().run(|| {
        let (plain, store) = store();
        let runtime = runtime();
        runtime.block_on(async {
            drop(store.prepare(Key::new("never").unwrap(), None, Default::default()));
            let task = tokio::task::spawn({
                let store = store.clone();
                async move { store.run(|_, _| -> plywood::Result<()> { panic!("as it must be") }).await }
            });
            assert!(task.await.unwrap_err().is_panic());
            store.prepare(Key::new("after").unwrap(), None, Default::default()).await.unwrap();
        });
        drop(runtime);
        assert_eq!(plain.stat("never").unwrap_err().kind(), ErrorKind::NotFound);
        plain.stat("after").unwrap();
    });
}

/// Bytes that break off with an error; in pieces of no round size.
struct Breaks<'a>(&'a [u8], bool);

impl AsyncRead for Breaks<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let (now, rest) = self.0.split_at(self.0.len().min(buf.remaining()).min(10_007));
        if now.is_empty() && self.1 {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        buf.put_slice(now);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

#[test]
fn an_ingest_that_breaks_off_goes_on_where_it_stopped() {
    sandbox().run(|| {
        let (plain, store) = store();
        let bytes: Vec<u8> = (0..3_500_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let digest: Digest = Algorithm::Sha256.digest(&bytes);
        let expected = Expected::digest(digest.clone()).size(bytes.len() as u64);
        let counts = Arc::new(Counts::default());
        let store = store.with_progress(counts.clone());
        runtime().block_on(async {
            let error = store.ingest(expected.clone(), Breaks(&bytes[..2_500_000], true)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io);
            // Whole blocks are in.
            assert_eq!(counts.0.swap(0, Ordering::Relaxed), 2 << 20);
            let blob = store.ingest(expected.clone(), Breaks(&bytes, false)).await.unwrap();
            assert_eq!((blob.digest(), blob.size()), (&digest, bytes.len() as u64));
            assert_eq!(counts.0.load(Ordering::Relaxed), bytes.len() as u64 - (2 << 20));
            let wrong = Expected::digest(Algorithm::Sha256.digest(b"other"));
            assert_eq!(store.ingest(wrong, &bytes[..10]).await.unwrap_err().kind(), ErrorKind::DigestMismatch);
            // What is there is not read again.
            store.ingest(expected, Breaks(&[], true)).await.unwrap();
        });
        assert_eq!(plain.stats().unwrap().ingests, 0);
    });
}
