//! An image comes in: [`Store::import`].
//!
//! Invariant: the reference is given last, in one transaction, to blobs that were checked and layers that are committed. Until then a
//! lease keeps them; a failure takes back what this import brought and nobody else uses.

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use tracing::field::{Empty, display};

use crate::content::Blob;
use crate::digest::{ChainId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{ImageLayer, ImageRow, LeaseId, SnapshotRow, Survives};
use crate::parallel::Crew;
use crate::progress::{Context, Report};
use crate::snapshot::Labels;
use crate::span::verb;
use crate::store::early::Early;
use crate::store::image::{Image, Platform, check_reference, no_image};
use crate::store::intake::Intake;
use crate::store::layer::{Incoming, LayerBytes};
use crate::store::select::{Chosen, Wanted};
use crate::store::source::{Files, ImageSource, Source};
use crate::store::stack::Stack;
use crate::store::supply::Supply;
use crate::store::{BlobPolicy, Store};
use crate::store::{docker_archive, select};
use crate::tar::Limits;

const OP: &str = "import";

/// How an image is imported.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The reference that the image gets; also which one is meant, where the source holds several and one of them has this name. By
    /// default the name that the source gives it, or the manifest's digest where it gives none.
    pub reference: Option<String>,
    /// Which platform's image; by default the host's, and whatever there is where there is but one that does not say.
    pub platform: Option<Platform>,
    /// What each layer may ask for; the store's limits by default. Layers that are there already are not unpacked again for them. Of an
    /// archive around the image the expansion ratio counts, too.
    pub limits: Option<Limits>,
    /// What becomes of the layers' blobs once they are unpacked; the store's policy by default.
    pub blobs: Option<BlobPolicy>,
}

impl ImportOptions {
    /// Under this reference.
    #[must_use]
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    /// The image for this platform.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// With this policy for the layers' blobs instead of the store's.
    #[must_use]
    pub fn blobs(mut self, blobs: BlobPolicy) -> Self {
        self.blobs = Some(blobs);
        self
    }

    /// With these limits on each layer instead of the store's.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }
}

/// What came of importing an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// The image, under the first of its references.
    pub image: Image,
    /// All the references that it got: `docker save` may list several.
    pub references: Vec<String>,
    /// How many of its layers were unpacked now; the others were there.
    pub unpacked: usize,
    /// The blobs of its layers that neither the source nor the store holds. These layers were there, from an import that had read the
    /// blob, and are as if their blobs had been [dropped](BlobPolicy::Drop).
    pub lacking: Vec<Digest>,
    /// What was skipped or clamped.
    pub report: Report,
}

/// What an import has made so far, to be taken back if it fails.
#[derive(Default)]
pub(super) struct Made {
    pub(super) chains: Vec<ChainId>,
    pub(super) blobs: Vec<Digest>,
}

/// The layers of an image, all committed.
pub(super) struct Stacked {
    /// Lowest first.
    pub(super) layers: Vec<ImageLayer>,
    /// The blobs that are not there.
    pub(super) lacking: Vec<Digest>,
}

impl Store {
    /// Imports an image from an OCI image layout or a `docker save` archive: its blobs byte for byte, each layer unpacked and
    /// committed under its chain id. What is there already is not unpacked again. Durable when it returns.
    ///
    /// Where [trees are whole](crate::backend::Backend::is_whole), as on the copy backend, the topmost layer's tree is made, of all layers;
    /// those of the others are made when they are first asked for, from the blobs.
    ///
    /// The source may lack the blob of a layer that is here, where an image of this store had that very blob with that diff id: it was
    /// read and found to be the layer then. What the image alone says of a blob that nobody has read proves nothing.
    ///
    /// # Errors
    /// `NotFound` for a source that is neither, lacks a blob that is needed (the error's path is its digest), or has no image of the platform or name (the reason lists those on
    /// offer); `InvalidArgument` where it holds several and none is named; `InvalidLayer`, `DigestMismatch`, `LimitExceeded`,
    /// `Unsupported` for an image that breaks the rules or needs what is not known; `IdNotMapped`, `Cancelled`, `NoSpace`, `Io`. What
    /// the import brought is gone then.
    ///
    /// ```no_run
    /// # fn main() -> plywood::Result<()> {
    /// # let store = plywood::store::Store::open("store")?;
    /// use plywood::store::{ImageSource, ImportOptions};
    ///
    /// let imported = store.import(ImageSource::path("build/image"), &ImportOptions::default(), &plywood::Context::default())?;
    /// println!("{} runs {:?}", imported.image.reference, imported.image.config.cmd());
    /// # Ok(())
    /// # }
    /// ```
    pub fn import(&self, source: ImageSource<'_>, options: &ImportOptions, cx: &Context<'_>) -> Result<Imported> {
        let verb = verb!(
            "import",
            reference = options.reference.as_deref(),
            digest = Empty,
            chain_id = Empty,
            layers = Empty,
            unpacked = Empty,
            bytes = Empty,
            entries = Empty
        );
        verb.count(cx, |span, cx| {
            let imported = self.import_now(source, options, cx)?;
            let image = &imported.image;
            if options.reference.is_none() {
                span.record("reference", image.reference.as_str());
            }
            span.record("digest", display(&image.manifest.digest));
            if let Some(chain_id) = &image.chain_id {
                span.record("chain_id", display(chain_id));
            }
            span.record("layers", image.layers.len());
            span.record("unpacked", imported.unpacked);
            Ok(imported)
        })
    }

