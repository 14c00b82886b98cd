//! What containerd wants of a differ (`containerd.services.diff.v1`): layers applied to snapshots, and changes made layers of.
//!
//! It is told mounts, not keys: whose directory is in them is looked up in the store. What is not plywood's, or what it has no way with,
//! is `Unimplemented`: then containerd asks the next differ of its list.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use tracing::field::Empty;

use super::api::diff::{self as pb, diff_server::Diff};
use super::api::types;
use super::content::{ContentStore, UNCOMPRESSED, Uploaded};
use super::names;
use super::snapshotter::is_to_get_a_parent;
use super::status::status;
use crate::compression::Compression;
use crate::descriptor::{Descriptor, MediaType};
use crate::error::{Error, ErrorKind};
use crate::progress::{Context, Progress};
use crate::snapshot::{Key, Kind};
use crate::span::verb;
use crate::store::{ApplyOptions, DiffOptions, LayerSource, Store, layer_compression};

/// How many layers are unpacked or written at a time; others wait.
const AT_A_TIME: usize = 16;

/// A differ as a service.
pub(super) struct Differ {
    store: Store,
    content: ContentStore,
    turns: Arc<Semaphore>,
}

impl Differ {
    pub(super) fn new(store: Store, content: ContentStore) -> Self {
        Self { store, content, turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Looks something up, on a thread that may block.
    async fn find<T: Send + 'static>(&self, look: impl FnOnce(&Store) -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || look(&store)).await;
        found.map_err(|error| Status::new(Code::Internal, format!("find: {error}")))?
    }

    /// Does the work on a thread of its own. It is told to stop when nobody waits for it any more.
    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        key: String,
        work: impl FnOnce(&Store, &Context<'_>) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| Status::new(Code::Unavailable, "the server is stopping"))?;
        let store = self.store.clone();
        let (wanted, watched) = Wanted::new();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let verb = verb!("serve call", call = what, key = %key, code = Empty);
            verb.run(|span| {
                let done = work(&store, &Context::new(&watched));
                let code = done.as_ref().err().map_or(Code::Ok, Status::code);
                span.record("code", tracing::field::debug(code));
                if let Err(status) = &done {
                    span.record("error", code.description());
                    tracing::info!(error = status.message(), "refused");
                }
                Ok(done)
            })
        });
        let done = done.await.map_err(|error| Status::new(Code::Internal, format!("{what}: {error}")))?;
        drop(wanted);
        done.map_err(|error| status(&error))?
    }
}

#[tonic::async_trait]
impl Diff for Differ {
    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyResponse>, Status> {
        let content = self.content.asked_by(request.metadata());
        // Whatever is applied is durable when it is committed: `sync_fs` asks for no more.
        let pb::ApplyRequest { diff, mounts, .. } = request.into_inner();
        let layer = layer(diff.unwrap_or_default())?;
        let key = self.find(move |store| writable(store, &mounts)).await?;
        let (reader, feed) = content.read(&layer.digest).await?;
        let applying = self.call("apply", key.to_string(), move |store, cx| {
            let mut options = ApplyOptions::default().descriptor(&layer);
            let info = store.stat(key.as_str()).map_err(|error| status(&error))?;
            if is_to_get_a_parent(info.parent.as_deref(), &info.labels) {
                options = options.ahead();
            }
            let applied = store.apply(&key, LayerSource::reader(reader), &options, cx);
            let applied = applied.map_err(|error| match error.kind() {
                // The snapshot is as it was: another differ may have a way.
                ErrorKind::Unsupported => unimplemented(status(&error).message()),
                _ => status(&error),
            })?;
            if !applied.report.is_empty() {
                let (skipped, first) = (applied.report.total, applied.report.skipped.first().map(ToString::to_string));
                tracing::warn!(%key, diff_id = %applied.diff_id, skipped, first, "a layer was not applied whole");
            }
            Ok(applied)
        });
        let applied = match tokio::join!(feed.run(), applying) {
            (_, Ok(applied)) => applied,
            // Who reads fails when the source does, and says less.
            (Err(status), Err(_)) | (Ok(()), Err(status)) => return Err(status),
        };
        let applied = Descriptor::new(MediaType::LAYER, applied.diff_id.0, applied.size);
        Ok(Response::new(pb::ApplyResponse { applied: Some(told(&applied)) }))
    }

