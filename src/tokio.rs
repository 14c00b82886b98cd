//! The verbs for async callers: each runs on tokio's blocking pool. Feature `tokio`.
//!
//! A verb works with files, system calls and locks, so it blocks its thread: an async task must not call it directly. [`AsyncStore::run`]
//! calls whatever it is given on the blocking pool; the verbs below are thin wrappers around it. A verb starts threads of its own beside
//! the pool's, as many as the store's [`Parallelism`](crate::Parallelism) says, and they have ended when its future is ready.
//!
//! **Dropping a future cancels its verb**: it is told through its [`Context`], ends at the next point where it asks, and takes back what
//! it made, as after every error of kind `Cancelled`. That happens on the pool, after the future is gone: a runtime that shuts down waits
//! for it. Verbs that do not ask (`prepare`, `commit`, `remove`…) are short, and come to their end. A future that was never polled
//! starts nothing.
//!
//! Bytes come in by [`ingest`](AsyncStore::ingest), from any `AsyncRead`, or chunk by chunk from whoever pushes them:
//! [`Content::start`](crate::content::Content::start) gives an [`Ingest`], whose `write` takes what there is.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::tokio::io::{AsyncRead, AsyncReadExt as _};
use ::tokio::task::spawn_blocking;

use crate::content::{Blob, Expected, Ingest, Started};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::Mount;
use crate::progress::{Context, Progress};
use crate::snapshot::{Info, Key, Name};
use crate::span::within;
use crate::store::{
    CheckOptions, CheckOutcome, CommitOptions, DiffOptions, DiffOutcome, ExportOptions, Exported, GcOptions, GcOutcome,
    ImageSource, ImportLayerOptions, ImportOptions, Imported, ImportedLayer, LayerSource, PrepareOptions, Store, StoreOptions,
};

/// How many bytes of an async reader are gathered before they are written.
const BLOCK: usize = 1 << 20;

/// A [`Store`] whose verbs can be awaited. As cheap to clone as that.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # let directory = plywood::testing::temporary_directory()?;
/// # let options = plywood::store::StoreOptions::new(directory.path().join("store"));
/// # let options = options.ids(plywood::tree::Ids::Squash).backend(plywood::store::BackendChoice::Copy);
/// # runtime.block_on(async {
/// use plywood::snapshot::Key;
/// use plywood::tokio::AsyncStore;
///
/// let store = AsyncStore::open(options).await?;
/// store.prepare(Key::new("web-1")?, None, Default::default()).await?;
/// let snapshots = store.run(|store, _| store.stats()).await?.snapshots;
/// assert_eq!(snapshots.active, 1);
/// # Ok::<_, plywood::Error>(())
/// # })?;
/// # Ok::<_, plywood::Error>(())
/// ```
#[derive(Clone)]
pub struct AsyncStore {
    store: Store,
    progress: Option<Arc<dyn Progress>>,
    strict: bool,
}

impl std::fmt::Debug for AsyncStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncStore").field("store", &self.store).field("strict", &self.strict).finish_non_exhaustive()
    }
}

impl From<Store> for AsyncStore {
    fn from(store: Store) -> Self {
        Self { store, progress: None, strict: false }
    }
}

impl AsyncStore {
    /// [`Store::open_with`] on the blocking pool.
    ///
    /// # Errors
    /// Those of [`Store::open_with`].
    pub async fn open(options: StoreOptions) -> Result<Self> {
        blocking(move || Store::open_with(&options)).await.map(Self::from)
    }

