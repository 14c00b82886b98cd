use super::*;
use crate::entry::Timestamp;
use crate::sys::test_support::{Place as Where, mounting, mounting_as_root};
use crate::sys::xattr;
use crate::testing::{Layer, Tree};
use crate::tree::Detail;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

/// A backend in a directory of its own, and a place to mount on.
struct Scene {
    temp: tempfile::TempDir,
    backend: Overlay,
    style: XattrStyle,
}

impl Scene {
    fn new(place: Where) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("trees")).unwrap();
        fs::create_dir(temp.path().join("target")).unwrap();
        let style = if place == Where::Root { XattrStyle::Trusted } else { XattrStyle::User };
        let backend = Overlay::new(Base::open(temp.path().join("trees")).unwrap(), style).unwrap();
        Self { temp, backend, style }
    }

    fn with(place: Where, api: Api, escapes: bool) -> Self {
        let Scene { temp, backend, style } = Self::new(place);
        Self { temp, backend: backend.with(api, escapes), style }
    }

    fn target(&self) -> PathBuf {
        self.temp.path().join("target")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join("trees").join(name)
    }

    fn apply(&self, tree: u64, chain: &[u64], layer: &Layer) -> Result<Applied> {
        let mut stream = layer.stream().unwrap();
        self.backend.apply(TreeId(tree), &ids(chain), &mut stream, Ids::Exact, &Context::default())
    }

    /// What a View of a chain shows.
    fn view(&self, tree: u64, chain: &[u64]) -> Tree {
        self.backend.create(TreeId(tree), &ids(chain), &Attributes::implied()).unwrap();
        let mounted = self.backend.mount(TreeId(tree), &ids(chain), Access::ReadOnly).unwrap().attach(self.target()).unwrap();
        let shown = Tree::read(self.target()).unwrap();
        mounted.close().unwrap();
        self.backend.remove(TreeId(tree)).unwrap();
        shown
    }
}

fn ids(chain: &[u64]) -> Vec<TreeId> {
    chain.iter().copied().map(TreeId).collect()
}

fn same(found: &Tree, expected: &Tree) {
    assert_eq!(expected.difference(found), Vec::<String>::new());
}

#[test]
fn a_new_trees_root_has_exactly_the_attributes_whatever_lies_above() {
    mounting(|place| {
        let scene = Scene::new(place);
        let trees = Dir::open(scene.path(".")).unwrap();
        // user::rwx user:0:rwx group::rwx mask::rwx other::rwx, to be inherited.
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &7_u16.to_le_bytes(), &id.to_le_bytes()].concat();
        let none = u32::MAX;
        let acl =
            [2_u32.to_le_bytes().to_vec(), entry(1, none), entry(2, 0), entry(4, none), entry(16, none), entry(32, none)].concat();
        xattr::set(&trees, b"system.posix_acl_default", &acl).unwrap();
        crate::sys::inode::set_mode(&trees, 0o2777).unwrap();
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let mut root = Attributes { mode: 0o1751, mtime: Timestamp { seconds: 12, nanoseconds: 345 }, ..Attributes::implied() };
        root.xattrs.insert(b"user.a".to_vec(), b"1".to_vec());
        root.xattrs.insert([scene.style.prefix(), b"x"].concat(), b"2".to_vec());
        scene.backend.create(TreeId(1), &[], &root).unwrap();
        nix::sys::stat::umask(before);
        let mounted = scene.backend.mount(TreeId(1), &[], Access::ReadWrite).unwrap().attach(scene.target()).unwrap();
        let seen = crate::sys::inode::attributes(Dir::open(scene.target()).unwrap()).unwrap();
        assert_eq!(seen, root, "as the container sees it");
        fs::write(scene.target().join("file"), "").unwrap();
        let file = crate::sys::inode::attributes(fs::File::open(scene.target().join("file")).unwrap()).unwrap();
        assert!(file.xattrs.is_empty(), "{file:?}");
        mounted.close().unwrap();
        let frozen = scene.backend.commit(TreeId(1)).unwrap();
        assert_eq!(Attributes { mtime: root.mtime, ..frozen.root }, root);
    });
}

