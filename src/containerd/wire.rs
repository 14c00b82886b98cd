//! The trait on the wire: each call of the service is a call of the trait on a thread that may block.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use tracing::field::Empty;

use super::api::snapshots::{self as pb, snapshots_server::Snapshots};
use super::api::types;
use super::snapshotter::Snapshotter;
use super::status::{code, status};
use crate::entry::Timestamp;
use crate::error::Result;
use crate::mount::Mount;
use crate::snapshot::{Info, Kind, Labels};
use crate::span::verb;

/// How many calls work at a time; others wait. Each has a thread, and most of them wait for the disk.
const AT_A_TIME: usize = 64;
/// A message of a listing has at most so many snapshots, and, but for a single longer one, bytes.
const LISTED: usize = 100;
const LISTED_BYTES: usize = 1 << 20;

/// A snapshotter as a service.
pub(super) struct Wire<S> {
    snapshotter: Arc<S>,
    turns: Arc<Semaphore>,
}

impl<S: Snapshotter> Wire<S> {
    pub(super) fn new(snapshotter: S) -> Self {
        Self { snapshotter: Arc::new(snapshotter), turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Does the work on a thread of its own. Once begun it is done to its end, whether or not the client still waits.
    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        key: String,
        work: impl FnOnce(&S, &str) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| Status::new(Code::Unavailable, "the server is stopping"))?;
        let snapshotter = Arc::clone(&self.snapshotter);
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let verb = verb!("serve call", call = what, key = %key, code = Empty);
            let done = verb.run(|span| {
                let done = work(&snapshotter, &key);
                span.record("code", tracing::field::debug(done.as_ref().err().map_or(Code::Ok, code)));
                done.inspect_err(|error| tracing::info!(%error, "refused"))
            });
            done.map_err(|error| status(&error))
        });
        done.await.map_err(|error| Status::new(Code::Internal, format!("{what}: {error}")))?
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<S: Snapshotter> Snapshots for Wire<S> {
    async fn prepare(&self, request: Request<pb::PrepareSnapshotRequest>) -> Answer<pb::PrepareSnapshotResponse> {
        let pb::PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let work = move |snapshotter: &S, key: &str| mounts(&snapshotter.prepare(key, named(&parent), sorted(labels))?);
        self.call("prepare", key, work).await.map(|mounts| Response::new(pb::PrepareSnapshotResponse { mounts }))
    }

    async fn view(&self, request: Request<pb::ViewSnapshotRequest>) -> Answer<pb::ViewSnapshotResponse> {
        let pb::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let work = move |snapshotter: &S, key: &str| mounts(&snapshotter.view(key, named(&parent), sorted(labels))?);
        self.call("view", key, work).await.map(|mounts| Response::new(pb::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(&self, request: Request<pb::MountsRequest>) -> Answer<pb::MountsResponse> {
        let work = |snapshotter: &S, key: &str| mounts(&snapshotter.mounts(key)?);
        let mounts = self.call("mounts", request.into_inner().key, work).await?;
        Ok(Response::new(pb::MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<pb::CommitSnapshotRequest>) -> Answer<()> {
        let pb::CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        let work = move |snapshotter: &S, key: &str| snapshotter.commit(&name, key, named(&parent), sorted(labels));
        self.call("commit", key, work).await.map(Response::new)
    }

    async fn remove(&self, request: Request<pb::RemoveSnapshotRequest>) -> Answer<()> {
        self.call("remove", request.into_inner().key, S::remove).await.map(Response::new)
    }

    async fn stat(&self, request: Request<pb::StatSnapshotRequest>) -> Answer<pb::StatSnapshotResponse> {
        let info = self.call("stat", request.into_inner().key, S::stat).await?;
        Ok(Response::new(pb::StatSnapshotResponse { info: Some(told(info)) }))
    }

    async fn update(&self, request: Request<pb::UpdateSnapshotRequest>) -> Answer<pb::UpdateSnapshotResponse> {
        let pb::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let pb::Info { name, labels, .. } = info.unwrap_or_default();
        let paths = update_mask.unwrap_or_default().paths;
        let work = move |snapshotter: &S, key: &str| snapshotter.update(key, &sorted(labels), &paths);
        let info = self.call("update", name, work).await?;
        Ok(Response::new(pb::UpdateSnapshotResponse { info: Some(told(info)) }))
    }

    type ListStream = tokio_stream::Iter<std::vec::IntoIter<Result<pb::ListSnapshotsResponse, Status>>>;

    async fn list(&self, request: Request<pb::ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let pb::ListSnapshotsRequest { filters, .. } = request.into_inner();
        let infos = self.call("list", filters.join(" or "), move |snapshotter, _| snapshotter.list(&filters)).await?;
        Ok(Response::new(tokio_stream::iter(pages(infos))))
    }

    async fn usage(&self, request: Request<pb::UsageRequest>) -> Answer<pb::UsageResponse> {
        let usage = self.call("usage", request.into_inner().key, S::usage).await?;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Ok(Response::new(pb::UsageResponse { size: number(usage.bytes), inodes: number(usage.inodes) }))
    }

    async fn cleanup(&self, _request: Request<pb::CleanupRequest>) -> Answer<()> {
        self.call("cleanup", String::new(), |snapshotter, _| snapshotter.cleanup()).await.map(Response::new)
    }
}

/// A parent is left out as an empty string.
fn named(parent: &str) -> Option<&str> {
    Some(parent).filter(|parent| !parent.is_empty())
}

fn sorted(labels: impl IntoIterator<Item = (String, String)>) -> Labels {
    labels.into_iter().collect()
}

fn mounts(mount: &Mount) -> Result<Vec<types::Mount>> {
    // Fails where the path is not UTF-8.
    let options = mount.options()?;
    let source = mount.source().to_string_lossy().into_owned();
    Ok(vec![types::Mount { r#type: mount.fstype().to_owned(), source, target: String::new(), options }])
}

fn told(info: Info) -> pb::Info {
    let kind = match info.kind {
        Kind::View => pb::Kind::View,
        Kind::Active => pb::Kind::Active,
        Kind::Committed => pb::Kind::Committed,
    };
    pb::Info {
        name: info.name,
        parent: info.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(time(info.created)),
        updated_at: Some(time(info.updated)),
        labels: info.labels.into_iter().collect(),
    }
}

fn time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.seconds, nanos: i32::try_from(time.nanoseconds).unwrap_or_default() }
}

/// A listing in messages that stay below what containerd takes (16 MiB), as each snapshot by itself does.
fn pages(infos: Vec<Info>) -> Vec<Result<pb::ListSnapshotsResponse, Status>> {
    let mut pages = Vec::new();
    let (mut page, mut bytes) = (Vec::new(), 0_usize);
    for info in infos.into_iter().map(told) {
        let longer = bytes.saturating_add(info.encoded_len());
        let is_full = page.len() >= LISTED || longer > LISTED_BYTES;
        if is_full && !page.is_empty() {
            pages.push(Ok(pb::ListSnapshotsResponse { info: std::mem::take(&mut page) }));
            bytes = 0;
        }
        bytes = bytes.saturating_add(info.encoded_len());
        page.push(info);
    }
    if !page.is_empty() {
        pages.push(Ok(pb::ListSnapshotsResponse { info: page }));
    }
    pages
}
