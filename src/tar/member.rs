//! What one tar member means: header block and extension headers merged, checked, and turned into a change.

use super::fault::Fault;
use super::header::{Dialect, Header};
use super::sparse::PaxSparse;
use super::{Limits, pax};
use crate::entry::{Attributes, Change, Entry, Node, Timestamp};
use crate::path::{COMPONENT_MAX, EntryPath};
use crate::whiteout::{self, Meaning};

type Result<T, E = Fault> = std::result::Result<T, E>;

/// What Linux takes as a symlink's target: `PATH_MAX` without its NUL.
const TARGET_MAX: usize = 4095;
/// The largest id: 2^32-1 is "no id" to the kernel.
const ID_MAX: u32 = u32::MAX - 1;
/// What the kernel's `dev_t` holds: 12 and 20 bits.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// The extension headers that stand before a member.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) pax: Option<pax::Records>,
    /// GNU's `L`.
    pub(super) name: Option<Vec<u8>>,
    /// GNU's `K`.
    pub(super) link: Option<Vec<u8>>,
}

impl Extensions {
    pub(super) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.name.is_none() && self.link.is_none()
    }
}

/// The type of a member, as its flag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    OldSparse,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A member whose extension headers were merged in. What stands in its content (a sparse map) is not known yet.
#[derive(Debug)]
pub(super) struct Member {
    kind: Kind,
    /// As it was written: its trailing slash is gone from `meaning`.
    name: Vec<u8>,
    link: Vec<u8>,
    uid: i64,
    gid: i64,
    mode: u32,
    mtime: Timestamp,
    device: (i64, i64),
    xattrs: crate::entry::Xattrs,
    /// Bytes that the archive holds for it.
    stored: u64,
    sparse: Option<PaxSparse>,
}