#[test]
fn chains_of_every_length_are_mounted_and_one_too_long_is_refused() {
    mounting(|place| {
        let scene = Scene::new(place);
        let chain: Vec<u64> = (1..=500).rev().collect();
        for &tree in &chain {
            scene.apply(tree, &[], &Layer::new().file(format!("only-{tree}"), "").file("a", tree.to_string())).unwrap();
        }
        for length in [0, 1, 2, 128, 499] {
            let below = ids(&chain[..length]);
            for access in [Access::ReadOnly, Access::ReadWrite] {
                scene.backend.create(TreeId(1000), &below, &Attributes::implied()).unwrap();
                let mount = scene.backend.mount(TreeId(1000), &below, access).unwrap();
                let mounted = mount.attach(scene.target()).unwrap();
                let names = fs::read_dir(scene.target()).unwrap().count();
                assert_eq!(names, if length == 0 { 0 } else { length + 1 }, "{length} {access:?}");
                let written = fs::write(scene.target().join("new"), "");
                assert_eq!(written.is_ok(), access == Access::ReadWrite, "{length} {access:?}");
                mounted.close().unwrap();
            }
        }
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let error = scene.backend.mount(TreeId(1000), &ids(&chain), access).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded);
            assert!(error.reason().unwrap().contains("500") && error.reason().unwrap().contains("499"), "{error}");
        }
        let error = scene.backend.create(TreeId(1000), &ids(&chain), &Attributes::implied()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    });
}

#[test]
fn layers_are_applied_and_seen_through_each_kernel_interface() {
    mounting(|place| {
        let below = Layer::new().dir("d", 0o700).file("d/old", "old").file("gone", "").dir("opaque", 0o755).file("opaque/x", "");
        let above =
            Layer::new().file("d/new", "new").whiteout("gone").opaque("opaque").file("opaque/y", "").hardlink("link", "d/old");
        let probed = Api::probe(Root::new(Dir::open("/").unwrap()));
        for api in [probed, Api::Paths, Api::Legacy] {
            let scene = Scene::with(place, api, true);
            scene.apply(1, &[], &below).unwrap();
            let applied = scene.apply(2, &[1], &above).unwrap();
            assert!(applied.usage.inodes > 3 && !applied.empty && !applied.cut, "{applied:?}");
            assert!(!scene.path("2/work").exists());
            let expected = crate::testing::model::fold(&[below.clone(), above.clone()]).unwrap();
            same(&scene.view(3, &[2, 1]), &expected);
        }
    });
}

#[test]
fn a_layer_that_fails_leaves_nothing_and_an_empty_one_no_tree() {
    mounting(|place| {
        let scene = Scene::new(place);
        let error = scene.apply(1, &[], &Layer::new().file("a", "").hardlink("b", "missing")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidLayer);
        assert!(scene.apply(1, &[], &Layer::new()).unwrap().empty);
        assert_eq!(fs::read_dir(scene.path(".")).unwrap().count(), 0);
    });
}

