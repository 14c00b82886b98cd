//! A layer comes in: [`LayerReader`] opens its blob as a stream of changes, [`Store::import_layer`] unpacks and names it.
//!
//! Invariant: a name is given only after the whole uncompressed stream was read and its digest is the diff id. A layer is unpacked by
//! one at a time; where a tree of it rests on answers that this parent gives too, it is shared instead of unpacked again. Whatever
//! fails leaves neither a name nor a tree.

use std::fmt;
use std::io::Read;

use crate::backend::Backend;
use crate::compression::{Compression, Decoder};
use crate::content::{Blob, BlobReader};
use crate::descriptor::MediaType;
use crate::digest::{Algorithm, ChainId, DiffId, Tee};
use crate::entry::{Attributes, Chunk, Entry, EntryStream, Position};
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Subject;
use crate::metadata::{LeaseId, NewLayer, SnapshotRow, Transaction, TreeRow, Unpacked};
use crate::path::EntryPath;
use crate::progress::{Context, Reason, Report};
use crate::snapshot::Labels;
use crate::store::Store;
use crate::store::image::document::layer_compression;
use crate::store::import::Made;
use crate::store::leases::live_lease;
use crate::tar::{Limits, Reader};
use crate::tree::{Applied, Question, TreeId};

const OP: &str = "import layer";

/// A layer's blob as a stream of changes that can be begun again, hashed as it is read.
pub(crate) struct LayerReader<'a> {
    blob: &'a Blob,
    algorithm: Algorithm,
    expansion_ratio: Option<u64>,
    reader: Reader<'a, Tee<Decoder<BlobReader>>>,
}

impl<'a> LayerReader<'a> {
    /// Opens a layer. A compression that is not the one of the media type is reported.
    pub(crate) fn open(
        blob: &'a Blob,
        media_type: Option<&MediaType>,
        algorithm: Algorithm,
        limits: Limits,
        cx: &'a Context<'a>,
    ) -> Result<Self> {
        let expansion_ratio = limits.expansion_ratio;
        let decoder = decoder(blob, expansion_ratio)?;
        let found = decoder.compression();
        if let Some(media_type) = media_type
            && layer_compression(media_type).is_some_and(|declared| declared != found)
        {
            let declared = media_type.as_str().escape_debug().to_string();
            cx.skip(&EntryPath::ROOT, Reason::MediaType { declared, found: found.to_string() })?;
        }
        Ok(Self { blob, algorithm, expansion_ratio, reader: Reader::new(Tee::new(decoder, algorithm), limits, cx) })
    }

    /// The digest of the uncompressed stream, which was read to its end.
    pub(crate) fn diff_id(self) -> DiffId {
        DiffId(self.reader.into_inner().finish())
    }
}

impl EntryStream for LayerReader<'_> {
    fn next(&mut self) -> Result<Option<Entry>> {
        self.reader.next()
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        self.reader.chunk()
    }

    fn restart(&mut self) -> Result<()> {
        self.reader.rewind(Tee::new(decoder(self.blob, self.expansion_ratio)?, self.algorithm));
        Ok(())
    }

    fn position(&self) -> Option<Position> {
        self.reader.position()
    }
}

/// A blob's uncompressed bytes, no more than this many times as many as it has.
fn decoder(blob: &Blob, expansion_ratio: Option<u64>) -> Result<Decoder<BlobReader>> {
    Ok(Decoder::new(blob.reader())?.expansion_ratio(expansion_ratio, Some(blob.size())))
}

/// Where a layer's bytes come from.
pub struct LayerSource<'a>(Form<'a>);

enum Form<'a> {
    Blob(Blob),
    Reader(Box<dyn Read + 'a>),
}

impl fmt::Debug for LayerSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Blob(blob) => f.debug_tuple("LayerSource").field(blob.digest()).finish(),
            Form::Reader(_) => f.write_str("LayerSource(reader)"),
        }
    }
}

impl<'a> LayerSource<'a> {
    /// A tar, compressed or not, that is read once from here to its end.
    pub fn reader(reader: impl Read + 'a) -> Self {
        Self(Form::Reader(Box::new(reader)))
    }
}

