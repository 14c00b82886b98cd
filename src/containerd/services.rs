//! The services that one socket has, told apart by their names in the path of a call.

use std::convert::Infallible;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

use super::api::diff::diff_server::DiffServer;
use super::api::snapshots::snapshots_server::SnapshotsServer;
use super::differ::Differ;
use super::snapshotter::Snapshotter;
use super::wire::Wire;

/// Snapshots and differ of one store.
pub(super) struct Services<S> {
    pub(super) snapshots: SnapshotsServer<Wire<S>>,
    pub(super) diff: Option<DiffServer<Differ>>,
}

// By hand: of what is shared no clone is needed.
impl<S> Clone for Services<S> {
    fn clone(&self) -> Self {
        Self { snapshots: self.snapshots.clone(), diff: self.diff.clone() }
    }
}

impl<S: Snapshotter> Service<http::Request<Body>> for Services<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // What neither has is `Unimplemented`, whoever says so.
        match (request.uri().path().split('/').nth(1), &mut self.diff) {
            (Some(DiffServer::<Differ>::NAME), Some(diff)) => diff.call(request),
            _ => self.snapshots.call(request),
        }
    }
}
