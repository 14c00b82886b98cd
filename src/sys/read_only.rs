//! Whether a directory can be written, asked before anything is tried in it.

use std::os::fd::AsFd;

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use super::{inode, mount};
use crate::error::Result;

/// Why nothing can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadOnly {
    /// For people, behind "the store is read-only: ".
    pub(crate) reason: &'static str,
    /// Nobody else writes either: the file system is read-only as a whole, not only the mount through which it is seen here.
    pub(crate) frozen: bool,
}

/// Why this process cannot make anything in a directory; `None` where it can.
///
/// # Errors
/// `Io`.
pub(crate) fn read_only(directory: impl AsFd) -> Result<Option<ReadOnly>> {
    let directory = directory.as_fd();
    if mount::is_read_only(directory)? {
        return Ok(Some(ReadOnly { reason: "its file system is mounted read-only", frozen: is_frozen(directory) }));
    }
    let asked = match rustix::fs::accessat(directory, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        // faccessat2 came with Linux 5.8.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => {
            rustix::fs::accessat(directory, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())
        }
        asked => asked,
    };
    Ok(match asked {
        Err(Errno::ACCESS | Errno::ROFS) => Some(ReadOnly { reason: "this process may not write its directory", frozen: false }),
        _ => None,
    })
}

/// Whether the mount table says that the file system itself is read-only; `false` where it does not say.
fn is_frozen(directory: impl AsFd) -> bool {
    let Some(id) = inode::mount_id(directory).map(|id| id.to_string()) else { return false };
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    table.lines().any(|line| {
        let Some((mount, file_system)) = line.split_once(" - ") else { return false };
        // Type, source, options of the file system.
        let options = file_system.split(' ').nth(2).unwrap_or_default();
        mount.split(' ').next() == Some(&id) && options.split(',').any(|option| option == "ro")
    })
}