impl From<Blob> for LayerSource<'_> {
    fn from(blob: Blob) -> Self {
        Self(Form::Blob(blob))
    }
}

/// How a layer is imported.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImportLayerOptions {
    /// The committed layer or stack below; none by default.
    pub parent: Option<String>,
    /// What the uncompressed bytes must hash to. Without one, they are hashed first.
    pub diff_id: Option<DiffId>,
    /// What the layer is called; a compression that it does not have is reported.
    pub media_type: Option<MediaType>,
    /// Labels of the snapshot, where the layer is not there yet.
    pub labels: Labels,
    /// What the layer may ask for; the store's limits by default. A layer that is there already is not unpacked again for them.
    pub limits: Option<Limits>,
    /// The [lease](Store::add_lease) that keeps the layer; none by default: it goes with the next collection where nothing stands on it.
    pub lease: Option<String>,
}

impl ImportLayerOptions {
    /// Onto this committed layer or stack.
    #[must_use]
    pub fn parent(mut self, name: impl Into<String>) -> Self {
        self.parent = Some(name.into());
        self
    }

    /// Expecting this diff id.
    #[must_use]
    pub fn diff_id(mut self, diff_id: DiffId) -> Self {
        self.diff_id = Some(diff_id);
        self
    }

    /// Called so by a manifest.
    #[must_use]
    pub fn media_type(mut self, media_type: MediaType) -> Self {
        self.media_type = Some(media_type);
        self
    }

    /// With these labels.
    #[must_use]
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// With these limits instead of the store's.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Kept by this lease.
    #[must_use]
    pub fn lease(mut self, name: impl Into<String>) -> Self {
        self.lease = Some(name.into());
        self
    }
}

/// What came of importing a layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportedLayer {
    /// Under which the stack up to this layer is committed.
    pub chain_id: ChainId,
    /// The digest of the uncompressed bytes.
    pub diff_id: DiffId,
    /// Whether it was there already: nothing was unpacked then.
    pub existed: bool,
    /// What was skipped or clamped.
    pub report: Report,
}

/// One layer to be unpacked onto a parent.
pub(super) struct Incoming<'a> {
    pub(super) blob: &'a Blob,
    pub(super) media_type: Option<&'a MediaType>,
    pub(super) diff_id: &'a DiffId,
    pub(super) parent: Option<&'a SnapshotRow>,
    /// The blob was read and hashed by this operation already.
    pub(super) is_proven: bool,
    pub(super) labels: &'a Labels,
    pub(super) limits: &'a Limits,
}

/// A committed layer, and whether it is new.
pub(super) struct Landed {
    pub(super) snapshot: SnapshotRow,
    pub(super) chain_id: ChainId,
    pub(super) existed: bool,
}

impl Store {
    /// Imports one layer onto a committed parent, or onto nothing, and commits it under its chain id. What is there already is success.
    /// A parent that was committed here, and not imported, is diffed first, as are those below it: its tree stands under the chain id
    /// of that layer too then.
    /// The compressed bytes are not kept. Durable when it returns; on an error nothing is left.
    ///
    /// # Errors
    /// `InvalidLayer`, `LimitExceeded` for what breaks the layer contract; `DigestMismatch` for another diff id than expected;
    /// `NotFound`, `InvalidArgument` for a parent or a lease that is not there, or a parent that is not committed; `IdNotMapped`, `Unsupported`, `Cancelled`,
    /// `NoSpace`, `Io`.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::store::{ImportLayerOptions, LayerSource};
    ///
    /// let empty_tar = [0u8; 1024];
    /// let layer = store.import_layer(
    ///     LayerSource::reader(empty_tar.as_slice()),
    ///     &ImportLayerOptions::default(),
    ///     &plywood::Context::default(),
    /// )?;
    /// assert_eq!(store.stat(&layer.chain_id.to_string())?.diff_id, Some(layer.diff_id));
    /// # Ok::<_, plywood::Error>(())
    /// ```
    pub fn import_layer(&self, source: LayerSource<'_>, options: &ImportLayerOptions, cx: &Context<'_>) -> Result<ImportedLayer> {
        let lease = self.lease()?;
        let mut made = Made::default();
        let imported = self.import_layer_under(lease.id(), source, options, &mut made, cx);
        let released = lease.release();
        if imported.is_err()
            && let Err(error) = self.with_reserve(|| self.take_back(&made))
        {
            tracing::warn!(%error, "what an import left could not be deleted; the collection will");
        }
        let imported = imported?;
        released?;
        Ok(imported)
    }

