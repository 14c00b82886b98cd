//! A layer comes in: [`Store::import_layer`] unpacks and names it.
//!
//! Invariant: a name is given only after the whole uncompressed stream was read and its digest is the diff id. A layer is unpacked by
//! one at a time; where a tree of it rests on answers that this parent gives too, it is shared instead of unpacked again. Whatever
//! fails leaves neither a name nor a tree.

use std::fmt;
use std::io::Read;

use tracing::field::{Empty, display};

use crate::backend::Backend;
use crate::compression::Compression;
use crate::content::{Blob, Expected};
use crate::descriptor::MediaType;
use crate::digest::{Algorithm, ChainId, DiffId, Digest};
use crate::entry::Attributes;
use crate::entry::EntryStream as _;
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Subject;
use crate::metadata::{LeaseId, NewLayer, SnapshotRow, Survives, Transaction, TreeRow, Unpacked};
use crate::parallel::{Crew, Parallelism};
use crate::progress::{Context, Report};
use crate::snapshot::Labels;
use crate::span::verb;
use crate::store::Store;
use crate::store::ahead::Uncompressed;
use crate::store::fill::Filled;
use crate::store::import::Made;
use crate::store::layer_reader::LayerReader;
use crate::store::leases::live_lease;
use crate::store::passing_layer::Undeclared;
use crate::store::supply::Supply;
use crate::tar::Limits;
use crate::tree::{Fact, Question, TreeId};

const OP: &str = "import layer";

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
    /// What the uncompressed bytes must hash to. Without one, it is the layer that they turn out to be.
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

/// A layer's bytes, and how they are read.
pub(super) struct LayerBytes<'a> {
    pub(super) supply: &'a Supply,
    pub(super) crew: &'a Crew,
    pub(super) media_type: Option<&'a MediaType>,
    pub(super) limits: &'a Limits,
}

/// One layer to be unpacked onto a parent.
pub(super) struct Incoming<'a> {
    pub(super) bytes: &'a LayerBytes<'a>,
    pub(super) diff_id: &'a DiffId,
    pub(super) parent: Option<&'a SnapshotRow>,
    /// The blob was read and hashed by this operation already.
    pub(super) is_proven: bool,
    pub(super) labels: &'a Labels,
}

