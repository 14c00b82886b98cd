//! Owner, mode, xattrs and times of one inode, exactly and in the one order that keeps them (SEMANTICS §4).
//!
//! Attributes are always those that a container sees; that an upperdir keeps some under other names is known here alone. What may not be
//! set or is refused is reported, never dropped in silence.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use super::Form;
use super::owners::Owners;
use crate::entry::{Attributes, Timestamp, Xattrs};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::sys::{Dir, inode, xattr};
use crate::whiteout::overlay::Style;

/// The xattr with which new children of a directory begin.
pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// What every file system holds without clamping it.
const SAFE_SECONDS: std::ops::Range<i64> = 0..0x8000_0000;

/// What was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// The inode is new, and nothing was inherited.
    New,
    /// The inode had attributes; those that are not among the new ones go.
    Old,
}

/// Sets attributes.
#[derive(Debug)]
pub(super) struct Metadata<'a> {
    form: Form,
    owners: Owners,
    cx: &'a Context<'a>,
    /// Modes keep this process from nothing.
    privileged: bool,
    /// Nanoseconds were seen to be kept.
    fine: Cell<bool>,
    /// Where it is tried whether there is space.
    scratch: Rc<Dir>,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(form: Form, owners: Owners, scratch: Rc<Dir>, cx: &'a Context<'a>) -> Self {
        Self { form, owners, cx, privileged: inode::overrides_modes(), fine: Cell::new(false), scratch }
    }

    pub(super) fn is_privileged(&self) -> bool {
        self.privileged
    }

    /// What of an entry's attributes may be set here; the rest is reported.
    pub(super) fn admit(&self, path: &EntryPath, mut attributes: Attributes) -> Result<Attributes> {
        self.owners.admit(path, &mut attributes, self.cx)?;
        let mut kept = Xattrs::new();
        for (name, value) in attributes.xattrs {
            if self.is_forbidden(&name) {
                self.cx.skip(path, Reason::XattrForbidden { name: name.escape_ascii().to_string() })?;
            } else if value.len() > xattr::SIZE_MAX {
                self.refused(path, &name, format!("{} bytes; the kernel takes {}", value.len(), xattr::SIZE_MAX))?;
            } else {
                kept.insert(name, value);
            }
        }
        Ok(Attributes { xattrs: kept, ..attributes })
    }

    fn is_forbidden(&self, name: &[u8]) -> bool {
        if of_the_host(name) {
            return true;
        }
        match self.form {
            Form::Overlay { style, escapes } if style.owns(name) => !escapes,
            Form::Plain { style: Style::Trusted, .. } | Form::Change { style: Style::Trusted, .. } if Style::Trusted.owns(name) => {
                false
            }
            _ => name.starts_with(b"trusted."),
        }
    }

    /// Sets everything.
    pub(super) fn set(&self, fd: impl AsFd, path: &EntryPath, attributes: &Attributes, before: Before, mode: Mode) -> Result<()> {
        let fd = fd.as_fd();
        if before == Before::Old {
            self.remove_stale(fd, &attributes.xattrs)?;
        }
        let found_mode = set_owner(fd, attributes)?;
        let writable = if self.privileged { attributes.mode } else { attributes.mode | 0o600 };
        if mode == Mode::Set && found_mode != Some(writable) {
            inode::set_mode(fd, writable)?;
        }
        let (last, first): (Vec<_>, Vec<_>) = attributes.xattrs.iter().partition(|(name, _)| comes_last(name));
        for (name, value) in first {
            self.set_xattr(fd, path, name, value)?;
        }
        if mode == Mode::Set && writable != attributes.mode {
            inode::set_mode(fd, attributes.mode)?;
        }
        for (name, value) in last {
            self.set_xattr(fd, path, name, value)?;
        }
        self.set_mtime(fd, path, attributes.mtime, mode)
    }

    /// With which mode an inode is made, so that it mostly needs no other: what this process needs to write to it is added.
    pub(super) fn creation_mode(&self, attributes: &Attributes, needed: u32) -> u32 {
        let mode = attributes.mode & 0o777;
        if self.privileged { mode } else { mode | needed }
    }

    /// Sets the modification time, and the access time to the same.
    fn set_mtime(&self, fd: impl AsFd, path: &EntryPath, mtime: Timestamp, mode: Mode) -> Result<()> {
        match mode {
            Mode::Set => inode::set_times(&fd, mtime, mtime)?,
            Mode::None => inode::set_link_times(&fd, mtime, mtime)?,
        }
        if self.is_kept(mtime) {
            return Ok(());
        }
        if inode::stat(&fd)?.mtime != mtime {
            return self.cx.skip(path, Reason::TimeClamped);
        }
        // Whole microseconds would not tell how fine the clock is.
        if !mtime.nanoseconds.is_multiple_of(1000) {
            self.fine.set(true);
        }
        Ok(())
    }

    /// Whether a file system is known to hold a time exactly.
    fn is_kept(&self, time: Timestamp) -> bool {
        SAFE_SECONDS.contains(&time.seconds) && (time.nanoseconds == 0 || self.fine.get())
    }

    /// Whether nothing of these attributes can be refused or clamped, so that [`set_plain`] sets them.
    pub(super) fn is_plain(&self, attributes: &Attributes) -> bool {
        attributes.xattrs.is_empty() && self.is_kept(attributes.mtime)
    }

    fn set_xattr(&self, fd: impl AsFd, path: &EntryPath, name: &[u8], value: &[u8]) -> Result<()> {
        let stored = match self.form {
            Form::Overlay { style, .. } => style.escape(name),
            Form::Plain { .. } | Form::Change { .. } => name.to_vec(),
        };
        let Err(error) = xattr::set(fd, &stored, value) else { return Ok(()) };
        let errno = error.raw_os_error().unwrap_or_default();
        match errno {
            libc::EOPNOTSUPP | libc::EPERM | libc::EACCES | libc::ERANGE | libc::E2BIG | libc::EINVAL | libc::EOVERFLOW => {
                self.refused(path, name, std::io::Error::from_raw_os_error(errno).to_string())
            }
            // The room for attributes may be used up while there is space.
            libc::ENOSPC | libc::EDQUOT if has_space(&self.scratch) => {
                self.refused(path, name, std::io::Error::from_raw_os_error(errno).to_string())
            }
            _ => Err(error),
        }
    }

    fn refused(&self, path: &EntryPath, name: &[u8], error: String) -> Result<()> {
        self.cx.skip(path, Reason::XattrRefused { name: name.escape_ascii().to_string(), error })
    }

    /// Removes what a container sees and the new attributes do not have.
    fn remove_stale(&self, fd: impl AsFd, new: &Xattrs) -> Result<()> {
        let fd = fd.as_fd();
        for stored in xattr::list(fd)? {
            let name = match self.form {
                Form::Overlay { style, .. } => style.unescape(&stored),
                Form::Plain { .. } | Form::Change { .. } => Some(stored.clone()),
            };
            if name.is_some_and(|name| is_visible(&name) && !new.contains_key(&name)) {
                xattr::remove(fd, &stored)?;
            }
        }
        Ok(())
    }
}

