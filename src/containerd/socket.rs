//! The socket that is served: made at an address, or inherited.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::flock::{Flock, Sharing};
use crate::sys::{Dir, FileType, Stat, host, socket};

const OP: &str = "serve";

/// A unix socket to serve on. One that was made here goes when this is dropped.
#[derive(Debug)]
#[must_use = "the socket is removed when this is dropped"]
pub struct Socket {
    listener: Option<UnixListener>,
    address: PathBuf,
    place: Option<Place>,
}

/// Where the socket is, and the lock that says whose that is.
#[derive(Debug)]
struct Place {
    directory: Dir,
    name: OsString,
    made: Stat,
    _lock: Flock,
}

impl Socket {
    /// Makes a socket at an address, mode 0600. Its directory is made where that is missing. A socket that a dead server left there is
    /// replaced. Beside it stands a lock, `ADDRESS.lock`, so that of two servers that start at once one gets the address; it stays.
    ///
    /// # Errors
    /// `InUse` where a server listens there; `AlreadyExists` for anything there that is no socket; `InvalidArgument` for an address
    /// that is none; `NotFound` where the directory that is to have the socket's is missing; `PermissionDenied`, `Io`.
    pub fn bind(address: impl AsRef<Path>) -> Result<Self> {
        let address = address.as_ref();
        let (parent, name) = match (address.parent(), address.file_name()) {
            (Some(parent), Some(name)) => (parent, name.to_owned()),
            _ => return Err(Error::new(ErrorKind::InvalidArgument, OP).at(address).because("a socket's path is wanted")),
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let directory = host::open_or_create_dir(parent)?;
        let mut lock_name = name.clone();
        lock_name.push(".lock");
        let lock = take_lock(&directory, lock_name.as_bytes()).map_err(|error| error.at(address))?;
        make_room(&directory, &name, address)?;
        let listener = socket::listen(&directory, name.as_bytes()).map_err(|error| error.at(address))?;
        let made = directory.stat(name.as_bytes())?.ok_or_else(|| Error::new(ErrorKind::NotFound, OP).at(address))?;
        Ok(Self {
            listener: Some(listener),
            address: address.to_owned(),
            place: Some(Place { directory, name, made, _lock: lock }),
        })
    }

    /// The one socket that a service manager handed over (`LISTEN_FDS=1`, descriptor 3). To be called once, as the first thing that a
    /// process does.
    ///
    /// # Errors
    /// `InvalidArgument` where no listening unix socket is there.
    pub fn inherited() -> Result<Self> {
        let listener = socket::inherited(3)?;
        let address = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned)).unwrap_or_default();
        Ok(Self { listener: Some(listener), address, place: None })
    }

    /// Its address; empty for an inherited one that has no path.
    pub fn address(&self) -> &Path {
        &self.address
    }

    /// What connections come in by, once: whoever stops listening drops it before the socket.
    pub(super) fn take_listener(&mut self) -> Result<UnixListener> {
        self.listener.take().ok_or_else(|| in_use().at(&self.address))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(place) = &self.place else { return };
        let name = place.name.as_bytes();
        // Under the lock nobody of ours has made another; an administrator may have.
        if place.directory.stat(name).ok().flatten().is_some_and(|now| now.same_inode(&place.made)) {
            let _ = place.directory.unlink(name);
        }
    }
}

fn take_lock(directory: &Dir, name: &[u8]) -> Result<Flock> {
    let file = match directory.create_file(name, 0o600) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => directory.open_file_rw(name)?,
        made => made?,
    };
    Flock::attempt(file.into(), Sharing::Exclusive)?.map_err(|_| in_use())
}

/// Removes what a dead server left.
fn make_room(directory: &Dir, name: &OsString, address: &Path) -> Result<()> {
    let name = name.as_bytes();
    match directory.stat(name)? {
        None => Ok(()),
        Some(stat) if stat.file_type != FileType::Socket => {
            Err(Error::new(ErrorKind::AlreadyExists, OP).at(address).because("something is there that is no socket"))
        }
        // Also one that is not of ours, which takes no lock.
        Some(_) if socket::answers(directory, name).map_err(|error| error.at(address))? => Err(in_use().at(address)),
        Some(_) => directory.unlink(name),
    }
}

fn in_use() -> Error {
    Error::new(ErrorKind::InUse, OP)
        .because("a server listens there")
        .with_hint("a second server on the same store takes another address")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;

    fn kind(address: &Path) -> ErrorKind {
        Socket::bind(address).unwrap_err().kind()
    }

    #[test]
    fn a_socket_is_its_owners_alone_and_goes_when_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("new").join("socket");
        let socket = Socket::bind(&address).unwrap();
        assert_eq!(std::fs::metadata(&address).unwrap().permissions().mode() & 0o7777, 0o600);
        UnixStream::connect(&address).unwrap();
        drop(socket);
        assert!(!address.exists());
    }

    #[test]
    fn a_socket_that_a_dead_server_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("socket");
        drop(UnixListener::bind(&address).unwrap());
        assert!(address.exists());
        let _socket = Socket::bind(&address).unwrap();
        UnixStream::connect(&address).unwrap();
    }

    #[test]
    fn a_server_that_lives_keeps_its_address() {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("socket");
        let socket = Socket::bind(&address).unwrap();
        assert_eq!(kind(&address), ErrorKind::InUse);
        UnixStream::connect(&address).unwrap();
        drop(socket);
        let foreign = UnixListener::bind(&address).unwrap();
        assert_eq!(kind(&address), ErrorKind::InUse, "one that takes no lock");
        drop(foreign);
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("file");
        std::fs::write(&address, "mine").unwrap();
        assert_eq!(kind(&address), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&address).unwrap(), b"mine");
        assert_eq!(kind(Path::new("/")), ErrorKind::InvalidArgument);
        assert_eq!(kind(&directory.path().join("x".repeat(100))), ErrorKind::InvalidArgument);
        assert_eq!(kind(&directory.path().join("no/such/socket")), ErrorKind::NotFound);
    }

    #[test]
    fn a_socket_may_lie_deeper_than_an_address_is_long() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("x".repeat(200));
        let socket = Socket::bind(deep.join("socket")).unwrap();
        assert!(deep.join("socket").exists());
        drop(socket);
    }
}
