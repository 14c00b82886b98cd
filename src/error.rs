//! The one error type: what failed, on which path, why.
//!
//! A leaf: this file imports nothing of ours, and everything else may use it. The operation and the path are added where the system
//! call or the check stands, so that a message is complete without a backtrace. Callers match [`ErrorKind`], never text.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What `Result` means everywhere in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why an operation failed, in the terms a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A key, name, reference, blob or file that does not exist.
    NotFound,
    /// A key, name or file that exists already.
    AlreadyExists,
    /// It has children, is mounted, or is otherwise needed.
    InUse,
    /// The caller asked for something that has no meaning: a malformed digest, a commit of a View.
    InvalidArgument,
    /// The layer or image breaks a rule of the layer contract; nothing of it was kept.
    InvalidLayer,
    /// Bytes that are not what their descriptor says: digest or size.
    DigestMismatch,
    /// An owner that the id map of this process cannot express.
    IdNotMapped,
    /// A path that would have led outside its root.
    EscapesRoot,
    /// A limit on layers, chains or option lengths was met.
    LimitExceeded,
    /// The kernel, file system or build cannot do what correctness needs.
    Unsupported,
    /// The system refused: EACCES, EPERM, EROFS.
    PermissionDenied,
    /// Another process holds the lock that this operation needs.
    Locked,
    /// The store contradicts itself.
    Corrupt,
    /// The store was written in a format that this version does not know.
    IncompatibleFormat,
    /// The caller's `Progress` asked to stop.
    Cancelled,
    /// No space, inodes or quota left.
    NoSpace,
    /// Any other failed system call; `raw_os_error` tells which.
    Io,
}

