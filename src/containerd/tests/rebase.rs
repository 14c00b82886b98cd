//! Layers that are unpacked at once, before what they stand on is there, and put onto it by their commits: as containerd 2.2 and later
//! do where the snapshotter is said to be able to (`capabilities = ["rebase"]`).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::store::BackendChoice;
use crate::sys::test_support::mounting_as_root;
use crate::testing::Tree;

/// What containerd says of a layer that is to be put onto another.
const PARENT: &str = "containerd.io/snapshot/parent-chain-id";

/// What a layer's tar has, in its order.
#[derive(Clone, Copy)]
enum Entry {
    Dir(&'static str, u32),
    File(&'static str, &'static str),
    Whiteout(&'static str),
    Opaque(&'static str),
}

use Entry::{Dir, File, Opaque, Whiteout};

const LAYERS: [&[Entry]; 5] = [
    &[
        Dir("a", 0o755),
        File("a/gone", "0"),
        File("a/changed", "0"),
        Dir("a/deep", 0o711),
        File("a/deep/inside", "0"),
        Dir("o", 0o755),
        File("o/old", "0"),
        File("top", "0"),
        File("back", "0"),
    ],
    &[
        Dir("a", 0o700),
        Whiteout("a/gone"),
        File("a/changed", "1"),
        Dir("o", 0o750),
        Opaque("o"),
        File("o/new", "1"),
        Whiteout("top"),
        Whiteout("back"),
    ],
    // Nothing of what is below it may be seen, and what was deleted below stays so.
    &[Dir("a", 0o700), Whiteout("a/deep"), Dir("o", 0o750), Whiteout("o/new"), File("o/newer", "2"), File("back", "2")],
    // What was deleted comes back as something else.
    &[Dir("a", 0o700), Dir("a/deep", 0o755), Opaque("a/deep"), File("a/deep/other", "3"), Dir("top", 0o755), File("top/x", "3")],
    &[Whiteout("o"), Dir("a", 0o755), Whiteout("a/changed")],
];

/// Unpacks a layer as containerd's own differ does into the upperdir of an overlay.
fn unpack(mounts: &[types::Mount], layer: &[Entry]) {
    let [mount] = mounts else { panic!("{mounts:?}") };
    assert_eq!(mount.r#type, "overlay", "what is deleted below could not be told in a bind mount");
    let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir=")).map(PathBuf::from).unwrap();
    for entry in layer {
        match *entry {
            Dir(path, mode) => {
                let path = upper.join(path);
                // Over a whiteout, it is replaced.
                if !path.is_dir() {
                    let _ = fs::remove_file(&path);
                    fs::create_dir(&path).unwrap();
                }
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
            File(path, text) => fs::write(upper.join(path), text).unwrap(),
            Whiteout(path) => {
                let (device, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty());
                nix::sys::stat::mknod(&upper.join(path), device, mode, 0).unwrap();
            }
            Opaque(path) => {
                let directory = crate::sys::Dir::open(upper.join(path)).unwrap();
                crate::sys::xattr::set(&directory, b"trusted.overlay.opaque", b"y").unwrap();
            }
        }
    }
}

/// What is seen of a committed snapshot where it is mounted. Of when it was unpacked nothing counts.
fn seen(served: &Served, name: &str) -> Tree {
    let key = format!("{name} seen");
    served.view(&key, name).unwrap();
    let target = served.address.with_file_name("target");
    fs::create_dir_all(&target).unwrap();
    let mounted = served.store.mounts(&format!("containerd:{key}")).unwrap().attach(&target).unwrap();
    let mut tree = Tree::read(&target).unwrap();
    mounted.close().unwrap();
    served.remove(&key).unwrap();
    for path in tree.paths().cloned().collect::<Vec<_>>() {
        tree = tree.at(path.as_bytes()).mtime(0, 0);
    }
    tree
}

#[test]
fn layers_that_are_unpacked_at_once_are_the_ones_that_are_unpacked_in_turn() {
    mounting_as_root(|_| {
        let served = Served::new();
        if !served.store.backend().shares_trees() {
            return crate::sys::test_support::skip(module_path!(), "needs overlayfs");
        }
        let name = |way: &str, layer: usize| format!("{way} {layer}");
        let below = |way: &str, layer: usize| layer.checked_sub(1).map(|below| name(way, below)).unwrap_or_default();
        for (number, layer) in LAYERS.iter().enumerate() {
            let mounts = served.prepare("extract", &below("in turn", number)).unwrap();
            unpack(&mounts, layer);
            served.commit(&name("in turn", number), "extract").unwrap();
        }
        // All are there before one is committed, and the topmost is unpacked first.
        let keys: Vec<String> = (0..LAYERS.len()).map(|number| format!("extract-{number} sha256:{number}")).collect();
        let mounts: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(number, key)| {
                let parent = below("sha256:", number);
                let labels = [(PARENT, parent.as_str()), ("containerd.io/snapshot.ref", "sha256:x")];
                served.prepare_with(key, "", if number == 0 { &labels[1..] } else { &labels }).unwrap()
            })
            .collect();
        LAYERS.iter().zip(&mounts).rev().for_each(|(layer, mounts)| unpack(mounts, layer));
        for (number, key) in keys.iter().enumerate() {
            served.commit_on(&name("at once", number), key, &below("at once", number), &[]).unwrap();
            assert_eq!(served.stat(&name("at once", number)).unwrap().parent, below("at once", number));
            let (in_turn, at_once) = (seen(&served, &name("in turn", number)), seen(&served, &name("at once", number)));
            assert_eq!(in_turn.difference(&at_once), Vec::<String>::new(), "layer {number}");
        }
        let last = seen(&served, &name("at once", LAYERS.len() - 1));
        let paths: Vec<_> = last.paths().map(|path| String::from_utf8_lossy(path.as_bytes()).into_owned()).collect();
        assert_eq!(paths, ["", "a", "a/deep", "a/deep/other", "back", "top", "top/x"]);
    });
}

#[test]
fn a_store_of_copies_refuses_a_layer_that_would_get_its_parent_later_and_says_what_helps() {
    let store = Store::temporary_with(|options| options.backend(BackendChoice::Copy)).unwrap();
    let served = Served::at((*store).clone(), store.root().with_file_name("socket"));
    served.base("below", "");
    let helps = |status: Status| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("leave `rebase` out"), "{status}");
    };
    // Before anything is fetched, where containerd tells (2.3).
    helps(served.prepare_with("extract", "", &[(PARENT, "below")]).unwrap_err());
    assert_eq!(code(served.stat("extract")), Code::NotFound);
    let mounts = served.prepare_with("extract", "below", &[(PARENT, "below")]).unwrap();
    served.commit_on("in turn", "extract", "below", &[(PARENT, "below")]).unwrap();
    assert_eq!(mounts[0].r#type, "bind");
    // And where it does not, before anything is lost.
    served.prepare("extract", "").unwrap();
    helps(served.commit_on("at once", "extract", "below", &[]).unwrap_err());
    assert_eq!(served.stat("extract").unwrap().kind(), pb::Kind::Active);
    assert_eq!(code(served.stat("at once")), Code::NotFound);
    served.remove("extract").unwrap();
}
