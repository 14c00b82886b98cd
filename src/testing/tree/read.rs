//! A directory on disk as a [`Tree`], seen from outside as any program sees it: through a mount, or a plain directory.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use walkdir::WalkDir;

use super::{Content, Inode, InodeId, KEPT, Kept, Kind, Tree};
use crate::digest::{Algorithm, Hasher};
use crate::entry::{Attributes, Timestamp, Xattrs};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;

/// What hosts put on every inode by themselves, or file systems list as another name of an ACL (xfs), and no tree of a layer has.
const HOST_XATTRS: [&[u8]; 7] = [
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"security.apparmor",
    b"security.SMACK64",
    b"trusted.SGI_ACL_FILE",
    b"trusted.SGI_ACL_DEFAULT",
];

impl Tree {
    /// A snapshot of the tree at `path`. Other file systems mounted below are read as well. Needs root to see files of others and
    /// `trusted.` xattrs. Labels that hosts set by themselves (`security.selinux` and its like) are left out.
    ///
    /// # Errors
    /// `Io` and its like, with the path that could not be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let root = path.as_ref();
        let mut tree = Self::new();
        let mut seen: HashMap<(u64, u64), InodeId> = HashMap::new();
        for found in WalkDir::new(root).follow_root_links(true) {
            let found = found.map_err(|error| Error::io("walk", error).at(root))?;
            let io = |op, error| Error::io(op, error).at(found.path());
            let relative = found.path().strip_prefix(root).unwrap_or(Path::new(""));
            let name = EntryPath::parse(relative.as_os_str().as_bytes())
                .map_err(|error| Error::new(ErrorKind::Corrupt, "walk").at(found.path()).with_source(error))?;
            // Of the root itself the link that led to it is of no interest.
            let metadata = if name.is_root() { fs::metadata(found.path()) } else { fs::symlink_metadata(found.path()) };
            let metadata = metadata.map_err(|error| io("stat", error))?;
            let identity = (metadata.dev(), metadata.ino());
            if !metadata.is_dir()
                && let Some(id) = seen.get(&identity)
            {
                tree.set_name(&name, *id);
                continue;
            }
            let kind = kind(found.path(), &metadata).map_err(|error| io("read", error))?;
            let xattrs = xattrs(found.path(), name.is_root()).map_err(|error| io("listxattr", error))?;
            let mtime = Timestamp { seconds: metadata.mtime(), nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0) };
            let attributes = Attributes { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid(), mtime, xattrs };
            tree.insert(&name, Inode { kind, attributes });
            if let Some(id) = tree.id(&name) {
                seen.insert(identity, id);
            }
        }
        Ok(tree)
    }
}

fn kind(path: &Path, metadata: &fs::Metadata) -> io::Result<Kind> {
    let file_type = metadata.file_type();
    let device = || (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    Ok(if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_file() {
        Kind::File(Content::read(fs::File::open(path)?)?)
    } else if file_type.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.as_os_str().as_bytes().to_vec())
    } else if file_type.is_char_device() {
        Kind::CharDevice(device().0, device().1)
    } else if file_type.is_block_device() {
        Kind::BlockDevice(device().0, device().1)
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Socket
    })
}

fn xattrs(path: &Path, follow: bool) -> io::Result<Xattrs> {
    let names = if follow { xattr::list_deref(path) } else { xattr::list(path) };
    let names = match names {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) => return Ok(Xattrs::new()),
        names => names?,
    };
    let mut found = Xattrs::new();
    for name in names {
        if HOST_XATTRS.contains(&name.as_bytes()) {
            continue;
        }
        let value = if follow { xattr::get_deref(path, &name) } else { xattr::get(path, &name) };
        // A name that is listed but cannot be got belongs to the file system, not to the tree.
        if let Some(value) = value? {
            found.insert(name.as_bytes().to_vec(), value);
        }
    }
    Ok(found)
}

impl Content {
    /// The content that a reader gives, to its end.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn read(mut reader: impl Read) -> io::Result<Self> {
        let mut start = Vec::new();
        (&mut reader).take(KEPT as u64 + 1).read_to_end(&mut start)?;
        if start.len() <= KEPT {
            return Ok(Self::new(start));
        }
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&start);
        let mut size = start.len() as u64;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = reader.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
            size += count as u64;
        }
        Ok(Self(Kept::Digest { size, digest: hasher.finish() }))
    }
}
