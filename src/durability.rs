//! What an import survives once it has returned.

/// What an import survives once it has returned.
///
/// ext4 with its journal inside and xfs have one log for all that is done to names and inodes, which reaches the disk in the order in which
/// it was done. Where others have written much that is not on the disk yet (128 MiB in all of the system) when an import on overlays begins,
/// it waits there for its own data alone: the write-back of each file begins soon after it was unpacked, and is waited for
/// (`sync_file_range(2)`) some hundred files later; both file systems have logged by then where the data lies. One `fsync` of a directory
/// that was touched last then carries the log, and all that was unpacked with it, for all layers of an image. An `fsync` of each file
/// would wait for the disk once per file (`benches/durability.rs` has all of them side by side).
///
/// Everywhere else, `Full` rests on `syncfs`, which on ext4, xfs, btrfs and tmpfs returns only when all that was written to the file system
/// before is on the disk, and reports a write that failed since the store's descriptor was opened: where nobody else has much to write, for
/// it takes few and large writes instead of one for each file; on btrfs, ext2, and ext4 without a journal or with one on another disk; where
/// `/sys` or `/proc` do not tell, or the system refuses the call; on the copy backend; and for what a container wrote, when it is committed.
/// It is called once for all layers. Write-back of large files begins while they are unpacked, so that little is left for it.
///
/// A write that failed is never tried again: the kernel has thrown its data away, so the trees are discarded and the import fails.
///
/// A new snapshot on overlays is three empty directories and a row, which must not be on the disk without them. Where the file system's log
/// keeps the order, the one `fsync` of the database's own log carries all, as long as that grows: its new length is noted later than the
/// directories. Where it is written from its beginning again, one directory is synced before it. An ext4 with fast commits, which
/// logs less, is brought to a full one. Elsewhere each directory is synced, and the one they are in. Such a snapshot is as durable in both
/// settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// A power cut: bytes are on the disk before anything names them.
    #[default]
    Full,
    /// The end of the process, not a power cut. After one within the half minute or so that the kernel takes to write, the store may
    /// name layers whose files are empty or missing, and nothing but a full check tells; and the last imports may be forgotten. For
    /// stores that are made anew after a crash, and for benchmarks beside tools that do no better.
    Relaxed,
}

impl Durability {
    pub(crate) const fn is_full(self) -> bool {
        matches!(self, Self::Full)
    }
}
