//! Names, type flags and links of members: paths, markers, and what is neither.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    plywood_fuzz::member_names(data);
});
