//! Images: a reference to a manifest, with its configuration and layers. [`Store::images`], [`Store::image`], [`Store::tag`],
//! [`Store::untag`].
//!
//! A reference is any string that is no digest: `docker.io/library/alpine:3.20`, `1.0`. It is compared byte for byte; no registry or
//! tag is filled in. An image without a name is known by its manifest's digest.

mod base64;
mod config;
pub(crate) mod document;
mod platform;
mod runtime;

use std::collections::BTreeMap;

use serde::Serialize;

pub use config::ImageConfig;
pub(crate) use config::NewLayer;
pub use platform::Platform;
pub use runtime::RuntimeOptions;

use crate::descriptor::Descriptor;
use crate::digest::{ChainId, DiffId, Digest};
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::ImageRow;
use crate::snapshot::NAME_MAX;
use crate::span::verb;
use crate::store::{Store, no_snapshot};
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

    /// The configuration of the image that a snapshot of any kind stands on: the nearest below it, the first by reference of several.
    /// `None` where none has a reference (any more).
    ///
    /// # Errors
    /// `NotFound` without such a snapshot; `Corrupt`, `Io`.
    pub fn base_config(&self, name: &str) -> Result<Option<ImageConfig>> {
        let row = self.metadata().read()?.snapshot(name)?.ok_or_else(|| no_snapshot("image", name))?;
        match self.base_of(row, None)?.0 {
            Some(image) => Ok(Some(self.describe(image)?.config)),
            None => Ok(None),
        }
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
        verb!("tag", reference = reference, new = new).run(|_| {
            self.refuse_read_only("tag")?;
            check_reference(ErrorKind::InvalidArgument, new)?;
            let transaction = self.metadata().write()?;
            transaction.tag_image(reference, new)?;
            transaction.commit()
        })
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
        verb!("untag", reference = reference).run(|_| self.untag_now(reference))
    }

    fn untag_now(&self, reference: &str) -> Result<()> {
        self.refuse_read_only("untag")?;
        self.with_reserve(|| {
            let transaction = self.metadata().write()?;
            if !transaction.remove_image(reference)? {
                return Err(no_image("untag", reference));
            }
            transaction.commit()
        })
    }

    pub(super) fn describe(&self, row: ImageRow) -> Result<Image> {
        let corrupt = |error| {
            Error::new(ErrorKind::Corrupt, "image").at(&row.reference).because("its config cannot be read").with_source(error)
        };
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

pub(super) fn no_image(op: &'static str, reference: &str) -> Error {
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

/// Whether a layout's index may call an image so (image-spec annotations.md, `org.opencontainers.image.ref.name`).
pub(crate) fn is_ref_name(text: &str) -> bool {
    text.split('/').all(|component| {
        let component = component.replace("--", "-");
        let mut parts = component.split(['-', '.', '_', ':', '@', '+']);
        parts.all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    })
}

/// A time as configs have it (RFC 3339), with as many decimals as it needs.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    let (days, second) = (time.seconds.div_euclid(86_400), time.seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let fraction = match time.nanoseconds {
        0 => String::new(),
        nanoseconds => format!(".{}", format!("{nanoseconds:09}").trim_end_matches('0')),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of a day that is counted from 1970-01-01.
#[allow(clippy::arithmetic_side_effects, reason = "all terms are of the size of a day of an era, below 146,097, but the year")]
fn civil(days: i64) -> (i64, i64, i64) {
    // Days since 0000-03-01, in eras of 400 years, which all have the same number of days: the leap day is the last of its year.
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era.saturating_mul(400).saturating_add(year_of_era + i64::from(month <= 2)), month, day)
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
            assert_eq!(
                check_reference(ErrorKind::InvalidLayer, reference).unwrap_err().kind(),
                ErrorKind::InvalidLayer,
                "{reference:?}"
            );
        }
    }

    #[test]
    fn names_in_a_layout_are_those_of_the_specification() {
        for name in ["latest", "1.0", "docker.io/library/alpine:3.20", "a--b", "x@sha256:abc", "a+b"] {
            assert!(is_ref_name(name), "{name}");
        }
        for name in ["", "/a", "a/", "a//b", "-a", "a-", "a..b", "a b", "größe", "a---b"] {
            assert!(!is_ref_name(name), "{name}");
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339_says() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (-1, 999_000_000, "1969-12-31T23:59:59.999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_709_251_199, 1, "2024-02-29T23:59:59.000000001Z"),
            (4_107_542_400, 500_000_000, "2100-03-01T00:00:00.5Z"),
            (-62_135_596_800, 0, "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(Timestamp { seconds, nanoseconds }), text);
        }
        rfc3339(Timestamp::from_seconds(i64::MAX));
        rfc3339(Timestamp::from_seconds(i64::MIN));
    }
}
