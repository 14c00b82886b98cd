//! `diff`: a snapshot's changes as a layer, with both digests from one pass.
//!
//! What the changes are is the backend's; how an archive says them is `tar`'s. Here the streams are put together: changes, archive,
//! diff id, compression, digest. Where the store may use several threads, the trees are read in one and the archive is hashed,
//! compressed and written in another.

use std::io::{self, BufWriter, Write};

use tracing::field::{Empty, display};

use super::{Store, no_snapshot, pipe};
use crate::backend::Roots;
use crate::compression::{Compression, Encoder};
use crate::descriptor::{Descriptor, MediaType};
use crate::digest::{Algorithm, DiffId, Digest, Hasher};
use crate::entry::{Attributes, Change, Entry, EntrySink, Node, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{SnapshotRow, TreeState};
use crate::parallel::Parallelism;
use crate::path::EntryPath;
use crate::progress::{Context, Report};
use crate::snapshot::Kind;
use crate::span::verb;
use crate::tar;

const WRITE: &str = "write layer";

/// How much is handed to the caller's writer, or to the digest, at a time.
const BUFFER: usize = 128 * 1024;

/// How [`Store::diff`] writes a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffOptions {
    /// What the layer is compressed with; nothing by default.
    pub compression: Compression,
    /// gzip's 0 to 9 or zstd's 1 to 22; the compression's own default by default.
    pub level: Option<u32>,
    /// Later times become this one, in seconds since 1970 (what `SOURCE_DATE_EPOCH` says). None by default.
    pub clamp_mtime: Option<i64>,
    /// The algorithm of both digests; sha256 by default.
    pub algorithm: Algorithm,
}

impl DiffOptions {
    /// With this compression.
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

    /// No time later than this.
    #[must_use]
    pub fn clamp_mtime(mut self, seconds: i64) -> Self {
        self.clamp_mtime = Some(seconds);
        self
    }
}

/// The layer that [`Store::diff`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffOutcome {
    /// Media type, digest and size of what was written.
    pub descriptor: Descriptor,
    /// Digest of the same before compression.
    pub diff_id: DiffId,
    /// What no layer can say and was left out.
    pub report: Report,
}

impl Store {
    /// Writes what a snapshot of any kind changes in its parent as a layer to `writer`. A pure function of the two trees: the same
    /// bytes on every backend and machine. The first diff of a Committed snapshot gives it its diff id.
    ///
    /// # While a container writes
    /// The layer is a valid one, and nothing outside the tree is read, whatever the container does. What may be torn:
    /// - Each file is read from one inode, with the size that it has when it is opened. What it loses meanwhile is zeros, what it gains
    ///   is left out, and both are [reported](crate::progress::Reason::ChangedWhileRead). A file that is put in another's place by `rename` is read
    ///   whole, as the one or the other. One that is overwritten in place may be part old and part new, which nobody is told.
    /// - Different files are of different instants. A name that goes away while it is read is left out; what moves may be there under
    ///   both names or none.
    /// - What is mounted in the root is no part of it.
    ///
    /// Who wants one instant stops the writers before: `echo 1 >cgroup.freeze` in their cgroup (v2), and 0 afterwards, or
    /// [`commit`](Self::commit) when they are done.
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// use plywood::{compression::Compression, store::DiffOptions};
    ///
    /// let mut layer = Vec::new();
    /// let outcome = store.diff("web-1", &mut layer, &DiffOptions::default().compression(Compression::Gzip), &Default::default())?;
    /// assert_eq!(outcome.descriptor.size, layer.len() as u64);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a level that the compression does not have; `Unsupported` for a name that no layer can say,
    /// before anything is written; `Corrupt` where a [check](Self::check) found it or what is below it damaged; `Cancelled`, `Io`; those
    /// of `writer`.
    pub fn diff(&self, name: &str, writer: impl Write, options: &DiffOptions, cx: &Context<'_>) -> Result<DiffOutcome> {
        let verb = verb!("diff", key = name, digest = Empty, diff_id = Empty, size = Empty, bytes = Empty, entries = Empty);
        verb.count(cx, |span, cx| {
            self.refuse_damaged("diff", name)?;
            let outcome = self.diff_as_it_is(name, writer, options, cx)?;
            span.record("digest", display(&outcome.descriptor.digest));
            span.record("diff_id", display(&outcome.diff_id));
            span.record("size", outcome.descriptor.size);
            Ok(outcome)
        })
    }

