//! Stacks of layers, and changes to their trees, out as a diff and in again.
#![no_main]

libfuzzer_sys::fuzz_target!(init: plywood_fuzz::enter_sandbox(), |data: &[u8]| {
    plywood_fuzz::apply_diff(data);
});