impl ErrorKind {
    /// The kind's name as it stands in JSON output: `NotFound`, `InvalidLayer`…
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::InUse => "InUse",
            Self::InvalidArgument => "InvalidArgument",
            Self::InvalidLayer => "InvalidLayer",
            Self::DigestMismatch => "DigestMismatch",
            Self::IdNotMapped => "IdNotMapped",
            Self::EscapesRoot => "EscapesRoot",
            Self::LimitExceeded => "LimitExceeded",
            Self::Unsupported => "Unsupported",
            Self::PermissionDenied => "PermissionDenied",
            Self::Locked => "Locked",
            Self::Corrupt => "Corrupt",
            Self::IncompatibleFormat => "IncompatibleFormat",
            Self::Cancelled => "Cancelled",
            Self::NoSpace => "NoSpace",
            Self::Io => "Io",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "exists already",
            Self::InUse => "in use",
            Self::InvalidArgument => "invalid argument",
            Self::InvalidLayer => "invalid layer",
            Self::DigestMismatch => "the bytes are not those of the descriptor",
            Self::IdNotMapped => "owner outside the id map",
            Self::EscapesRoot => "leads outside the root",
            Self::LimitExceeded => "limit exceeded",
            Self::Unsupported => "unsupported",
            Self::PermissionDenied => "permission denied",
            Self::Locked => "locked",
            Self::Corrupt => "the store is damaged",
            Self::IncompatibleFormat => "unknown store format",
            Self::Cancelled => "cancelled",
            Self::NoSpace => "no space left",
            Self::Io => "input/output error",
        }
    }

    fn of_errno(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT) => Self::NotFound,
            Some(libc::EEXIST | libc::ENOTEMPTY) => Self::AlreadyExists,
            Some(libc::EBUSY | libc::ETXTBSY) => Self::InUse,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Self::PermissionDenied,
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace,
            Some(libc::EXDEV) => Self::EscapesRoot,
            // An inode has as many names as the file system gives it.
            Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EMLINK) => Self::Unsupported,
            Some(libc::EWOULDBLOCK) => Self::Locked,
            _ => match error.kind() {
                // What our own readers wrap travels through `io::Read` and comes back whole.
                io::ErrorKind::NotFound => Self::NotFound,
                io::ErrorKind::PermissionDenied => Self::PermissionDenied,
                io::ErrorKind::StorageFull => Self::NoSpace,
                _ => Self::Io,
            },
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// A failed operation: its kind, its name, the path it was working on, the reason, and what caused it.
///
/// `Display` prints one link (`open ref/latest: not found`); [`source`](std::error::Error::source) has the rest.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug, thiserror::Error)]
struct Inner {
    kind: ErrorKind,
    op: &'static str,
    path: Option<PathBuf>,
    reason: Option<String>,
    hint: Option<String>,
    #[source]
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` in the operation `op`: a verb (`prepare`) or a system call (`openat2`).
    pub fn new(kind: ErrorKind, op: &'static str) -> Self {
        Self(Box::new(Inner { kind, op, path: None, reason: None, hint: None, source: None }))
    }

    /// A failed system call. The kind follows from errno; an `Error` that travelled inside an `io::Error` comes out as it went in.
    pub fn io(op: &'static str, error: impl Into<io::Error>) -> Self {
        match error.into().downcast::<Self>() {
            Ok(ours) => ours,
            Err(error) => Self::new(ErrorKind::of_errno(&error), op).with_source(error),
        }
    }

    /// Names the path that the operation was working on, unless one is named already.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_owned());
        self
    }

    /// Says why, in lower case and without a full stop.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.0.reason = Some(reason.into());
        self
    }

    /// Says what the user can do about it, as a sentence or a command.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the cause, to be read through [`source`](std::error::Error::source).
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong, to be matched.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed.
    pub fn op(&self) -> &'static str {
        self.0.op
    }

    /// The path that the operation was working on.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The reason beyond the kind.
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// What would help, for people.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// errno of the system call that failed, here or in a cause.
    pub fn raw_os_error(&self) -> Option<i32> {
        let mut link: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = link {
            if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
                return Some(code);
            }
            link = error.source();
        }
        None
    }
}

impl Error {
    /// Whether a disk could not read or write.
    pub(crate) fn is_of_disk(&self) -> bool {
        self.raw_os_error() == Some(libc::EIO)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op)?;
        if let Some(path) = &self.path {
            // Debug form without the quotes: control bytes of a hostile name never reach a terminal.
            write!(f, " {}", path.as_os_str().as_encoded_bytes().escape_ascii())?;
        }
        match (&self.reason, self.kind, self.errno_text()) {
            (Some(reason), _, _) => write!(f, ": {reason}"),
            // The kind is only that it is of no kind: "input/output error" would be wrong of a file where a directory is wanted.
            (None, ErrorKind::Io, Some(text)) => write!(f, ": {text}"),
            (None, kind, _) => write!(f, ": {kind}"),
        }
    }
}

impl Inner {
    /// What the system calls the errno that is the cause, in lower case: `not a directory`.
    fn errno_text(&self) -> Option<String> {
        let cause = self.source.as_ref()?.downcast_ref::<io::Error>()?;
        cause.raw_os_error()?;
        let text = cause.to_string();
        let text = text.split(" (os error").next()?;
        let mut characters = text.chars();
        let first = characters.next()?;
        Some(first.to_lowercase().chain(characters).collect())
    }
}

impl From<Error> for io::Error {
    /// Wraps the error whole, so that [`Error::io`] gives it back after a trip through `io::Read` or `io::Write`.
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::InvalidArgument => io::ErrorKind::InvalidInput,
            ErrorKind::InvalidLayer | ErrorKind::DigestMismatch | ErrorKind::Corrupt => io::ErrorKind::InvalidData,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::InUse => io::ErrorKind::ResourceBusy,
            ErrorKind::Locked => io::ErrorKind::WouldBlock,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn display_prints_one_link_and_source_the_rest() {
        let cause = io::Error::from_raw_os_error(libc::ENOENT);
        let error = Error::io("openat2", cause).at("a\nb");
        assert_eq!(error.to_string(), "openat2 a\\nb: not found");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert!(error.source().is_some());
    }

    #[test]
    fn an_errno_without_a_kind_of_its_own_is_called_by_its_name() {
        let error = Error::io("open", io::Error::from_raw_os_error(libc::ENOTDIR)).at("x");
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Io, "open x: not a directory"));
    }

    #[test]
    fn an_error_survives_a_trip_through_io() {
        let error = Error::new(ErrorKind::InvalidLayer, "read layer").at("x").because("no checksum");
        let back = Error::io("read", io::Error::from(error));
        assert_eq!((back.kind(), back.op()), (ErrorKind::InvalidLayer, "read layer"));
        assert_eq!(back.reason(), Some("no checksum"));
    }
}
