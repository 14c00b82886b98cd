//! OCI layouts and docker archives.
#![no_main]

libfuzzer_sys::fuzz_target!(init: plywood_fuzz::enter_sandbox(), |data: &[u8]| {
    plywood_fuzz::import_image(data);
});
