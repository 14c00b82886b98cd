//! Who has a writable directory: it is part of one mount at a time, and nobody else's while it is frozen or removed.
//!
//! Only the kernel knows of every overlay, in whichever mount namespace, or in none. It tells who makes an overlay of directories one of which
//! is another's upperdir: with `index=on` that is refused with EBUSY, before anything is done to them.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::mount::MsFlags;
use rustix::mount::MountAttrFlags;

use super::{Mount, Upper, What};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::sys::Dir;
use crate::sys::flock::{Flock, Sharing};
use crate::sys::mount::{self as kernel, Api, FsContext, legacy};
use crate::tree::Access;
use crate::whiteout::XattrStyle;

impl Mount {
    /// Whether the writable directory is mounted. An overlay is found in whichever namespace it is; a bind mount is found in this one,
    /// and while a guard of it lives in any process.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Io`.
    pub fn in_use(&self) -> Result<bool> {
        match self.claim() {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::InUse => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that nobody else has the writable directory, and that nobody gets it until the claim is dropped.
    pub(crate) fn claim(&self) -> Result<Option<Flock>> {
        let writable = match &self.what {
            What::Overlay { upper: Some(upper), .. } => &upper.upper,
            What::Bind { source, access: Access::ReadWrite } => source,
            _ => return Ok(None),
        };
        let place = self.base.path().join(writable);
        let in_use = |reason: &str| {
            let error = Error::new(ErrorKind::InUse, "mount").at(&place).because(reason);
            error.with_hint("a writable snapshot is mounted once at a time; unmount it, or prepare another one on the same parent")
        };
        let lock = OwnedFd::from(self.base.dir(&writable.parent().unwrap_or_default())?);
        match &self.what {
            What::Overlay { style, lowers, upper: Some(upper) } => {
                // Held from the question to the mount: of two who ask at once, the second finds the first one's mount.
                let claim = Flock::wait(lock, Sharing::Exclusive)?;
                // While it is mounted, the kernel has a directory in the workdir; it stays there until the next mount clears it away,
                // holding this claim. So one where nothing is needs no question, if there is no other workdir.
                let never_mounted = self.own_work && self.base.dir(&upper.work)?.is_empty()?;
                if !never_mounted && self.overlay_in_use(*style, lowers, upper)? {
                    return Err(in_use("it is mounted already"));
                }
                Ok(Some(claim))
            }
            _ => match Flock::attempt(lock, Sharing::Exclusive)? {
                Err(_) => Err(in_use("another process has it mounted")),
                Ok(_) if kernel::is_mounted(self.base.hold(writable)?, writable)? => Err(in_use("it is mounted already")),
                Ok(claim) => Ok(Some(claim)),
            },
        }
    }

    /// What of a claim outlives the making of a mount: an overlay shows in the kernel, a bind mount only by its guard's lock.
    pub(super) fn kept(&self, claim: Option<Flock>) -> Option<Flock> {
        claim.filter(|_| matches!(self.what, What::Bind { .. }))
    }

    /// Whether an upperdir is part of a mounted overlay, in any namespace.
    fn overlay_in_use(&self, style: XattrStyle, lowers: &[EntryPath], upper: &Upper) -> Result<bool> {
        // There is no index with xattrs of users, and older kernels take no upperdir that is attached nowhere.
        if self.api() == Api::Descriptors && style == XattrStyle::Trusted {
            // What can go wrong with it keeps nobody from asking the other way.
            if let Ok(Some(answer)) = self.ask_quietly(upper) {
                return Ok(answer);
            }
        }
        self.ask_in_vain(style, lowers, upper)
    }

    /// Asks by an overlay in memory whose lower directory is the upperdir, and that nobody ever sees. `None` where this kernel gives no
    /// answer on this file system.
    fn ask_quietly(&self, upper: &Upper) -> Result<Option<bool>> {
        let memory = Dir::from_fd(FsContext::open("tmpfs", self.api())?.mount(MountAttrFlags::empty())?);
        let (own, work) = (memory.mkdir_open(b"fs", 0o700)?, memory.mkdir_open(b"work", 0o700)?);
        let fs = FsContext::open("overlay", self.api())?;
        fs.set_directory("lowerdir+", self.base.hold(&upper.upper)?.as_fd())?;
        fs.set_directory("upperdir", own.as_fd())?;
        fs.set_directory("workdir", work.as_fd())?;
        fs.set_string("index", "on")?;
        // One that could be written to would be synced when it goes.
        fs.set_flag("ro")?;
        match fs.attempt() {
            // Without an index, for which both file systems must give file handles, it would not have been refused.
            Ok(()) => Ok(work.try_child(b"index")?.map(|_| false)),
            Err(rustix::io::Errno::BUSY) => Ok(Some(true)),
            Err(_) => Ok(None),
        }
    }

    /// Asks by an overlay over the upperdir itself that the kernel refuses after that check in any case: the workdir is the upperdir. One
    /// that really came to be would leave an index and xattrs behind. The kernel's log has an error of it each time, which can take a
    /// millisecond where a console shows it: so only where there is no other way.
    fn ask_in_vain(&self, style: XattrStyle, lowers: &[EntryPath], upper: &Upper) -> Result<bool> {
        let api = self.api();
        let asked = if api == Api::Legacy {
            let data =
                self.page(style, lowers.get(..1).unwrap_or_default(), Some(&Upper { work: upper.upper.clone(), ..upper.clone() }));
            // The last one counts.
            let data = [data.as_slice(), b",index=on"].concat();
            legacy::detached(self.base.root().as_fd(), legacy::Options { data: &data, flags: MsFlags::empty() }).map(drop)
        } else {
            let fs = FsContext::open("overlay", api)?;
            let first = lowers.get(..1).unwrap_or_default();
            self.describe_layers(&fs, self.base.root().as_fd(), (style, first), Some((&upper.upper, &upper.upper)))?;
            fs.set_string("index", "on")?;
            fs.attempt().map_err(|errno| Error::io("fsconfig", errno))
        };
        match asked {
            Ok(()) => Ok(false),
            Err(error) => match error.raw_os_error() {
                Some(libc::EBUSY) => Ok(true),
                Some(libc::EINVAL) => Ok(false),
                _ => Err(error.at(self.base.path().join(&upper.upper))),
            },
        }
    }
}
