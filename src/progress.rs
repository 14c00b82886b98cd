//! What an operation tells its caller while it runs ([`Progress`]) and afterwards ([`Report`]), and how the caller stops it.
//!
//! Nothing is skipped or clamped in silence: each case is one [`Skipped`] in the report, or an error where the caller is strict.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::parallel::Chores;
use crate::path::EntryPath;

/// Watches an operation, and may end it. Called from any thread of the operation, often: keep it cheap.
pub trait Progress: Send + Sync {
    /// So many more bytes of input were read.
    fn bytes(&self, _count: u64) {}
    /// So many more entries were handled.
    fn entries(&self, _count: u64) {}
    /// Whether the operation should stop; it then fails with `Cancelled` and leaves nothing behind.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}

/// Why something of a layer or tree is not in the result, or not exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
#[non_exhaustive]
pub enum Reason {
    /// A PAX global header; it means nothing in a layer.
    GlobalHeader,
    /// aufs's own `.wh..wh.*` files.
    AufsMetadata,
    /// Bytes after the end of the archive that are not all zero.
    TrailingData,
    /// The media type says another compression than the bytes have.
    MediaType {
        /// What the descriptor said.
        declared: String,
        /// What the bytes are.
        found: String,
    },
    /// An xattr that no layer may set on a host: `trusted.*`, `security.selinux`, `security.ima`, `security.evm`,
    /// `security.apparmor`, or overlayfs's own where the kernel cannot unescape it.
    XattrForbidden {
        /// The attribute's name, escaped.
        name: String,
    },
    /// An xattr that the file system or user namespace refused.
    XattrRefused {
        /// The attribute's name, escaped.
        name: String,
        /// errno as text.
        error: String,
    },
    /// A time that the file system cannot hold; it was clamped.
    TimeClamped,
    /// A device that may not be made here.
    DeviceRefused,
    /// A socket: no layer can say it.
    Socket,
    /// An owner outside the id map became the map's root (`Ids::Squash`).
    IdSquashed {
        /// The layer's owner; where a tree that is [shifted](crate::store::StoreOptions::id_shift) is read, the owner on the disk.
        uid: u32,
        /// The group likewise.
        gid: u32,
    },
    /// The file changed its size while it was read; it was cut or filled with zeros.
    ChangedWhileRead,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GlobalHeader => f.write_str("a PAX global header was ignored"),
            Self::AufsMetadata => f.write_str("aufs metadata was skipped"),
            Self::TrailingData => f.write_str("data after the end of the archive was ignored"),
            Self::MediaType { declared, found } => write!(f, "the media type says {declared}, the bytes are {found}"),
            Self::XattrForbidden { name } => write!(f, "the extended attribute {name} is not for layers to set, and was left out"),
            Self::XattrRefused { name, error } => write!(f, "the extended attribute {name} was refused: {error}"),
            Self::TimeClamped => f.write_str("the file system cannot hold its time, which was clamped"),
            Self::DeviceRefused => f.write_str("the device was skipped: it may not be made here"),
            Self::Socket => f.write_str("the socket was skipped: layers cannot hold sockets"),
            Self::IdSquashed { uid, gid } => write!(f, "the owner {uid}:{gid} is not in the id map, and became its root"),
            Self::ChangedWhileRead => f.write_str("its size changed while it was read"),
        }
    }
}

/// One thing that is not in the result, or not exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Where, escaped; `.` for the layer as a whole.
    pub path: String,
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
}

impl Skipped {
    /// How many bytes of text it has that an input may choose.
    fn text(&self) -> usize {
        let reason = match &self.reason {
            Reason::MediaType { declared, found } => declared.len().saturating_add(found.len()),
            Reason::XattrForbidden { name } => name.len(),
            Reason::XattrRefused { name, error } => name.len().saturating_add(error.len()),
            _ => 0,
        };
        self.path.len().saturating_add(reason)
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// All that an operation skipped or clamped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The first cases, in the order in which they were met: at most [`Report::KEPT`], and at most [`Report::KEPT_BYTES`] of text.
    pub skipped: Vec<Skipped>,
    /// How many cases there were in all. A hostile layer can cause millions; only their number is kept.
    pub total: u64,
    /// Bytes of text in `skipped`.
    #[serde(skip)]
    bytes: usize,
}

impl Report {
    /// How many cases are kept in full.
    pub const KEPT: usize = 10_000;
    /// How many bytes their texts may have together: paths and names are a hostile layer's to choose.
    pub const KEPT_BYTES: usize = 8 << 20;

    /// Whether nothing was skipped or clamped.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Appends what another operation skipped.
    pub fn merge(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        other.skipped.into_iter().for_each(|skipped| self.keep(skipped));
    }

    fn push(&mut self, skipped: Skipped) {
        self.total = self.total.saturating_add(1);
        self.keep(skipped);
    }

    fn keep(&mut self, skipped: Skipped) {
        let bytes = self.bytes.saturating_add(skipped.text());
        if self.skipped.len() < Self::KEPT && bytes <= Self::KEPT_BYTES {
            self.bytes = bytes;
            self.skipped.push(skipped);
        }
    }

