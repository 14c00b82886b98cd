//! `apply`: a layer's changes into an Active snapshot, for whoever unpacks layer by layer: `prepare`, `apply`, [`commit`](Store::commit).
//!
//! The layer is unpacked beside the snapshot's tree, over what that stands on, and put in place when all of it was read and its blob was
//! found to be the expected one. A snapshot that was prepared on nothing remembers what its layer asked of that nothing, so that it gets
//! no parent on which the layer is another tree.

use tracing::field::{Empty, display};

use crate::content::Expected;
use crate::descriptor::{Descriptor, MediaType};
use crate::digest::{Algorithm, DiffId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Subject;
use crate::metadata::{LeaseId, SnapshotRow, Survives};
use crate::parallel::Crew;
use crate::progress::{Context, Report};
use crate::snapshot::Key;
use crate::span::verb;
use crate::store::commit::{active, of_key};
use crate::store::fill::Filled;
use crate::store::layer::{LayerBytes, LayerSource};
use crate::store::{Store, no_snapshot};
use crate::tar::Limits;
use crate::tree::TreeId;

const OP: &str = "apply";

/// How [`Store::apply`] applies a layer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ApplyOptions {
    /// The digest of the bytes of a reader; anything by default. A [`Blob`](crate::content::Blob) is what its digest says.
    pub digest: Option<Digest>,
    /// How many bytes the reader has; any number by default.
    pub size: Option<u64>,
    /// What the layer is called; a compression that it does not have is reported.
    pub media_type: Option<MediaType>,
    /// What the layer may ask for; the store's limits by default.
    pub limits: Option<Limits>,
    /// The snapshot was prepared on nothing, and gets its parent [with its commit](super::CommitOptions::parent): what the layer asks of
    /// that is guessed, and answered then. Until then the snapshot is not to be looked at. `false` by default.
    pub ahead: bool,
}

impl ApplyOptions {
    /// For bytes of this digest and size, called so.
    #[must_use]
    pub fn descriptor(mut self, descriptor: &Descriptor) -> Self {
        self.digest = Some(descriptor.digest.clone());
        self.size = Some(descriptor.size);
        self.media_type = Some(descriptor.media_type.clone());
        self
    }

    /// With these limits instead of the store's.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Before what it stands on is there.
    #[must_use]
    pub fn ahead(mut self) -> Self {
        self.ahead = true;
        self
    }

    fn expected(&self) -> Expected {
        let expected = self.digest.clone().map_or_else(|| Expected::unknown(Algorithm::default()), Expected::digest);
        match self.size {
            Some(size) => expected.size(size),
            None => expected,
        }
    }
}

/// What came of applying a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApplyOutcome {
    /// The digest of the uncompressed bytes.
    pub diff_id: DiffId,
    /// How many uncompressed bytes there were.
    pub size: u64,
    /// What was skipped or clamped.
    pub report: Report,
}

