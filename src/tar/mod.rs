//! tar archives as streams of changes: [`Reader`] takes a layer apart, [`Writer`] makes one.
//!
//! Pure: bytes in, entries out, and back; no file system, and no panic on any input. The `tar` crate's `Header` is the codec of one
//! 512-byte block; framing, PAX, long names, sparse maps and limits are ours, because two readers that frame one blob differently
//! see two trees in it. Where the common readers (Go's archive/tar, GNU tar, libarchive, Python) agree on an archive, so does this
//! one; where they do not, it is `InvalidLayer` (SEMANTICS §3).

mod fault;
mod header;
mod limits;
mod member;
mod memory;
mod pax;
mod reader;
#[cfg(test)]
mod round_trip;
mod source;
mod sparse;
#[cfg(test)]
mod testing;
mod writer;

pub use limits::Limits;
pub use memory::MemoryLayer;
pub use reader::Reader;
pub use writer::Writer;

/// tar counts in blocks of this many bytes.
const BLOCK: usize = 512;
const BLOCK_U64: u64 = 512;

/// How many bytes stand between a body of `size` bytes and the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() & (BLOCK_U64 - 1)
}