    fn import_layer_under(
        &self,
        lease: LeaseId,
        source: LayerSource<'_>,
        options: &ImportLayerOptions,
        made: &mut Made,
        cx: &Context<'_>,
    ) -> Result<ImportedLayer> {
        let limits = options.limits.as_ref().unwrap_or_else(|| self.limits());
        if let Some(name) = &options.lease {
            // Before the long work; it may still end meanwhile.
            live_lease(&self.metadata().read()?, OP, name)?;
        }
        let (parent, unsaid) = match &options.parent {
            Some(name) => self.stand_on(name, lease, &mut made.chains, cx).map(|(row, unsaid)| (Some(row), unsaid))?,
            None => (None, Report::default()),
        };
        let blob = match source.0 {
            Form::Blob(blob) => blob,
            Form::Reader(mut reader) => self.content().spool(&mut reader, cx)?,
        };
        let diff_id = match &options.diff_id {
            Some(diff_id) => diff_id.clone(),
            None => diff_id_of(&blob, Algorithm::default(), limits, cx).map_err(|error| locate(error, &blob, limits))?,
        };
        let incoming = Incoming {
            blob: &blob,
            media_type: options.media_type.as_ref(),
            diff_id: &diff_id,
            parent: parent.as_ref(),
            is_proven: options.diff_id.is_none(),
            labels: &options.labels,
            limits,
        };
        let Landed { chain_id, existed, snapshot } = self.land(lease, &incoming, cx)?;
        if !existed {
            made.chains.push(chain_id.clone());
        }
        if let Some(name) = &options.lease {
            self.hand_over(OP, name, &snapshot)?;
        }
        let mut report = unsaid;
        report.merge(cx.take_report());
        Ok(ImportedLayer { chain_id, diff_id, existed, report })
    }

