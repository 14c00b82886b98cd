//! What a snapshot is called and what is known of it.
//!
//! Keys and names share one space and are any strings, as containerd has it (absolute paths are common): they are never file names.
//! Only `<algorithm>:<hex>` is set apart: such a name comes with a proof, and only an import can give it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId, Digest};
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// The longest key or name in bytes.
pub const NAME_MAX: usize = 4096;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A string that a caller chose.
            ///
            /// # Errors
            /// `InvalidArgument` when it is empty, longer than [`NAME_MAX`], has a NUL byte, or is a digest or the beginning of one
            /// (`<algorithm>:<hex>`): such a name is given by import alone, with its proof.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                check(&text, $what)?;
                if is_like_digest(&text) {
                    return Err(Error::new(ErrorKind::InvalidArgument, concat!("name ", $what))
                        .at(&text)
                        .because("names of the form ALGORITHM:HEX are given by import alone"));
                }
                Ok(Self(text))
            }

            /// The string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.escape_debug())
            }
        }
    };
}

name_type! {
    /// What an Active or View snapshot is called.
    Key, "key"
}

name_type! {
    /// What a Committed snapshot is called.
    Name, "name"
}

impl From<&ChainId> for Name {
    /// The name that an import gives. That the chain is really there is proven by the row, not by the name.
    fn from(chain_id: &ChainId) -> Self {
        Self(chain_id.to_string())
    }
}

/// A digest, or what could be taken for the beginning of one.
fn is_like_digest(text: &str) -> bool {
    let hex = ["sha256:", "sha512:"].iter().find_map(|algorithm| text.strip_prefix(algorithm));
    text.parse::<Digest>().is_ok() || hex.is_some_and(|hex| !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn check(text: &str, what: &'static str) -> Result<()> {
    let reason = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > NAME_MAX {
        format!("it has {} bytes, at most {NAME_MAX} are taken", text.len())
    } else if text.contains('\0') {
        "it contains a NUL byte".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidArgument, "name a snapshot").because(format!("the {what} cannot be used: {reason}")))
}

/// What a snapshot can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Frozen; can be a parent.
    Committed,
    /// Writable, on a parent or on nothing.
    Active,
    /// A parent (or nothing) to be mounted read-only.
    View,
}

impl Kind {
    /// `committed`, `active`, `view`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Active => "active",
            Self::View => "view",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Labels: any strings, kept in order of their names.
pub type Labels = BTreeMap<String, String>;

/// What is known of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Info {
    /// Key or name.
    pub name: String,
    /// Committed, Active or View.
    pub kind: Kind,
    /// Name of the parent.
    pub parent: Option<String>,
    /// Diff id, where it is known: given by an import, or computed by the first diff.
    pub diff_id: Option<DiffId>,
    /// Labels.
    pub labels: Labels,
    /// When it was made.
    pub created: Timestamp,
    /// When it or its labels last changed.
    pub updated: Timestamp,
}

/// What a snapshot alone takes, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Inodes, each once however many names it has; whiteouts share one.
    pub inodes: u64,
    /// Bytes allocated on the disk (512-byte blocks).
    pub bytes: u64,
}

impl Usage {
    /// A usage of so many inodes and allocated bytes.
    pub const fn new(inodes: u64, bytes: u64) -> Self {
        Self { inodes, bytes }
    }
}
