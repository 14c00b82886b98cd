//! What a layer may ask for, in figures that no honest image meets (SEMANTICS §8).

/// Bounds on one layer. Each is checked while the stream is read; nothing is allocated because a header declares it.
///
/// What is more than `entries`, `unpacked_bytes`, `header_bytes`, `xattr_bytes`, `sparse_segments`, `file_bytes` or `expansion_ratio`
/// allow is `LimitExceeded`; a path or symlink target that is too long or too deep is `InvalidLayer`, as it is for every other rule of names.
///
/// ```
/// let mut limits = plywood::tar::Limits::default();
/// limits.unpacked_bytes = 10 << 30;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Tar members, markers included. 5,000,000 by default.
    pub entries: u64,
    /// Bytes of the uncompressed stream, what follows the archive's end included. 1 TiB by default.
    pub unpacked_bytes: u64,
    /// Bytes of a path or symlink target. 4,096 by default.
    pub path_bytes: usize,
    /// Components of a path. 1,024 by default.
    pub path_depth: usize,
    /// Bytes of one PAX header or GNU long name. 1 MiB by default.
    pub header_bytes: u64,
    /// Bytes of all extended attributes of one inode, names and values. 1 MiB by default.
    pub xattr_bytes: usize,
    /// Segments of one sparse file. 1,000,000 by default.
    pub sparse_segments: usize,
    /// Apparent size of one file in bytes, holes included. None by default.
    pub file_bytes: Option<u64>,
    /// How many times as many bytes the uncompressed stream may have as the compressed one. None by default. Checked where a layer is
    /// decompressed, by the store; a [`Reader`](super::Reader) sees uncompressed bytes alone.
    pub expansion_ratio: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 5_000_000,
            unpacked_bytes: 1 << 40,
            path_bytes: 4096,
            path_depth: 1024,
            header_bytes: 1 << 20,
            xattr_bytes: 1 << 20,
            sparse_segments: 1_000_000,
            file_bytes: None,
            expansion_ratio: None,
        }
    }
}