impl Member {
    /// Merges the extension headers into the header.
    pub(super) fn merge(header: Header, extensions: Extensions) -> Result<Self> {
        let mut pax = extensions.pax.unwrap_or_default();
        let any_sparse = pax.sparse.any();
        let sparse = std::mem::take(&mut pax.sparse).finish()?;
        let sparse_name = sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let name = match (extensions.name, sparse_name.or(pax.path)) {
            (Some(_), Some(_)) => return Err(Fault::new("a GNU long name and a PAX path for one member")),
            (Some(name), None) | (None, Some(name)) => name,
            (None, None) => header.name,
        };
        let link = match (extensions.link, pax.link) {
            (Some(_), Some(_)) => return Err(Fault::new("a GNU long link and a PAX linkpath for one member")),
            (Some(link), None) | (None, Some(link)) => link,
            (None, None) => header.link,
        };
        let kind = kind(header.flag, header.dialect, &name)?;
        let stored = pax.size.unwrap_or(header.size);
        let is_file = matches!(kind, Kind::File | Kind::OldSparse);
        if !is_file && stored > 0 {
            return Err(Fault::new("a member that can have no content has a size"));
        }
        if any_sparse && kind != Kind::File {
            return Err(Fault::new("GNU.sparse records on a member that is no regular file"));
        }
        let device = header.device.unwrap_or_default();
        if header.device.is_some()
            && (pax.major.is_some_and(|major| major != device.0) || pax.minor.is_some_and(|minor| minor != device.1))
        {
            return Err(Fault::new("PAX and the header name different devices"));
        }
        Ok(Self {
            kind,
            name,
            link,
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            mode: header.mode,
            mtime: pax.mtime.unwrap_or(Timestamp::from_seconds(header.mtime)),
            device,
            xattrs: pax.xattrs,
            stored,
            sparse,
        })
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    pub(super) fn is_old_sparse(&self) -> bool {
        self.kind == Kind::OldSparse
    }

    /// The PAX sparse map's place: none, in the header (with the map), or before the content.
    pub(super) fn take_sparse(&mut self) -> Option<PaxSparse> {
        self.sparse.take()
    }

    /// The change that this member makes to a tree, where its file has `size` bytes; the path alone where it makes none.
    pub(super) fn change(self, size: u64, limits: &Limits) -> Result<Result<Entry, EntryPath>> {
        let path = EntryPath::parse(&self.name)?;
        let (uid, gid) = (id(self.uid, "uid")?, id(self.gid, "gid")?);
        let (path, change) = match whiteout::classify(path)? {
            Meaning::AufsMetadata(path) => {
                // It is kept in the report.
                check(&path, limits)?;
                return Ok(Err(path));
            }
            Meaning::Whiteout(path) => (path, Change::Whiteout),
            Meaning::Opaque(path) => (path, Change::Opaque),
            Meaning::Entry(path) => {
                let node = self.node(&path, size, limits)?;
                let attributes = Attributes { mode: self.mode, uid, gid, mtime: self.mtime, xattrs: self.xattrs };
                (path, Change::Upsert { node, attributes })
            }
        };
        check(&path, limits)?;
        Ok(Ok(Entry { path, change }))
    }

    fn node(&self, path: &EntryPath, size: u64, limits: &Limits) -> Result<Node> {
        if path.is_root() && self.kind != Kind::Directory {
            return Err(Fault::new("the root must be a directory"));
        }
        Ok(match self.kind {
            Kind::Directory => Node::Directory,
            Kind::Fifo => Node::Fifo,
            Kind::File | Kind::OldSparse => {
                // Go makes a file of it, GNU tar and libarchive a directory.
                if self.name.ends_with(b"/") {
                    return Err(Fault::new("a regular file whose name ends in \"/\""));
                }
                if let Some(most) = limits.file_bytes.filter(|&most| size > most) {
                    return Err(Fault::limit(format!("the file has more than {most} bytes")));
                }
                Node::File { size }
            }
            Kind::Symlink => {
                if self.link.is_empty() || self.link.contains(&0) {
                    return Err(Fault::new("a symlink's target is empty or has a NUL byte"));
                }
                let most = limits.path_bytes.min(TARGET_MAX);
                if self.link.len() > most {
                    return Err(Fault::new(format!("a symlink's target of more than {most} bytes")));
                }
                Node::Symlink { target: self.link.clone() }
            }
            Kind::Hardlink => {
                let target = EntryPath::parse(&self.link).map_err(|error| Fault::new(format!("the hardlink's target: {error}")))?;
                if target.is_root() {
                    return Err(Fault::new("a hardlink to the root, or to nothing"));
                }
                check(&target, limits)?;
                Node::Hardlink { target }
            }
            Kind::CharDevice => {
                let (major, minor) = self.device()?;
                if (major, minor) == (0, 0) {
                    return Err(Fault::new("the character device 0:0 is overlayfs's whiteout, and none of a layer's"));
                }
                Node::CharDevice { major, minor }
            }
            Kind::BlockDevice => {
                let (major, minor) = self.device()?;
                Node::BlockDevice { major, minor }
            }
        })
    }

    fn device(&self) -> Result<(u32, u32)> {
        let part = |number, most| u32::try_from(number).ok().filter(|&number| number <= most);
        let device = part(self.device.0, MAJOR_MAX).zip(part(self.device.1, MINOR_MAX));
        device.ok_or_else(|| Fault::new("a device number that the kernel cannot hold"))
    }
}

fn kind(flag: u8, dialect: Dialect, name: &[u8]) -> Result<Kind> {
    Ok(match flag {
        0 if name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        // star uses the flag too, with another layout.
        b'S' if dialect == Dialect::Gnu => Kind::OldSparse,
        b'S' => return Err(Fault::new("a sparse member that is not in GNU's format")),
        _ => return Err(Fault::new(format!("unknown type flag '{}'", flag.escape_ascii()))),
    })
}

fn id(number: i64, what: &'static str) -> Result<u32> {
    u32::try_from(number)
        .ok()
        .filter(|&id| id <= ID_MAX)
        .ok_or_else(|| Fault::new(format!("the {what} is negative or above {ID_MAX}")))
}

/// Refuses a path that is too long, too deep, or has a component that no file system holds.
fn check(path: &EntryPath, limits: &Limits) -> Result<()> {
    if path.components().any(|component| component.len() > COMPONENT_MAX) {
        return Err(Fault::new(format!("a name of more than {COMPONENT_MAX} bytes")));
    }
    if path.as_bytes().len() > limits.path_bytes {
        return Err(Fault::new(format!("a path of more than {} bytes", limits.path_bytes)));
    }
    if path.depth() > limits.path_depth {
        return Err(Fault::new(format!("a path of more than {} components", limits.path_depth)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
