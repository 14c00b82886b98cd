//! Errors as gRPC codes, from which containerd makes its own kinds of errors again.

use std::error::Error as _;

use tonic::{Code, Status};

use crate::error::{Error, ErrorKind};

/// The status that tells of an error, with its causes and what helps.
pub(super) fn status(error: &Error) -> Status {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(link) = cause {
        message.push_str(": ");
        message.push_str(&link.to_string());
        cause = link.source();
    }
    if let Some(hint) = error.hint() {
        message.push_str("; ");
        message.push_str(hint);
    }
    Status::new(code(error), message)
}

/// Its code.
pub(super) fn code(error: &Error) -> Code {
    // A file that is missing or in the way inside the store is no word on snapshots: containerd would take them for gone or made.
    let is_of_system = error.raw_os_error().is_some();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::AlreadyExists if is_of_system => Code::Internal,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        // `Unimplemented` would have containerd go on as if the service were not there.
        ErrorKind::InUse | ErrorKind::IdNotMapped | ErrorKind::Unsupported | ErrorKind::IncompatibleFormat => {
            Code::FailedPrecondition
        }
        ErrorKind::InvalidArgument | ErrorKind::InvalidLayer | ErrorKind::DigestMismatch | ErrorKind::EscapesRoot => {
            Code::InvalidArgument
        }
        ErrorKind::LimitExceeded | ErrorKind::NoSpace => Code::ResourceExhausted,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Locked => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Io => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_code_that_containerd_maps_back() {
        let codes = [
            (ErrorKind::NotFound, Code::NotFound),
            (ErrorKind::AlreadyExists, Code::AlreadyExists),
            (ErrorKind::InUse, Code::FailedPrecondition),
            (ErrorKind::InvalidArgument, Code::InvalidArgument),
            (ErrorKind::NoSpace, Code::ResourceExhausted),
            (ErrorKind::Corrupt, Code::DataLoss),
            (ErrorKind::PermissionDenied, Code::PermissionDenied),
        ];
        for (kind, code) in codes {
            assert_eq!(status(&Error::new(kind, "prepare").at("key")).code(), code);
        }
    }

    #[test]
    fn a_missing_file_is_not_a_missing_snapshot() {
        let error = Error::io("openat2", std::io::Error::from_raw_os_error(libc::ENOENT)).at("trees/7");
        let status = status(&Error::new(ErrorKind::NotFound, "mounts").with_source(error));
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message(), "mounts: not found: openat2 trees/7: not found: No such file or directory (os error 2)");
    }
}
