//! An image comes in blob by blob: [`Store::pull`], for who fetches from a registry.
//!
//! The caller fetches, by whatever client he has, from as many threads as he likes; a [`Pull`] says what is needed and takes it. Each
//! layer is unpacked as soon as its bytes are whole, and while they come where a thread is free; one whose parent is not there yet is
//! unpacked by guesses, and settled when the chain below stands.
//!
//! Invariant: until [`Pull::finish`] nothing has a reference, and everything that came is kept by two leases: one ends with the process,
//! the other, which has a name and an expiry, keeps it for the next attempt. One image is pulled once at a time, in this process and
//! others: who comes second waits, and finds all of it there.

mod documents;
mod finish;
mod ingest;
mod landing;
mod whole;

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub use documents::{ImageIndex, ImageManifest};
pub use finish::Pulled;
pub use ingest::PullIngest;

use crate::content::{Blob, Expected};
use crate::descriptor::{Descriptor, MediaType};
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::lock::{Held, Subject};
use crate::metadata::{LeaseId, expiry};
use crate::parallel::Crew;
use crate::progress::Context;
use crate::store::image::document::{Reference, check_layer_type};
use crate::store::image::{ImageConfig, Platform};
use crate::store::intake::Intake;
use crate::store::lease::Lease;
use crate::store::select::{Chosen, check_layers};
use crate::store::{BlobPolicy, Store};
use crate::tar::Limits;
use landing::{Landing, Place};

const OP: &str = "pull";

/// How an image is pulled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PullOptions {
    /// The index in which the manifest was found, to be kept beside it. None by default.
    pub index: Option<ImageIndex>,
    /// What each layer may ask for; the store's limits by default.
    pub limits: Option<Limits>,
    /// What becomes of the layers' blobs once the image is named; the store's policy by default.
    pub blobs: Option<BlobPolicy>,
    /// How long what came is kept after a pull that was not finished, counted from the last blob that was begun; a day by default. What
    /// came of a blob that is not whole is kept for a day after its last byte.
    pub keep: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { index: None, limits: None, blobs: None, keep: Duration::from_secs(24 * 60 * 60) }
    }
}

impl PullOptions {
    /// Found in this index.
    #[must_use]
    pub fn index(mut self, index: ImageIndex) -> Self {
        self.index = Some(index);
        self
    }

    /// With these limits on each layer instead of the store's.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// With this policy for the layers' blobs instead of the store's.
    #[must_use]
    pub fn blobs(mut self, blobs: BlobPolicy) -> Self {
        self.blobs = Some(blobs);
        self
    }

    /// Keeping what came for so long.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }
}

/// A layer whose bytes a [`Pull`] needs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// Its blob.
    pub descriptor: Descriptor,
    /// The digest of its uncompressed bytes.
    pub diff_id: DiffId,
    /// Where else than in the registry the blob can be had: of layers that may not be distributed.
    pub urls: Vec<String>,
    /// Whether the blob is of a type that cannot be taken in, encrypted above all: then the uncompressed bytes are needed instead, by
    /// [`Pull::ingest_plain`].
    pub needs_plain: bool,
}

/// An image on its way in, of which some layers may still be [missing](Self::missing).
///
/// It can be shared between threads. Dropped, it keeps what came for the next pull of the same image: whole layers, and the beginnings
/// of others, to be gone on with at their [offset](PullIngest::offset). [`abort`](Self::abort) keeps nothing.
#[derive(Debug)]
#[must_use = "an image that is not finished has no name"]
pub struct Pull(Arc<Shared>);

/// Documents to be kept byte for byte.
type Documents = Vec<(Descriptor, Vec<u8>)>;

/// What a pull and its ingests share.
#[derive(Debug)]
struct Shared {
    store: Store,
    chosen: Chosen,
    /// The manifest, the config, and the index if there is one.
    documents: Documents,
    parts: Vec<Part>,
    limits: Limits,
    policy: BlobPolicy,
    keep: Duration,
    crew: Crew,
    landing: Mutex<Landing>,
    changed: Condvar,
    /// Until the image is named.
    lease: Mutex<Option<Lease>>,
    /// Nobody else pulls this image.
    _alone: Held,
}

/// One layer of the image.
#[derive(Debug)]
struct Part {
    reference: Reference,
    diff_id: DiffId,
    chain_id: ChainId,
}

impl Part {
    fn digest(&self) -> &Digest {
        &self.reference.descriptor.digest
    }

    fn needs_plain(&self) -> bool {
        check_layer_type(&self.reference.descriptor.media_type).is_err()
    }

    /// The bytes that are needed of it, where they are in the store.
    fn present(&self, intake: &mut Intake<'_>) -> Result<Option<Blob>> {
        let descriptor = &self.reference.descriptor;
        match self.needs_plain() {
            true => intake.present(&Expected::digest(self.diff_id.0.clone()), MediaType::LAYER),
            false => intake.present(&Expected::from(descriptor), descriptor.media_type.as_str()),
        }
    }
}

