//! Digests: which algorithms, how they are written, and what each kind of digest is *of*.
//!
//! A [`Digest`] holds an algorithm and the right number of bytes, nothing else. [`DiffId`] and [`ChainId`] are digests that cannot be
//! mistaken for one of a blob (OCI image-spec: descriptor.md "Digests", config.md "Layer DiffID" and "Layer ChainID").

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::{Error, ErrorKind};

/// A digest algorithm that the OCI image-spec registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    #[default]
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// Its name in a digest: `sha256`, `sha512`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of its digests in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }
}

/// `<algorithm>:<lower-case hex>` of exactly the algorithm's length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Box<[u8]>,
}

impl Digest {
    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon: lower-case hex.
    pub fn to_hex(&self) -> String {
        hex::encode(&self.bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` for an unknown algorithm, upper-case hex or a wrong length.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |reason: &str| Error::new(ErrorKind::InvalidArgument, "parse digest").at(text).because(reason);
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| invalid("a digest is ALGORITHM:HEX"))?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(invalid("only sha256 and sha512 are known")),
        };
        if hex.bytes().any(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid("the digest must be lower-case hex"));
        }
        let bytes = hex::decode(hex).map_err(|error| invalid("the digest is not hex").with_source(error))?;
        if bytes.len() != algorithm.digest_len() {
            return Err(invalid("the digest has the wrong length for its algorithm"));
        }
        Ok(Self { algorithm, bytes: bytes.into() })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! digest_of {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                text.parse().map(Self)
            }
        }
    };
}

digest_of! {
    /// The digest of a layer's whole uncompressed stream.
    DiffId
}

digest_of! {
    /// The name of a stack of layers: the diff id of the lowest, or the digest of `<parent chain id> <diff id>`.
    ChainId
}

impl ChainId {
    /// The chain id of `layer` on `parent`, in the algorithm of the layer's diff id (image-spec config.md "Layer ChainID").
    pub fn of(parent: Option<&Self>, layer: &DiffId) -> Self {
        match parent {
            None => Self(layer.0.clone()),
            Some(parent) => Self(layer.0.algorithm().digest(format!("{parent} {layer}").as_bytes())),
        }
    }
}

/// Hashes what it is fed.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::default()),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest { algorithm: Algorithm::Sha256, bytes: state.finalize().as_slice().into() },
            State::Sha512(state) => Digest { algorithm: Algorithm::Sha512, bytes: state.finalize().as_slice().into() },
        }
    }
}

/// A reader that hashes what passes through it.
#[derive(Debug)]
pub struct Tee<R> {
    reader: R,
    hasher: Hasher,
    count: u64,
}

impl<R: Read> Tee<R> {
    /// Hashes what is read from `reader` from now on.
    pub fn new(reader: R, algorithm: Algorithm) -> Self {
        Self { reader, hasher: Hasher::new(algorithm), count: 0 }
    }

    /// How many bytes have passed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The digest of what has passed.
    pub fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.count = self.count.saturating_add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_are_written_as_the_specification_says() {
        assert_eq!(Algorithm::Sha256.digest(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap().to_string(), EMPTY);
        assert_eq!(Algorithm::Sha512.digest(b"").to_hex().len(), 128);
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in ["", "sha256", "sha256:", "md5:00", "sha256:E3B0", &EMPTY.to_uppercase(), &EMPTY[..70], &format!("{EMPTY}00")] {
            assert_eq!(text.parse::<Digest>().unwrap_err().kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn chain_ids_are_those_of_the_image_specification() {
        let base: DiffId = EMPTY.parse().unwrap();
        let first = ChainId::of(None, &base);
        assert_eq!(first.0, base.0);
        let second = ChainId::of(Some(&first), &base);
        assert_eq!(second.0, Algorithm::Sha256.digest(format!("{EMPTY} {EMPTY}").as_bytes()));
    }
}
