//! Real input, through the command: what buildah, umoci and skopeo make of Debian's packages, against what umoci and GNU tar read.

mod changes;
mod input;
mod layouts;
mod packages;

use std::fs;
use std::path::{Path, PathBuf};

use plywood::testing::Tree;

use crate::support::{Disk, Sandbox, Tool, plywood};
use input::Image;

const BACKENDS: [&str; 2] = ["overlay", "copy"];

/// A store, and mounts below it that live as long as the sandbox.
struct Store {
    root: PathBuf,
    backend: &'static str,
}

impl Store {
    fn new(work: &Path, name: &str, backend: &'static str) -> Self {
        Self { root: work.join(format!("store-{name}-{backend}")), backend }
    }

    fn plywood(&self) -> Tool {
        plywood().arg("--root").arg(&self.root).args(["--backend", self.backend])
    }

    /// Imports an image or a layer; its chain id.
    fn import(&self, arguments: &[&str]) -> String {
        self.plywood().args(arguments).ok().last_word().to_owned()
    }

    /// Mounts a new snapshot on a parent; where.
    fn mount(&self, key: &str, parent: &str) -> PathBuf {
        let target = self.root.with_extension(format!("{key}.mnt"));
        fs::create_dir_all(&target).unwrap();
        self.plywood().args(["prepare", key, parent, "--mount"]).arg(&target).ok();
        target
    }

    fn umount(&self, target: &Path) {
        self.plywood().arg("umount").arg(target).ok();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Where trees differ. Of a root that no layer has an entry for, every tool makes something else: it does not count.
fn differences(expected: &Tree, found: &Tree) -> Vec<String> {
    expected.difference(found).into_iter().filter(|line| !line.starts_with(".: ")).collect()
}

/// Fails where the trees differ.
#[track_caller]
fn assert_same(what: &str, expected: &Tree, found: &Tree) {
    assert!(expected.len() > 500, "{what}: {} names", expected.len());
    let differences = differences(expected, found);
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
}

#[test]
fn images_of_buildah_umoci_and_skopeo_mount_as_umoci_unpacks_them() {
    if !input::installed("real::images_of_buildah_umoci_and_skopeo_mount_as_umoci_unpacks_them") {
        return;
    }
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let work = std::env::temp_dir();
        let tree = work.join("debian");
        input::debian_tree(&tree);
        images_mount_as_umoci_unpacks_them(&work, &tree, input::SECOND);
    });
}

/// Of a tree and what a script makes of it: images by each maker in each compression, on each backend.
fn images_mount_as_umoci_unpacks_them(work: &Path, tree: &Path, second_layer: &str) {
    let stores = BACKENDS.map(|backend| Store::new(work, "images", backend));
    let makers: [input::Make; 2] = [input::by_buildah, input::by_umoci];
    for make in makers {
        let image = make(work, tree, second_layer);
        let unpacked = input::umoci_unpack(&image.layout, "both", &image.layout.with_extension("bundle"));
        let expected = Tree::read(&unpacked).unwrap();
        let zstd = input::in_zstd(work, &image);
        for Image { name, layout } in [&image, &zstd] {
            for store in &stores {
                let chain = store.import(&["import", text(layout), "--ref", name]);
                let target = store.mount(&name.replace(", ", "-"), &chain);
                assert_same(&format!("{name} on {}", store.backend), &expected, &Tree::read(&target).unwrap());
                store.umount(&target);
            }
        }
    }
}

#[test]
fn a_layer_is_what_gnu_tar_extracts() {
    if !input::installed("real::a_layer_is_what_gnu_tar_extracts") {
        return;
    }
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let work = std::env::temp_dir();
        let tree = work.join("debian");
        input::debian_tree(&tree);
        layer_is_what_gnu_tar_extracts(&work, &tree);
    });
}

/// Of a tree that GNU tar packs, with all that it can say.
fn layer_is_what_gnu_tar_extracts(work: &Path, tree: &Path) {
    let (layer, extracted) = (work.join("layer.tar"), work.join("extracted"));
    let options = ["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse", "--numeric-owner", "-cf"];
    Tool::new("tar").arg("-C").arg(tree).args(options).arg(&layer).arg(".").ok();
    layouts::gnu_tar(&layer, &extracted);
    let expected = Tree::read(&extracted).unwrap();
    for backend in BACKENDS {
        let store = Store::new(work, "tar", backend);
        let chain = store.import(&["layer", "import", text(&layer), "--strict"]);
        let target = store.mount("tar", &chain);
        let found = Tree::read(&target).unwrap();
        // This layer has an entry for the root, so that it counts as well.
        assert_eq!(expected.difference(&found), Vec::<String>::new(), "{backend}");
        store.umount(&target);
    }
}

