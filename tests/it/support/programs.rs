//! Programs of this machine as layers: a root file system in which something runs, without a network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood::testing::Layer;

/// What a script needs.
const PROGRAMS: [&str; 13] = ["sh", "cat", "find", "hostname", "id", "ln", "ls", "mkdir", "mv", "rm", "sleep", "stat", "touch"];

/// A layer with a shell, the programs that tests' scripts use, and their libraries, laid out as Debian does it.
pub(crate) fn programs() -> Layer {
    let mut files = BTreeMap::new();
    for program in PROGRAMS {
        let path = std::env::split_paths("/usr/bin:/bin").map(|folder| folder.join(program)).find(|path| path.exists());
        let path = path.unwrap_or_else(|| panic!("{program} is not installed"));
        files.insert(format!("usr/bin/{program}"), path.clone());
        let output = Command::new("ldd").arg(&path).output().unwrap();
        // `libc.so.6 => /lib/…/libc.so.6 (0x…)`, and the loader alone: `/lib64/ld-….so.2 (0x…)`.
        let text = String::from_utf8(output.stdout).unwrap();
        for library in text.split_whitespace().filter(|word| word.starts_with("/lib") || word.starts_with("/usr/lib")) {
            let name = library.trim_start_matches("/usr/").trim_start_matches('/');
            files.insert(format!("usr/{name}"), PathBuf::from(library));
        }
    }
    let mut layer = ["", "usr", "usr/bin", "usr/lib", "usr/lib64", "dev", "etc", "proc", "root", "sys", "tmp"]
        .into_iter()
        .fold(Layer::new(), |layer, folder| layer.dir(folder, 0o755));
    for (name, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        layer = layer.symlink(name, target);
    }
    layer = layer
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nada:x:7:8::/:/bin/sh\n")
        .file("etc/group", "root:x:0:\nada:x:8:\n");
    files.iter().fold(layer, |layer, (name, path)| layer.file(name, read(path)).mode(0o755))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
