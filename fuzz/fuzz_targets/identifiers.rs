//! Text as a digest, a descriptor, a key, a name.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    plywood_fuzz::identifiers(data);
});