    fn truncate(&mut self, kept: usize) {
        self.skipped.truncate(kept);
        self.bytes = self.skipped.iter().map(Skipped::text).fold(0, usize::saturating_add);
    }
}

/// How an operation is to run: who watches it, and whether a skip is an error. Collects the [`Report`].
///
/// ```
/// let cx = plywood::Context::default();
/// assert!(cx.take_report().is_empty());
/// ```
pub struct Context<'a> {
    progress: &'a dyn Progress,
    strict: bool,
    report: Mutex<Report>,
    chores: Arc<Chores>,
    /// Whether the data of files is written back while more of them come.
    writes_back: AtomicBool,
}

impl Default for Context<'_> {
    fn default() -> Self {
        Self {
            progress: &Silent,
            strict: false,
            report: Mutex::default(),
            chores: Arc::default(),
            writes_back: AtomicBool::default(),
        }
    }
}

/// A place in a report: see [`Context::mark`].
#[derive(Clone, Copy, Debug)]
pub struct ReportMark {
    kept: usize,
    total: u64,
}

impl<'a> Context<'a> {
    /// A context that tells `progress`, and reports skips.
    pub fn new(progress: &'a dyn Progress) -> Self {
        Self { progress, ..Self::default() }
    }

    /// The same, where each skip or clamp is an error of kind `Unsupported` instead.
    #[must_use]
    pub fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    /// As strict as this one, told to whom it may concern, with a report of its own.
    pub(crate) fn apart<'b>(&self, progress: &'b dyn Progress) -> Context<'b> {
        let writes_back = AtomicBool::new(self.writes_back());
        Context { progress, strict: self.strict, report: Mutex::default(), chores: Arc::default(), writes_back }
    }

    /// Appends what a part of the operation reported.
    pub(crate) fn absorb(&self, report: Report) {
        self.lock().merge(report);
    }

    /// Whoever watches.
    pub fn progress(&self) -> &'a dyn Progress {
        self.progress
    }

    /// What the operation's threads do while they wait for each other.
    pub(crate) fn chores(&self) -> &Arc<Chores> {
        &self.chores
    }

    /// Says how what follows is made durable: either way it is.
    pub(crate) fn write_back(&self, writes_back: bool) {
        self.writes_back.store(writes_back, Ordering::Release);
    }

    /// Whether the data of files is to be written back while more of them come, where the file system is one for that.
    pub(crate) fn writes_back(&self) -> bool {
        self.writes_back.load(Ordering::Acquire)
    }

    /// Fails with `Cancelled` when the caller wants to stop.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self, op: &'static str) -> Result<()> {
        if self.progress.is_cancelled() { Err(Error::new(ErrorKind::Cancelled, op)) } else { Ok(()) }
    }

    /// Notes that something is left out or clamped.
    ///
    /// # Errors
    /// `Unsupported` where the caller is strict.
    pub fn skip(&self, path: &EntryPath, reason: Reason) -> Result<()> {
        if self.strict {
            return Err(Error::new(ErrorKind::Unsupported, "apply strictly").at(path).because(reason.to_string()));
        }
        tracing::debug!(%path, %reason, "skipped");
        self.lock().push(Skipped { path: path.to_string(), reason });
        Ok(())
    }

    /// How much is reported so far: for an operation that may have to begin again, as a backend has where a marker contradicts what
    /// it did.
    pub fn mark(&self) -> ReportMark {
        let report = self.lock();
        ReportMark { kept: report.skipped.len(), total: report.total }
    }

    /// Forgets what was reported since [`mark`](Self::mark) gave that place.
    pub fn rewind(&self, mark: ReportMark) {
        let mut report = self.lock();
        report.truncate(mark.kept);
        report.total = report.total.min(mark.total);
    }

    /// Takes the report collected so far.
    pub fn take_report(&self) -> Report {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("strict", &self.strict).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden(bytes: usize) -> Reason {
        Reason::XattrForbidden { name: "x".repeat(bytes) }
    }

    #[test]
    fn a_report_is_bounded_in_number_and_in_bytes() {
        let cx = Context::default();
        let most = Report::KEPT_BYTES;
        for bytes in [most - 1, 2, 1, 1] {
            cx.skip(&EntryPath::ROOT, forbidden(bytes - 1)).unwrap();
        }
        let report = cx.take_report();
        // The path of each is ".".
        assert_eq!((report.skipped.len(), report.total), (2, 4));
        assert_eq!(report.skipped.iter().map(Skipped::text).sum::<usize>(), most);

        for _ in 0..=Report::KEPT {
            cx.skip(&EntryPath::ROOT, Reason::TimeClamped).unwrap();
        }
        let many = cx.take_report();
        assert_eq!((many.skipped.len(), many.total), (Report::KEPT, Report::KEPT as u64 + 1));
        let mut both = report;
        both.merge(many);
        assert_eq!((both.skipped.len(), both.total), (2, Report::KEPT as u64 + 5));
    }

    #[test]
    fn what_is_taken_back_makes_room_again() {
        let cx = Context::default();
        let mark = cx.mark();
        cx.skip(&EntryPath::ROOT, forbidden(Report::KEPT_BYTES - 1)).unwrap();
        cx.rewind(mark);
        cx.skip(&EntryPath::ROOT, forbidden(Report::KEPT_BYTES - 1)).unwrap();
        let report = cx.take_report();
        assert_eq!((report.skipped.len(), report.total), (1, 1));
    }
}
