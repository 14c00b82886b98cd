//! An image-layer storage driver as a library: OCI layers in, union-mounted root file systems out, changes back as layers.
//!
//! What containerd's snapshotters, containers/storage's and Docker's graph drivers do for runtimes in Go, for anything written in Rust.
//! No daemon, no helper process; several processes work on one store. A [`Store`](store::Store) is a directory, and everything below is
//! one of its verbs.
//!
//! # Three stories
//!
//! **A layer comes in.** [`import`](store::Store::import) takes an image (an OCI layout, a `docker save` archive),
//! [`import_layer`](store::Store::import_layer) a single tar, [`pull`](store::Store::pull) blob by blob what the caller fetches. Bytes are verified against digest and diff id before anything of them can
//! be seen; each layer is unpacked once, and committed under its [chain id](digest::ChainId). A failure anywhere leaves nothing.
//!
//! **A container runs.** [`prepare`](store::Store::prepare) makes a writable snapshot on a committed one, and returns what to mount as a
//! value: a [`Mount`](mount::Mount), to be [attached](mount::Mount::attach) here, made as a [descriptor](mount::Mount::detached), or
//! rendered for a runtime. [`commit`](store::Store::commit) freezes the snapshot under a name, [`diff`](store::Store::diff) streams its
//! change as a layer, [`export`](store::Store::export) writes an image that others read.
//!
//! **Something goes away.** [`remove`](store::Store::remove) takes effect at once, [`gc`](store::Store::gc) deletes what no image, no key
//! and no name reaches.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let root = directory.path().join("store");
//! use plywood::snapshot::{Key, Name};
//! use plywood::store::{BackendChoice, LayerSource, Store, StoreOptions};
//! use plywood::tree::Ids;
//!
//! // For an ordinary user too: all files become his own.
//! let store = Store::open_with(&StoreOptions::new(root).backend(BackendChoice::Copy).ids(Ids::Squash))?;
//! let tar = [0; 1024]; // a tar without entries
//! let layer = store.import_layer(LayerSource::reader(&tar[..]), &Default::default(), &Default::default())?;
//! let parent = Name::from(&layer.chain_id);
//! let mount = store.prepare(&Key::new("web-1")?, Some(&parent), &Default::default())?;
//! println!("mount {} at a place of your choice", mount.source().display());
//! # Ok(())
//! # }
//! ```
//!
//! # What holds everywhere
//!
//! - The same layers give the same tree on every backend, and the same two trees the same diff, byte for byte.
//! - Bytes are durable before the row that names them; rows go before their bytes. A crash at any instant leaves garbage at worst, which
//!   opening the store clears away.
//! - What a layer asks for and does not get is in the [`Report`] of the operation, or is an error where the
//!   caller is [strict](Context::strict).
//! - The core is synchronous, leaves no thread behind, reads no environment variable and prints nothing. An [`Error`] has an
//!   [`ErrorKind`] to match, the path, the cause, and often a hint.
//!
//! [`embedding`] is the page for those who build on it: the API at a glance, threads, forks, errors, versions, and how to come here from
//! something else.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `sqlite-bundled` (default) | SQLite is compiled in; without it the system's is linked |
//! | `testing` | tree and layer literals, an in-memory model of the layer contract, the conformance suite for backends |
//! | `cli` | the `plywood` command |
//! | `containerd` | a snapshotter for containerd, over gRPC |
//! | `tokio` | the verbs for async callers, on the blocking pool |
//!
//! # The house
//!
//! Modules stand in tiers, in the order below, and use only modules of earlier tiers; `tests/it/arch.rs` holds that. A layer is a stream
//! of changes ([`entry`]): the tar [reader](tar::Reader) and the differ produce it, the tar [writer](tar::Writer) and the
//! [backends](backend::Backend) consume it.

// Clippy bans functions that take paths (clippy.toml) and those that panic; tests may use them, and the modules below that say so.
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unit_arg))]
// Nothing that a layer, an image or a tree says makes this crate panic. What the command and the test kit reckon is their own.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unreachable,
        clippy::string_slice,
        clippy::get_unwrap
    )
)]

pub(crate) mod durability;
pub mod error;
pub(crate) mod parallel;
pub mod path;

pub mod compression;
pub mod digest;
pub mod entry;
pub mod progress;
pub mod whiteout;

pub mod descriptor;
pub mod snapshot;
pub(crate) mod span;
#[allow(clippy::disallowed_methods)]
pub(crate) mod sys;
pub mod tar;

pub mod tree;

pub(crate) mod apply;
pub(crate) mod compare;
pub mod content;
pub(crate) mod diff;
pub(crate) mod lock;
pub(crate) mod metadata;
pub mod mount;
pub mod namespace;

pub mod backend;

pub mod store;

#[cfg(feature = "containerd")]
pub mod containerd;

#[allow(clippy::disallowed_methods, clippy::arithmetic_side_effects)]
#[cfg(feature = "cli")]
pub mod cli;
#[allow(clippy::disallowed_methods)]
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tokio")]
pub mod tokio;

pub mod embedding;

pub use durability::Durability;
pub use error::{Error, ErrorKind, Result};
pub use parallel::Parallelism;
pub use progress::{Context, Report};

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
