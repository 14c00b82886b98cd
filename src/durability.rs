//! What an import survives once it has returned.

/// What an import survives once it has returned.
///
/// `Full` rests on `syncfs(2)`, which on ext4, xfs, btrfs and tmpfs returns only when all that was written to the file system before is
/// on the disk, and reports a write that failed since the store's descriptor was opened. It is called once for all layers of an image.
/// That takes few and large writes, where an `fsync` of each file waits for the disk once per file, also after its write-back was begun
/// and waited for (`benches/durability.rs`: for 60,000 files on ext4 and xfs with two threads, five to eight times as long), and takes
/// tens of seconds for a node image on btrfs; but it waits for what other programs have written to the same file system as well, also
/// where an `fsync` of a few large files would not. To leave little for the end, write-back of large files begins while they are
/// unpacked. A write that failed is never tried again: the kernel has thrown its data away, so the trees are discarded and the import
/// fails.
///
/// A new snapshot on overlays is three empty directories and a row, which must not be on the disk without them. ext4 with a journal and
/// xfs have one log for all that is done to names and inodes, which reaches the disk in the order in which it was done. There the one
/// `fsync` of the database's log carries all, as long as that grows: its new length is later in the file system's log than the
/// directories. Where the log is written from its beginning again, one directory is synced before it. An ext4 with fast commits, which
/// logs less, is brought to a full one. Elsewhere (ext4 without a journal, ext2, btrfs, or where `/sys` does not tell) each directory is
/// synced, and the one they are in. Such a snapshot is as durable in both settings.
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
