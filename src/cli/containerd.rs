//! `containerd`: serves the store to containerd, as a daemon of a service manager or by hand.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::output::Failure;
use super::session::Session;
use crate::containerd::{ServeOptions, Socket, serve_with};
use crate::error::{Error, ErrorKind, Result};

/// Where containerd is told to look, where nothing is said.
const ADDRESS: &str = "/run/plywood/containerd.sock";

/// `containerd [--address SOCKET] [--containerd-address SOCKET]`
pub(super) fn containerd(session: &Session<'_>, address: Option<&Path>, containerd: Option<&Path>) -> Result<(), Failure> {
    let options = containerd.map_or_else(ServeOptions::default, |address| ServeOptions::default().containerd(address));
    let socket = match (address, is_handed_a_socket()?) {
        (None, true) => Socket::inherited()?,
        (Some(address), true) => {
            return Err(Error::new(ErrorKind::InvalidArgument, "serve")
                .at(address)
                .because("the service manager handed over a socket already")
                .with_hint("leave --address out")
                .into());
        }
        (address, false) => Socket::bind(address.unwrap_or(Path::new(ADDRESS)))?,
    };
    let fail = |error| Failure::from(Error::io("serve", error));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(fail)?;
    let served = runtime.block_on(async {
        let (mut terminate, mut interrupt) = signal(SignalKind::terminate())
            .and_then(|one| Ok((one, signal(SignalKind::interrupt())?)))
            .map_err(|error| Error::io("serve", error))?;
        session.output.remark(format!("plywood: serving containerd on {}", socket.address().display().to_string().escape_debug()));
        notify("READY=1");
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            notify("STOPPING=1");
        };
        serve_with(session.store.clone(), socket, &options, stop).await
    });
    // What is at work still is ended with the process: a crash loses nothing either.
    runtime.shutdown_timeout(Duration::ZERO);
    served.map_err(Failure::from)
}

/// Whether one socket was handed over to this very process (`sd_listen_fds(3)`).
fn is_handed_a_socket() -> Result<bool> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(false);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(more) => Err(Error::new(ErrorKind::InvalidArgument, "serve")
            .because(format!("the service manager handed over {more} sockets, and one is served"))),
    }
}

/// Tells the service manager, where it asked for that (`sd_notify(3)`). Whether it hears changes nothing here.
fn notify(state: &str) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match place.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&place),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = told {
        tracing::debug!(%error, "the service manager does not hear");
    }
}
