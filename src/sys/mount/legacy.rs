//! Mounting with `mount(2)`, for kernels before 6.7.
//!
//! All options share one page, and the kernel cuts a longer text off *without an error*, so the length is checked first. Names are
//! relative to the store's directory, which makes them short and free of special characters; the working directory that this needs
//! is that of a thread which lives for the one call.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};

use super::{clone_mount, locked_atime, privileged, proc_path};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::inode;

/// What of a mount stays where it is remounted with more.
const KEPT: [(StatVfsMountFlags, MsFlags); 6] = [
    (StatVfsMountFlags::RDONLY, MsFlags::MS_RDONLY),
    (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
    (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
    (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
    (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
    (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
];

/// How many bytes of options one call takes: a page, less the NUL at its end.
pub(crate) fn options_max() -> usize {
    rustix::param::page_size().saturating_sub(1)
}

/// What `mount(2)` is told beside the target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options<'a> {
    /// Comma-separated, with names relative to the directory.
    pub(crate) data: &'a [u8],
    /// `MS_RDONLY` and the like.
    pub(crate) flags: MsFlags,
}

/// Mounts an overlay on a directory, in this process's mount namespace.
///
/// # Errors
/// `LimitExceeded` with the figure, `InUse`, `PermissionDenied`, `Io`.
pub(crate) fn attach(directory: BorrowedFd<'_>, options: Options<'_>, target: BorrowedFd<'_>) -> Result<()> {
    fits(options)?;
    in_directory(directory, || mount(options, &proc_path(target)))
}

/// Mounts an overlay where nobody sees it and gives its root. With `open_tree` (5.2) it is a mount that can be attached; without it
/// can only be read.
///
/// # Errors
/// As [`attach`].
pub(crate) fn detached(directory: BorrowedFd<'_>, options: Options<'_>) -> Result<OwnedFd> {
    fits(options)?;
    aside(directory, || {
        mount(options, ".")?;
        // The working directory is covered now, `.` still means what is below; from its parent the name leads to the mount.
        let root = open_covering(directory)?;
        match clone_mount(&root) {
            Ok(mount) => Ok(mount),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(root),
            Err(error) => Err(error),
        }
    })
}

/// Runs `work` on a thread of its own, with `directory` as its working directory, in a mount namespace that nobody else sees. What it
/// mounts there is gone afterwards, but for what is held by descriptor.
///
/// # Errors
/// `PermissionDenied`, `Io`; those of `work`.
pub(crate) fn aside<T: Send>(directory: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    in_directory(directory, || {
        let home = std::fs::File::open("/proc/thread-self/ns/mnt").ok();
        // The working directory moves along into the new namespace; a descriptor would not.
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| privileged(Error::io("unshare", errno)))?;
        // Otherwise what is mounted would appear in every namespace that this one was copied from.
        let done = nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .map_err(|errno| privileged(failed(errno)))
            .and_then(|()| work());
        // A namespace goes some time after its last thread, and keeps until then whatever was mounted when it was made: an upperdir that
        // is unmounted meanwhile would still count as used. It goes at once when the thread leaves it.
        if let Some(home) = home
            && let Err(error) = nix::sched::setns(home, CloneFlags::CLONE_NEWNS)
        {
            tracing::debug!(%error, "a mount namespace goes with its thread");
        }
        done
    })
}

/// Mounts a directory on another one a second time.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub(crate) fn bind(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let none: Option<&str> = None;
    nix::mount::mount(Some(proc_path(source).as_str()), proc_path(target).as_str(), none, MsFlags::MS_BIND, none)
        .map_err(|errno| privileged(failed(errno)))
}

/// Forbids writes, devices and the like through a bind mount, which must be held by its root. What was forbidden before stays so.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub(crate) fn restrict_bind(root: BorrowedFd<'_>, flags: MsFlags) -> Result<()> {
    if flags.is_empty() {
        return Ok(());
    }
    let none: Option<&str> = None;
    // A remount says everything anew, and in a user namespace what the host set may not be taken back.
    let status = rustix::fs::fstatvfs(root).map_err(|errno| Error::io("fstatvfs", errno))?;
    let kept: MsFlags = KEPT.into_iter().filter(|(flag, _)| status.f_flag.contains(*flag)).map(|(_, flag)| flag).collect();
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | kept | flags;
    nix::mount::mount(none, proc_path(root).as_str(), none, flags, none).map_err(|errno| {
        let error = privileged(failed(errno));
        if flags.contains(MsFlags::MS_NOATIME) { locked_atime(error) } else { error }
    })
}

/// What covers a directory: the root of the mount on top of it, which the path that `/proc` shows for it leads to.
///
/// # Errors
/// `NotFound`, `Io`.
pub(crate) fn open_covering(covered: BorrowedFd<'_>) -> Result<OwnedFd> {
    let path = std::fs::read_link(proc_path(covered)).map_err(|error| Error::io("readlink", error))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| Error::io("open", errno).at(&path))?;
    if identity(fd.as_fd())? == identity(covered)? {
        return Err(Error::new(ErrorKind::NotFound, "open mount")
            .at(&path)
            .because("the directory was moved while it was mounted on"));
    }
    Ok(fd)
}

/// Which mount, where the system says it, and which inode.
fn identity(fd: BorrowedFd<'_>) -> Result<(Option<u64>, (u32, u32), u64)> {
    let stat = inode::stat(fd)?;
    Ok((inode::mount_id(fd), stat.dev, stat.ino))
}

fn fits(options: Options<'_>) -> Result<()> {
    let (length, max) = (options.data.len(), options_max());
    if length <= max {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LimitExceeded, "mount")
        .because(format!("the options take {length} bytes, and mount(2) takes {max}"))
        .with_hint("Linux 6.7 and newer take the layers one by one"))
}

fn mount(options: Options<'_>, target: &str) -> Result<()> {
    nix::mount::mount(Some("overlay"), target, Some("overlay"), options.flags, Some(options.data))
        .map_err(|errno| privileged(failed(errno)))
}

fn failed(errno: nix::errno::Errno) -> Error {
    Error::io("mount", errno)
}

/// Runs `work` on a thread of its own whose working directory is `directory`; nobody else's changes.
fn in_directory<T: Send>(directory: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("plywood-mount".into()).spawn_scoped(scope, || {
            nix::sched::unshare(CloneFlags::CLONE_FS).map_err(|errno| privileged(Error::io("unshare", errno)))?;
            rustix::process::fchdir(directory).map_err(|errno| Error::io("fchdir", errno))?;
            work()
        });
        let thread = thread.map_err(|error| Error::io("clone", error))?;
        thread.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "mount").because("the mounting thread died")))
    })
}
