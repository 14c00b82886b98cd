//! An image goes out: [`Store::export`] into an OCI image layout.
//!
//! An image that nobody changed keeps its manifest and every blob byte for byte. A committed snapshot becomes an image: the one that it
//! stands on, with a layer for each snapshot above and a config derived from it. The same snapshot gives the same bytes.

use std::path::Path;

use tracing::field::{Empty, display};

use super::layout_writer::LayoutWriter;
use super::{DiffOptions, Store};
use crate::compression::{Compression, Decoder};
use crate::descriptor::{Descriptor, MediaType};
use crate::digest::{Algorithm, DiffId, Digest};
use crate::entry::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{ImageLayer, ImageRow, LeaseId, SnapshotRow};
use crate::progress::{Context, Report};
use crate::snapshot::Kind;
use crate::span::verb;
use crate::store::image::document::{layer_type, new_manifest};
use crate::store::image::{ImageConfig, NewLayer, Platform, is_ref_name, rfc3339};

const OP: &str = "export";

/// How an image is exported.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExportOptions {
    /// The name in the layout's index; an image of the same name there is replaced. By default what was asked for, where that is a
    /// name and no digest.
    pub reference: Option<String>,
    /// What new layers are compressed with; gzip by default. Layers that are kept as blobs stay as they are.
    pub compression: Compression,
    /// gzip's 0 to 9 or zstd's 1 to 22; the compression's own default by default.
    pub level: Option<u32>,
    /// When the image was made, as its config says. None by default, so that the bytes depend on the content alone.
    pub created: Option<Timestamp>,
    /// Times of files in new layers that are later become this one, in seconds since 1970. None by default.
    pub clamp_mtime: Option<i64>,
    /// What the history says made the new layers; `plywood` by default.
    pub created_by: String,
    /// The image whose config is derived, where several stand on the same layers; the first by reference by default.
    pub base: Option<String>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            reference: None,
            compression: Compression::Gzip,
            level: None,
            created: None,
            clamp_mtime: None,
            created_by: "plywood".to_owned(),
            base: None,
        }
    }
}

impl ExportOptions {
    /// Under this name in the layout's index.
    #[must_use]
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    /// With new layers compressed so.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// At this level of the compression.
    #[must_use]
    pub fn level(mut self, level: u32) -> Self {
        self.level = Some(level);
        self
    }

    /// Made at this time.
    #[must_use]
    pub fn created(mut self, created: Timestamp) -> Self {
        self.created = Some(created);
        self
    }

    /// No time of a file later than this, in seconds since 1970.
    #[must_use]
    pub fn clamp_mtime(mut self, seconds: i64) -> Self {
        self.clamp_mtime = Some(seconds);
        self
    }

    /// With the config of this image.
    #[must_use]
    pub fn base(mut self, reference: impl Into<String>) -> Self {
        self.base = Some(reference.into());
        self
    }
}

/// What was exported.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Exported {
    /// The manifest.
    pub manifest: Descriptor,
    /// The config's blob.
    pub config: Descriptor,
    /// The image whose config this one is, or is derived from. Without one (none has a reference any more) the config says nothing
    /// but platform, layers and history: no environment, command or user.
    pub base: Option<String>,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The name that it got in the layout's index.
    pub reference: Option<String>,
    /// Layers of the base whose blobs were [dropped](super::BlobPolicy::Drop), and which were made anew from their trees. The manifest is
    /// not the image's own then, and where diff ids differ, too, neither is the config.
    pub remade: Vec<Remade>,
    /// What no layer can say and was left out.
    pub report: Report,
}

/// A layer that was made anew from its tree.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Remade {
    /// The digest of the blob that was dropped.
    pub dropped: Digest,
    /// The digest of the one that was written instead.
    pub written: Digest,
}

/// What is to be exported.
enum Subject {
    Image(Box<ImageRow>),
    Snapshot(Box<SnapshotRow>),
}

/// A layer in the layout.
struct Written {
    descriptor: Descriptor,
    diff_id: DiffId,
}