/// Sets the attributes of a new file where there is nothing to report of them: what [`Metadata::set`] does with such, from any thread.
pub(super) fn set_plain(fd: impl AsFd, attributes: &Attributes) -> Result<()> {
    let fd = fd.as_fd();
    if set_owner(fd, attributes)? != Some(attributes.mode) {
        inode::set_mode(fd, attributes.mode)?;
    }
    inode::set_times(fd, attributes.mtime, attributes.mtime)
}

/// Sets the owner where it is another one, and gives the mode that is there, if it is known.
fn set_owner(fd: BorrowedFd<'_>, attributes: &Attributes) -> Result<Option<u32>> {
    // Looking costs a fraction of a call that changes an inode, and mostly nothing needs to be changed.
    let found = inode::stat(fd)?;
    if (found.uid, found.gid) == (attributes.uid, attributes.gid) {
        return Ok(Some(found.mode));
    }
    inode::set_owner(fd, attributes.uid, attributes.gid)?;
    // The new owner does not get these.
    Ok(Some(found.mode).filter(|mode| mode & 0o6000 == 0))
}

/// Whether an inode has a mode of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Set,
    /// Symlinks.
    None,
}

/// Attributes of an inode of the parent, as a container sees them.
pub(super) fn read(fd: impl AsFd) -> Result<Attributes> {
    let mut attributes = inode::attributes(fd)?;
    attributes.xattrs.retain(|name, _| is_visible(name));
    Ok(attributes)
}

/// What the host keeps on inodes for itself.
fn of_the_host(name: &[u8]) -> bool {
    matches!(name, b"security.selinux" | b"security.ima" | b"security.evm" | b"security.apparmor")
}

/// Whether an xattr is part of a tree.
fn is_visible(name: &[u8]) -> bool {
    match name {
        b"system.posix_acl_access" | DEFAULT_ACL => true,
        _ => {
            !of_the_host(name)
                && [&b"user."[..], b"security.", Style::Trusted.prefix()].iter().any(|prefix| name.starts_with(prefix))
        }
    }
}

/// chown and chmod clear or change these.
fn comes_last(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"system.posix_acl_")
}

/// Whether a block can still be written: what `ENOSPC` for an xattr does not say.
fn has_space(scratch: &Dir) -> bool {
    const NAME: &[u8] = b"space";
    let written = scratch.create_file(NAME, 0o600).and_then(|file| {
        use std::io::Write;
        (&file).write_all(&[1; 8192]).and_then(|()| file.sync_data()).map_err(|error| Error::io("write", error))
    });
    scratch.remove_tree(NAME).is_ok() && !matches!(written, Err(error) if error.kind() == ErrorKind::NoSpace)
}
