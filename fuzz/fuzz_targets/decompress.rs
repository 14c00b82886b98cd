//! Any bytes as a compressed blob.
#![no_main]

#[path = "../../tests/it/fuzz_properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::decompress(data);
});
