//! PAX headers and GNU long names before a member.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    plywood_fuzz::tar_extensions(data);
});
