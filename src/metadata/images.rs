//! Rows of images: a reference, the descriptors behind it, and the layers as the snapshots that they were committed to.
//!
//! An image keeps its blobs and its snapshots: neither can be removed while it names them.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, Row, params};

use super::connection::failed;
use super::snapshots::SnapshotId;
use super::transaction::{Reader, Transaction};
use super::{from_json, now, parse, timestamp, to_json};
use crate::descriptor::Descriptor;
use crate::digest::{ChainId, DiffId, Digest};
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageLayer {
    /// As the manifest has it.
    pub(crate) descriptor: Descriptor,
    /// As the config has it, checked when it was unpacked.
    pub(crate) diff_id: DiffId,
    /// Under which the stack up to this layer is committed.
    pub(crate) chain_id: ChainId,
}

/// What an image's row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageRow {
    pub(crate) reference: String,
    /// What was named: an index or a manifest.
    pub(crate) target: Descriptor,
    /// The manifest that was chosen.
    pub(crate) manifest: Descriptor,
    pub(crate) config: Descriptor,
    /// `os/arch[/variant]`.
    pub(crate) platform: String,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Lowest first.
    pub(crate) layers: Vec<ImageLayer>,
    /// Every blob that is to be kept for it, whatever its place: index, manifest, config, layers.
    pub(crate) blobs: Vec<Digest>,
    /// When the reference was first given, and last. Set by the database.
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
}

const COLUMNS: &str = "reference, target, manifest, config, platform, annotations, created, updated FROM images";

impl Reader<'_> {
    /// The image of this reference.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn image(&self, reference: &str) -> Result<Option<ImageRow>> {
        let fail = |error| failed("read image", error);
        let mut statement = self.connection().prepare_cached(&format!("SELECT {COLUMNS} WHERE reference = ?1")).map_err(fail)?;
        let found = statement.query_row([reference], |row| Ok(self.image_row(row))).optional().map_err(fail)?;
        found.transpose()
    }

    /// Every image, in the order of references.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn images(&self) -> Result<Vec<ImageRow>> {
        let fail = |error| failed("read images", error);
        let mut statement = self.connection().prepare_cached(&format!("SELECT {COLUMNS} ORDER BY reference")).map_err(fail)?;
        let rows = statement.query_map([], |row| Ok(self.image_row(row))).map_err(fail)?;
        rows.map(|row| row.map_err(fail)?).collect()
    }

    /// Up to `limit` references of images that stand on a snapshot.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn images_on(&self, snapshot: SnapshotId, limit: u32) -> Result<Vec<String>> {
        let fail = |error| failed("read images", error);
        let mut statement = self
            .connection()
            .prepare_cached("SELECT DISTINCT reference FROM image_layers WHERE snapshot = ?1 ORDER BY reference LIMIT ?2")
            .map_err(fail)?;
        let rows = statement.query_map(params![snapshot.0, limit], |row| row.get(0)).map_err(fail)?;
        rows.collect::<Result<_, _>>().map_err(fail)
    }

    /// Whether an image has a layer whose blob, of this digest, was read and found to have this diff id. The blob may have gone since.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn is_known_layer(&self, blob: &Digest, diff_id: &DiffId) -> Result<bool> {
        let fail = |error| failed("read images", error);
        let mut statement =
            self.connection().prepare_cached("SELECT DISTINCT descriptor FROM image_layers WHERE diff_id = ?1").map_err(fail)?;
        let rows = statement.query_map([diff_id.to_string()], |row| row.get::<_, String>(0)).map_err(fail)?;
        for descriptor in rows {
            let descriptor: Descriptor = from_json(&descriptor.map_err(fail)?)?;
            if descriptor.digest == *blob {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn image_row(&self, row: &Row<'_>) -> Result<ImageRow> {
        let fail = |error| failed("read image", error);
        let text = |column: usize| row.get::<_, String>(column).map_err(fail);
        let reference = text(0)?;
        Ok(ImageRow {
            target: from_json(&text(1)?)?,
            manifest: from_json(&text(2)?)?,
            config: from_json(&text(3)?)?,
            platform: text(4)?,
            annotations: from_json(&text(5)?)?,
            layers: self.image_layers(&reference)?,
            blobs: self.image_blobs(&reference)?,
            created: timestamp(row.get(6).map_err(fail)?),
            updated: timestamp(row.get(7).map_err(fail)?),
            reference,
        })
    }

    fn image_layers(&self, reference: &str) -> Result<Vec<ImageLayer>> {
        let fail = |error| failed("read image", error);
        let mut statement = self
            .connection()
            .prepare_cached(
                "SELECT l.descriptor, l.diff_id, s.name FROM image_layers l JOIN snapshots s ON s.id = l.snapshot \
                 WHERE l.reference = ?1 ORDER BY l.position",
            )
            .map_err(fail)?;
        let rows = statement
            .query_map([reference], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))
            .map_err(fail)?;
        rows.map(|row| {
            let (descriptor, diff_id, chain_id) = row.map_err(fail)?;
            Ok(ImageLayer { descriptor: from_json(&descriptor)?, diff_id: parse(&diff_id)?, chain_id: parse(&chain_id)? })
        })
        .collect()
    }

    fn image_blobs(&self, reference: &str) -> Result<Vec<Digest>> {
        let fail = |error| failed("read image", error);
        let mut statement = self
            .connection()
            .prepare_cached("SELECT digest FROM image_blobs WHERE reference = ?1 ORDER BY digest")
            .map_err(fail)?;
        let rows = statement.query_map([reference], |row| row.get::<_, String>(0)).map_err(fail)?;
        rows.map(|digest| parse(&digest.map_err(fail)?)).collect()
    }
}

