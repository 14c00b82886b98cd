//! What must hold for any bytes at all. The fuzz targets call this with inputs of their own making, `fuzz_replay` with the corpus, on
//! the stable toolchain.
//!
//! Each property says whether its input was accepted, so that a corpus can be seen to reach something.

pub(crate) mod archives;
#[cfg(feature = "testing")]
pub(crate) mod changes;
pub(crate) mod extensions;
#[cfg(feature = "testing")]
pub(crate) mod images;
#[cfg(feature = "testing")]
pub(crate) mod members;
#[cfg(feature = "testing")]
pub(crate) mod names;
pub(crate) mod peers;
#[cfg(feature = "testing")]
pub(crate) mod trees;
