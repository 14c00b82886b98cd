//! Stacks of layers as images, whose layers are unpacked side by side, against the in-memory model.
#![no_main]

libfuzzer_sys::fuzz_target!(init: plywood_fuzz::enter_sandbox(), |data: &[u8]| {
    plywood_fuzz::import_model(data);
});
