//! The fuzz targets' properties on their corpus, with the stable toolchain and no fuzzer.

use std::path::Path;

use crate::fuzz_properties as properties;

#[track_caller]
fn replay(target: &str, property: fn(&[u8]) -> bool, least: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    if !folder.exists() {
        return crate::support::skip(target, "the corpus is not part of the packaged crate");
    }
    let mut accepted = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        let outcome = std::panic::catch_unwind(|| property(&data));
        accepted += usize::from(outcome.unwrap_or_else(|_| panic!("{}", path.display())));
    }
    assert!(accepted >= least, "{accepted} of {target}'s corpus reach anything: has it rotted?");
}

#[test]
fn tar_reader() {
    replay("tar_reader", properties::tar_reader, 20);
}

#[test]
fn tar_members() {
    replay("tar_members", properties::tar_members, 15);
}

#[test]
fn decompress() {
    replay("decompress", properties::decompress, 8);
}