impl Store {
    /// Writes an image, or a committed snapshot as an image, into the OCI image layout in `directory`, which is made where it is
    /// missing (its parent must be there) and grows where it is in use. Durable when it returns; the layout's index changes last, at
    /// once.
    ///
    /// `what` is the name of a committed snapshot, the reference of an image, or the beginning of a chain id, looked up in this order
    /// as [`resolve`](Self::resolve) does.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a snapshot that is not committed, a reference that the OCI specification does not allow, or a
    /// directory of something else; `Corrupt` where a blob of the image is missing or was found damaged; those of [`diff`](Self::diff); `NoSpace`, `Io`.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # let target = tempfile::tempdir().unwrap();
    /// use plywood::snapshot::{Key, Name};
    ///
    /// store.prepare(&Key::new("web-1")?, None, &Default::default())?;
    /// store.commit(&Name::new("web")?, &Key::new("web-1")?, &Default::default())?;
    /// let exported = store.export("web", target.path(), &Default::default(), &Default::default())?;
    /// assert_eq!(exported.reference.as_deref(), Some("web"));
    /// # Ok::<_, plywood::Error>(())
    /// ```
    pub fn export(&self, what: &str, directory: &Path, options: &ExportOptions, cx: &Context<'_>) -> Result<Exported> {
        let verb = verb!("export", key = what, target = %directory.display(), digest = Empty, bytes = Empty, entries = Empty);
        verb.count(cx, |span, cx| {
            let exported = self.export_now(what, directory, options, cx)?;
            span.record("digest", display(&exported.manifest.digest));
            Ok(exported)
        })
    }

    fn export_now(&self, what: &str, directory: &Path, options: &ExportOptions, cx: &Context<'_>) -> Result<Exported> {
        let reference = match &options.reference {
            Some(reference) if is_ref_name(reference) => Some(reference.clone()),
            Some(reference) => {
                return Err(Error::new(ErrorKind::InvalidArgument, OP)
                    .at(reference)
                    .because("a layout's names are letters and digits, with one of -._:@+/ between them"));
            }
            None => Some(what.to_owned()).filter(|what| is_ref_name(what) && what.parse::<Digest>().is_err()),
        };
        let subject = self.subject(what)?;
        // To another disk, perhaps because the store is full.
        let lease = self.with_reserve(|| self.lease())?;
        let layout = LayoutWriter::open(directory)?;
        let done = self.export_to(&layout, lease.id(), subject, reference, options, cx);
        if done.is_err()
            && let Err(error) = layout.take_back()
        {
            tracing::warn!(%error, "what a failed export wrote could not be deleted; the next one will use it");
        }
        let exported = done?;
        lease.release()?;
        Ok(exported)
    }

    fn export_to(
        &self,
        layout: &LayoutWriter,
        lease: LeaseId,
        subject: Subject,
        reference: Option<String>,
        options: &ExportOptions,
        cx: &Context<'_>,
    ) -> Result<Exported> {
        let (mut exported, platform) = match subject {
            Subject::Image(image) => self.export_stack(lease, Some(*image), Vec::new(), layout, options, cx)?,
            Subject::Snapshot(snapshot) => {
                let (base, above) = self.base_of(*snapshot, options.base.as_deref())?;
                self.export_stack(lease, base, above, layout, options, cx)?
            }
        };
        layout.name(&exported.manifest, platform.as_ref(), reference.as_deref())?;
        exported.reference = reference;
        Ok(exported)
    }

    fn subject(&self, what: &str) -> Result<Subject> {
        let reader = self.metadata().read()?;
        let snapshot = match (reader.snapshot(what)?, reader.image(what)?) {
            (Some(snapshot), _) => snapshot,
            (None, Some(image)) => return Ok(Subject::Image(Box::new(image))),
            (None, None) => {
                let name = self.resolve(what)?;
                reader.snapshot(name.as_str())?.ok_or_else(|| super::no_snapshot(OP, what))?
            }
        };
        if snapshot.kind == Kind::Committed {
            return Ok(Subject::Snapshot(Box::new(snapshot)));
        }
        Err(Error::new(ErrorKind::InvalidArgument, OP)
            .at(what)
            .because(format!("only a committed snapshot can be exported, and this is {}", snapshot.kind))
            .with_hint("commit it first: plywood commit NAME KEY"))
    }

