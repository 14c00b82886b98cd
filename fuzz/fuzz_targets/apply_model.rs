//! Stacks of layers on each backend, against the in-memory model.
#![no_main]

libfuzzer_sys::fuzz_target!(init: plywood_fuzz::enter_sandbox(), |data: &[u8]| {
    plywood_fuzz::apply_model(data);
});
