//! Archives whose checksums are right, so that what lies behind them is reached: blocks of fields and bodies, well framed or not.
#![no_main]

#[path = "../../tests/it/fuzz_properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::tar_members(data);
});
