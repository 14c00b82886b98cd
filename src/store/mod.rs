//! store (to come)
#[allow(dead_code, unused_imports)]
mod image;
pub use image::{ImageConfig, Platform};
