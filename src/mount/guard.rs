//! Mounts that are there: attached to a directory, or to nothing but a descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Mount, What};
use crate::error::{Error, Result};
use crate::span::verb;
use crate::sys::flock::Flock;
use crate::sys::mount::{self as kernel, Api, legacy};
use crate::sys::{Dir, Root};

/// A mount that is attached nowhere, and gone with its last descriptor.
#[derive(Debug)]
#[must_use = "the mount is gone when this is dropped"]
pub struct Detached {
    mount: OwnedFd,
    claim: Option<Flock>,
}

impl Detached {
    pub(super) fn new(mount: OwnedFd, claim: Option<Flock>) -> Self {
        Self { mount, claim }
    }

    /// The mount's descriptor (`O_PATH`, close-on-exec), for `move_mount` or `openat`. Who takes it keeps the mount alive.
    pub fn into_fd(self) -> OwnedFd {
        self.mount
    }

    /// Attaches it to a directory; `target` is resolved as every path of the caller's process is.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Io`. The mount is gone then.
    pub fn attach(self, target: impl AsRef<Path>) -> Result<Mounted> {
        let target = target.as_ref();
        verb!("attach", target = %target.display()).run(|_| self.attach_to(&open_target(target)?, target))
    }

    /// Attaches it to a directory that is found below `root`, as a process with `root` as its root directory would find it.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_at(self, root: impl AsFd, target: impl AsRef<Path>) -> Result<Mounted> {
        let target = target.as_ref();
        verb!("attach", target = %target.display()).run(|_| self.attach_to(&open_target_at(root.as_fd(), target)?, target))
    }

    fn attach_to(self, fd: &OwnedFd, target: &Path) -> Result<Mounted> {
        kernel::attach(&self.mount, fd).map_err(|error| error.at(target))?;
        Ok(Mounted { mount: Some(self.mount), target: target.to_owned(), _claim: self.claim })
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// A mount on a directory. Dropping it takes the mount away, with what is mounted in it or on it; who still uses it keeps it until then.
/// It holds the mount open, so that it takes away this one and none that was there before, wherever the directory is by now.
#[derive(Debug)]
#[must_use = "the mount is taken away when this is dropped"]
pub struct Mounted {
    mount: Option<OwnedFd>,
    target: PathBuf,
    _claim: Option<Flock>,
}

impl Mounted {
    /// Where it was attached, as the caller said it.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Takes the mount away.
    ///
    /// # Errors
    /// `InvalidArgument` where somebody else has taken it away, or this thread is in another mount namespace; `Io`.
    pub fn close(mut self) -> Result<()> {
        match self.mount.take() {
            Some(mount) => take_away(mount, &self.target),
            None => Ok(()),
        }
    }

    /// Leaves the mount where it is, without a guard.
    pub fn leave(mut self) {
        self.mount = None;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take()
            && let Err(error) = take_away(mount, &self.target)
        {
            tracing::warn!(target = %self.target.display(), %error, "a mount could not be taken away");
        }
    }
}

/// Takes whatever is mounted on a directory away, as `umount --lazy` does. The last component is not followed.
///
/// # Errors
/// `InvalidArgument` where nothing is mounted there; `NotFound`, `PermissionDenied`, `Io`.
pub fn unmount(target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    verb!("unmount", target = %target.display()).run(|_| kernel::unmount_path(target))
}

fn take_away(mount: OwnedFd, target: &Path) -> Result<()> {
    verb!("unmount", target = %target.display()).run(|_| kernel::detach(mount).map_err(|error| error.at(target)))
}

pub(super) fn open_target(target: &Path) -> Result<OwnedFd> {
    Dir::open(target).map(OwnedFd::from)
}

pub(super) fn open_target_at(root: BorrowedFd<'_>, target: &Path) -> Result<OwnedFd> {
    let root = root.try_clone_to_owned().map_err(|error| Error::io("dup", error))?;
    Root::from_fd(root).open_dir(target.as_os_str().as_bytes()).map(OwnedFd::from)
}

/// Makes a mount and attaches it. Old kernels do both in one call.
pub(super) fn attach(mount: &Mount, fd: &OwnedFd, target: &Path) -> Result<Mounted> {
    if mount.api() != Api::Legacy || mount.id_map.is_some() || mount.root.is_some() {
        return mount.make()?.attach_to(fd, target);
    }
    let claim = mount.claim()?;
    match &mount.what {
        What::Overlay { style, lowers, upper } => {
            mount.prepare_work(upper.as_ref())?;
            let data = mount.page(*style, lowers, upper.as_ref());
            let options = legacy::Options { data: &data, flags: mount.ms_flags() };
            legacy::attach(mount.base.root().as_fd(), options, fd.as_fd()).map_err(|error| error.at(target))?;
        }
        What::Bind { source, .. } => {
            legacy::bind(mount.base.hold(source)?.as_fd(), fd.as_fd()).map_err(|error| error.at(target))?;
        }
    }
    let root = legacy::open_covering(fd.as_fd()).inspect_err(|_| {
        // Where it is by its path is the best that is known of it then.
        let _ = kernel::unmount_path(target);
    })?;
    let guard = Mounted {
        mount: Some(root.try_clone().map_err(|error| Error::io("dup", error))?),
        target: target.to_owned(),
        _claim: mount.kept(claim),
    };
    match &mount.what {
        What::Bind { .. } => legacy::restrict_bind(root.as_fd(), mount.ms_flags()).map_err(|error| error.at(target))?,
        What::Overlay { upper, .. } => mount.settle_work(upper.as_ref())?,
    }
    mount.check_access(root.as_fd())?;
    Ok(guard)
}
