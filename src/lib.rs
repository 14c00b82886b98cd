//! An image-layer storage driver as a library: OCI layers in, union-mounted root file systems out, changes back as layers.
//!
//! (The tour is written when the verbs stand.)
//!
//! A module may use only modules of earlier tiers; `tests/it/arch.rs` holds that.

// Clippy bans functions that take paths (clippy.toml); the modules that may use them say so here.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod error;
pub mod path;

pub mod compression;
pub mod digest;
pub mod entry;
pub mod progress;
pub mod whiteout;

pub mod descriptor;
pub mod snapshot;
#[allow(clippy::disallowed_methods)]
pub(crate) mod sys;
pub mod tar;

pub mod tree;

pub mod apply;
pub mod content;
pub mod diff;
pub(crate) mod lock;
pub(crate) mod metadata;
pub mod mount;
pub mod namespace;

pub mod backend;

pub mod store;

#[allow(clippy::disallowed_methods)]
#[cfg(feature = "cli")]
pub mod cli;
#[allow(clippy::disallowed_methods)]
#[cfg(feature = "testing")]
pub mod testing;

pub use error::{Error, ErrorKind, Result};
pub use progress::Context;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
