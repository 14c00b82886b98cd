//! Images that are there already, as many and as large as one likes: `benches/real/run` makes them.
//!
//! `PLYWOOD_TEST_LAYOUTS` is a folder with one folder per image, which has an OCI layout in each compression (`gzip`, `zstd`) with the
//! image under the tag `both`. Scratch space is in `TMPDIR`; each tree goes as soon as it is compared. What was compared is listed in the
//! folder's file `compared`, with all differences.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use plywood::testing::Tree;

use super::{BACKENDS, Store, differences, input, text};
use crate::support::{Sandbox, Tool, require};

const LAYOUTS: &str = "PLYWOOD_TEST_LAYOUTS";

#[test]
fn images_of_a_folder_mount_as_umoci_and_gnu_tar_unpack_them() {
    let Some(folder) = std::env::var_os(LAYOUTS).map(PathBuf::from) else {
        println!("{LAYOUTS} is not set: for those who bring images");
        return;
    };
    if !require("real::layouts::images_of_a_folder_mount_as_umoci_and_gnu_tar_unpack_them", &["umoci", "tar"]) {
        return;
    }
    Sandbox::root().run(|| {
        let work = tempfile::tempdir().unwrap();
        let mut compared = File::create(folder.join("compared")).unwrap();
        let mut wrong = 0;
        let images = directories(&folder);
        assert!(!images.is_empty(), "{} has images", folder.display());
        for image in images {
            let bundle = work.path().join("bundle");
            let expected = Tree::read(input::umoci_unpack(&image.join("gzip"), "both", &bundle)).unwrap();
            fs::remove_dir_all(&bundle).unwrap();
            // GNU tar knows nothing of whiteouts, and the first layer has none.
            let first = work.path().join("first");
            let blob = &input::layers(&image.join("gzip"))[0];
            gnu_tar(blob, &first);
            let expected_first = Tree::read(&first).unwrap();
            fs::remove_dir_all(&first).unwrap();

            for layout in directories(&image) {
                let what = layout.strip_prefix(&folder).unwrap().display().to_string();
                for backend in BACKENDS {
                    let place = work.path().join("place");
                    fs::create_dir(&place).unwrap();
                    let store = Store::new(&place, "layouts", backend);
                    let chain = store.import(&["import", text(&layout), "--ref", "image"]);
                    let both = compare(&store, "both", &chain, &expected);
                    let layer = store.import(&["layer", "import", text(&input::layers(&layout)[0])]);
                    let first = compare(&store, "first", &layer, &expected_first);
                    for (peer, names, differences) in [("umoci", expected.len(), both), ("GNU tar", expected_first.len(), first)] {
                        writeln!(compared, "{what} on {backend}, {peer}: {names} names, {} differences", differences.len())
                            .unwrap();
                        differences.iter().for_each(|line| writeln!(compared, "    {line}").unwrap());
                        wrong += differences.len();
                    }
                    fs::remove_dir_all(&place).unwrap();
                }
            }
        }
        assert_eq!(wrong, 0, "{}", fs::read_to_string(folder.join("compared")).unwrap());
    });
}

fn compare(store: &Store, key: &str, parent: &str, expected: &Tree) -> Vec<String> {
    let target = store.mount(key, parent);
    let found = Tree::read(&target).unwrap();
    store.umount(&target);
    differences(expected, &found)
}

fn directories(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// What GNU tar extracts from a layer.
pub(super) fn gnu_tar(blob: &Path, target: &Path) {
    fs::create_dir(target).unwrap();
    // Else it takes a directory for finished at the first member from elsewhere, and those that come later change its mtime.
    let late = "--delay-directory-restore";
    let options = [late, "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-xpf"];
    Tool::new("tar").arg("-C").arg(target).args(options).arg(blob).ok();
}
