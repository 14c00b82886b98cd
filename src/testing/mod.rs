//! For tests, this crate's and other people's: [`Tree`] literals and snapshots, [`Layer`] literals, images made of them, an in-memory
//! [`model`] of the tree rule, and the [`conformance`] kit that every backend must pass. Feature `testing`.
//!
//! The kit is a second reading of the layer contract: it shares no code with the appliers, and what it expects stands in it as
//! literals. Literals are written by the author of a test, so a malformed one panics instead of returning an error.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "a test's own literals are wrong only by mistake"
)]

pub mod conformance;
pub mod image;
pub mod layer;
pub mod model;
mod temporary;
pub mod tree;

pub use image::Image;
pub use layer::Layer;
pub use temporary::{TemporaryDirectory, TemporaryStore, temporary_directory, temporary_store};
pub use tree::Tree;
