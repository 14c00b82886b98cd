//! Extended attributes through a held descriptor, of any inode type, with names and values as bytes.
//!
//! A descriptor of an open file is asked directly; an `O_PATH` one (symlinks, devices) through its magic link, which leads to the
//! inode itself and does not follow a symlink that it stands for. Which names are allowed is the caller's.
//!
//! Reading is written out here: the `xattr` crate's buffer loop may ask with an empty buffer when a value shrinks to nothing under it,
//! and then takes the kernel's answer (the size it *would* need) for bytes that it has. A racing container could do that.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use ::xattr::FileExt;
use rustix::io::Errno;

use super::{describe, proc_path};
use crate::entry::Xattrs;
use crate::error::{Error, Result};

/// The kernel's bound on a value (`XATTR_SIZE_MAX`) and on a list (`XATTR_LIST_MAX`).
pub(crate) const SIZE_MAX: usize = 65_536;

/// A borrowed descriptor in the shape that `FileExt` asks for.
struct Held<'fd>(BorrowedFd<'fd>);

impl AsRawFd for Held<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl FileExt for Held<'_> {}

/// The names that an inode has. What a file system without xattrs has: none.
pub(crate) fn list(fd: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let fd = fd.as_fd();
    let read = |buffer: &mut [u8]| match rustix::fs::flistxattr(fd, &mut *buffer) {
        Err(Errno::BADF) => rustix::fs::listxattr(proc_path(fd), buffer),
        done => done,
    };
    match read_whole(read) {
        Ok(names) => Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()),
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(Error::io("listxattr", error).at(describe(fd, b""))),
    }
}

/// One value; none where the inode or the file system has no such attribute.
pub(crate) fn get(fd: impl AsFd, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let fd = fd.as_fd();
    let read = |buffer: &mut [u8]| match rustix::fs::fgetxattr(fd, name, &mut *buffer) {
        Err(Errno::BADF) => rustix::fs::getxattr(proc_path(fd), name, buffer),
        done => done,
    };
    match read_whole(read) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(failed("getxattr", error.into(), fd, name)),
    }
}

/// All names with their values. An attribute that goes away meanwhile is left out.
pub(crate) fn all(fd: impl AsFd) -> Result<Xattrs> {
    those(fd, &|_| true)
}

/// The same of the names that are wanted.
pub(crate) fn those(fd: impl AsFd, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Xattrs> {
    let fd = fd.as_fd();
    let mut all = Xattrs::new();
    for name in list(fd)?.into_iter().filter(|name| wanted(name)) {
        if let Some(value) = get(fd, &name)? {
            all.insert(name, value);
        }
    }
    Ok(all)
}

/// Sets one attribute. The error's `raw_os_error` tells why a file system or a user namespace refused.
pub(crate) fn set(fd: impl AsFd, name: &[u8], value: &[u8]) -> Result<()> {
    let fd = fd.as_fd();
    let os_name = OsStr::from_bytes(name);
    match Held(fd).set_xattr(os_name, value) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => ::xattr::set_deref(proc_path(fd), os_name, value),
        done => done,
    }
    .map_err(|error| failed("setxattr", error, fd, name))
}

/// Removes one attribute; missing is success.
pub(crate) fn remove(fd: impl AsFd, name: &[u8]) -> Result<()> {
    let fd = fd.as_fd();
    let os_name = OsStr::from_bytes(name);
    let done = match Held(fd).remove_xattr(os_name) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => ::xattr::remove_deref(proc_path(fd), os_name),
        done => done,
    };
    match done {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
            Err(failed("removexattr", error, fd, name))
        }
        _ => Ok(()),
    }
}

fn failed(op: &'static str, error: io::Error, fd: BorrowedFd<'_>, name: &[u8]) -> Error {
    Error::io(op, io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))
        .at(describe(fd, b""))
        .because(format!("attribute {}: {error}", name.escape_ascii()))
}

/// Calls `read` with a buffer that is never empty, first a small one, then the largest that the kernel fills: no size is asked for
/// beforehand, so none can change in between.
fn read_whole(read: impl Fn(&mut [u8]) -> std::result::Result<usize, Errno>) -> std::result::Result<Vec<u8>, Errno> {
    let mut small = [0; 512];
    match read(&mut small) {
        Ok(length) => return Ok(small.get(..length).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut large = vec![0; SIZE_MAX];
    let length = read(&mut large)?;
    large.truncate(length);
    large.shrink_to_fit();
    Ok(large)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Dir;

    #[test]
    fn values_of_every_size_come_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let file = dir.create_file(b"file", 0o600).unwrap();
        let held = dir.child_path_fd(b"file").unwrap();
        for (name, value) in [(&b"user.empty"[..], vec![]), (b"user.bytes", vec![0, 255, 10]), (b"user.long", vec![b'x'; 2000])] {
            set(&held, name, &value).unwrap();
            assert_eq!(get(&file, name).unwrap(), Some(value));
        }
        assert_eq!(all(&held).unwrap(), all(&file).unwrap());
        remove(&held, b"user.empty").unwrap();
        remove(&file, b"user.empty").unwrap();
        assert_eq!(get(&held, b"user.empty").unwrap(), None);
        assert_eq!(list(&held).unwrap().len(), 2);
    }

    #[test]
    fn a_symlink_has_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.create_file(b"file", 0o600).unwrap();
        dir.symlink(b"file", b"link").unwrap();
        let link = dir.child_path_fd(b"link").unwrap();
        // The kernel allows no user.* on symlinks: had the link been followed, the file would have got it.
        assert_eq!(set(&link, b"user.x", b"1").unwrap_err().raw_os_error(), Some(libc::EPERM));
        if set(&link, b"trusted.x", b"1").is_err() {
            return crate::sys::test_support::skip("a_symlink_has_its_own", "trusted.* needs CAP_SYS_ADMIN");
        }
        assert_eq!(get(&link, b"trusted.x").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(get(dir.child_path_fd(b"file").unwrap(), b"trusted.x").unwrap(), None);
    }
}
