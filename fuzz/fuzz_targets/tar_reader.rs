//! Any bytes as an uncompressed layer.
#![no_main]

#[path = "../../tests/it/fuzz_properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::tar_reader(data);
});