    fn import_now(&self, source: ImageSource<'_>, options: &ImportOptions, cx: &Context<'_>) -> Result<Imported> {
        self.refuse_read_only("import")?;
        if let Some(reference) = &options.reference {
            check_reference(ErrorKind::InvalidArgument, reference)?;
        }
        let lease = self.lease()?;
        let mut made = Made::default();
        let result = self.import_under(lease.id(), source, options, &mut made, cx);
        // What this import alone keeps is nobody's from here on.
        let released = lease.release();
        let unpacked = made.chains.len();
        if result.is_ok() {
            made.chains.clear();
        }
        // After a success too: an archive holds blobs of other platforms, which the image does not need.
        if let Err(error) = self.with_reserve(|| self.take_back(&made)) {
            tracing::warn!(%error, "what an import left could not be deleted; the collection will");
        }
        let (references, image, lacking) = result?;
        released?;
        Ok(Imported { image, references, unpacked, lacking, report: cx.take_report() })
    }

    /// Removes layers and blobs that nothing else needs.
    pub(super) fn take_back(&self, made: &Made) -> Result<()> {
        let transaction = self.metadata().write_to_survive(Survives::PowerCut)?;
        for chain_id in made.chains.iter().rev() {
            let Some(row) = transaction.layer(chain_id)? else { continue };
            if transaction.is_unreached(row.id)? {
                transaction.remove_snapshot(&row)?;
            }
        }
        for digest in &made.blobs {
            if transaction.blob_is_unused(digest)? {
                transaction.trash_blob(digest)?;
            }
        }
        let is_clean = transaction.trash(1)?.is_empty();
        transaction.commit()?;
        if is_clean {
            return Ok(());
        }
        self.empty_trash_if_free()
    }

    fn import_under(
        &self,
        lease: LeaseId,
        source: ImageSource<'_>,
        options: &ImportOptions,
        made: &mut Made,
        cx: &Context<'_>,
    ) -> Result<(Vec<String>, Image, Vec<Digest>)> {
        let mut intake = Intake::new(self.content(), self.metadata(), lease, self.durability(), cx);
        let result = self.import_with(&mut intake, lease, source, options, made, cx);
        made.blobs.append(&mut intake.into_brought());
        result
    }