    /// All its blobs, byte for byte.
    fn export_image(&self, image: ImageRow, layout: &LayoutWriter, cx: &Context<'_>) -> Result<(Exported, Option<Platform>)> {
        let layers: Vec<Descriptor> = image.layers.into_iter().map(|layer| layer.descriptor).collect();
        for descriptor in layers.iter().chain([&image.config, &image.manifest]) {
            self.copy_blob(&descriptor.digest, layout, cx)?;
        }
        // Names and the like stood beside the manifest in the layout that it came from.
        let manifest = Descriptor { annotations: Default::default(), ..image.manifest };
        let platform = image.platform.parse().ok().filter(|platform: &Platform| !platform.is_unknown());
        let base = Some(image.reference);
        let exported = Exported {
            manifest,
            config: image.config,
            base,
            layers,
            reference: None,
            remade: Vec::new(),
            report: Report::default(),
        };
        Ok((exported, platform))
    }

    /// An image, and the snapshots on top of it, topmost first.
    fn export_stack(
        &self,
        lease: LeaseId,
        base: Option<ImageRow>,
        above: Vec<SnapshotRow>,
        layout: &LayoutWriter,
        options: &ExportOptions,
        cx: &Context<'_>,
    ) -> Result<(Exported, Option<Platform>)> {
        self.keep(lease, base.as_ref(), above.first())?;
        let base = match base {
            Some(image) if above.is_empty() && image.layers.iter().all(|layer| is_kept(&image, layer)) => {
                return self.export_image(image, layout, cx);
            }
            base => base,
        };
        let mut report = Report::default();
        let (mut layers, mut diff_ids, mut remade) = (Vec::new(), Vec::new(), Vec::new());
        for (image, layer) in base.iter().flat_map(|image| image.layers.iter().map(move |layer| (image, layer))) {
            let written = if is_kept(image, layer) {
                let compression = self.copy_blob(&layer.descriptor.digest, layout, cx)?;
                let descriptor = Descriptor { media_type: MediaType::new(layer_type(compression)), ..layer.descriptor.clone() };
                Written { descriptor, diff_id: layer.diff_id.clone() }
            } else {
                let row = self.metadata().read()?.layer(&layer.chain_id)?;
                let row = row.ok_or_else(|| super::no_snapshot(OP, &layer.chain_id.to_string()))?;
                self.write_layer(&row, layout, options, &mut report, cx)?
            };
            if written.descriptor.digest != layer.descriptor.digest {
                let (dropped, written) = (layer.descriptor.digest.clone(), written.descriptor.digest.clone());
                remade.push(Remade { dropped, written });
            }
            layers.push(written.descriptor);
            diff_ids.push(written.diff_id);
        }
        let mut new = Vec::new();
        for row in above.iter().rev() {
            let written = self.write_layer(row, layout, options, &mut report, cx)?;
            layers.push(written.descriptor.clone());
            new.push(written);
        }
        let new: Vec<NewLayer<'_>> =
            new.iter().map(|layer| NewLayer { diff_id: &layer.diff_id, created_by: &options.created_by }).collect();
        let created = options.created.map(rfc3339);
        let config = match &base {
            Some(image) => {
                let config = self.image(&image.reference)?.config.with_diff_ids(&diff_ids)?;
                // As it is, where nothing is new: the time it was made at included.
                if new.is_empty() { config } else { config.derive(&new, created.as_deref())? }
            }
            None => ImageConfig::from_scratch(&Platform::host_baseline(), &new, created.as_deref())?,
        };
        let config_descriptor = put_document(layout, MediaType::CONFIG, config.as_bytes())?;
        let manifest = put_document(layout, MediaType::MANIFEST, &new_manifest(&config_descriptor, &layers)?)?;
        let base = base.map(|image| image.reference);
        let exported = Exported { manifest, config: config_descriptor, base, layers, reference: None, remade, report };
        Ok((exported, config.platform().cloned()))
    }

    /// The image that a snapshot stands on, and the snapshots above it, topmost first.
    pub(super) fn base_of(&self, snapshot: SnapshotRow, wanted: Option<&str>) -> Result<(Option<ImageRow>, Vec<SnapshotRow>)> {
        let reader = self.metadata().read()?;
        let mut above = Vec::new();
        let mut next = Some(snapshot);
        while let Some(row) = next {
            if let Some(chain_id) = &row.chain_id {
                for reference in reader.images_on(row.id, u32::MAX)? {
                    let is_wanted = wanted.is_none_or(|wanted| wanted == reference);
                    let image = if is_wanted { reader.image(&reference)? } else { None };
                    if let Some(image) = image.filter(|image| image.layers.last().is_some_and(|top| top.chain_id == *chain_id)) {
                        return Ok((Some(image), above));
                    }
                }
            }
            next = row.parent.map(|parent| reader.snapshot_by_id(parent)).transpose()?.flatten();
            above.push(row);
        }
        match wanted {
            None => Ok((None, above)),
            Some(wanted) => Err(Error::new(ErrorKind::InvalidArgument, OP)
                .at(wanted)
                .because("the snapshot does not stand on all layers of an image of this reference")),
        }
    }

