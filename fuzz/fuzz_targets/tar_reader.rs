//! Any bytes as an uncompressed layer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    plywood_fuzz::tar_reader(data);
});
