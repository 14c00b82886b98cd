//! Layers that are unpacked at once, before what they stand on is there, and put onto it by their commits: as containerd 2.2 and later
//! do where the snapshotter is said to be able to (`capabilities = ["rebase"]`).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, UNIX_EPOCH};

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

const LAYERS: [&[Entry]; 6] = [
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
        Dir("p", 0o750),
        Dir("p/q", 0o701),
        Dir("p/q/r", 0o710),
        File("p/q/r/old", "0"),
        Dir("e", 0o700),
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
    // It implies directories that are there, among them one that it makes opaque, and makes one what an implied one is at first.
    &[File("p/q/new", "5"), File("p/q/r/other", "5"), Opaque("p/q/r"), File("new/x", "5"), File("e/x", "5"), Dir("e", 0o755)],
];

/// Makes a directory that a layer implies: with the mode that it has below, as far as that is there.
fn imply(upper: &Path, lowers: &[PathBuf], path: &Path) {
    let made = upper.join(path);
    if path.as_os_str().is_empty() || made.is_dir() {
        return;
    }
    imply(upper, lowers, path.parent().unwrap());
    fs::create_dir(&made).unwrap();
    let below = lowers.iter().find_map(|lower| fs::symlink_metadata(lower.join(path)).ok()).filter(fs::Metadata::is_dir);
    fs::set_permissions(made, below.map_or(fs::Permissions::from_mode(0o755), |below| below.permissions())).unwrap();
}

/// Unpacks a layer as containerd's own differ does into the upperdir of an overlay.
fn unpack(mounts: &[types::Mount], layer: &[Entry]) {
    let [mount] = mounts else { panic!("{mounts:?}") };
    assert_eq!(mount.r#type, "overlay", "what is deleted below could not be told in a bind mount");
    let option = |name: &str| mount.options.iter().find_map(|option| option.strip_prefix(name)).unwrap();
    let upper = PathBuf::from(option("upperdir="));
    let lowers: Vec<_> = option("lowerdir=").split(':').map(PathBuf::from).collect();
    for entry in layer {
        let (Dir(path, _) | File(path, _) | Whiteout(path) | Opaque(path)) = *entry;
        let path = Path::new(path);
        imply(&upper, &lowers, if matches!(entry, Opaque(_)) { path } else { path.parent().unwrap() });
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
    // Entries in them would change it.
    for entry in layer {
        if let Dir(path, _) = entry {
            fs::File::open(upper.join(path)).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
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
        assert_eq!(
            paths,
            [
                "",
                "a",
                "a/deep",
                "a/deep/other",
                "back",
                "e",
                "e/x",
                "new",
                "new/x",
                "p",
                "p/q",
                "p/q/new",
                "p/q/r",
                "p/q/r/other",
                "top",
                "top/x"
            ]
        );
        let modes = ["e", "new", "p", "p/q", "p/q/r"].map(|path| last.get(path).unwrap().attributes.mode);
        assert_eq!(modes, [0o755, 0o755, 0o750, 0o701, 0o710]);
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