    async fn diff(&self, request: Request<pb::DiffRequest>) -> Result<Response<pb::DiffResponse>, Status> {
        let content = self.content.asked_by(request.metadata());
        let pb::DiffRequest { left, right, media_type, r#ref, mut labels, source_date_epoch } = request.into_inner();
        let compression = match media_type.as_str() {
            "" | MediaType::LAYER_GZIP => Compression::Gzip,
            MediaType::LAYER => Compression::None,
            MediaType::LAYER_ZSTD => Compression::Zstd,
            other => return Err(unimplemented(format!("layers of the type {} are not written", other.escape_debug()))),
        };
        let name = self.find(move |store| changed(store, &left, &right)).await?;
        let (is_ours, reference) = if r#ref.is_empty() { (true, unique()) } else { (false, r#ref) };
        let (mut writer, upload) = content.write(&reference);
        let writing = self.call("diff", name.clone(), move |store, cx| {
            let mut options = DiffOptions::default().compression(compression);
            if let Some(epoch) = source_date_epoch {
                options = options.clamp_mtime(epoch.seconds);
            }
            let outcome = store.diff(&name, &mut writer, &options, cx).map_err(|error| status(&error))?;
            if compression != Compression::None {
                labels.insert(UNCOMPRESSED.to_owned(), outcome.diff_id.to_string());
            }
            let committed = writer.commit(&outcome.descriptor.digest, labels);
            committed.map_err(|error| status(&Error::io("write layer", error)))?;
            Ok(outcome)
        });
        let outcome = match tokio::join!(upload.run(), writing) {
            (Ok(Uploaded::Committed), Ok(outcome)) => outcome,
            (uploaded, written) => {
                if is_ours {
                    content.abort(&reference).await;
                }
                let ended = || Status::new(Code::Unavailable, "containerd took no commit of the layer");
                return Err(uploaded.err().or(written.err()).unwrap_or_else(ended));
            }
        };
        let digest = outcome.descriptor.digest.to_string();
        // One that was there before may lack what is known of it now.
        let info = content.info(&digest).await?;
        if compression != Compression::None && !info.labels.contains_key(UNCOMPRESSED) {
            content.label(&digest, UNCOMPRESSED, &outcome.diff_id.to_string()).await?;
        }
        Ok(Response::new(pb::DiffResponse { diff: Some(told(&outcome.descriptor)) }))
    }
}

/// The layer that is to be applied.
fn layer(descriptor: types::Descriptor) -> Result<Descriptor, Status> {
    let types::Descriptor { media_type, digest, size, .. } = descriptor;
    let refuse = |what: &str| Err(Status::new(Code::InvalidArgument, format!("apply: {what}")));
    if layer_compression(&MediaType::new(media_type.as_str())).is_none() {
        return Err(unimplemented(format!("layers of the type {} are not applied", media_type.escape_debug())));
    }
    let Ok(digest) = digest.parse() else { return refuse("the layer's digest is none") };
    let Ok(size) = u64::try_from(size) else { return refuse("the layer's size is none") };
    Ok(Descriptor::new(media_type, digest, size))
}

/// The Active snapshot of containerd's whose tree these mounts write to.
fn writable(store: &Store, mounts: &[types::Mount]) -> Result<Key, Status> {
    let refuse = || unimplemented("apply: the mounts are not of an active snapshot of plywood's");
    let place = place(mounts).filter(|place| place.is_writable).ok_or_else(refuse)?;
    let found = store.snapshots_at(&place.path).map_err(|error| status(&error))?;
    match found.as_slice() {
        [info] if info.kind == Kind::Active && names::shown(&info.name).is_some() => {
            Key::new(info.name.as_str()).map_err(|error| status(&error))
        }
        _ => Err(refuse()),
    }
}

/// The snapshot that the mounts on the right show, where those on the left show what it stands on.
fn changed(store: &Store, left: &[types::Mount], right: &[types::Mount]) -> Result<String, Status> {
    let refuse = || unimplemented("diff: the mounts are not of a snapshot of plywood's and of its parent");
    let fail = |error| status(&error);
    let below = match left {
        [] => None,
        _ => {
            let place = place(left).ok_or_else(refuse)?;
            store.frozen_at(&place.path).map_err(fail)?.ok_or_else(refuse)?.name
        }
    };
    let place = place(right).ok_or_else(refuse)?;
    let upper = match store.snapshots_at(&place.path).map_err(fail)?.as_slice() {
        [info] if info.kind == Kind::Active => info.clone(),
        _ => {
            let frozen = store.frozen_at(&place.path).map_err(fail)?.ok_or_else(refuse)?;
            store.stat(&frozen.name.ok_or_else(refuse)?).map_err(fail)?
        }
    };
    if upper.parent == below { Ok(upper.name) } else { Err(refuse()) }
}

/// The directory that is a snapshot's own in its mount.
struct Place {
    path: PathBuf,
    is_writable: bool,
}

/// As plywood tells mounts: one, an overlay or a bind mount.
fn place(mounts: &[types::Mount]) -> Option<Place> {
    let [mount] = mounts else { return None };
    let option = |name: &str| mount.options.iter().find_map(|option| option.strip_prefix(name));
    let is_read_only = mount.options.iter().any(|option| option == "ro");
    match mount.r#type.as_str() {
        "overlay" => match (option("upperdir="), option("lowerdir=")?.split(':').next()) {
            (Some(upper), _) => Some(Place { path: upper.into(), is_writable: !is_read_only }),
            (None, Some(top)) => Some(Place { path: top.into(), is_writable: false }),
            (None, None) => None,
        },
        "bind" => Some(Place { path: Path::new(&mount.source).to_owned(), is_writable: !is_read_only }),
        _ => None,
    }
}

fn told(descriptor: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.to_string(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

fn unimplemented(message: impl Into<String>) -> Status {
    Status::new(Code::Unimplemented, message)
}

/// A reference for one upload.
fn unique() -> String {
    static UPLOADS: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("plywood-diff-{now}-{}-{}", std::process::id(), UPLOADS.fetch_add(1, Ordering::Relaxed))
}

/// Somebody waits for the result, as long as this lives.
struct Wanted(Arc<AtomicBool>);

/// Ends what nobody waits for any more.
struct Watched(Arc<AtomicBool>);

impl Wanted {
    fn new() -> (Self, Watched) {
        let wanted = Arc::new(AtomicBool::new(true));
        (Self(Arc::clone(&wanted)), Watched(wanted))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Progress for Watched {
    fn is_cancelled(&self) -> bool {
        !self.0.load(Ordering::Acquire)
    }
}
