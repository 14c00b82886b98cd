//! Any bytes as a compressed blob.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    plywood_fuzz::decompress(data);
});
