//! Manifests and indexes as a registry gives them: bytes, with what the registry calls them.
//!
//! Invariant: an [`ImageManifest`] or [`ImageIndex`] was read as exactly what it is called, and its descriptor is that of its bytes.

use crate::descriptor::{Descriptor, MediaType};
use crate::digest::Algorithm;
use crate::error::{Error, ErrorKind, Result};
use crate::store::image::Platform;
use crate::store::image::document::{DOCUMENT_MAX, Index, Manifest, parse_json};
use crate::store::select;

/// The manifest of one image for one platform.
#[derive(Clone, Debug)]
pub struct ImageManifest {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptor: Descriptor,
    pub(super) manifest: Manifest,
}

/// A list of manifests, one for each platform.
#[derive(Clone, Debug)]
pub struct ImageIndex {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptor: Descriptor,
    pub(super) index: Index,
}

impl ImageManifest {
    /// Reads a manifest that was asked for by a tag. `media_type` is what the registry calls it (`Content-Type`); by default what it
    /// calls itself.
    ///
    /// Layers may be of any type here; which of them can be taken in says [`Pull::missing`](super::Pull::missing).
    ///
    /// # Errors
    /// `InvalidLayer` for what is malformed or could be read as an index; `Unsupported` for another media type, Docker's schema 1, or
    /// what is no container image; `LimitExceeded` above 4 MiB.
    pub fn new(bytes: impl Into<Vec<u8>>, media_type: Option<&str>) -> Result<Self> {
        let bytes = bytes.into();
        let descriptor = describe("read manifest", &bytes, media_type, MediaType::MANIFEST)?;
        Self::read(bytes, descriptor)
    }

    /// Reads the manifest of this descriptor.
    ///
    /// # Errors
    /// `DigestMismatch` for other bytes; as [`new`](Self::new).
    pub fn of(descriptor: &Descriptor, bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.into();
        check_bytes("read manifest", descriptor, &bytes)?;
        Self::read(bytes, descriptor.clone())
    }

    fn read(bytes: Vec<u8>, descriptor: Descriptor) -> Result<Self> {
        if !descriptor.media_type.is_manifest() {
            return Err(not_a("read manifest", "an image manifest", &descriptor));
        }
        let manifest = Manifest::parse_with_any_layers(&bytes, &descriptor.media_type)
            .map_err(|error| error.at(descriptor.digest.to_string()))?;
        Ok(Self { bytes, descriptor, manifest })
    }

    /// Of the manifest itself.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Of the configuration, which [`Store::pull`](crate::store::Store::pull) needs beside it.
    pub fn config(&self) -> &Descriptor {
        &self.manifest.config.descriptor
    }

    /// Of the layers, lowest first.
    pub fn layers(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifest.layers.iter().map(|layer| &layer.descriptor)
    }
}

impl ImageIndex {
    /// Reads an index that was asked for by a tag. `media_type` is what the registry calls it; by default what it calls itself.
    ///
    /// # Errors
    /// As [`ImageManifest::new`].
    pub fn new(bytes: impl Into<Vec<u8>>, media_type: Option<&str>) -> Result<Self> {
        const OP: &str = "read index";
        let bytes = bytes.into();
        let descriptor = describe(OP, &bytes, media_type, MediaType::INDEX)?;
        if !descriptor.media_type.is_index() {
            return Err(not_a(OP, "an image index", &descriptor));
        }
        let index = Index::parse(&bytes, Some(&descriptor.media_type)).map_err(|error| error.at(descriptor.digest.to_string()))?;
        Ok(Self { bytes, descriptor, index })
    }

    /// Of the index itself.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The manifest for a platform, the host's by default. Attestations and indexes in it are passed over.
    ///
    /// # Errors
    /// `NotFound`, with the platforms on offer.
    pub fn choose(&self, platform: Option<&Platform>) -> Result<Descriptor> {
        select::in_index(&self.index, platform).map(|reference| reference.descriptor)
    }
}

/// The descriptor of a document that nobody has described.
fn describe(op: &'static str, bytes: &[u8], media_type: Option<&str>, default: &str) -> Result<Descriptor> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        media_type: Option<String>,
    }
    check_length(op, bytes)?;
    let media_type = match media_type {
        // Without parameters, as in `; charset=utf-8` (RFC 9110 §8.3.1).
        Some(text) => text.split(';').next().unwrap_or_default().trim().to_owned(),
        None => parse_json::<Named>(op, bytes)?.media_type.unwrap_or_else(|| default.to_owned()),
    };
    Ok(Descriptor::new(media_type, Algorithm::default().digest(bytes), bytes.len() as u64))
}

/// Refuses bytes that are not those of the descriptor.
pub(super) fn check_bytes(op: &'static str, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    check_length(op, bytes)?;
    let found = descriptor.digest.algorithm().digest(bytes);
    if descriptor.size == bytes.len() as u64 && descriptor.digest == found {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DigestMismatch, op).at(descriptor.digest.to_string()).because(format!(
        "it was declared to have {} bytes, and {} came, with the digest {found}",
        descriptor.size,
        bytes.len()
    )))
}

fn check_length(op: &'static str, bytes: &[u8]) -> Result<()> {
    let length = bytes.len() as u64;
    if length <= DOCUMENT_MAX {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LimitExceeded, op)
        .because(format!("the document has {length} bytes, at most {DOCUMENT_MAX} are read")))
}

fn not_a(op: &'static str, what: &str, descriptor: &Descriptor) -> Error {
    Error::new(ErrorKind::Unsupported, op)
        .at(descriptor.digest.to_string())
        .because(format!("the media type {} is not that of {what}", descriptor.media_type.as_str().escape_debug()))
}
