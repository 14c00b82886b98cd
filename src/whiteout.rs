//! OCI's whiteout names.