    /// Refuses a snapshot that is known to be damaged, or to stand on what is.
    pub(super) fn refuse_damaged(&self, op: &'static str, name: &str) -> Result<()> {
        let reader = self.metadata().read()?;
        let Some(row) = reader.snapshot(name)? else { return Ok(()) };
        let chain = row.parent.map_or(Ok(Vec::new()), |parent| reader.chain(parent))?;
        reader.refuse_damaged(op, name, &[&[row.tree], chain.as_slice()].concat())
    }

    /// The same, whatever a check found.
    pub(super) fn diff_as_it_is(
        &self,
        name: &str,
        writer: impl Write,
        options: &DiffOptions,
        cx: &Context<'_>,
    ) -> Result<DiffOutcome> {
        // Any level is checked before the snapshot is looked at.
        let is_compressed = options.compression != Compression::None;
        let compressed = Hashing::new(BufWriter::with_capacity(BUFFER, writer), is_compressed.then_some(options.algorithm));
        let (walks_ahead, parallelism) = threads(options.compression, self.parallelism());
        let encoder = Encoder::new(compressed, options.compression, options.level)?.parallel(parallelism);
        let mut plain = Hashing::new(encoder, Some(options.algorithm));
        let write = |out: &mut dyn Write| self.write_archive(name, options.clamp_mtime, out, cx);
        let row = match walks_ahead {
            true => pipe::overlap(write, |bytes| plain.write_all(bytes), WRITE)?,
            false => write(&mut plain)?,
        };
        let (encoder, diff_id, _) = plain.finish();
        let (mut writer, digest, size) = encoder.finish()?.finish();
        writer.flush().map_err(|error| Error::io(WRITE, error))?;

        // One digest for the same bytes.
        let (Some(diff_id), Some(digest)) = (diff_id.clone(), digest.or(diff_id)) else {
            return Err(Error::new(ErrorKind::Io, WRITE));
        };
        let diff_id = DiffId(diff_id);
        let is_canonical = options.clamp_mtime.is_none() && options.algorithm == Algorithm::default();
        let is_news = row.kind == Kind::Committed && row.diff_id.is_none() && is_canonical;
        if is_news && self.read_only_reason().is_none() {
            let remembered = (|| {
                let transaction = self.metadata().write()?;
                transaction.set_diff_id(row.id, &diff_id)?;
                transaction.commit()
            })();
            match remembered {
                // The layer is written, elsewhere perhaps because the store is full. The next diff finds its diff id again.
                Err(error) if error.kind() == ErrorKind::NoSpace => tracing::debug!(%error, "the diff id is not remembered"),
                done => done?,
            }
        }
        let descriptor = Descriptor::new(media_type(options.compression), digest, size);
        Ok(DiffOutcome { descriptor, diff_id, report: cx.take_report() })
    }

    /// Writes a snapshot's changes as an archive.
    fn write_archive(&self, name: &str, clamp_mtime: Option<i64>, out: &mut dyn Write, cx: &Context<'_>) -> Result<SnapshotRow> {
        // Headers are written one by one; the digest takes them together.
        let mut archive = tar::Writer::new(BufWriter::with_capacity(BUFFER, out));
        if let Some(seconds) = clamp_mtime {
            archive = archive.clamp_mtime(seconds);
        }
        let row = self.stream_changes("diff", name, &mut archive, cx)?;
        archive.finish()?.flush().map_err(|error| Error::io(WRITE, error))?;
        Ok(row)
    }

