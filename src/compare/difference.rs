//! What can be wrong with a path of a tree.

use std::fmt;

use serde::Serialize;

use crate::entry::Timestamp;
use crate::path::EntryPath;

/// How a path of a tree is not what its layer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "fault")]
#[non_exhaustive]
pub enum Fault {
    /// Nothing is there, and something should be.
    Missing,
    /// Something is there that the layer does not make.
    Unexpected,
    /// It is of another type.
    Type {
        /// By the layer.
        expected: String,
        /// On the disk.
        found: String,
    },
    /// The mode, in octal.
    Mode {
        /// By the layer.
        expected: String,
        /// On the disk.
        found: String,
    },
    /// User and group.
    Owner {
        /// By the layer.
        expected: (u32, u32),
        /// On the disk.
        found: (u32, u32),
    },
    /// The modification time.
    Time {
        /// By the layer.
        expected: Timestamp,
        /// On the disk.
        found: Timestamp,
    },
    /// An extended attribute is missing, not the layer's, or has another value.
    Xattr {
        /// Its name, escaped.
        name: String,
    },
    /// A file's size in bytes.
    Size {
        /// By the layer.
        expected: u64,
        /// On the disk.
        found: u64,
    },
    /// A file of the right size has other bytes.
    Content,
    /// A symlink leads elsewhere.
    Target,
    /// A device has other numbers.
    Device {
        /// By the layer.
        expected: (u32, u32),
        /// On the disk.
        found: (u32, u32),
    },
    /// Other names share its inode.
    Links,
    /// What a link took over from a lower layer is not what it took.
    Taken,
    /// The disk does not give it back.
    Unreadable {
        /// What the system says.
        error: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Unexpected => f.write_str("does not belong there"),
            Self::Type { expected, found } => write!(f, "is a {found}, and should be a {expected}"),
            Self::Mode { expected, found } => write!(f, "has the mode {found}, and should have {expected}"),
            Self::Owner { expected, found } => {
                write!(f, "belongs to {}:{}, and should belong to {}:{}", found.0, found.1, expected.0, expected.1)
            }
            Self::Time { expected, found } => write!(
                f,
                "has the time {}.{:09}, and should have {}.{:09}",
                found.seconds, found.nanoseconds, expected.seconds, expected.nanoseconds
            ),
            Self::Xattr { name } => write!(f, "has not the extended attribute {name} that it should have"),
            Self::Size { expected, found } => write!(f, "has {found} bytes, and should have {expected}"),
            Self::Content => f.write_str("has other bytes than it should have"),
            Self::Target => f.write_str("leads elsewhere than it should"),
            Self::Device { expected, found } => {
                write!(f, "is the device {}:{}, and should be {}:{}", found.0, found.1, expected.0, expected.1)
            }
            Self::Links => f.write_str("shares its inode with other names than it should"),
            Self::Taken => f.write_str("is not what its link took over from the layers below"),
            Self::Unreadable { error } => write!(f, "cannot be read: {error}"),
        }
    }
}

/// One path of a tree that is not what its layer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The path in the tree.
    #[serde(serialize_with = "escaped")]
    pub path: EntryPath,
    /// What is wrong with it.
    #[serde(flatten)]
    pub fault: Fault,
}

fn escaped<S: serde::Serializer>(path: &EntryPath, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}
