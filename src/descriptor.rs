//! Descriptors: which blob, of which media type and size (OCI image-spec descriptor.md).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A media type as it stands in a manifest. Unknown ones are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(String);

impl MediaType {
    /// `application/vnd.oci.image.index.v1+json`
    pub const INDEX: &'static str = "application/vnd.oci.image.index.v1+json";
    /// `application/vnd.oci.image.manifest.v1+json`
    pub const MANIFEST: &'static str = "application/vnd.oci.image.manifest.v1+json";
    /// `application/vnd.oci.image.config.v1+json`
    pub const CONFIG: &'static str = "application/vnd.oci.image.config.v1+json";
    /// `application/vnd.oci.image.layer.v1.tar`
    pub const LAYER: &'static str = "application/vnd.oci.image.layer.v1.tar";
    /// `application/vnd.oci.image.layer.v1.tar+gzip`
    pub const LAYER_GZIP: &'static str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// `application/vnd.oci.image.layer.v1.tar+zstd`
    pub const LAYER_ZSTD: &'static str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    pub const DOCKER_INDEX: &'static str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// `application/vnd.docker.distribution.manifest.v2+json`
    pub const DOCKER_MANIFEST: &'static str = "application/vnd.docker.distribution.manifest.v2+json";
    /// `application/vnd.docker.container.image.v1+json`
    pub const DOCKER_CONFIG: &'static str = "application/vnd.docker.container.image.v1+json";
    /// `application/vnd.docker.image.rootfs.diff.tar.gzip`
    pub const DOCKER_LAYER_GZIP: &'static str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    /// The media type named `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names an image index or Docker's manifest list.
    pub fn is_index(&self) -> bool {
        matches!(self.as_str(), Self::INDEX | Self::DOCKER_INDEX)
    }

    /// Whether it names an image manifest, OCI's or Docker's.
    pub fn is_manifest(&self) -> bool {
        matches!(self.as_str(), Self::MANIFEST | Self::DOCKER_MANIFEST)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a blob is expected to be: its media type, the digest of exactly its bytes, and how many these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: MediaType,
    /// Digest over the bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Annotations, as they stood beside the digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor without annotations.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self { media_type: MediaType::new(media_type), digest, size, annotations: BTreeMap::new() }
    }
}