    /// Unpacks a layer, or finds it, and commits it; the lease keeps it from now on. Whichever it is, the blob was found to be it.
    pub(super) fn land(&self, lease: LeaseId, layer: &Incoming<'_>, cx: &Context<'_>) -> Result<Landed> {
        let chain_id = ChainId::of(layer.parent.and_then(|parent| parent.chain_id.as_ref()), layer.diff_id);
        if let Some(snapshot) = self.landed(lease, &chain_id)? {
            self.prove(layer, cx)?;
            return Ok(Landed { snapshot, chain_id, existed: true });
        }
        let _unpacking = self.locks().wait_unless(Subject::Layer(layer.diff_id), &mut || cx.check(OP))?;
        cx.check(OP)?;
        if let Some(snapshot) = self.landed(lease, &chain_id)? {
            self.prove(layer, cx)?;
            return Ok(Landed { snapshot, chain_id, existed: true });
        }
        let chain = match layer.parent {
            Some(parent) => self.metadata().read()?.chain(parent.id)?,
            None => Vec::new(),
        };
        if let Some(tree) = self.shareable(layer, &chain)? {
            self.prove(layer, cx)?;
            match self.name_shared(lease, layer, &tree) {
                Ok(snapshot) => return Ok(Landed { snapshot, chain_id, existed: false }),
                // The tree was collected since it was found.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let snapshot = self.unpack(lease, layer, &chain, cx)?;
        Ok(Landed { snapshot, chain_id, existed: false })
    }

    /// Checks that the blob is the layer of its diff id, where it need not be unpacked for that: an image may claim any diff id that
    /// is there already.
    fn prove(&self, layer: &Incoming<'_>, cx: &Context<'_>) -> Result<()> {
        let known = self.metadata().read()?.blob(layer.blob.digest())?;
        if layer.is_proven || known.as_ref().is_some_and(|row| row.diff_id.as_ref() == Some(layer.diff_id)) {
            return Ok(());
        }
        let found = diff_id_of(layer.blob, layer.diff_id.0.algorithm(), layer.limits, cx);
        let found = found.map_err(|error| locate(error, layer.blob, layer.limits))?;
        if found != *layer.diff_id {
            return Err(wrong_diff_id(layer.diff_id, &found));
        }
        if known.is_some() {
            let transaction = self.metadata().write()?;
            transaction.set_blob_diff_id(layer.blob.digest(), layer.diff_id)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// The layer, where it is committed already.
    fn landed(&self, lease: LeaseId, chain_id: &ChainId) -> Result<Option<SnapshotRow>> {
        if self.metadata().read()?.layer(chain_id)?.is_none() {
            return Ok(None);
        }
        let transaction = self.metadata().write()?;
        let Some(snapshot) = transaction.layer(chain_id)? else { return Ok(None) };
        if transaction.damaged_trees()?.contains(&snapshot.tree) {
            // It is made anew.
            return Ok(None);
        }
        transaction.lease_snapshot(lease, snapshot.id)?;
        transaction.commit()?;
        Ok(Some(snapshot))
    }

    /// A tree of this layer that rests on nothing but what this chain says too.
    fn shareable(&self, layer: &Incoming<'_>, chain: &[TreeId]) -> Result<Option<TreeRow>> {
        let backend = self.backend();
        if !backend.shares_trees() {
            return Ok(None);
        }
        for tree in self.metadata().read()?.shareable_trees(layer.diff_id, self.ids())? {
            let questions: Vec<Question> = tree.facts.iter().map(|fact| fact.question.clone()).collect();
            let answers = backend.answer(chain, &questions)?;
            if answers.len() == tree.facts.len() && answers.iter().zip(&tree.facts).all(|(answer, fact)| *answer == fact.answer) {
                return Ok(Some(tree));
            }
        }
        Ok(None)
    }

    fn name_shared(&self, lease: LeaseId, layer: &Incoming<'_>, tree: &TreeRow) -> Result<SnapshotRow> {
        let implied_root = self.implied_root(layer, tree.root.as_ref())?;
        let transaction = self.metadata().write()?;
        let snapshot = name_layer(
            &transaction,
            &NewLayer {
                parent: layer.parent,
                diff_id: layer.diff_id,
                tree: tree.id,
                root: implied_root.as_ref(),
                labels: layer.labels,
            },
        )?;
        check_chain(self.backend(), transaction.chain(snapshot.id)?.len())?;
        transaction.lease_snapshot(lease, snapshot.id)?;
        transaction.commit()?;
        Ok(snapshot)
    }

    /// The root directory of a stack that says nothing of it, as the backend has made it.
    fn implied_root(&self, layer: &Incoming<'_>, said: Option<&Attributes>) -> Result<Option<Attributes>> {
        match (layer.parent, said) {
            (None, None) => self.own_root(OP, Attributes::implied()).map(Some),
            _ => Ok(None),
        }
    }

    fn unpack(&self, lease: LeaseId, layer: &Incoming<'_>, chain: &[TreeId], cx: &Context<'_>) -> Result<SnapshotRow> {
        let backend = self.backend();
        let transaction = self.metadata().write()?;
        let tree = transaction.allocate_tree(lease, backend.name())?;
        transaction.commit()?;

        let named = self.fill(tree, layer, chain, cx).and_then(|applied| {
            if applied.empty {
                backend.remove(tree)?;
            }
            let implied_root = self.implied_root(layer, applied.root.as_ref())?;
            let transaction = self.metadata().write()?;
            transaction.finish_tree(tree, lease, &Unpacked { diff_id: layer.diff_id, ids: self.ids(), applied: &applied })?;
            let new =
                NewLayer { parent: layer.parent, diff_id: layer.diff_id, tree, root: implied_root.as_ref(), labels: layer.labels };
            let snapshot = name_layer(&transaction, &new)?;
            check_chain(backend, transaction.chain(snapshot.id)?.len())?;
            transaction.set_blob_diff_id(layer.blob.digest(), layer.diff_id)?;
            transaction.lease_snapshot(lease, snapshot.id)?;
            transaction.commit()?;
            Ok(snapshot)
        });
        if named.is_err() {
            // The row goes with the lease; its bytes need not wait for that.
            if let Err(error) = backend.remove(tree) {
                tracing::warn!(%error, %tree, "a tree could not be deleted; the collection will");
            }
        }
        named
    }

    /// Unpacks the layer into a tree, to the end of its stream, and compares the diff id.
    fn fill(&self, tree: TreeId, layer: &Incoming<'_>, chain: &[TreeId], cx: &Context<'_>) -> Result<Applied> {
        let algorithm = layer.diff_id.0.algorithm();
        let mut reader = LayerReader::open(layer.blob, layer.media_type, algorithm, layer.limits.clone(), cx)?;
        let applied = self.backend().apply(tree, chain, &mut reader, self.ids(), cx)?;
        let found = reader.diff_id();
        if found == *layer.diff_id { Ok(applied) } else { Err(wrong_diff_id(layer.diff_id, &found)) }
    }
}

/// Commits a layer under its chain id; where it is there on a tree that was found damaged, the new tree takes the place of that.
fn name_layer(transaction: &Transaction<'_>, new: &NewLayer<'_>) -> Result<SnapshotRow> {
    let chain_id = ChainId::of(new.parent.and_then(|parent| parent.chain_id.as_ref()), new.diff_id);
    match transaction.layer(&chain_id)? {
        Some(there) if transaction.damaged_trees()?.contains(&there.tree) => {
            // What is mounted of the old one stays; the rest goes with the next collection.
            transaction.replace_tree(there.tree, new.tree)?;
            Ok(transaction.layer(&chain_id)?.unwrap_or(there))
        }
        _ => transaction.insert_layer(new),
    }
}

/// Refuses a stack that could never be mounted.
fn check_chain(backend: &dyn Backend, length: usize) -> Result<()> {
    let longest = backend.longest_chain();
    if length <= longest {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LimitExceeded, OP)
        .because(format!(
            "the stack has {length} layers that are not empty, and the {} backend can mount {longest}",
            backend.name()
        ))
        .with_hint("squash some of its layers into one"))
}

/// Reads a layer for its diff id alone, within the limits that can be told without reading its archive.
pub(super) fn diff_id_of(blob: &Blob, algorithm: Algorithm, limits: &Limits, cx: &Context<'_>) -> Result<DiffId> {
    let most = limits.unpacked_bytes;
    let too_many =
        || Error::new(ErrorKind::LimitExceeded, OP).because(format!("the layer has more than {most} bytes uncompressed"));
    let decoder = decoder(blob, limits.expansion_ratio)?;
    if decoder.compression() == Compression::None && blob.digest().algorithm() == algorithm {
        return if blob.size() > most { Err(too_many()) } else { Ok(DiffId(blob.digest().clone())) };
    }
    let mut tee = Tee::new(decoder, algorithm);
    let mut buffer = vec![0; 256 << 10];
    loop {
        cx.check(OP)?;
        match tee.read(&mut buffer) {
            Ok(0) => return Ok(DiffId(tee.finish())),
            Ok(_) if tee.count() > most => return Err(too_many()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(OP, error)),
        }
    }
}

/// What a decoder found wrong, told with the member in which that shows: bytes that were only hashed are read as an archive for it.
fn locate(error: Error, blob: &Blob, limits: &Limits) -> Error {
    if error.kind() != ErrorKind::InvalidLayer {
        return error;
    }
    let cx = Context::default();
    let read = LayerReader::open(blob, None, Algorithm::default(), limits.clone(), &cx).and_then(|mut reader| {
        while reader.next()?.is_some() {}
        Ok(())
    });
    read.err().filter(|found| found.kind() == ErrorKind::InvalidLayer).unwrap_or(error)
}

fn wrong_diff_id(expected: &DiffId, found: &DiffId) -> Error {
    Error::new(ErrorKind::DigestMismatch, OP)
        .at(expected.to_string())
        .because(format!("the uncompressed layer has the diff id {found}"))
}
