//! Images of what applications are made of: a Python tree with wheels, and a `node_modules`.
//!
//! `PLYWOOD_TEST_PACKAGES` is the folder that `tests/it/real/fetch-packages` has filled, from PyPI's and npm's registries: the tests
//! themselves need no network. They run as root, and as an ordinary user in a user namespace.

use std::path::{Path, PathBuf};

use super::{images_mount_as_umoci_unpacks_them, input, layer_is_what_gnu_tar_extracts};
use crate::conformance::user_namespace;
use crate::support::{Disk, Sandbox, Tool, require, skip};

const PACKAGES: &str = "PLYWOOD_TEST_PACKAGES";

/// What a second layer changes, whatever the tree: of its files in the order of their names, some go, some get more content, some another
/// mode, some are links to each other; a directory is made again, another becomes a file.
const CHANGES: &str = r#"
mapfile -t files < <(find . -type f -links 1 | LC_ALL=C sort)
for ((i = 0; i + 40 < ${#files[@]}; i += 40)); do
    rm "${files[i]}"
    echo changed >> "${files[i + 1]}"
    chmod 0751 "${files[i + 2]}"
    ln -f "${files[i + 3]}" "${files[i + 4]}"
    setfattr -n user.note -v "$i" "${files[i + 5]}"
    ln -sf "${files[i + 6]##*/}" "${files[i + 7]}"
    touch -d '2001-02-03 04:05:06.789 UTC' "${files[i + 8]}"
done
again=$(dirname "${files[90]}"); rm -r "$again"; mkdir -m 0711 "$again"; echo again > "$again/only"
last=$(dirname "${files[-90]}"); rm -r "$last"; echo 'a file' > "$last"
mkdir -p new/deep; echo new > new/deep/file; ln new/deep/file new/link; ln -s deep/file new/symlink; mkfifo new/pipe
"#;

/// What root alone can change, before that.
const CHANGES_BY_ROOT: &str = r#"
mapfile -t owned < <(find . -type f | LC_ALL=C sort | awk 'NR % 50 == 4')
chown 1234:70000 "${owned[@]}"; chmod 4750 "${owned[0]}"; setcap cap_net_raw+ep "${owned[1]}"
mknod -m 0660 device b 8 1
"#;

/// Where a tree of packages is, if it was fetched; says SKIP otherwise.
#[track_caller]
fn fetched(test: &str, name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(PACKAGES).map(|folder| PathBuf::from(folder).join(name));
    match folder {
        Some(folder) if folder.is_dir() => require(test, &input::PROGRAMS).then_some(folder),
        Some(folder) => {
            skip(test, &format!("there is no {}: fill {PACKAGES} with tests/it/real/fetch-packages", folder.display()));
            None
        }
        None => {
            skip(test, &format!("{PACKAGES} does not name what tests/it/real/fetch-packages fetched"));
            None
        }
    }
}

/// Compares images and a layer of the tree, which is copied first: its owner is whoever runs this.
fn compare(packages: &Path, second_layer: &str) {
    // buildah takes no capitals in the path of a layout.
    let name = format!("plywood-packages-{}", std::process::id());
    let work = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir().unwrap();
    let tree = work.path().join("tree");
    Tool::new("cp").args(["-dR", "--preserve=mode,timestamps,links"]).arg(packages).arg(&tree).ok();
    layer_is_what_gnu_tar_extracts(work.path(), &tree);
    images_mount_as_umoci_unpacks_them(work.path(), &tree, second_layer);
}

fn as_root(packages: &Path) {
    compare(packages, &[CHANGES_BY_ROOT, CHANGES].concat());
}

#[test]
fn python_as_root() {
    if let Some(packages) = fetched("real::packages::python_as_root", "python") {
        Sandbox::root().disk(Disk::Ext4).run(|| as_root(&packages));
    }
}

#[test]
fn node_as_root() {
    if let Some(packages) = fetched("real::packages::node_as_root", "node") {
        Sandbox::root().disk(Disk::Ext4).run(|| as_root(&packages));
    }
}

#[test]
fn python_in_a_user_namespace() {
    if let Some(packages) = fetched("real::packages::python_in_a_user_namespace", "python") {
        user_namespace().run(|| compare(&packages, CHANGES));
    }
}

#[test]
fn node_in_a_user_namespace() {
    if let Some(packages) = fetched("real::packages::node_in_a_user_namespace", "node") {
        user_namespace().run(|| compare(&packages, CHANGES));
    }
}