    fn import_with<'c>(
        &self,
        intake: &mut Intake<'c>,
        lease: LeaseId,
        source: ImageSource<'_>,
        options: &ImportOptions,
        made: &mut Made,
        cx: &'c Context<'c>,
    ) -> Result<(Vec<String>, Image, Vec<Digest>)> {
        let place = source.place().map(PathBuf::from);
        let wanted_name = source.reference().map(str::to_owned);
        let limits = options.limits.as_ref().unwrap_or_else(|| self.limits());
        let wanted = Wanted {
            reference: wanted_name.as_deref().or(options.reference.as_deref()),
            must_match: wanted_name.is_some(),
            platform: options.platform.as_ref(),
        };
        let choose = |files: &Files, intake: &mut Intake<'_>| {
            choose(files, wanted, intake).map_err(|error| match place {
                Some(place) => error.at(place),
                None => error,
            })
        };
        self.choose_write_back(cx);
        let (point, crew) = (self.sync_point()?, Crew::new(self.parallelism()));
        let ((files, chosen), guessed) = match source.open(limits, intake)? {
            Source::InPlace(files) => {
                let chosen = choose(&files, intake)?;
                ((files, chosen), Vec::new())
            }
            Source::Passing(archive) => {
                let early = Early::new(self, lease, limits, crew.clone(), cx);
                let read = || {
                    let files = archive.read(limits, intake, &early)?;
                    let chosen = choose(&files, intake)?;
                    Ok((files, chosen))
                };
                early.during(read, |(_, chosen)| chosen.layers.iter().map(|layer| layer.descriptor.digest.clone()).collect())?
            }
        };
        let Stacked { layers, lacking } = if self.backend().unpacks_ahead() {
            let layers = chosen.layers.iter().zip(chosen.config.diff_ids());
            let stack = Stack::new(self, lease, &files, layers, limits, crew, cx).with_guessed(guessed);
            stack.land(point, &mut made.chains, &mut made.blobs)?
        } else {
            let blobs = chosen.layers.iter().map(|layer| files.find(intake, layer)).collect::<Result<Vec<_>>>()?;
            self.land_in_turn(lease, &chosen, &blobs, limits, made, cx)?
        };

        let references = match &options.reference {
            Some(reference) => vec![reference.clone()],
            None if chosen.references.is_empty() => vec![chosen.manifest.digest.to_string()],
            None => {
                chosen.references.iter().try_for_each(|reference| check_reference(ErrorKind::InvalidLayer, reference))?;
                chosen.references.clone()
            }
        };
        let policy = options.blobs.unwrap_or_else(|| self.blob_policy());
        if policy == BlobPolicy::Drop {
            let dropped = layers.iter().filter(|layer| !lacking.contains(&layer.descriptor.digest));
            self.keep_manifests(intake, dropped, limits, cx)?;
        }
        let row = row(&chosen, layers, &lacking, policy);
        let transaction = self.write_durably()?;
        for reference in &references {
            transaction.put_image(&ImageRow { reference: reference.clone(), ..row.clone() })?;
        }
        let reference = references.first().cloned().unwrap_or_default();
        // As it is now: another process may take the reference away at once. Its blobs are kept by the lease.
        let row = transaction.image(&reference)?;
        transaction.commit()?;
        let image = self.describe(row.ok_or_else(|| no_image(OP, &reference))?)?;
        Ok((references, image, lacking))
    }

    /// One layer after the other, for a backend that needs each to be there for the next.
    fn land_in_turn(
        &self,
        lease: LeaseId,
        chosen: &Chosen,
        blobs: &[Option<Blob>],
        limits: &Limits,
        made: &mut Made,
        cx: &Context<'_>,
    ) -> Result<Stacked> {
        let (labels, crew) = (Labels::new(), Crew::new(self.parallelism()));
        let (mut layers, mut lacking) = (Vec::new(), Vec::new());
        let mut parent: Option<SnapshotRow> = None;
        for ((reference, blob), diff_id) in chosen.layers.iter().zip(blobs).zip(chosen.config.diff_ids()) {
            let descriptor = reference.descriptor.clone();
            let Some(blob) = blob else {
                let chain_id = ChainId::of(parent.as_ref().and_then(|parent| parent.chain_id.as_ref()), diff_id);
                let is_known = self.metadata().read()?.is_known_layer(&descriptor.digest, diff_id)?;
                let landed = if is_known { self.landed(lease, &chain_id)? } else { None };
                parent = Some(landed.ok_or_else(|| Files::lacks(reference))?);
                lacking.push(descriptor.digest.clone());
                layers.push(ImageLayer { descriptor, diff_id: diff_id.clone(), chain_id });
                continue;
            };
            let (supply, media_type) = (Supply::stored(blob.clone()), Some(&reference.descriptor.media_type));
            let bytes = LayerBytes { supply: &supply, crew: &crew, media_type, limits };
            let layer = Incoming { bytes: &bytes, diff_id, parent: parent.as_ref(), is_proven: false, labels: &labels };
            let landed = self.land(lease, &layer, cx)?;
            if !landed.existed {
                made.chains.push(landed.chain_id.clone());
            }
            layers.push(ImageLayer { descriptor, diff_id: diff_id.clone(), chain_id: landed.chain_id });
            parent = Some(landed.snapshot);
        }
        Ok(Stacked { layers, lacking })
    }
}

fn choose(files: &Files, wanted: Wanted<'_>, intake: &mut Intake<'_>) -> Result<Chosen> {
    if let Some(index) = files.document("index.json")? {
        return select::choose(files, &index, wanted, intake);
    }
    if let Some(list) = files.document("manifest.json")? {
        return docker_archive::choose(files, &list, wanted, intake);
    }
    Err(Error::new(ErrorKind::NotFound, OP)
        .at(files.locate("index.json"))
        .because("the source has neither an index.json nor a manifest.json: it is no OCI image layout and no `docker save` archive")
        .with_hint("a single layer is imported with `plywood layer import`"))
}

pub(super) fn row(chosen: &Chosen, layers: Vec<ImageLayer>, lacking: &[Digest], policy: BlobPolicy) -> ImageRow {
    let mut blobs: Vec<Digest> = chosen.indexes.clone();
    blobs.extend([chosen.manifest.digest.clone(), chosen.config_descriptor.digest.clone()]);
    if policy == BlobPolicy::Keep {
        blobs.extend(layers.iter().map(|layer| layer.descriptor.digest.clone()).filter(|digest| !lacking.contains(digest)));
    }
    ImageRow {
        reference: String::new(),
        target: chosen.target.clone(),
        manifest: chosen.manifest.clone(),
        config: chosen.config_descriptor.clone(),
        platform: chosen.platform.to_string(),
        annotations: chosen.annotations.clone(),
        layers,
        blobs,
        created: Default::default(),
        updated: Default::default(),
    }
}
