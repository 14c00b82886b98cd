//! The server: connections in, until it is told to stop.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::api::diff::diff_server::DiffServer;
use super::api::snapshots::snapshots_server::SnapshotsServer;
use super::content::ContentStore;
use super::differ::Differ;
use super::services::Services;
use super::snapshotter::Snapshotter;
use super::socket::Socket;
use super::wire::Wire;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

const OP: &str = "serve";
/// What containerd takes and sends, in bytes (`defaults.DefaultMaxRecvMsgSize`).
pub(super) const MESSAGE_MAX: usize = 16 << 20;
/// Calls of one client that are on their way at once.
const STREAMS_MAX: u32 = 1024;
/// A client that is silent so long is asked whether it is there, and given up when it is silent as long again.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long calls that are at work may take when the server stops. What a client begins later is refused at once.
const DRAIN: Duration = Duration::from_secs(10);

/// Serves a store to containerd on a socket until `stop` is ready; calls that are at work then get ten seconds to end, and what is at
/// work still is left to the runtime. In a tokio runtime with a timer and I/O.
///
/// Several servers, in one process or in many, may serve one store, each on a socket of its own. Nothing is lost when one is killed:
/// mounts are containerd's, and snapshots are the store's.
///
/// ```no_run
/// # async fn example() -> plywood::Result<()> {
/// use plywood::containerd::{Socket, serve};
///
/// let store = plywood::store::Store::open("/var/lib/plywood")?;
/// serve(store, Socket::bind("/run/plywood/containerd.sock")?, std::future::pending()).await
/// # }
/// ```
///
/// # Errors
/// `InvalidArgument` where the store's path has a character that containerd takes for its own in mount options (`:`, `,`, `\`), or is not
/// UTF-8; `Io` where the socket fails.
pub async fn serve(store: Store, socket: Socket, stop: impl Future<Output = ()> + Send) -> Result<()> {
    serve_with(store, socket, &ServeOptions::default(), stop).await
}

/// How a store is served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeOptions {
    /// containerd's own socket, for its content store: the differ reads layers from there and writes them there. By default
    /// `/run/containerd/containerd.sock`. It is connected to when a layer is asked for.
    pub containerd: PathBuf,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { containerd: PathBuf::from("/run/containerd/containerd.sock") }
    }
}

impl ServeOptions {
    /// With the containerd on this socket.
    #[must_use]
    pub fn containerd(mut self, address: impl Into<PathBuf>) -> Self {
        self.containerd = address.into();
        self
    }
}

/// [`serve`] for a containerd that is elsewhere.
///
/// # Errors
/// As [`serve`]; `InvalidArgument` where containerd's address is none.
pub async fn serve_with(store: Store, socket: Socket, options: &ServeOptions, stop: impl Future<Output = ()> + Send) -> Result<()> {
    check_root(&store)?;
    let differ = Differ::new(store.clone(), ContentStore::at(&options.containerd)?);
    serve_any(store, Some(differ), socket, stop, DRAIN).await
}

/// The same for any snapshotter, with a differ or without, and with another patience.
pub(super) async fn serve_any<S: Snapshotter>(
    snapshotter: S,
    differ: Option<Differ>,
    mut socket: Socket,
    stop: impl Future<Output = ()> + Send,
    drain: Duration,
) -> Result<()> {
    let fail = |error| Error::io(OP, error);
    let listener = socket.take_listener()?;
    listener.set_nonblocking(true).map_err(fail)?;
    let incoming = UnixListenerStream::new(UnixListener::from_std(listener).map_err(fail)?);
    let services = Services {
        snapshots: SnapshotsServer::new(Wire::new(snapshotter))
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX),
        diff: differ
            .map(|differ| DiffServer::new(differ).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX)),
    };
    let (stopping, stopped) = oneshot::channel();
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(SILENCE_MAX))
        .http2_keepalive_timeout(Some(SILENCE_MAX))
        .serve_with_incoming_shutdown(services, incoming, async {
            stop.await;
            tracing::debug!("stopping");
            let _ = stopping.send(());
        });
    let given_up = async {
        match stopped.await {
            Ok(()) => tokio::time::sleep(drain).await,
            // The server has ended by itself.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        served = serving => served.map_err(|error| Error::new(ErrorKind::Io, OP).with_source(error)),
        () = given_up => {
            tracing::warn!("clients that did not end their calls are left");
            Ok(())
        }
    }
}

/// containerd takes options apart at these characters, escaped or not, when it shortens them.
fn check_root(store: &Store) -> Result<()> {
    let refuse = |reason| Err(Error::new(ErrorKind::InvalidArgument, OP).at(store.root()).because(reason));
    match store.root().to_str() {
        None => refuse("the store's path is not UTF-8"),
        Some(path) if path.contains([':', ',', '\\']) => {
            refuse("the store's path has a colon, a comma or a backslash, which containerd does not take in mount options")
        }
        Some(_) => Ok(()),
    }
}