#[test]
fn five_hundred_changes_go_round() {
    if !input::installed("real::five_hundred_changes_go_round") {
        return;
    }
    Sandbox::root().disk(Disk::Btrfs).run(|| {
        let work = std::env::temp_dir();
        let tree = work.join("debian");
        input::debian_tree(&tree);
        let image = input::by_umoci(&work, &tree, input::SECOND);
        let mut layers = Vec::new();
        for backend in BACKENDS {
            let store = Store::new(&work, "from", backend);
            let chain = store.import(&["import", text(&image.layout), "--ref", "debian"]);
            let target = store.mount("box", &chain);
            changes::make(&target);
            let changed = Tree::read(&target).unwrap();
            store.umount(&target);
            store.plywood().args(["commit", "changed", "box"]).ok();

            // The change as a layer, into a second store on the other backend.
            let layer = work.join(format!("{backend}.tar"));
            store.plywood().args(["diff", "changed", "--compression", "gzip", "-o", text(&layer)]).ok();
            layers.push(fs::read(&layer).unwrap());
            let other = BACKENDS.into_iter().find(|other| *other != backend).unwrap();
            let second = Store::new(&work, "to", other);
            second.import(&["import", text(&image.layout), "--ref", "debian"]);
            let name = second.import(&["layer", "import", text(&layer), "--parent", "debian", "--strict"]);
            let target = second.mount("again", &name);
            assert_same(&format!("the layer from {backend} on {other}"), &changed, &Tree::read(&target).unwrap());
            second.umount(&target);

            // The whole as an image, which others read.
            let layout = work.join(format!("exported-{backend}"));
            store.plywood().args(["export", "changed", text(&layout), "--ref", "changed"]).ok();
            let inspected = Tool::new("skopeo").args(["inspect", &format!("oci:{}:changed", text(&layout))]).ok();
            assert!(inspected.stdout.contains("\"Layers\""), "{inspected:?}");
            let unpacked = input::umoci_unpack(&layout, "changed", &work.join(format!("bundle-{backend}")));
            assert_same(&format!("umoci, from {backend}"), &changed, &Tree::read(&unpacked).unwrap());
            assert_eq!(input::layers(&layout).len(), 3);
        }
        // Of the same tree, but not of the same times: the changes were made twice.
        assert!(layers.iter().all(|layer| layer.len() > 10_000));
    });
}

#[test]
fn an_unchanged_image_is_exported_with_the_same_manifest() {
    if !input::installed("real::an_unchanged_image_is_exported_with_the_same_manifest") {
        return;
    }
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let work = std::env::temp_dir();
        let tree = work.join("debian");
        input::debian_tree(&tree);
        let image = input::by_buildah(&work, &tree, input::SECOND);
        let digest = |layout: &Path| {
            let index: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
            index["manifests"][0]["digest"].as_str().unwrap().to_owned()
        };
        let store = Store::new(&work, "same", "auto");
        store.import(&["import", text(&image.layout), "--ref", "debian"]);
        let layout = work.join("exported");
        store.plywood().args(["export", "debian", text(&layout)]).ok();
        assert_eq!(digest(&layout), digest(&image.layout));
        Tool::new("buildah")
            .args(["--storage-driver", "vfs", "--root"])
            .arg(work.join("s"))
            .arg("--runroot")
            .arg(work.join("r"))
            .args(["pull", "-q", &format!("oci:{}:debian", text(&layout))])
            .ok();
        // A docker archive and a tar of the layout are the same image.
        let archives = [
            format!("docker-archive:{}:debian:latest", text(&work.join("docker.tar"))),
            format!("oci-archive:{}:debian", text(&work.join("oci.tar"))),
        ];
        for target in &archives {
            Tool::new("skopeo").args(["--insecure-policy", "copy", "-q", &format!("oci:{}:debian", text(&layout)), target]).ok();
        }
        let chains = ["docker.tar", "oci.tar"].map(|name| store.import(&["import", text(&work.join(name)), "--ref", name]));
        assert_eq!(chains[0], chains[1]);
        let piped = store.plywood().args(["import", "-", "--ref", "piped"]).input(fs::read(work.join("oci.tar")).unwrap()).ok();
        assert_eq!(piped.last_word(), chains[0]);
    });
}
