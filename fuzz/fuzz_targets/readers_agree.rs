//! Archives by our reader and by those of other crates.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    plywood_fuzz::readers_agree(data);
});
