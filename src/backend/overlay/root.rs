//! The attributes of a tree's root directory, which belong to the snapshot.

use crate::backend::cannot_own;
use crate::diff::seen::{self, Form};
use crate::entry::Attributes;
use crate::error::Result;
use crate::sys::{Dir, inode, xattr};
use crate::whiteout::XattrStyle;

const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Takes away what a new directory got from the one above it and would hand on.
pub(super) fn disinherit(dir: &Dir) -> Result<()> {
    xattr::remove(dir, DEFAULT_ACL)?;
    xattr::remove(dir, ACCESS_ACL)?;
    inode::set_mode(dir, 0o700)
}

/// Gives a new directory exactly these attributes.
///
/// # Errors
/// `IdNotMapped` for an owner that this process cannot give; `Io`.
pub(super) fn set(dir: &Dir, attributes: &Attributes, style: XattrStyle) -> Result<()> {
    xattr::remove(dir, DEFAULT_ACL)?;
    xattr::remove(dir, ACCESS_ACL)?;
    inode::set_owner(dir, attributes.uid, attributes.gid).map_err(|error| cannot_own(error, attributes))?;
    inode::set_mode(dir, attributes.mode)?;
    // ACLs and capabilities last: they follow from the owner and change the mode.
    let (last, first): (Vec<_>, Vec<_>) =
        attributes.xattrs.iter().partition(|(name, _)| name.starts_with(b"system.") || name.as_slice() == b"security.capability");
    for (name, value) in first.into_iter().chain(last) {
        if let Err(error) = xattr::set(dir, &style.escape(name), value) {
            match error.raw_os_error() {
                // Each was reported when its layer was applied; another file system is no reason to refuse the snapshot.
                Some(libc::EOPNOTSUPP | libc::EPERM | libc::ERANGE | libc::E2BIG) => {
                    tracing::warn!(%error, "the root directory lacks an extended attribute");
                }
                _ => return Err(error),
            }
        }
    }
    inode::set_times(dir, attributes.mtime, attributes.mtime)
}

/// The attributes as a container sees them.
pub(super) fn read(dir: &Dir, style: XattrStyle) -> Result<Attributes> {
    Ok(seen::read(dir, Form::Overlay(style))?.attributes)
}
