//! store (to come)
mod image;
pub use image::{ImageConfig, Platform};
