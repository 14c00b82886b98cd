//! Images: a reference to a manifest, with its configuration and layers.

mod base64;
mod config;
pub(crate) mod document;
mod platform;

pub use config::ImageConfig;
pub(crate) use config::NewLayer;
pub use platform::Platform;