#[test]
fn freezing_refuses_what_is_mounted_and_says_the_same_twice() {
    mounting(|place| {
        let scene = Scene::new(place);
        scene.apply(1, &[], &Layer::new().file("a", "a").file("b", "b")).unwrap();
        scene.backend.create(TreeId(2), &ids(&[1]), &Attributes::implied()).unwrap();
        assert!(!scene.backend.is_mounted(TreeId(2)).unwrap());
        let mounted = scene.backend.mount(TreeId(2), &ids(&[1]), Access::ReadWrite).unwrap().attach(scene.target()).unwrap();
        for name in ["a", "b"] {
            fs::remove_file(scene.target().join(name)).unwrap();
        }
        fs::write(scene.target().join("c"), vec![7; 70_000]).unwrap();
        fs::hard_link(scene.target().join("c"), scene.target().join("d")).unwrap();
        assert!(scene.backend.is_mounted(TreeId(2)).unwrap());
        assert_eq!(scene.backend.commit(TreeId(2)).unwrap_err().kind(), ErrorKind::InUse);
        mounted.close().unwrap();
        let frozen = scene.backend.commit(TreeId(2)).unwrap();
        assert_eq!(scene.backend.commit(TreeId(2)).unwrap(), frozen);
        // The root, the file with two names, and the inode that both whiteouts are.
        assert_eq!(frozen.usage.inodes, 3);
        assert!(frozen.usage.bytes >= 70_000);
        assert_eq!(scene.backend.usage(TreeId(2)).unwrap(), frozen.usage);
        let attached = scene.backend.mount(TreeId(2), &ids(&[1]), Access::ReadWrite).unwrap().attach(scene.target());
        assert_eq!(attached.unwrap_err().kind(), ErrorKind::NotFound, "what is frozen is not writable");
        let names: Vec<_> = scene.view(3, &[2, 1]).paths().map(ToString::to_string).collect();
        assert_eq!(names, [".", "c", "d"]);
    });
}

#[test]
fn a_chains_answers_are_those_of_the_merged_tree() {
    mounting(|place| {
        let scene = Scene::new(place);
        scene.apply(1, &[], &Layer::new().dir("d", 0o711).file("d/x", "").symlink("l", "d").file("gone", "")).unwrap();
        scene.apply(2, &[1], &Layer::new().whiteout("gone").opaque("d").file("d/y", "")).unwrap();
        let ask = |chain: &[u64], path: &str| {
            let question = Question { path: EntryPath::parse(path).unwrap(), detail: Detail::Kind };
            scene.backend.answer(&ids(chain), &[question]).unwrap().remove(0)
        };
        assert_eq!(ask(&[1], "d/x"), Answer::Other(None));
        assert_eq!(ask(&[2, 1], "d/x"), Answer::Absent);
        assert_eq!(ask(&[2, 1], "gone"), Answer::Absent);
        assert_eq!(ask(&[2, 1], "l"), Answer::Symlink(b"d".to_vec()));
        assert_eq!(ask(&[], "l"), Answer::Absent);
        assert!(scene.backend.answer(&ids(&[1]), &[]).unwrap().is_empty());
    });
}

