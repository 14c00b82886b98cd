//! Rows of blobs. A row says that the file under the digest is whole and durable.

use rusqlite::{OptionalExtension as _, Row, params};

use super::connection::failed;
use super::leases::LeaseId;
use super::transaction::{Reader, Transaction};
use super::{from_sql, now, parse, to_sql};
use crate::descriptor::MediaType;
use crate::digest::{DiffId, Digest};
use crate::error::Result;

/// What a blob's row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlobRow {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// As its first descriptor had it; others may say otherwise.
    pub(crate) media_type: MediaType,
    /// Of a layer: the digest of what it decompresses to, once that is known.
    pub(crate) diff_id: Option<DiffId>,
}

/// The media type of what is kept of a layer whose blob was dropped.
pub(crate) const TREE_MANIFEST: &str = "application/vnd.plywood.tree-manifest.v1+zstd";

const COLUMNS: &str = "digest, size, media_type, diff_id FROM blobs";

impl Reader<'_> {
    /// The blob of this digest.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<BlobRow>> {
        let fail = |error| failed("read blob", error);
        let mut statement = self.connection().prepare_cached(&format!("SELECT {COLUMNS} WHERE digest = ?1")).map_err(fail)?;
        statement.query_row([digest.to_string()], |row| Ok(blob(row))).optional().map_err(fail)?.transpose()
    }

    /// The blobs that decompress to this layer.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn blobs_of(&self, diff_id: &DiffId) -> Result<Vec<BlobRow>> {
        self.blobs_where(
            &format!("SELECT {COLUMNS} WHERE diff_id = ?1 AND media_type <> ?2 ORDER BY digest"),
            &[&diff_id.to_string(), &TREE_MANIFEST],
        )
    }

    /// The manifest of this layer, where its blob was dropped.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn tree_manifest_of(&self, diff_id: &DiffId) -> Result<Option<BlobRow>> {
        let query = format!("SELECT {COLUMNS} WHERE diff_id = ?1 AND media_type = ?2 ORDER BY digest");
        Ok(self.blobs_where(&query, &[&diff_id.to_string(), &TREE_MANIFEST])?.pop())
    }

    /// Every digest that has a row or is in the trash: what may have a file.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn known_blobs(&self) -> Result<Vec<Digest>> {
        let fail = |error| failed("read blobs", error);
        let query = "SELECT digest FROM blobs UNION SELECT blob FROM trash WHERE blob IS NOT NULL";
        let mut statement = self.connection().prepare_cached(query).map_err(fail)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(fail)?;
        rows.map(|digest| parse(&digest.map_err(fail)?)).collect()
    }

    /// The blobs that no image needs, no lease keeps, and of whose layers no tree is still to be made; manifests of layers of which there
    /// is no tree any more.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn unused_blobs(&self) -> Result<Vec<BlobRow>> {
        self.blobs_where(
            &format!(
                "SELECT {COLUMNS} b WHERE NOT EXISTS (SELECT 1 FROM image_blobs i WHERE i.digest = b.digest) \
                 AND NOT EXISTS (SELECT 1 FROM leased_blobs l WHERE l.digest = b.digest) \
                 AND NOT EXISTS (SELECT 1 FROM trees t WHERE t.diff_id = b.diff_id AND (b.media_type = ?1 OR NOT t.made)) \
                 ORDER BY digest"
            ),
            &[&TREE_MANIFEST],
        )
    }

    /// Whether no image needs a blob and no lease keeps it, nor is there a tree of its layer that is still to be made, or any where it
    /// is a manifest.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn blob_is_unused(&self, digest: &Digest) -> Result<bool> {
        let fail = |error| failed("read blobs", error);
        let mut statement = self
            .connection()
            .prepare_cached(
                "SELECT NOT EXISTS (SELECT 1 FROM image_blobs WHERE digest = ?1) \
                 AND NOT EXISTS (SELECT 1 FROM leased_blobs WHERE digest = ?1) \
                 AND NOT EXISTS (SELECT 1 FROM blobs b JOIN trees t ON t.diff_id = b.diff_id \
                     WHERE b.digest = ?1 AND (b.media_type = ?2 OR NOT t.made))",
            )
            .map_err(fail)?;
        statement.query_row([&digest.to_string(), TREE_MANIFEST], |row| row.get(0)).map_err(fail)
    }

    fn blobs_where(&self, query: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<BlobRow>> {
        let fail = |error| failed("read blobs", error);
        let mut statement = self.connection().prepare_cached(query).map_err(fail)?;
        let rows = statement.query_map(values, |row| Ok(blob(row))).map_err(fail)?;
        rows.map(|row| row.map_err(fail)?).collect()
    }
}

impl Transaction<'_> {
    /// Names a blob whose bytes are durable; takes it off the list of what is to be deleted. To be called in the transaction in which
    /// the file is renamed to its place, before the rename. A blob that is there keeps its row, and may learn its diff id.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn put_blob(&self, blob: &BlobRow) -> Result<()> {
        let fail = |error| failed("write blob", error);
        let digest = blob.digest.to_string();
        self.connection().execute("DELETE FROM trash WHERE blob = ?1", [&digest]).map_err(fail)?;
        self.connection()
            .execute(
                "INSERT INTO blobs (digest, size, media_type, diff_id, created) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT (digest) DO UPDATE SET diff_id = COALESCE(excluded.diff_id, diff_id)",
                params![digest, to_sql(blob.size), blob.media_type.as_str(), blob.diff_id.as_ref().map(ToString::to_string), now()],
            )
            .map(drop)
            .map_err(fail)
    }

    /// Remembers what a layer's blob decompresses to.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn set_blob_diff_id(&self, digest: &Digest, diff_id: &DiffId) -> Result<()> {
        self.connection()
            .execute("UPDATE blobs SET diff_id = ?2 WHERE digest = ?1", params![digest.to_string(), diff_id.to_string()])
            .map(drop)
            .map_err(|error| failed("write blob", error))
    }

    /// Keeps a blob for as long as the lease lives.
    ///
    /// # Errors
    /// `Corrupt` where the blob or the lease is not there; `Io`.
    pub(crate) fn lease_blob(&self, lease: LeaseId, digest: &Digest) -> Result<()> {
        self.connection()
            .execute("INSERT OR IGNORE INTO leased_blobs (lease, digest) VALUES (?1, ?2)", params![lease.0, digest.to_string()])
            .map(drop)
            .map_err(|error| failed("lease blob", error))
    }

    /// Drops a blob's row and puts its file on the list of what is to be deleted.
    ///
    /// # Errors
    /// `Corrupt` where an image needs it; `Io`.
    pub(crate) fn trash_blob(&self, digest: &Digest) -> Result<()> {
        let fail = |error| failed("remove blob", error);
        let digest = digest.to_string();
        if self.connection().execute("DELETE FROM blobs WHERE digest = ?1", [&digest]).map_err(fail)? > 0 {
            self.connection().execute("INSERT OR IGNORE INTO trash (blob) VALUES (?1)", [&digest]).map_err(fail)?;
        }
        Ok(())
    }
}

fn blob(row: &Row<'_>) -> Result<BlobRow> {
    let fail = |error| failed("read blob", error);
    let digest: String = row.get(0).map_err(fail)?;
    let media_type: String = row.get(2).map_err(fail)?;
    let diff_id: Option<String> = row.get(3).map_err(fail)?;
    Ok(BlobRow {
        digest: parse(&digest)?,
        size: from_sql(row.get(1).map_err(fail)?)?,
        media_type: MediaType::new(media_type),
        diff_id: diff_id.map(|text| parse(&text)).transpose()?,
    })
}