    /// Has the trees made that are compared: first the parent's, from which the other one is made.
    fn make_both(&self, op: &'static str, name: &str, cx: &Context<'_>) -> Result<()> {
        let Some(row) = self.metadata().read()?.snapshot(name)? else { return Ok(()) };
        if row.kind != Kind::View && row.tree_state != TreeState::Empty {
            self.ensure_made(op, row.parent, cx)?;
            self.ensure_made(op, Some(row.id).filter(|_| row.kind == Kind::Committed), cx)?;
        }
        Ok(())
    }

    /// Has the backend stream a snapshot's changes to `out`.
    pub(super) fn stream_changes(
        &self,
        op: &'static str,
        name: &str,
        out: &mut dyn EntrySink,
        cx: &Context<'_>,
    ) -> Result<SnapshotRow> {
        cx.check(op)?;
        self.make_both(op, name, cx)?;
        let (row, chain, lower) = {
            let reader = self.metadata().read()?;
            let row = reader.snapshot(name)?.ok_or_else(|| no_snapshot(op, name))?;
            let chain = row.parent.map_or(Ok(Vec::new()), |parent| reader.chain(parent))?;
            let parent = row.parent.map_or(Ok(None), |parent| reader.snapshot_by_id(parent))?;
            (row, chain, parent.map(|parent| parent.root))
        };
        let upper = (row.kind == Kind::Committed).then_some(&row.root);
        let streamed = if row.kind == Kind::View {
            // Nothing can have been written, and its tree may be less than a tree.
            Ok(())
        } else if row.tree_state == TreeState::Empty {
            // There is no tree to ask, and nothing but the root can differ.
            root_alone(lower.as_ref(), &row.root, out)
        } else {
            let roots = Roots { lower: lower.as_ref(), upper, cut: row.cut };
            self.backend().diff(row.tree, &chain, roots, out, cx)
        };
        // Rows die before their bytes: while the row is there, so was all that was read. Without it, files that were being deleted
        // may have been taken for files that the snapshot deletes.
        if self.metadata().read()?.snapshot_by_id(row.id)?.is_none() {
            let gone = no_snapshot(op, name).because("it was removed meanwhile");
            return Err(match streamed {
                Ok(()) => gone,
                Err(error) => gone.with_source(error),
            });
        }
        streamed.map(|()| row)
    }
}

/// Whether the trees are read in a thread of their own, and what is left for compressing. gzip keeps two threads busy by itself, and
/// reads between its blocks; zstd compresses beside the caller's thread anyway.
fn threads(compression: Compression, parallelism: Parallelism) -> (bool, Parallelism) {
    let all = parallelism.get();
    let walks_ahead = match compression {
        Compression::None => all > 1,
        Compression::Gzip => all > 2,
        Compression::Zstd => false,
    };
    (walks_ahead, Parallelism::new(all.saturating_sub(usize::from(walks_ahead))))
}

fn root_alone(lower: Option<&Attributes>, upper: &Attributes, out: &mut dyn EntrySink) -> Result<()> {
    let implied = Attributes::implied();
    if lower.unwrap_or(&implied) == upper {
        return Ok(());
    }
    let change = Change::Upsert { node: Node::Directory, attributes: upper.clone() };
    out.entry(&Entry { path: EntryPath::ROOT, change }, Status::Modified)
}

fn media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => MediaType::LAYER,
        Compression::Gzip => MediaType::LAYER_GZIP,
        Compression::Zstd => MediaType::LAYER_ZSTD,
    }
}

/// Counts what passes to a writer, and hashes it where that is asked for.
struct Hashing<W> {
    inner: W,
    hasher: Option<Hasher>,
    count: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W, algorithm: Option<Algorithm>) -> Self {
        Self { inner, hasher: algorithm.map(Hasher::new), count: 0 }
    }

    fn finish(self) -> (W, Option<Digest>, u64) {
        (self.inner, self.hasher.map(Hasher::finish), self.count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes.get(..count).unwrap_or_default());
        }
        self.count = self.count.saturating_add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
