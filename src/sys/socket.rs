//! Unix sockets that others connect to: made in a directory that is held, or handed over by whoever started the process.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, getsockopt, sockopt};
use rustix::fs::Mode;
use rustix::io::{Errno, FdFlags};

use super::{Dir, proc_path};
use crate::error::{Error, ErrorKind, Result};

/// How many connections wait to be accepted.
const WAITING: i32 = 128;

/// Listens at a name that is free in a directory. The socket has mode 0600 from its first instant on, whatever the umask.
///
/// # Errors
/// `AlreadyExists` where something stands there; `InvalidArgument` for a name that is too long for a socket; `PermissionDenied`, `Io`.
pub(crate) fn listen(directory: &Dir, name: &[u8]) -> Result<UnixListener> {
    let fail = |op, errno: nix::Error| match errno {
        nix::Error::EADDRINUSE => Error::new(ErrorKind::AlreadyExists, op).at(OsStr::from_bytes(name)),
        errno => Error::io(op, errno).at(OsStr::from_bytes(name)),
    };
    let socket = stream().map_err(|errno| fail("socket", errno))?;
    // A socket's file gets the mode of its descriptor (less the umask): nobody else can connect between `bind` and a `chmod`.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600)).map_err(|errno| Error::io("fchmod", errno))?;
    socket::bind(socket.as_raw_fd(), &address(directory, name)?).map_err(|errno| fail("bind", errno))?;
    let backlog = Backlog::new(WAITING).map_err(|errno| fail("listen", errno))?;
    socket::listen(&socket, backlog).map_err(|errno| fail("listen", errno))?;
    Ok(UnixListener::from(socket))
}

/// Whether somebody listens at a name.
///
/// # Errors
/// `PermissionDenied`, `Io`, where that cannot be found out.
pub(crate) fn answers(directory: &Dir, name: &[u8]) -> Result<bool> {
    let fail = |op, errno: nix::Error| Error::io(op, errno).at(OsStr::from_bytes(name));
    let socket = stream().map_err(|errno| fail("socket", errno))?;
    match socket::connect(socket.as_raw_fd(), &address(directory, name)?) {
        // Without a free place in its queue it is there all the same.
        Ok(()) | Err(nix::Error::EAGAIN) => Ok(true),
        Err(nix::Error::ECONNREFUSED | nix::Error::ENOENT) => Ok(false),
        Err(errno) => Err(fail("connect", errno)),
    }
}

/// Takes a listening socket that whoever started this process left at this number (`sd_listen_fds(3)`: from 3 on). To be called once
/// for each, before anything else takes descriptors.
///
/// # Errors
/// `InvalidArgument` where no listening unix socket is there.
pub(crate) fn inherited(number: RawFd) -> Result<UnixListener> {
    let refuse =
        |reason: &str| Error::new(ErrorKind::InvalidArgument, "take socket").at(format!("descriptor {number}")).because(reason);
    if number < 3 || !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() {
        return Err(refuse("there is no such descriptor"));
    }
    #[allow(unsafe_code)]
    // SAFETY: it is open, it is none of the standard streams, and whoever set LISTEN_FDS gave it to this process for this alone.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(|errno: Errno| Error::io("fcntl", errno))?;
    let is_unix = socket::getsockname::<UnixAddr>(number).is_ok();
    let listens = getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false);
    if is_unix && listens { Ok(UnixListener::from(socket)) } else { Err(refuse("it is no unix socket that listens")) }
}

fn stream() -> nix::Result<OwnedFd> {
    socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

/// By way of the held directory: the socket is where that is, and the directory's path may be longer than an address.
fn address(directory: &Dir, name: &[u8]) -> Result<UnixAddr> {
    let place = [proc_path(directory.as_fd()).as_bytes(), b"/", name].concat();
    UnixAddr::new(OsStr::from_bytes(&place)).map_err(|_| {
        Error::new(ErrorKind::InvalidArgument, "bind").at(OsStr::from_bytes(name)).because("the name is too long for a socket")
    })
}
