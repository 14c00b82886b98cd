//! What a `volatile` overlay leaves behind: a snapshot that is whole only until the system starts anew.
//!
//! The kernel leaves a mark, `work/incompat/volatile` in the workdir, and refuses to mount over it. Whether that is needed it cannot
//! know: while the system runs, what was written is in memory. So a note with the boot's id stands in the workdir beside it, made
//! before the mount. A mark without a note of this very boot means that syncs were left out and a power cut may have come after: the
//! note itself needs no sync, for one that is lost or torn says no.
//!
//! Another client than plywood, to whom the mount is rendered, gets the same: rendering leaves the note. A note without a mark means
//! nothing; it goes with the workdir's content at the next mount.

use std::io::{Read as _, Write as _};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::durable::SyncPoint;
use crate::sys::{Dir, boot};

/// In the workdir, beside overlayfs's `work` and `index`.
const NOTE: &[u8] = b"volatile";

/// Longer than any boot's id.
const NOTE_MAX: u64 = 64;

/// Whether syncs were left out while a writable tree was mounted and its content is still whole. `work` is its workdir.
///
/// # Errors
/// `Corrupt` where the system has started anew since; `Io`.
pub(crate) fn was_volatile(work: &Dir) -> Result<bool> {
    if mark(work)?.is_none() {
        return Ok(false);
    }
    let mut noted = String::new();
    match work.open_file(NOTE) {
        Ok(file) => match file.take(NOTE_MAX).read_to_string(&mut noted) {
            Ok(_) => {}
            // Not what plywood wrote.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => noted.clear(),
            Err(error) => return Err(Error::io("read", error)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let boot = boot::id();
    if !boot.is_empty() && noted == boot {
        return Ok(true);
    }
    Err(Error::new(ErrorKind::Corrupt, "open snapshot")
        .because("it was mounted volatile, and the system has started anew since: what was written to it may be incomplete")
        .with_hint("remove it; what has to last is mounted without `volatile`"))
}

/// Makes what was written without syncs as durable as the rest.
///
/// # Errors
/// `NoSpace`, `Io`: some of it is lost.
pub(super) fn make_durable(work: &Dir) -> Result<()> {
    SyncPoint::before_writes(work)?.sync()
}

/// Leaves the note of this boot.
///
/// # Errors
/// `NoSpace`, `Io`.
pub(super) fn note(work: &Dir) -> Result<()> {
    match work.unlink(NOTE) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = work.create_file(NOTE, 0o600)?;
    file.write_all(boot::id().as_bytes()).map_err(|error| Error::io("write", error))
}

/// The kernel's mark is durable when this returns, before anything that it warns of is written.
///
/// # Errors
/// `NoSpace`, `Io`.
pub(super) fn settle(work: &Dir) -> Result<()> {
    match mark(work)? {
        Some(mark) => mark.sync(),
        None => Ok(()),
    }
}

fn mark(work: &Dir) -> Result<Option<Dir>> {
    let mut dir = work.try_clone()?;
    for name in [&b"work"[..], b"incompat", b"volatile"] {
        match dir.try_child(name)? {
            Some(child) => dir = child,
            None => return Ok(None),
        }
    }
    Ok(Some(dir))
}