    /// The store itself, for what is quick and for threads that may block.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The same store, whose verbs tell `progress` what they do, and end where it says so.
    #[must_use]
    pub fn with_progress(self, progress: Arc<dyn Progress>) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// The same store, where each skip or clamp is an error of kind `Unsupported` instead.
    #[must_use]
    pub fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    /// Runs any work with the store on the blocking pool. Dropping the future cancels what of it looks at the [`Context`].
    ///
    /// # Errors
    /// Those of the work; `Cancelled` where the runtime shuts down before it begins.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Store, &Context<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        let (store, inner, strict) = (self.store.clone(), self.progress.clone(), self.strict);
        let wanted = Wanted(Arc::new(AtomicBool::new(true)));
        let watched = Watched { wanted: Arc::clone(&wanted.0), inner };
        let done = blocking(move || {
            let cx = Context::new(&watched);
            let cx = if strict { cx.strict() } else { cx };
            work(&store, &cx)
        });
        let done = done.await;
        drop(wanted);
        done
    }

    /// [`Store::import`] of a directory or an archive. What is read from elsewhere is imported by [`run`](Self::run).
    ///
    /// # Errors
    /// Those of [`Store::import`].
    pub async fn import(&self, path: impl Into<PathBuf>, options: ImportOptions) -> Result<Imported> {
        let path = path.into();
        self.run(move |store, cx| store.import(ImageSource::path(path), &options, cx)).await
    }

    /// [`Store::import_layer`] of a blob, as [`ingest`](Self::ingest) gives it.
    ///
    /// # Errors
    /// Those of [`Store::import_layer`].
    pub async fn import_layer(&self, blob: Blob, options: ImportLayerOptions) -> Result<ImportedLayer> {
        self.run(move |store, cx| store.import_layer(LayerSource::from(blob), &options, cx)).await
    }

    /// Takes all of a reader in as a blob, which is verified and durable then. Dropping the future keeps what came of a blob of known digest:
    /// the next ingest of it finds that in the store, and skips as many bytes of its reader.
    ///
    /// # Errors
    /// `DigestMismatch`; `Io`, also for what the reader says; `NoSpace`.
    pub async fn ingest(&self, expected: Expected, mut reader: impl AsyncRead + Unpin) -> Result<Blob> {
        let started = self.run(move |store, cx| store.content().start_unless(&expected, cx)).await?;
        let mut ingest = match started {
            Started::Present(blob) => return Ok(blob),
            Started::Ingest(ingest) => ingest,
        };
        let mut skip = ingest.offset();
        let mut block = Vec::with_capacity(BLOCK);
        loop {
            let read = |error| Error::io("read", error);
            let room = BLOCK.saturating_sub(block.len());
            let count = (&mut reader).take(room as u64).read_buf(&mut block).await.map_err(read)?;
            if skip > 0 {
                let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(block.len());
                block.drain(..passed);
                skip = skip.saturating_sub(passed as u64);
            }
            if count > 0 && block.len() < BLOCK {
                continue;
            }
            if !block.is_empty() {
                (ingest, block) = self.write(ingest, block).await?;
            }
            if count == 0 {
                return self.run(move |_, _| ingest.finish()).await;
            }
        }
    }

    async fn write(&self, mut ingest: Ingest, mut block: Vec<u8>) -> Result<(Ingest, Vec<u8>)> {
        self.run(move |_, cx| {
            cx.check("ingest")?;
            ingest.write(&block)?;
            cx.progress().bytes(block.len() as u64);
            block.clear();
            Ok((ingest, block))
        })
        .await
    }

    /// [`Store::prepare`].
    ///
    /// # Errors
    /// Those of [`Store::prepare`].
    pub async fn prepare(&self, key: Key, parent: Option<Name>, options: PrepareOptions) -> Result<Mount> {
        self.run(move |store, _| store.prepare(&key, parent.as_ref(), &options)).await
    }

    /// [`Store::view`].
    ///
    /// # Errors
    /// Those of [`Store::view`].
    pub async fn view(&self, key: Key, parent: Option<Name>, options: PrepareOptions) -> Result<Mount> {
        self.run(move |store, _| store.view(&key, parent.as_ref(), &options)).await
    }

    /// [`Store::commit`].
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    pub async fn commit(&self, name: Name, key: Key, options: CommitOptions) -> Result<Info> {
        self.run(move |store, _| store.commit(&name, &key, &options)).await
    }

    /// [`Store::diff`]; the writer comes back.
    ///
    /// # Errors
    /// Those of [`Store::diff`].
    pub async fn diff<W: Write + Send + 'static>(
        &self,
        name: impl Into<String>,
        mut writer: W,
        options: DiffOptions,
    ) -> Result<(DiffOutcome, W)> {
        let name = name.into();
        self.run(move |store, cx| store.diff(&name, &mut writer, &options, cx).map(|outcome| (outcome, writer))).await
    }

    /// [`Store::export`].
    ///
    /// # Errors
    /// Those of [`Store::export`].
    pub async fn export(&self, what: impl Into<String>, directory: impl Into<PathBuf>, options: ExportOptions) -> Result<Exported> {
        let (what, directory) = (what.into(), directory.into());
        self.run(move |store, cx| store.export(&what, &directory, &options, cx)).await
    }

    /// [`Store::remove`].
    ///
    /// # Errors
    /// Those of [`Store::remove`].
    pub async fn remove(&self, name: impl Into<String>) -> Result<()> {
        let name = name.into();
        self.run(move |store, _| store.remove(&name)).await
    }

    /// [`Store::gc`].
    ///
    /// # Errors
    /// Those of [`Store::gc`].
    pub async fn gc(&self, options: GcOptions) -> Result<GcOutcome> {
        self.run(move |store, cx| store.gc(&options, cx)).await
    }

    /// [`Store::check`].
    ///
    /// # Errors
    /// Those of [`Store::check`].
    pub async fn check(&self, options: CheckOptions) -> Result<CheckOutcome> {
        self.run(move |store, cx| store.check(&options, cx)).await
    }
}

/// Somebody waits for the result, as long as this lives.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Ends what nobody waits for any more.
struct Watched {
    wanted: Arc<AtomicBool>,
    inner: Option<Arc<dyn Progress>>,
}

impl Progress for Watched {
    fn bytes(&self, count: u64) {
        self.inner.iter().for_each(|inner| inner.bytes(count));
    }

    fn entries(&self, count: u64) {
        self.inner.iter().for_each(|inner| inner.entries(count));
    }

    fn is_cancelled(&self) -> bool {
        !self.wanted.load(Ordering::Acquire) || self.inner.as_ref().is_some_and(|inner| inner.is_cancelled())
    }
}

/// Runs it on the blocking pool, in the span of the task; a panic goes on in the task.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(within(work)).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Error::new(ErrorKind::Cancelled, "run on the blocking pool").with_source(error)),
        },
    }
}
