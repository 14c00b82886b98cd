//! containerd's contract over the wire, sentence by sentence, by a client of the same definitions.

mod connections;
mod content;
mod diff;
mod gated;
mod messages;
mod mounting;
mod rebase;
mod snapshots;
mod spans;

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::api::snapshots::{self as pb, snapshots_client::SnapshotsClient};
use super::api::types;
use super::{ServeOptions, Socket, serve, serve_with};
use crate::store::Store;
use crate::testing::TemporaryDirectory;

/// A server on a store of its own, and a client.
struct Served {
    runtime: Runtime,
    client: SnapshotsClient<Channel>,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<crate::Result<()>>>,
    store: Store,
    address: PathBuf,
    _directory: Option<TemporaryDirectory>,
}

impl Served {
    fn new() -> Self {
        let (store, directory) = crate::testing::temporary_store().unwrap();
        let address = directory.path().join("socket");
        Self { _directory: Some(directory), ..Self::at(store, address) }
    }

    /// A server on a store that is there.
    fn at(store: Store, address: PathBuf) -> Self {
        // Where a test plays containerd, it is here.
        let options = ServeOptions::default().containerd(address.with_file_name("containerd"));
        let snapshotter = store.clone();
        Self::with(store, address, |socket, stop| async move { serve_with(snapshotter, socket, &options, stop).await })
    }

    /// A server of one's own; the store is for the test alone.
    fn with<F: Future<Output = crate::Result<()>> + Send + 'static>(
        store: Store,
        address: PathBuf,
        serve: impl FnOnce(Socket, Pin<Box<dyn Future<Output = ()> + Send>>) -> F,
    ) -> Self {
        Self::within(Runtime::new().unwrap(), store, address, serve)
    }

    /// The same on threads of one's own.
    fn within<F: Future<Output = crate::Result<()>> + Send + 'static>(
        runtime: Runtime,
        store: Store,
        address: PathBuf,
        serve: impl FnOnce(Socket, Pin<Box<dyn Future<Output = ()> + Send>>) -> F,
    ) -> Self {
        let socket = Socket::bind(&address).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = Box::pin(async { drop(stopped.await) });
        let server = runtime.spawn(serve(socket, stopped));
        let client = runtime.block_on(connect(&address));
        Self { runtime, client, stop: Some(stop), server: Some(server), store, address, _directory: None }
    }

    /// Has the server stop, and waits for that.
    fn stop(&mut self) -> crate::Result<()> {
        let _ = self.stop.take().unwrap().send(());
        self.runtime.block_on(self.server.take().unwrap()).unwrap()
    }

    fn call<T, F: Future<Output = Result<tonic::Response<T>, Status>>>(
        &self,
        call: impl FnOnce(SnapshotsClient<Channel>) -> F,
    ) -> Result<T, Status> {
        self.runtime.block_on(call(self.client.clone())).map(tonic::Response::into_inner)
    }

    fn prepare_with(&self, key: &str, parent: &str, labels: &[(&str, &str)]) -> Result<Vec<types::Mount>, Status> {
        let request = pb::PrepareSnapshotRequest {
            snapshotter: "plywood".into(),
            key: key.into(),
            parent: parent.into(),
            labels: owned(labels),
        };
        self.call(|mut client| async move { client.prepare(request).await }).map(|response| response.mounts)
    }

    fn prepare(&self, key: &str, parent: &str) -> Result<Vec<types::Mount>, Status> {
        self.prepare_with(key, parent, &[])
    }

    fn view(&self, key: &str, parent: &str) -> Result<Vec<types::Mount>, Status> {
        let request = pb::ViewSnapshotRequest { key: key.into(), parent: parent.into(), ..Default::default() };
        self.call(|mut client| async move { client.view(request).await }).map(|response| response.mounts)
    }

    fn mounts(&self, key: &str) -> Result<Vec<types::Mount>, Status> {
        let request = pb::MountsRequest { key: key.into(), ..Default::default() };
        self.call(|mut client| async move { client.mounts(request).await }).map(|response| response.mounts)
    }

    fn commit(&self, name: &str, key: &str) -> Result<(), Status> {
        self.commit_on(name, key, "", &[])
    }

    fn commit_on(&self, name: &str, key: &str, parent: &str, labels: &[(&str, &str)]) -> Result<(), Status> {
        let request = pb::CommitSnapshotRequest {
            snapshotter: "plywood".into(),
            name: name.into(),
            key: key.into(),
            labels: owned(labels),
            parent: parent.into(),
        };
        self.call(|mut client| async move { client.commit(request).await })
    }

    /// A committed snapshot.
    fn base(&self, name: &str, parent: &str) {
        let key = format!("{name} in work");
        self.prepare(&key, parent).unwrap();
        self.commit(name, &key).unwrap();
    }

    fn remove(&self, key: &str) -> Result<(), Status> {
        let request = pb::RemoveSnapshotRequest { key: key.into(), ..Default::default() };
        self.call(|mut client| async move { client.remove(request).await })
    }

    fn stat(&self, key: &str) -> Result<pb::Info, Status> {
        let request = pb::StatSnapshotRequest { key: key.into(), ..Default::default() };
        self.call(|mut client| async move { client.stat(request).await }).map(|response| response.info.unwrap())
    }

    fn update(&self, name: &str, labels: &[(&str, &str)], paths: &[&str]) -> Result<pb::Info, Status> {
        let info = pb::Info { name: name.into(), labels: owned(labels), ..Default::default() };
        let update_mask = prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() };
        let request = pb::UpdateSnapshotRequest { info: Some(info), update_mask: Some(update_mask), ..Default::default() };
        self.call(|mut client| async move { client.update(request).await }).map(|response| response.info.unwrap())
    }

    /// The messages of a listing, and what is in them.
    fn pages(&self, filters: &[&str]) -> Result<Vec<Vec<pb::Info>>, Status> {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let request = pb::ListSnapshotsRequest { filters, ..Default::default() };
        let mut client = self.client.clone();
        self.runtime.block_on(async move {
            let mut stream = client.list(request).await?.into_inner();
            let mut pages = Vec::new();
            while let Some(page) = stream.message().await? {
                pages.push(page.info);
            }
            Ok(pages)
        })
    }

    fn list(&self, filters: &[&str]) -> Result<Vec<String>, Status> {
        self.pages(filters).map(|pages| pages.into_iter().flatten().map(|info| info.name).collect())
    }

    fn usage(&self, key: &str) -> Result<pb::UsageResponse, Status> {
        let request = pb::UsageRequest { key: key.into(), ..Default::default() };
        self.call(|mut client| async move { client.usage(request).await })
    }

    fn cleanup(&self) -> Result<(), Status> {
        self.call(|mut client| async move { client.cleanup(pb::CleanupRequest::default()).await })
    }

    /// A connection that speaks as the test likes.
    fn raw(&self) -> UnixStream {
        UnixStream::connect(&self.address).unwrap()
    }
}

async fn connect(address: &Path) -> SnapshotsClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", address.display())).unwrap();
    // As containerd sends and takes them.
    let client = SnapshotsClient::new(endpoint.connect().await.unwrap());
    client.max_decoding_message_size(16 << 20).max_encoding_message_size(usize::MAX)
}

fn owned(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[track_caller]
fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.unwrap_err().code()
}
