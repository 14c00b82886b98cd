//! A user namespace that no process is in: what the kernel wants to be shown an id map.
//!
//! Only a process can make one, and it must have one thread: a child is forked, which enters it and ends; its descriptor stays.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::sched::CloneFlags;
use nix::unistd::ForkResult;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::ids::{IdMap, IdMaps};

/// Makes a user namespace with these maps. It lives as long as its descriptor.
///
/// # Errors
/// `PermissionDenied` where this process may not map such ids; `Unsupported` or `LimitExceeded` where no namespaces are to be had; `Io`.
pub(crate) fn user_namespace(maps: &IdMaps) -> Result<OwnedFd> {
    // No mount namespace: it would keep what is mounted now for as long as the kernel needs to take it down.
    let child = NamespaceChild::start(CloneFlags::CLONE_NEWUSER)?;
    let proc = |name: &str| format!("/proc/{}/{name}", child.pid);
    for (name, map) in [("uid_map", &maps.uids), ("gid_map", &maps.gids)] {
        std::fs::write(proc(name), text(map)).map_err(|error| {
            let error = Error::io("write id map", error);
            match error.kind() {
                ErrorKind::PermissionDenied => error.with_hint("only root of the host maps ids that are not his own"),
                _ => error,
            }
        })?;
    }
    let path = proc("ns/user");
    File::open(&path).map(OwnedFd::from).map_err(|error| Error::io("open", error).at(path))
}

/// As `/proc/<pid>/uid_map` takes it: in one write.
fn text(map: &IdMap) -> String {
    map.ranges().iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

/// A child in namespaces of its own, which waits to be told to end.
#[derive(Debug)]
pub(crate) struct NamespaceChild {
    pid: nix::unistd::Pid,
    end: OwnedFd,
}

impl NamespaceChild {
    /// Forks a child that enters these namespaces and then does nothing.
    ///
    /// # Errors
    /// What `unshare` says; `Unsupported` where something killed the child.
    pub(crate) fn start(namespaces: CloneFlags) -> Result<Self> {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| Error::io("pipe2", errno));
        let (wait, end) = pipe()?;
        let (answer, tell) = pipe()?;
        #[allow(unsafe_code)]
        // SAFETY: the process may have threads, so the child makes system calls only: it allocates nothing and takes no lock.
        let forked = unsafe { nix::unistd::fork() };
        match forked.map_err(|errno| Error::io("fork", errno))? {
            ForkResult::Child => {
                // Its own copies would keep both pipes open.
                drop((end, answer));
                let entered = nix::sched::unshare(namespaces);
                let _ = rustix::io::write(&tell, &entered.map_or_else(|errno| errno as i32, |()| 0).to_ne_bytes());
                let _ = rustix::io::read(&wait, &mut [0; 1]);
                #[allow(unsafe_code)]
                // SAFETY: `_exit` has no preconditions and does not return.
                unsafe {
                    libc::_exit(0)
                }
            }
            ForkResult::Parent { child } => {
                drop((wait, tell));
                let child = Self { pid: child, end };
                let mut code = [0; 4];
                match rustix::io::retry_on_intr(|| rustix::io::read(&answer, &mut code)) {
                    Ok(4) if i32::from_ne_bytes(code) == 0 => Ok(child),
                    Ok(4) => Err(Error::io("unshare", std::io::Error::from_raw_os_error(i32::from_ne_bytes(code)))),
                    _ => Err(Error::new(ErrorKind::Unsupported, "unshare").because("the child was killed")),
                }
            }
        }
    }
}

impl Drop for NamespaceChild {
    fn drop(&mut self) {
        // A byte, not the pipe's end: another child may hold that too.
        let _ = rustix::io::write(&self.end, &[0]);
        while nix::sys::wait::waitpid(self.pid, None) == Err(nix::errno::Errno::EINTR) {}
    }
}