#[test]
fn a_tree_that_is_removed_is_gone_and_the_empty_one_stays() {
    mounting(|place| {
        let scene = Scene::new(place);
        scene.apply(1, &[], &Layer::new().file("a", "")).unwrap();
        scene.backend.remove(TreeId(1)).unwrap();
        scene.backend.remove(TreeId(1)).unwrap();
        assert_eq!(scene.backend.usage(TreeId(1)).unwrap_err().kind(), ErrorKind::NotFound);
        for refused in [
            scene.backend.remove(TreeId::EMPTY),
            scene.backend.create(TreeId::EMPTY, &[], &Attributes::implied()),
            scene.apply(0, &[], &Layer::new().file("a", "")).map(drop),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        // A crash left something there.
        fs::create_dir_all(scene.path("1/fs/left/over")).unwrap();
        scene.backend.create(TreeId(1), &[], &Attributes::implied()).unwrap();
        assert_eq!(fs::read_dir(scene.path("1/fs")).unwrap().count(), 0);
        assert_eq!(fs::metadata(scene.path("1")).unwrap().permissions().mode() & 0o7777, 0o700);
    });
}

#[test]
fn where_the_kernel_does_not_unescape_such_attributes_are_left_out_and_reported() {
    mounting(|place| {
        let scene = Scene::with(place, Api::probe(Root::new(Dir::open("/").unwrap())), false);
        let name = String::from_utf8([scene.style.prefix(), b"opaque"].concat()).unwrap();
        let layer = Layer::new().dir("d", 0o755).xattr(&name, "y");
        let cx = Context::default();
        scene.backend.apply(TreeId(1), &[], &mut layer.stream().unwrap(), Ids::Exact, &cx).unwrap();
        assert_eq!(cx.take_report().total, 1);
        assert!(xattr::list(fs::File::open(scene.path("1/fs/d")).unwrap()).unwrap().is_empty());
        let scene = Scene::new(place);
        scene.backend.apply(TreeId(1), &[], &mut layer.stream().unwrap(), Ids::Exact, &cx).unwrap();
        assert!(cx.take_report().is_empty());
        let shown = scene.view(2, &[1]);
        let shown = shown.get("d").unwrap();
        assert_eq!(shown.attributes.xattrs.get(name.as_bytes()).map(Vec::as_slice), Some(&b"y"[..]));
    });
}

/// The facts of overlayfs that this backend lives with (DESIGN §3), on this kernel.
#[test]
fn facts_of_overlayfs() {
    mounting_as_root(|place| {
        let scene = Scene::new(place);
        let raw = |lowers: &[&str], upper: Option<&str>, options: &[(&'static str, &str)]| -> Result<OwnedFd> {
            let fs = crate::sys::mount::FsContext::open("overlay", Api::Paths)?;
            let held = |name: &str| fs::File::open(scene.path(name)).unwrap();
            for lower in lowers {
                fs.set_directory("lowerdir+", held(lower).as_fd())?;
            }
            if let Some(upper) = upper {
                fs.set_directory("upperdir", held(&format!("{upper}/fs")).as_fd())?;
                fs.set_directory("workdir", held(&format!("{upper}/work")).as_fd())?;
            }
            for (key, value) in options {
                fs.set_string(key, value)?;
            }
            fs.mount(rustix::mount::MountAttrFlags::empty())
        };
        for name in ["1/fs/d", "2/fs", "9/fs", "9/work", "8/fs", "8/work"] {
            fs::create_dir_all(scene.path(name)).unwrap();
        }
        fs::write(scene.path("1/fs/shown"), "").unwrap();

        // A tree may stand only once in the list, and a single one needs an upper directory.
        assert_eq!(raw(&["1/fs", "2/fs", "1/fs"], None, &[]).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(raw(&["1/fs"], None, &[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        raw(&["1/fs", "2/fs"], None, &[]).unwrap();

        // With index=off a second mount of one upper directory succeeds; with index=on it is refused.
        let first = raw(&["1/fs"], Some("9"), &[("index", "off")]).unwrap();
        drop(raw(&["1/fs"], Some("9"), &[("index", "off")]).unwrap());
        assert_eq!(raw(&["1/fs"], Some("9"), &[("index", "on")]).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        drop(first);

        // An opaque mark on the root of a layer is ignored.
        xattr::set(fs::File::open(scene.path("2/fs")).unwrap(), b"trusted.overlay.opaque", b"y").unwrap();
        let root = Root::from_fd(raw(&["2/fs", "1/fs"], None, &[]).unwrap());
        assert!(root.literal(&EntryPath::parse("shown").unwrap()).unwrap().is_some());

        // Renaming a lower directory needs a redirect, which is not made.
        let mount = Mount::overlay(
            Base::open(scene.path(".")).unwrap(),
            XattrStyle::Trusted,
            vec![EntryPath::parse("1/fs").unwrap()],
            Some(Upper { upper: EntryPath::parse("8/fs").unwrap(), work: EntryPath::parse("8/work").unwrap() }),
        );
        let root = Root::from_fd(mount.unwrap().detached().unwrap().into_fd()).dir().unwrap();
        assert_eq!(root.rename(b"d", &root, b"e").unwrap_err().raw_os_error(), Some(libc::EXDEV));

        // Whiteouts are one inode.
        root.unlink(b"shown").unwrap();
        root.rmdir(b"d").unwrap();
        let whiteout = |name: &str| fs::symlink_metadata(scene.path(&format!("8/fs/{name}"))).unwrap();
        assert_eq!((whiteout("shown").rdev(), whiteout("shown").ino()), (0, whiteout("d").ino()));
    });
}