/// A committed layer, and whether it is new.
pub(super) struct Landed {
    pub(super) snapshot: SnapshotRow,
    pub(super) chain_id: ChainId,
    pub(super) existed: bool,
    /// Whether it was unpacked for this, and not shared.
    pub(super) unpacked: bool,
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
        let parent = options.parent.as_deref();
        let verb =
            verb!("import layer", parent, chain_id = Empty, diff_id = Empty, existed = Empty, bytes = Empty, entries = Empty);
        verb.count(cx, |span, cx| {
            let imported = self.import_layer_now(source, options, cx)?;
            span.record("chain_id", display(&imported.chain_id));
            span.record("diff_id", display(&imported.diff_id));
            span.record("existed", imported.existed);
            Ok(imported)
        })
    }

    fn import_layer_now(&self, source: LayerSource<'_>, options: &ImportLayerOptions, cx: &Context<'_>) -> Result<ImportedLayer> {
        self.refuse_read_only(OP)?;
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
        let crew = Crew::new(self.parallelism());
        let land = |supply: &Supply| {
            let bytes = LayerBytes { supply, crew: &crew, media_type: options.media_type.as_ref(), limits };
            let (parent, labels) = (parent.as_ref(), &options.labels);
            match &options.diff_id {
                Some(diff_id) => {
                    let declared = Incoming { bytes: &bytes, diff_id, parent, is_proven: false, labels };
                    self.land(lease, &declared, cx).map(|landed| (diff_id.clone(), landed))
                }
                None => self.land_undeclared(lease, &Undeclared { bytes: &bytes, parent, labels }, cx),
            }
        };
        let any = Expected::unknown(Algorithm::default());
        let (diff_id, Landed { chain_id, existed, snapshot, .. }) = self.with_supply(source, &any, &crew, cx, land)?;
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

    /// Does with the bytes of a source what `land` does, if need be while they come in.
    pub(super) fn with_supply<T: Send>(
        &self,
        source: LayerSource<'_>,
        expected: &Expected,
        crew: &Crew,
        cx: &Context<'_>,
        land: impl Fn(&Supply) -> Result<T> + Sync,
    ) -> Result<T> {
        match source.0 {
            Form::Blob(blob) => {
                expected.refuse_other(blob.digest(), blob.size())?;
                land(&Supply::stored(blob))
            }
            Form::Reader(mut reader) => self.land_while_reading(expected, &mut reader, crew, cx, land),
        }
    }

    /// Unpacks a layer, or finds it, and commits it; the lease keeps it from now on. Whichever it is, the blob was found to be it.
    pub(super) fn land(&self, lease: LeaseId, layer: &Incoming<'_>, cx: &Context<'_>) -> Result<Landed> {
        self.land_filled(lease, layer, None, cx)
    }

    /// The same, where it may have been unpacked over its parent already.
    pub(super) fn land_filled(
        &self,
        lease: LeaseId,
        layer: &Incoming<'_>,
        filled: Option<Filled>,
        cx: &Context<'_>,
    ) -> Result<Landed> {
        let chain_id = ChainId::of(layer.parent.and_then(|parent| parent.chain_id.as_ref()), layer.diff_id);
        if let Some(landed) = self.there(lease, layer, &chain_id, cx)? {
            return Ok(landed);
        }
        let _unpacking = self.locks().wait_unless(Subject::Layer(layer.diff_id), &mut || cx.check(OP))?;
        cx.check(OP)?;
        if let Some(landed) = self.there(lease, layer, &chain_id, cx)? {
            return Ok(landed);
        }
        let chain = self.chain_on(layer.parent, cx)?;
        if let Some(tree) = self.shareable(layer.diff_id, &chain)? {
            self.prove(layer, cx)?;
            match self.name_shared(lease, layer, &tree) {
                Ok(snapshot) => return Ok(Landed { snapshot, chain_id, existed: false, unpacked: false }),
                // The tree was collected since it was found.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let filled = match filled {
            Some(filled) => filled,
            None => Filled::over(self, lease, layer.bytes, layer.diff_id.0.algorithm(), &chain, cx)?,
        };
        let snapshot = self.name_filled(lease, layer, filled, cx)?;
        Ok(Landed { snapshot, chain_id, existed: false, unpacked: true })
    }

    /// The layer, where it is committed already; the blob was found to be it.
    pub(super) fn there(
        &self,
        lease: LeaseId,
        layer: &Incoming<'_>,
        chain_id: &ChainId,
        cx: &Context<'_>,
    ) -> Result<Option<Landed>> {
        let Some(snapshot) = self.landed(lease, chain_id)? else { return Ok(None) };
        self.prove(layer, cx)?;
        Ok(Some(Landed { snapshot, chain_id: chain_id.clone(), existed: true, unpacked: false }))
    }

    /// The trees that a layer on this parent stands on.
    pub(super) fn chain_on(&self, parent: Option<&SnapshotRow>, cx: &Context<'_>) -> Result<Vec<TreeId>> {
        self.ensure_made(OP, parent.map(|parent| parent.id), cx)?;
        match parent {
            Some(parent) => self.metadata().read()?.chain(parent.id),
            None => Ok(Vec::new()),
        }
    }

    /// Checks that the blob is the layer of its diff id, where it need not be unpacked for that: an image may claim any diff id that
    /// is there already.
    fn prove(&self, layer: &Incoming<'_>, cx: &Context<'_>) -> Result<()> {
        if layer.is_proven {
            return Ok(());
        }
        self.prove_supply(layer.bytes, layer.diff_id, cx)?;
        self.note_proof(layer.bytes.supply.blob(cx)?.digest(), layer.diff_id)
    }

    /// The same; of bytes that come in, all of them are read.
    pub(super) fn prove_supply(&self, bytes: &LayerBytes<'_>, diff_id: &DiffId, cx: &Context<'_>) -> Result<()> {
        if let Some(digest) = bytes.supply.digest()
            && self.metadata().read()?.blob(digest)?.is_some_and(|row| row.diff_id.as_ref() == Some(diff_id))
        {
            return Ok(());
        }
        let found = self.find_diff_id(bytes, diff_id.0.algorithm(), cx)?;
        if found == *diff_id { Ok(()) } else { Err(wrong_diff_id(diff_id, &found)) }
    }

    /// Reads a layer for its diff id alone.
    pub(super) fn find_diff_id(&self, bytes: &LayerBytes<'_>, algorithm: Algorithm, cx: &Context<'_>) -> Result<DiffId> {
        diff_id_of(bytes.supply, algorithm, bytes.limits, bytes.crew, cx).or_else(|error| {
            // Where in the archive it shows is told of the bytes that are the blob's.
            bytes.supply.blob(cx)?;
            Err(locate(error, bytes.supply, bytes.limits))
        })
    }

    /// Takes down that a blob was found to be the layer of this diff id, where it has a row.
    pub(super) fn note_proof(&self, blob: &Digest, diff_id: &DiffId) -> Result<()> {
        let known = self.metadata().read()?.blob(blob)?;
        if known.is_some_and(|row| row.diff_id.as_ref() != Some(diff_id)) {
            let transaction = self.metadata().write_to_survive(Survives::Process)?;
            transaction.set_blob_diff_id(blob, diff_id)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// The layer, where it is committed already.
    pub(super) fn landed(&self, lease: LeaseId, chain_id: &ChainId) -> Result<Option<SnapshotRow>> {
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
    pub(super) fn shareable(&self, diff_id: &DiffId, chain: &[TreeId]) -> Result<Option<TreeRow>> {
        if !self.backend().shares_trees() {
            return Ok(None);
        }
        for tree in self.metadata().read()?.shareable_trees(diff_id, self.ids())? {
            if self.holds_over(&tree.facts, chain)? {
                return Ok(Some(tree));
            }
        }
        Ok(None)
    }

    /// Whether a chain gives the answers that a tree rests on.
    pub(super) fn holds_over(&self, facts: &[Fact], chain: &[TreeId]) -> Result<bool> {
        let questions: Vec<Question> = facts.iter().map(|fact| fact.question.clone()).collect();
        let answers = self.backend().answer(chain, &questions)?;
        Ok(answers.len() == facts.len() && answers.iter().zip(facts).all(|(answer, fact)| *answer == fact.answer))
    }

    fn name_shared(&self, lease: LeaseId, layer: &Incoming<'_>, tree: &TreeRow) -> Result<SnapshotRow> {
        let implied_root = self.implied_root(layer.parent.is_some(), tree.root.as_ref())?;
        let transaction = self.write_durably()?;
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
    pub(super) fn implied_root(&self, has_parent: bool, said: Option<&Attributes>) -> Result<Option<Attributes>> {
        match said {
            None if !has_parent => self.own_root(OP, Attributes::implied()).map(Some),
            _ => Ok(None),
        }
    }

    /// Gives a layer that is in its tree its name.
    fn name_filled(&self, lease: LeaseId, layer: &Incoming<'_>, mut filled: Filled, cx: &Context<'_>) -> Result<SnapshotRow> {
        let (backend, tree) = (self.backend(), filled.tree);
        if filled.diff_id != *layer.diff_id {
            return Err(wrong_diff_id(layer.diff_id, &filled.diff_id));
        }
        let applied = &mut filled.applied;
        if applied.empty {
            backend.remove(tree)?;
        } else if let Some(point) = filled.unsynced.take() {
            self.sync_if_asked(point, applied.is_written_back)?;
            // File systems that allocate late know only now.
            applied.usage = backend.usage(tree)?;
        }
        let implied_root = self.implied_root(layer.parent.is_some(), applied.root.as_ref())?;
        let transaction = self.write_durably()?;
        transaction.finish_tree(tree, lease, &Unpacked { diff_id: layer.diff_id, ids: self.ids(), applied })?;
        let new =
            NewLayer { parent: layer.parent, diff_id: layer.diff_id, tree, root: implied_root.as_ref(), labels: layer.labels };
        let snapshot = name_layer(&transaction, &new)?;
        check_chain(backend, transaction.chain(snapshot.id)?.len())?;
        transaction.set_blob_diff_id(layer.bytes.supply.blob(cx)?.digest(), layer.diff_id)?;
        transaction.lease_snapshot(lease, snapshot.id)?;
        transaction.commit()?;
        filled.is_named = true;
        Ok(snapshot)
    }
}

/// Commits a layer under its chain id; where it is there on a tree that was found damaged, the new tree takes the place of that.
pub(super) fn name_layer(transaction: &Transaction<'_>, new: &NewLayer<'_>) -> Result<SnapshotRow> {
    let chain_id = ChainId::of(new.parent.and_then(|parent| parent.chain_id.as_ref()), new.diff_id);
    match transaction.layer(&chain_id)? {
        Some(there) if transaction.damaged_trees()?.contains(&there.tree) => {
            // What is mounted of the old one stays; the rest goes with the next collection.
            transaction.replace_tree(there.tree, new.tree)?;
            Ok(transaction.layer(&chain_id)?.unwrap_or(there))
        }
        // It was above a damaged one.
        Some(there) => Ok(there),
        None => transaction.insert_layer(new),
    }
}

/// Refuses a stack that could never be mounted.
pub(super) fn check_chain(backend: &dyn Backend, length: usize) -> Result<()> {
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
pub(super) fn diff_id_of(supply: &Supply, algorithm: Algorithm, limits: &Limits, crew: &Crew, cx: &Context<'_>) -> Result<DiffId> {
    let most = limits.unpacked_bytes;
    let too_many =
        || Error::new(ErrorKind::LimitExceeded, OP).because(format!("the layer has more than {most} bytes uncompressed"));
    let mut bytes = Uncompressed::new(supply, algorithm, limits.expansion_ratio, crew, cx.chores())?;
    if bytes.compression() == Some(Compression::None)
        && let (Some(digest), Some(size)) = (supply.digest(), supply.size())
        && digest.algorithm() == algorithm
    {
        // Whether they are of that digest is for the supply to say.
        return if size > most { Err(too_many()) } else { Ok(DiffId(digest.clone())) };
    }
    let mut buffer = vec![0; 256 << 10];
    loop {
        cx.check(OP)?;
        match bytes.read(&mut buffer) {
            Ok(0) => return bytes.finish().map(DiffId),
            Ok(_) if bytes.count() > most => return Err(too_many()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(OP, error)),
        }
    }
}

/// What a decoder found wrong, told with the member in which that shows: bytes that were only hashed are read as an archive for it.
pub(super) fn locate(error: Error, supply: &Supply, limits: &Limits) -> Error {
    if error.kind() != ErrorKind::InvalidLayer {
        return error;
    }
    let (cx, crew) = (Context::default(), Crew::new(Parallelism::ONE));
    let read = LayerReader::open(supply, None, Algorithm::default(), limits.clone(), &crew, &cx).and_then(|mut reader| {
        while reader.next()?.is_some() {}
        Ok(())
    });
    read.err().filter(|found| found.kind() == ErrorKind::InvalidLayer).unwrap_or(error)
}

pub(super) fn wrong_diff_id(expected: &DiffId, found: &DiffId) -> Error {
    Error::new(ErrorKind::DigestMismatch, OP)
        .at(expected.to_string())
        .because(format!("the uncompressed layer has the diff id {found}"))
}