    /// Keeps what is read from here on.
    fn keep(&self, lease: LeaseId, image: Option<&ImageRow>, snapshot: Option<&SnapshotRow>) -> Result<()> {
        if self.read_only_reason().is_some() {
            // Nothing can be kept. What somebody else collects meanwhile is missing when it is read.
            let reader = self.metadata().read()?;
            return image.map_or(Ok(()), |image| reader.refuse_damaged_blobs(OP, &image.reference, &image.blobs));
        }
        let gone = |what: &str| Error::new(ErrorKind::NotFound, OP).at(what).because("it was removed meanwhile");
        let transaction = self.metadata().write()?;
        if let Some(image) = image {
            transaction.refuse_damaged_blobs(OP, &image.reference, &image.blobs)?;
        }
        for digest in image.iter().flat_map(|image| &image.blobs) {
            if transaction.blob(digest)?.is_none() {
                return Err(gone(&digest.to_string()));
            }
            transaction.lease_blob(lease, digest)?;
        }
        // Where their blobs were dropped, layers are made of their trees; or another image has the blob.
        for layer in image.iter().flat_map(|image| &image.layers) {
            let row = transaction.layer(&layer.chain_id)?.ok_or_else(|| gone(&layer.chain_id.to_string()))?;
            transaction.lease_snapshot(lease, row.id)?;
            for blob in transaction.blobs_of(&layer.diff_id)? {
                transaction.lease_blob(lease, &blob.digest)?;
            }
        }
        if let Some(row) = snapshot {
            if transaction.snapshot_by_id(row.id)?.is_none() {
                return Err(gone(&row.name));
            }
            transaction.lease_snapshot(lease, row.id)?;
        }
        transaction.commit()
    }

    /// Copies a blob of the store, and says what it is compressed with.
    fn copy_blob(&self, digest: &Digest, layout: &LayoutWriter, cx: &Context<'_>) -> Result<Compression> {
        cx.check(OP)?;
        let blob = self.content().blob(digest)?.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, OP).at(digest.to_string()).because("the image's blob is missing in the store")
        })?;
        layout.put(digest, &mut blob.reader())?;
        cx.progress().bytes(blob.size());
        Ok(Decoder::new(blob.reader())?.compression())
    }

    /// Writes what a snapshot changes: the blob that it came from, where that is kept, else a new layer.
    fn write_layer(
        &self,
        row: &SnapshotRow,
        layout: &LayoutWriter,
        options: &ExportOptions,
        report: &mut Report,
        cx: &Context<'_>,
    ) -> Result<Written> {
        if let (Some(diff_id), Some(_)) = (&row.diff_id, &row.chain_id) {
            let kept = self.metadata().read()?.blobs_of(diff_id)?;
            if let Some(kept) = kept.first() {
                let media_type = layer_type(self.copy_blob(&kept.digest, layout, cx)?);
                let descriptor = Descriptor::new(media_type, kept.digest.clone(), kept.size);
                return Ok(Written { descriptor, diff_id: diff_id.clone() });
            }
        }
        let mut blob = layout.new_blob_unhashed(Algorithm::default())?;
        let mut how = DiffOptions::default().compression(options.compression);
        (how.level, how.clamp_mtime) = (options.level, options.clamp_mtime);
        let outcome = self.diff(&row.name, &mut blob, &how, cx)?;
        report.merge(outcome.report);
        let digest = outcome.descriptor.digest;
        let size = blob.name(&digest)?;
        Ok(Written { descriptor: Descriptor::new(layer_type(options.compression), digest, size), diff_id: outcome.diff_id })
    }
}

/// Whether the blob of an image's layer was not dropped.
fn is_kept(image: &ImageRow, layer: &ImageLayer) -> bool {
    image.blobs.contains(&layer.descriptor.digest)
}

fn put_document(layout: &LayoutWriter, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
    let digest = Algorithm::default().digest(bytes);
    layout.put(&digest, &mut &*bytes)?;
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}
