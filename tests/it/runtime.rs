//! Containers: what runs in a root file system of plywood's sees, and what of it is left.

mod bundles;
mod example;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use plywood::compression::Compression;
use plywood::testing::{Image, Layer};

use crate::support::{Sandbox, Tool, programs};

/// An image in which a shell runs: a layer of programs, and one of files to be changed.
fn image() -> Image {
    let files =
        Layer::new().dir("srv", 0o755).file("srv/kept", "kept\n").file("srv/changed", "lower\n").file("srv/deleted", "gone\n");
    let files = files.dir("srv/folder", 0o755).file("srv/folder/inside", "inside\n");
    Image::new().layer(programs(), Compression::None).layer(files, Compression::Gzip).env("GREETING=hello").cmd([
        "sh",
        "-c",
        "echo $GREETING",
    ])
}

/// What is mounted in this mount namespace.
fn mounts() -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned).collect()
}

/// Names in a directory.
fn names(path: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
