//! Archives whose checksums are right, so that what lies behind them is reached: blocks of fields and bodies, well framed or not.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    plywood_fuzz::tar_members(data);
});
