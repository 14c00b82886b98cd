//! The middle of the house: a layer is a stream of changes.
//!
//! The tar reader and the differ produce [`Entry`]s, the tar writer and the appliers consume them; none of them knows the other's
//! format. Markers are recognised before they get here: an entry's path never names a `.wh.` file, except below `.wh..wh.plnk/`,
//! where aufs kept the inodes that hardlinks of the same layer point to.

pub(crate) mod capability;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::path::EntryPath;

/// A point in time: seconds since 1970-01-01 UTC (negative before) plus 0 to 999,999,999 nanoseconds, as `timespec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// A whole second.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }
}

/// Extended attributes by full name (`user.mime_type`, `security.capability`), as a container sees them.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What an inode carries beside its type and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits with set-uid, set-gid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes, POSIX ACLs (`system.posix_acl_*`) included.
    #[serde(default, with = "xattr_pairs")]
    pub xattrs: Xattrs,
}

impl Attributes {
    /// What a directory has that nobody described: 0755, 0:0, mtime 0, no xattrs (SEMANTICS §1.6, §1.8).
    pub const fn implied() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::from_seconds(0), xattrs: BTreeMap::new() }
    }
}

/// JSON has no byte strings as keys: pairs of arrays are kept instead.
mod xattr_pairs {
    use super::Xattrs;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(xattrs: &Xattrs, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(xattrs.iter().map(|(name, value)| (hex::encode(name), hex::encode(value))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Xattrs, D::Error> {
        let pairs = Vec::<(String, String)>::deserialize(deserializer)?;
        let decode = |text: String| hex::decode(text).map_err(serde::de::Error::custom);
        pairs.into_iter().map(|(name, value)| Ok((decode(name)?, decode(value)?))).collect()
    }
}

/// The type of an inode, with what belongs to that type alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file of this many bytes, holes included; the bytes follow through [`EntryStream::chunk`].
    File {
        /// Apparent size in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// The target as it was written: any bytes but NUL.
        target: Vec<u8>,
    },
    /// Another name of an inode that stands at `target` in the same root. The entry's own attributes mean nothing.
    Hardlink {
        /// Where the inode stands.
        target: EntryPath,
    },
    /// A character device, never 0:0 (that is overlayfs's whiteout).
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// What a layer says about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The path is this.
    Upsert {
        /// Type and what belongs to it.
        node: Node,
        /// Mode, owner, times, xattrs.
        attributes: Attributes,
    },
    /// What the lower tree has at the path is hidden.
    Whiteout,
    /// What the lower tree has *below* the path is hidden.
    Opaque,
}

/// One change of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path that is changed: for a whiteout what it hides, for an opaque marker its directory.
    pub path: EntryPath,
    /// What happens to it.
    pub change: Change,
}

/// Where in a layer's uncompressed stream something stands, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of the tar member, from 1.
    pub member: u64,
    /// Offset of its first header block in bytes.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {} at offset {}", self.member, self.offset)
    }
}

/// A piece of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Where in the file the piece begins. What no chunk covers, up to the file's size, is a hole.
    pub offset: u64,
    /// The bytes; never empty.
    pub data: &'a [u8],
}

/// A source of changes, in layer order.
pub trait EntryStream {
    /// The next change; `None` when the layer is complete *and* was read and checked to its very end.
    ///
    /// What was not taken of the previous file's content is skipped.
    ///
    /// # Errors
    /// `InvalidLayer`, `LimitExceeded`, `Cancelled`, or those of the reader below.
    fn next(&mut self) -> Result<Option<Entry>>;

    /// The next piece of the current file's content, in rising order of offsets; `None` at its end and for anything but a file.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    fn chunk(&mut self) -> Result<Option<Chunk<'_>>>;

    /// Begins again with the first change. An applier needs this when a marker contradicts an answer that it already gave. What is
    /// skipped is reported again: see [`Context::mark`](crate::progress::Context::mark).
    ///
    /// # Errors
    /// `Io` when the source cannot be read twice.
    fn restart(&mut self) -> Result<()>;

    /// Where the source has the digest of the current file's content instead of its bytes: that digest. Such a stream can be compared
    /// with, not applied.
    fn content_digest(&self) -> Option<[u8; 32]> {
        None
    }

    /// Where the current entry stands, if the source has such a place.
    fn position(&self) -> Option<Position> {
        None
    }
}

/// How a path of a diff relates to the lower tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The lower tree has no such name.
    Added,
    /// The lower tree has it otherwise; or a parent that is written because something below it changed.
    Modified,
    /// The lower tree alone has it.
    Deleted,
}

/// A consumer of changes.
pub trait EntrySink {
    /// Takes one change. For a [`Node::File`] exactly its size in bytes follows through [`data`](Self::data).
    ///
    /// # Errors
    /// Those of what is written to.
    fn entry(&mut self, entry: &Entry, status: Status) -> Result<()>;

    /// Takes the next bytes of the current file, holes as zeros.
    ///
    /// # Errors
    /// Those of what is written to.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;

    /// Whether file contents are wanted; where not, `data` is never called.
    fn wants_data(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_from_json_and_others_are_refused() {
        let xattrs = [(b"user.\xff".to_vec(), vec![0, 1]), (b"user.b".to_vec(), Vec::new())].into();
        let attributes = Attributes { xattrs, ..Attributes::implied() };
        let text = serde_json::to_string(&attributes).unwrap();
        assert_eq!(serde_json::from_str::<Attributes>(&text).unwrap(), attributes);
        let with = |xattrs| serde_json::from_str::<Attributes>(&text.replace(r#"[["757365722e62",""]"#, xattrs));
        assert!(with(r#"[["757365722e62",""]"#).is_ok());
        for xattrs in [r#"["757365722e62",""]"#, r#"[["757365722e6",""]"#, r#"[["757365722e62","g0"]"#, r#"[[1,""]"#] {
            assert!(with(xattrs).is_err(), "{xattrs}");
        }
    }

    #[test]
    fn a_stream_need_not_know_digests_or_places() {
        struct Nothing;
        impl EntryStream for Nothing {
            fn next(&mut self) -> Result<Option<Entry>> {
                Ok(None)
            }
            fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
                Ok(None)
            }
            fn restart(&mut self) -> Result<()> {
                Ok(())
            }
        }
        assert_eq!((Nothing.content_digest(), Nothing.position()), (None, None));
    }
}