impl Transaction<'_> {
    /// Names an image; a reference that is there is moved. Its blobs and layers are named already.
    ///
    /// # Errors
    /// `NotFound` where a blob or a layer has been removed meanwhile; `Io`.
    pub(crate) fn put_image(&self, image: &ImageRow) -> Result<()> {
        let fail = |error| failed("write image", error);
        let connection = self.connection();
        connection
            .execute(
                "INSERT INTO images (reference, target, manifest, config, platform, annotations, created, updated) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7) ON CONFLICT (reference) DO UPDATE SET target = excluded.target, \
                 manifest = excluded.manifest, config = excluded.config, platform = excluded.platform, \
                 annotations = excluded.annotations, updated = excluded.updated",
                params![
                    image.reference,
                    to_json(&image.target)?,
                    to_json(&image.manifest)?,
                    to_json(&image.config)?,
                    image.platform,
                    to_json(&image.annotations)?,
                    now()
                ],
            )
            .map_err(fail)?;
        connection.execute("DELETE FROM image_layers WHERE reference = ?1", [&image.reference]).map_err(fail)?;
        connection.execute("DELETE FROM image_blobs WHERE reference = ?1", [&image.reference]).map_err(fail)?;
        let gone = |what: String| Error::new(ErrorKind::NotFound, "name image").at(what).because("it was removed meanwhile");
        for digest in &image.blobs {
            if self.blob(digest)?.is_none() {
                return Err(gone(digest.to_string()));
            }
            connection
                .execute(
                    "INSERT OR IGNORE INTO image_blobs (reference, digest) VALUES (?1, ?2)",
                    params![image.reference, digest.to_string()],
                )
                .map_err(fail)?;
        }
        for (position, layer) in (0_i64..).zip(&image.layers) {
            let snapshot = self.layer(&layer.chain_id)?.ok_or_else(|| gone(layer.chain_id.to_string()))?;
            connection
                .execute(
                    "INSERT INTO image_layers (reference, position, descriptor, diff_id, snapshot) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![image.reference, position, to_json(&layer.descriptor)?, layer.diff_id.to_string(), snapshot.id.0],
                )
                .map_err(fail)?;
        }
        Ok(())
    }

    /// Gives an image a second reference; one that is there is moved.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub(crate) fn tag_image(&self, from: &str, to: &str) -> Result<()> {
        let image = self.image(from)?.ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, "tag").at(from).because("there is no image of this reference");
            error.with_hint("`plywood images` lists what is there")
        })?;
        self.put_image(&ImageRow { reference: to.to_owned(), ..image })
    }

    /// Forgets a reference. What it kept is left to the collection. Whether there was one.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn remove_image(&self, reference: &str) -> Result<bool> {
        let removed = self.connection().execute("DELETE FROM images WHERE reference = ?1", [reference]);
        Ok(removed.map_err(|error| failed("remove image", error))? > 0)
    }
}