impl Store {
    /// Begins to pull the image of this manifest and config, whose layers the caller then fetches and [pushes](Pull::ingest).
    ///
    /// Waits while the same image is being pulled, in this process or another: a thread must not ask for it while it holds a [`Pull`] of
    /// it. A layer that is committed under its chain id is not needed again, whatever blob the manifest names for it: the config is taken
    /// at its word there, unlike by [`import`](Self::import).
    ///
    /// # Errors
    /// `DigestMismatch` for a config that is not the manifest's; `InvalidLayer` where the two disagree on the layers, or the manifest
    /// contradicts itself; `InvalidArgument` for an index that does not list the manifest; `LimitExceeded`, `Cancelled`, `Io`.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # let layout = tempfile::tempdir().unwrap();
    /// # let image = plywood::testing::Image::new().layer(plywood::testing::Layer::new().file("a", "1"), Default::default());
    /// # image.write_layout(layout.path(), "1").unwrap();
    /// # let index = std::fs::read(layout.path().join("index.json")).unwrap();
    /// # let fetch = |digest: &plywood::digest::Digest| std::fs::read(layout.path().join("blobs/sha256").join(digest.to_hex())).unwrap();
    /// use plywood::Context;
    /// use plywood::store::{ImageIndex, ImageManifest, PullOptions};
    ///
    /// let (cx, index) = (Context::default(), ImageIndex::new(index, None)?);
    /// let descriptor = index.choose(None)?;
    /// let manifest = ImageManifest::of(&descriptor, fetch(&descriptor.digest))?;
    /// let config = fetch(&manifest.config().digest);
    /// let pull = store.pull(&manifest, &config, &PullOptions::default().index(index), &cx)?;
    /// for layer in pull.missing() {
    ///     if let Some(mut ingest) = pull.ingest(&layer.descriptor, &cx)? {
    ///         // From the registry: with `Range: bytes=OFFSET-`.
    ///         let bytes = fetch(&layer.descriptor.digest);
    ///         ingest.copy_from(&bytes[ingest.offset() as usize..], &cx)?;
    ///         ingest.finish(&cx)?;
    ///     }
    /// }
    /// let pulled = pull.finish("example:1", &cx)?;
    /// assert_eq!(pulled.image, store.image("example:1")?);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    pub fn pull(&self, manifest: &ImageManifest, config: &[u8], options: &PullOptions, cx: &Context<'_>) -> Result<Pull> {
        self.refuse_read_only(OP)?;
        documents::check_bytes("read config", manifest.config(), config)?;
        let (chosen, documents) = choose(manifest, config, options.index.as_ref())?;
        let parts = parts(&chosen)?;
        let alone = self.locks().wait_unless(Subject::Pull(&chosen.manifest.digest), &mut || cx.check(OP))?;
        let lease = self.lease()?;
        let mut landing =
            Landing { next: 0, parent: None, places: parts.iter().map(|_| Place::default()).collect(), ..Landing::default() };
        for part in &parts {
            let Some(row) = self.landed(lease.id(), &part.chain_id)? else { break };
            landing.parent = Some(row);
            landing.next = landing.next.saturating_add(1);
        }
        let mut intake = Intake::new(self.content(), self.metadata(), lease.id(), self.durability(), cx);
        for (part, place) in parts.iter().zip(&mut landing.places).skip(landing.next) {
            place.blob = part.present(&mut intake)?.map(|blob| (blob, part.needs_plain()));
        }
        Ok(Pull(Arc::new(Shared {
            store: self.clone(),
            chosen,
            documents,
            parts,
            limits: options.limits.clone().unwrap_or_else(|| self.limits().clone()),
            policy: options.blobs.unwrap_or_else(|| self.blob_policy()),
            keep: options.keep,
            crew: Crew::new(self.parallelism()),
            landing: Mutex::new(landing),
            changed: Condvar::new(),
            lease: Mutex::new(Some(lease)),
            _alone: alone,
        })))
    }
}

/// What the documents say, as an import would have chosen it.
fn choose(manifest: &ImageManifest, config: &[u8], index: Option<&ImageIndex>) -> Result<(Chosen, Documents)> {
    let ImageManifest { bytes, descriptor, manifest } = manifest;
    let config_descriptor = manifest.config.descriptor.clone();
    let parsed = ImageConfig::parse(config.to_vec()).map_err(|error| error.at(config_descriptor.digest.to_string()))?;
    check_layers(manifest.layers.len(), &parsed)?;
    let mut documents = vec![(descriptor.clone(), bytes.clone()), (config_descriptor.clone(), config.to_vec())];
    let (mut target, mut indexes, mut listed) = (descriptor.clone(), Vec::new(), None);
    if let Some(index) = index {
        listed = index.index.manifests.iter().find(|entry| entry.descriptor.digest == descriptor.digest);
        if listed.is_none() {
            return Err(Error::new(ErrorKind::InvalidArgument, OP)
                .at(index.descriptor.digest.to_string())
                .because(format!("the index does not list the manifest {}", descriptor.digest)));
        }
        documents.push((index.descriptor.clone(), index.bytes.clone()));
        indexes.push(index.descriptor.digest.clone());
        target = index.descriptor.clone();
    }
    let platform = parsed.platform().cloned().or_else(|| listed.and_then(|entry| entry.platform.clone()));
    let chosen = Chosen {
        target,
        manifest: descriptor.clone(),
        config: parsed,
        config_descriptor,
        layers: manifest.layers.clone(),
        annotations: manifest.annotations.clone(),
        platform: platform.unwrap_or_else(Platform::unknown),
        references: Vec::new(),
        indexes,
    };
    Ok((chosen, documents))
}