impl Store {
    /// Applies a layer to an Active snapshot: its tree is then what the layer makes of the parent, by the rules of
    /// [`import_layer`](Self::import_layer). The mounts that the snapshot has stay the same. It is as durable as what a container writes:
    /// when it is [committed](Self::commit).
    ///
    /// The snapshot is fresh, and not mounted. (On the copy backend it may have changes; the layer is applied to what it shows.) A commit
    /// [onto a parent](super::CommitOptions::parent) of one that was prepared on nothing is refused where the layer is another tree on that
    /// parent: where it has whiteouts, links or implied directories that meet something there. One to which it was applied
    /// [ahead](ApplyOptions::ahead) gets a parent that has what such mostly meet, and is refused on others. What was committed is not shared
    /// with layers that are imported: whoever had it mounted could have written to it.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// use plywood::snapshot::{Key, Name};
    /// use plywood::store::LayerSource;
    ///
    /// let key = Key::new("extract 1")?;
    /// store.prepare(&key, None, &Default::default())?;
    /// let empty_tar = [0u8; 1024];
    /// let applied = store.apply(&key, LayerSource::reader(empty_tar.as_slice()), &Default::default(), &Default::default())?;
    /// assert_eq!(applied.size, 1024);
    /// store.commit(&Name::new("layer 1")?, &key, &Default::default())?;
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound` without such a key; `InvalidArgument` for a snapshot that is not Active; `InUse` where it is mounted and the system
    /// tells; `Unsupported` where it has changes already (the overlay backend), the backend applies nothing, or the layer cannot be applied
    /// ahead, or not to this snapshot; `DigestMismatch` for other
    /// bytes than expected; `InvalidLayer`, `LimitExceeded` for what breaks the layer contract; `Corrupt` where a [check](Self::check) found
    /// what is below it damaged; `IdNotMapped`, `Cancelled`, `NoSpace`, `Io`. The snapshot is as before then, but for an error of the
    /// file system, or a cancellation, while the layer is put in place on the copy backend: prepare it anew.
    pub fn apply(&self, key: &Key, source: LayerSource<'_>, options: &ApplyOptions, cx: &Context<'_>) -> Result<ApplyOutcome> {
        let verb = verb!("apply", key = key.as_str(), diff_id = Empty, bytes = Empty, entries = Empty);
        verb.count(cx, |span, cx| {
            let applied = self.apply_now(key, source, options, cx)?;
            span.record("diff_id", display(&applied.diff_id));
            Ok(applied)
        })
    }

    fn apply_now(&self, key: &Key, source: LayerSource<'_>, options: &ApplyOptions, cx: &Context<'_>) -> Result<ApplyOutcome> {
        self.refuse_read_only(OP)?;
        let tree = active(OP, self.metadata().read()?.snapshot(key.as_str())?, key)?.tree;
        // It is neither committed meanwhile, nor does somebody else apply a layer to it.
        let _held = self.locks().wait_unless(Subject::Tree(tree), &mut || cx.check(OP))?;
        let row = active(OP, self.metadata().read()?.snapshot(key.as_str())?, key)?;
        if row.tree != tree {
            return Err(no_snapshot(OP, key.as_str()).because("it was removed meanwhile"));
        }
        let lease = self.lease()?;
        let applied = self.apply_under(lease.id(), &row, source, options, cx);
        let released = lease.release();
        let applied = applied?;
        released?;
        Ok(applied)
    }

    fn apply_under(
        &self,
        lease: LeaseId,
        row: &SnapshotRow,
        source: LayerSource<'_>,
        options: &ApplyOptions,
        cx: &Context<'_>,
    ) -> Result<ApplyOutcome> {
        let chain = {
            let reader = self.metadata().read()?;
            let chain = row.parent.map_or(Ok(Vec::new()), |parent| reader.chain(parent))?;
            reader.refuse_damaged(OP, &row.name, &chain)?;
            chain
        };
        let over = if self.backend().is_whole() { vec![row.tree] } else { chain };
        let limits = options.limits.as_ref().unwrap_or_else(|| self.limits());
        // Whoever commits the tree syncs all that was written to it.
        cx.write_back(false);
        let crew = Crew::new(self.parallelism());
        let (diff_id, size) = self.with_supply(source, &options.expected(), &crew, cx, |supply| {
            let bytes = LayerBytes { supply, crew: &crew, media_type: options.media_type.as_ref(), limits };
            let mut filled = match options.ahead {
                true => self.fill_ahead(lease, row, &bytes, cx)?,
                false => Filled::beside(self, lease, &bytes, Algorithm::default(), &over, cx)?,
            };
            // Only what was found to be that blob is put in place.
            supply.blob(cx)?;
            filled.applied.root = filled.applied.root.take().map(|root| self.own_root(OP, root)).transpose()?;
            self.put_in_place(row, &filled, &over, cx)?;
            Ok((filled.diff_id.clone(), filled.size))
        })?;
        Ok(ApplyOutcome { diff_id, size, report: cx.take_report() })
    }

    fn fill_ahead(&self, lease: LeaseId, row: &SnapshotRow, bytes: &LayerBytes<'_>, cx: &Context<'_>) -> Result<Filled> {
        let refuse = |reason: &str| Error::new(ErrorKind::Unsupported, OP).at(&row.name).because(reason);
        if row.parent.is_some() || !self.unpacks_in_place() {
            return Err(refuse("a layer is applied ahead to a snapshot on nothing, where trees are layers"));
        }
        let filled = Filled::ahead(self, lease, bytes, Algorithm::default(), cx)?;
        filled.ok_or_else(|| refuse("the layer cannot be applied before what it stands on is there"))
    }

    fn put_in_place(&self, row: &SnapshotRow, filled: &Filled, over: &[TreeId], cx: &Context<'_>) -> Result<()> {
        let backend = self.backend();
        let gone = || no_snapshot(OP, &row.name).because("it was removed meanwhile");
        let adopt = || {
            let done = backend.adopt(row.tree, filled.tree, over, &filled.applied, self.ids(), cx);
            done.map_err(|error| of_key(OP, &row.name, error))
        };
        if row.parent.is_some() || !backend.shares_trees() {
            adopt()?;
            return self.metadata().read()?.snapshot_by_id(row.id)?.map(drop).ok_or_else(gone);
        }
        // It may get a parent yet.
        let transaction = self.metadata().write_to_survive(Survives::Process)?;
        if transaction.snapshot_by_id(row.id)?.is_none() {
            return Err(gone());
        }
        transaction.note_applied(row.tree, &filled.applied)?;
        adopt()?;
        transaction.commit().inspect_err(|_| {
            // Without what it rests on it must not be there.
            if let Err(error) = backend.create(row.tree, &[], &row.root) {
                tracing::warn!(%error, tree = %row.tree, "a layer stays in a snapshot though applying it failed");
            }
        })
    }
}
