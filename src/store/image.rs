//! Images: a reference to a manifest, with its configuration and layers. [`Store::images`], [`Store::image`], [`Store::tag`],
//! [`Store::untag`].
//!
//! A reference is any string that is no digest: `docker.io/library/alpine:3.20`, `1.0`. It is compared byte for byte; no registry or
//! tag is filled in. An image without a name is known by its manifest's digest.

mod base64;
mod config;
pub(crate) mod document;
mod platform;

use std::collections::BTreeMap;

use serde::Serialize;

pub use config::ImageConfig;
pub(crate) use config::NewLayer;
pub use platform::Platform;

use crate::descriptor::Descriptor;
use crate::digest::{ChainId, DiffId, Digest};
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::ImageRow;
use crate::snapshot::NAME_MAX;
use crate::store::Store;
use document::DOCUMENT_MAX;

/// An image of the store. Its index, manifest, config and layers are kept byte for byte, to be read through
/// [`Store::content`](crate::store::Store::content).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Image {
    /// What it is called.
    pub reference: String,
    /// What the source named: the manifest, or an index that lists it.
    pub target: Descriptor,
    /// The manifest of this platform's image.
    pub manifest: Descriptor,
    /// The blob of the configuration.
    pub config_descriptor: Descriptor,
    /// The configuration.
    pub config: ImageConfig,
    /// The platform that the image is for; `unknown/unknown` where it does not say.
    pub platform: Platform,
    /// Under which the stack of all its layers is committed; none for an image without layers.
    pub chain_id: Option<ChainId>,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
    /// When the reference was first given.
    pub created: Timestamp,
    /// When it was last moved.
    pub updated: Timestamp,
}

/// One layer of an [`Image`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Layer {
    /// Its blob.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed blob.
    pub diff_id: DiffId,
    /// Under which the stack up to this layer is committed.
    pub chain_id: ChainId,
}

impl Store {
    /// Every image, in the order of references.
    ///
    /// # Errors
    /// `Corrupt` where a config is missing or is none; `Io`.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// assert!(store.images()?.is_empty());
    /// # Ok::<_, plywood::Error>(())
    /// ```
    pub fn images(&self) -> Result<Vec<Image>> {
        let rows = self.metadata().read()?.images()?;
        rows.into_iter().map(|row| self.describe(row)).collect()
    }

    /// The image of exactly this reference.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` where its config is missing or is none; `Io`.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// assert_eq!(store.image("alpine").unwrap_err().kind(), plywood::ErrorKind::NotFound);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    pub fn image(&self, reference: &str) -> Result<Image> {
        let row = self.metadata().read()?.image(reference)?.ok_or_else(|| no_image("image", reference))?;
        self.describe(row)
    }

    /// Gives an image a second reference; where the new one is another image's, it is moved. Durable when it returns.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a reference that is empty, too long, holds control characters, or is a digest; `Io`.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// assert_eq!(store.tag("alpine", "base").unwrap_err().kind(), plywood::ErrorKind::NotFound);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    pub fn tag(&self, reference: &str, new: &str) -> Result<()> {
        check_reference(ErrorKind::InvalidArgument, new)?;
        let transaction = self.metadata().write()?;
        transaction.tag_image(reference, new)?;
        transaction.commit()
    }

    /// Takes a reference away. The image's blobs and layers stay until a collection finds that nothing needs them. Durable when it
    /// returns.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// assert_eq!(store.untag("alpine").unwrap_err().kind(), plywood::ErrorKind::NotFound);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    pub fn untag(&self, reference: &str) -> Result<()> {
        let transaction = self.metadata().write()?;
        if !transaction.remove_image(reference)? {
            return Err(no_image("untag", reference));
        }
        transaction.commit()
    }

    fn describe(&self, row: ImageRow) -> Result<Image> {
        let corrupt = |error| Error::new(ErrorKind::Corrupt, "image").at(&row.reference).because("its config cannot be read").with_source(error);
        let config = self.content().blob(&row.config.digest)?.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "image").at(&row.reference).because(format!("the blob {} is missing", row.config.digest))
        })?;
        let config = config.read_to_vec(DOCUMENT_MAX).and_then(ImageConfig::parse).map_err(corrupt)?;
        let layers: Vec<Layer> = row
            .layers
            .into_iter()
            .map(|layer| Layer { descriptor: layer.descriptor, diff_id: layer.diff_id, chain_id: layer.chain_id })
            .collect();
        let platform = row.platform.parse().map_err(corrupt)?;
        Ok(Image {
            reference: row.reference,
            target: row.target,
            manifest: row.manifest,
            config_descriptor: row.config,
            config,
            platform,
            chain_id: layers.last().map(|layer| layer.chain_id.clone()),
            layers,
            annotations: row.annotations,
            created: row.created,
            updated: row.updated,
        })
    }
}

fn no_image(op: &'static str, reference: &str) -> Error {
    Error::new(ErrorKind::NotFound, op)
        .at(reference)
        .because("there is no image of this reference")
        .with_hint("`plywood images` lists what is there")
}

/// Refuses what cannot be a reference: `kind` says whose fault it is.
pub(crate) fn check_reference(kind: ErrorKind, reference: &str) -> Result<()> {
    let reason = if reference.is_empty() {
        "it is empty"
    } else if reference.len() > NAME_MAX {
        "it is too long"
    } else if reference.chars().any(char::is_control) {
        "it holds control characters"
    } else if reference.parse::<Digest>().is_ok() {
        "it is a digest"
    } else {
        return Ok(());
    };
    Err(Error::new(kind, "name an image").at(reference).because(format!("the reference cannot be used: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_what_can_be_printed_and_is_no_digest() {
        for reference in ["docker.io/library/alpine:3.20", "1.0", "x@y", "größe"] {
            check_reference(ErrorKind::InvalidArgument, reference).unwrap();
        }
        let digest = crate::digest::Algorithm::Sha256.digest(b"").to_string();
        for reference in ["", "a\nb", "a\0b", "\u{1b}[2J", digest.as_str(), &"x".repeat(NAME_MAX + 1)] {
            assert_eq!(check_reference(ErrorKind::InvalidLayer, reference).unwrap_err().kind(), ErrorKind::InvalidLayer, "{reference:?}");
        }
    }
}