fn parts(chosen: &Chosen) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for (reference, diff_id) in chosen.layers.iter().zip(chosen.config.diff_ids()) {
        let chain_id = ChainId::of(parts.last().map(|part| &part.chain_id), diff_id);
        let part = Part { reference: reference.clone(), diff_id: diff_id.clone(), chain_id };
        let same = parts.iter().find(|other| other.digest() == part.digest());
        if same.is_some_and(|same| same.diff_id != part.diff_id || same.reference.descriptor.size != reference.descriptor.size) {
            return Err(Error::new(ErrorKind::InvalidLayer, OP)
                .at(part.digest().to_string())
                .because("the image has this layer twice, with different sizes or diff ids"));
        }
        parts.push(part);
    }
    Ok(parts)
}

impl Pull {
    /// The layers whose bytes are needed, lowest first, each once. What is being taken in right now is among them.
    pub fn missing(&self) -> Vec<Missing> {
        let landing = self.0.landing();
        let mut missing: Vec<Missing> = Vec::new();
        for (part, place) in self.0.parts.iter().zip(&landing.places).skip(landing.next) {
            if place.blob.is_none() && missing.iter().all(|other| other.descriptor.digest != *part.digest()) {
                missing.push(Missing {
                    descriptor: part.reference.descriptor.clone(),
                    diff_id: part.diff_id.clone(),
                    urls: part.reference.urls.clone(),
                    needs_plain: part.needs_plain(),
                });
            }
        }
        missing
    }

    /// Begins to take in the blob of a layer, or goes on where an earlier pull of it stopped; the layers can come in any order, from
    /// several threads. `None` where the bytes are there by now, brought by somebody else: then the layer is unpacked.
    ///
    /// Waits while somebody else, in this process or another, takes in the same blob: a thread must not ask for one while it holds an
    /// ingest of it.
    ///
    /// # Errors
    /// `Unsupported`, with the media type, for a layer that [needs its plain bytes](Self::ingest_plain); `NotFound` for what is no layer
    /// of this image; `Cancelled`, `NoSpace`, `Io`; where the bytes are there, those of [`PullIngest::finish`].
    pub fn ingest(&self, descriptor: &Descriptor, cx: &Context<'_>) -> Result<Option<PullIngest>> {
        let index = self.0.parts.iter().position(|part| *part.digest() == descriptor.digest);
        let (index, part) = self.0.part(index, &descriptor.digest)?;
        let media_type = &part.reference.descriptor.media_type;
        check_layer_type(media_type)
            .map_err(|error| error.with_hint("push its uncompressed bytes under the diff id instead: `Pull::ingest_plain`"))?;
        PullIngest::begin(&self.0, index, Expected::from(&part.reference.descriptor), media_type.as_str(), cx)
    }

    /// Begins to take in the uncompressed bytes of a layer whose blob is encrypted, or of another type that only the caller knows. Else as
    /// [`ingest`](Self::ingest). The blob itself is then one that the store [lacks](Pulled::lacking).
    ///
    /// # Errors
    /// As [`ingest`](Self::ingest).
    pub fn ingest_plain(&self, diff_id: &DiffId, cx: &Context<'_>) -> Result<Option<PullIngest>> {
        let index = self.0.parts.iter().position(|part| part.diff_id == *diff_id);
        let (index, _) = self.0.part(index, &diff_id.0)?;
        PullIngest::begin_plain(&self.0, index, diff_id, cx)
    }
}

impl Shared {
    fn part(&self, index: Option<usize>, digest: &Digest) -> Result<(usize, &Part)> {
        let found = index.and_then(|index| Some((index, self.parts.get(index)?)));
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, OP).at(digest.to_string()).because("this is no layer of the image that is pulled")
        })
    }

    /// The lease that ends with the process.
    fn lease(&self) -> Result<LeaseId> {
        let lease = self.lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lease = lease.as_ref().map(Lease::id);
        lease.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, OP).because("the pull is finished"))
    }

    /// What the lease is called that keeps what came for the next attempt.
    fn lease_name(&self) -> String {
        format!("pull {}", self.chosen.manifest.digest)
    }

    /// Makes that lease, or renews it.
    fn renew(&self) -> Result<LeaseId> {
        let transaction = self.store.metadata().write()?;
        let lease = transaction.put_lease(&self.lease_name(), expiry(self.keep))?;
        self.landing().beside = Some(lease);
        transaction.commit()?;
        Ok(lease)
    }
}
