//! An image-layer storage driver as a library: OCI layers in, union-mounted root file systems out, changes back as layers.
//!
//! (The tour is written when the verbs stand.)
//!
//! A module may use only modules of earlier tiers; `tests/it/arch.rs` holds that.

pub mod error;
pub mod path;

pub mod compression;
pub mod digest;
pub mod entry;
pub mod progress;
pub mod whiteout;

pub mod descriptor;
pub mod snapshot;
pub(crate) mod sys;
pub mod tar;
pub mod tree;

pub mod apply;
pub mod content;
pub mod diff;
pub mod lock;
pub mod metadata;
pub mod mount;
pub mod namespace;

pub mod backend;

pub mod store;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::{Error, ErrorKind, Result};
pub use progress::Context;
