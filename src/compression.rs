//! What a layer blob is compressed with, and how to read and write it.
//!
//! Three forms, told apart by the bytes alone and never by what a media type claims: none, gzip (RFC 1952), zstd (RFC 8878). One
//! level is taken off, in this process. A [`Decoder`] that says "end" has read and checked the input to its true end; an [`Encoder`]
//! writes the same bytes on every machine, however its input is cut.

mod blocks;
mod decoder;
mod encoder;
mod input;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

pub use decoder::Decoder;
pub use encoder::Encoder;

/// What a layer is compressed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// Nothing: the tar as it is.
    #[default]
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Compression {
    /// How many leading bytes [`sniff`](Self::sniff) wants to see, unless the input is shorter.
    pub const SNIFFED: usize = 4;

    /// Tells the compression from a stream's first bytes. What is neither gzip nor zstd is a plain tar, or nothing that can be read.
    ///
    /// ```
    /// use plywood::compression::Compression;
    /// assert_eq!(Compression::sniff(&[0x1f, 0x8b, 8, 0]), Compression::Gzip);
    /// assert_eq!(Compression::sniff(b"etc/"), Compression::None);
    /// ```
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame before the first one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// `none`, `gzip` or `zstd`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// What an OCI layer's media type ends in: nothing, `+gzip` or `+zstd` (OCI image-spec, media-types.md).
    pub const fn media_type_suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }

    /// What a layer's media type claims, OCI's or Docker's; `None` for one that is no tar layer.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let (_, end) = media_type.split_once(".tar")?;
        match end {
            "" => Some(Self::None),
            "+gzip" | ".gzip" => Some(Self::Gzip),
            "+zstd" | ".zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::None, Self::Gzip, Self::Zstd].into_iter().find(|compression| compression.as_str() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "parse compression")
                .because(format!("{:?} is none of none, gzip, zstd", text.escape_debug().to_string()))
        })
    }
}

#[cfg(test)]
mod tests;
