//! Mounts that show other owners than those on the disk: through the id map of a user namespace (Linux 5.12; as overlayfs's layers 5.19).
//!
//! overlayfs makes copies and whiteouts with the credentials of whoever mounted it. Through a map those must be ids that it holds, else
//! the kernel refuses each (EOVERFLOW): so the mounting is done by a thread that lives for it and is the container's root meanwhile. The
//! maps are the clone's alone; what is on the disk, and every other mount of it, keeps its owners.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::{Api, clone_mount, legacy, map_owners, privileged};
use crate::error::{Error, ErrorKind, Result};

/// A second mount of a directory, attached nowhere, with the owners that a user namespace's map gives them.
///
/// # Errors
/// `Unsupported` where the file system or the kernel cannot; `PermissionDenied` for who is not root of the namespace that the file
/// system was mounted in; `Io`.
pub(crate) fn clone_mapped(directory: impl AsFd, user_namespace: impl AsFd) -> Result<OwnedFd> {
    let mount = clone_mount(directory)?;
    map_owners(&mount, user_namespace).map_err(explain)?;
    Ok(mount)
}

fn explain(error: Error) -> Error {
    const ELSEWHERE: &str =
        "put the store on ext4, xfs, btrfs or tmpfs; or make one that shifts owners on the disk by one map (`--id-shift`)";
    let (reason, hint) = match error.raw_os_error() {
        Some(libc::EINVAL) => ("the file system cannot show other owners than those on the disk (no idmapped mounts)", ELSEWHERE),
        Some(libc::EPERM) => (
            "only root of the user namespace that mounted the file system maps its owners, and only once",
            "run it as root of the host, and where no seccomp filter forbids mount_setattr",
        ),
        Some(libc::ENOSYS) => ("the kernel has no mount_setattr, or a seccomp filter forbids it", "Linux 5.12 or newer"),
        _ => return error,
    };
    let kind = if error.raw_os_error() == Some(libc::EPERM) { ErrorKind::PermissionDenied } else { ErrorKind::Unsupported };
    Error::new(kind, "map owners").because(reason).with_hint(hint).with_source(error)
}

/// Runs `work` on a thread of its own, whose files belong to this user and group; it may do all that this thread may.
///
/// # Errors
/// `PermissionDenied`, `Io`; those of `work`.
pub(crate) fn as_owner<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("plywood-mount".into()).spawn_scoped(scope, || {
            become_owner(uid, gid)?;
            work()
        });
        let thread = thread.map_err(|error| Error::io("clone", error))?;
        thread.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "mount").because("the mounting thread died")))
    })
}

/// For this thread, for good.
fn become_owner(uid: u32, gid: u32) -> Result<()> {
    let before = rustix::thread::capabilities(None).map_err(|errno| Error::io("capget", errno))?;
    // Neither call can fail: who asks for an id that there is not learns which one counts.
    nix::unistd::setfsgid(gid.into());
    nix::unistd::setfsuid(uid.into());
    let (is_uid, is_gid) = (nix::unistd::setfsuid(u32::MAX.into()), nix::unistd::setfsgid(u32::MAX.into()));
    if (is_uid.as_raw(), is_gid.as_raw()) != (uid, gid) {
        return Err(privileged(Error::io("setfsuid", Errno::PERM)));
    }
    // Of root's capabilities, those that concern files went with its id.
    rustix::thread::set_capabilities(None, before).map_err(|errno| privileged(Error::io("capset", errno)))
}

/// Runs `work` with a clone of `directory`, by a descriptor whose children overlayfs takes as layers. Before Linux 6.15 those must be in the
/// mount namespace of whoever mounts: then it is attached in one of a thread's own.
///
/// # Errors
/// `PermissionDenied`, `Io`; those of `work`.
pub(crate) fn with_mapped<T: Send>(
    clone: OwnedFd,
    directory: impl AsFd,
    api: Api,
    work: impl FnOnce(BorrowedFd<'_>) -> Result<T> + Send,
) -> Result<T> {
    if api == Api::Descriptors {
        return work(clone.as_fd());
    }
    let directory = directory.as_fd();
    legacy::aside(directory, || {
        // The working directory: `directory` itself is in the namespace that this thread has left.
        move_mount(&clone, c"", rustix::fs::CWD, c".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|errno| privileged(Error::io("move_mount", errno)))?;
        work(legacy::open_covering(directory)?.as_fd())
    })
}
