//! The vulnerability classes of this field, each with the concrete attack, on both backends, as root and in a user namespace. Whatever
//! comes of it, what lies outside the root keeps its content, mode, owner, times and names.
//!
//! | class | cases of others | tests |
//! |---|---|---|
//! | a symlink or hardlink parent leads outside | CVE-2021-32760, CVE-2021-41103, CVE-2018-20990, CVE-2021-38511 | `links_lead_nobody_out`, `names_lead_nobody_out`; the kit's §1.6, §1.9 |
//! | check, then use | CVE-2018-15664, CVE-2021-30465 | `a_container_that_swaps_its_files_leads_nobody_out`; in the library, `store::tests::races` beside every operation |
//! | framing confusion | CVE-2025-62518, CVE-2026-33055 | `no_reader_sees_another_archive`; in the library, `tar::reader` and `tar::fault` |
//! | markers that name a directory itself | CVE-2021-29136 | `impossible_markers_delete_nothing` |
//! | overlay attributes in a layer | | `a_layer_never_speaks_to_overlayfs` |
//! | bombs | CVE-2021-20291 | `bombs`, `limits` |
//! | host users reach files of the store | CVE-2021-41089, CVE-2021-41091, CVE-2021-41103 | `a_store_is_closed_to_others` |
//! | user names resolved in a hostile root | CVE-2019-14271 | `names_of_users_mean_nothing` |
//! | overlayfs in user namespaces | CVE-2021-3493, CVE-2023-0386 | `a_layer_never_speaks_to_overlayfs`; in the library, the options of `mount::tests` |
//! | media type or digest confusion | CVE-2021-41190 | in the library, `store::import::tests::bad` |
//! | leaked descriptors | CVE-2024-21626 | `no_descriptor_of_a_verb_reaches_a_program_that_is_started_meanwhile`; in the library, `lock::tests`, `mount::tests` |

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood::snapshot::Name;
use plywood::store::{DiffOptions, Store};
use plywood::testing::conformance::{import_onto, show};
use plywood::testing::{Layer, Tree};
use plywood::tree::Access;
use plywood::{Context, ErrorKind, Result};

use super::{SECRET, stores};
use crate::support::{Disk, Sandbox, is_root};

/// A test that runs as root and in a user namespace.
macro_rules! attack {
    ($name:ident, $body:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn as_root() {
                Sandbox::root().disk(Disk::Ext4).run(|| $body);
            }

            #[test]
            fn in_a_user_namespace() {
                Sandbox::user_namespace().run(|| $body);
            }
        }
    };
}

/// What nobody may touch.
struct Canary {
    directory: tempfile::TempDir,
    was: BTreeMap<PathBuf, [i64; 10]>,
}

impl Canary {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("sub")).unwrap();
        for name in ["secret", "sub/secret"] {
            fs::write(path.join(name), SECRET).unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o640)).unwrap();
        }
        symlink("secret", path.join("link")).unwrap();
        let was = Self::look(path);
        Self { directory, was }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn look(directory: &Path) -> BTreeMap<PathBuf, [i64; 10]> {
        let names = walkdir::WalkDir::new(directory).into_iter().map(|entry| entry.unwrap().into_path());
        names.map(|path| (path.clone(), Self::attributes(&path))).collect()
    }

    fn attributes(path: &Path) -> [i64; 10] {
        let stat = fs::symlink_metadata(path).unwrap();
        let [mode, uid, gid] = [stat.mode(), stat.uid(), stat.gid()].map(i64::from);
        let times = [stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()];
        let [a, b, c, d] = times;
        [mode, uid, gid, a, b, c, d, stat.size() as i64, stat.nlink() as i64, stat.ino() as i64]
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        assert_eq!(Self::look(self.directory.path()), self.was, "{what}");
        for name in ["secret", "sub/secret"] {
            assert_eq!(fs::read_to_string(self.directory.path().join(name)).unwrap(), SECRET, "{what}");
        }
    }
}

/// Imports the layers one on the other; what the stack shows, once everything that a store does was done with it.
fn try_all(store: &Store, layers: &[Layer]) -> Result<Tree> {
    let name =
        layers.iter().try_fold(None, |parent: Option<Name>, layer| import_onto(store, parent.as_ref(), &*layer.tar()).map(Some))?;
    let at = tempfile::tempdir().unwrap();
    let tree = {
        let shown = show(store, name.as_ref(), at.path(), Access::ReadWrite)?;
        let tree = Tree::read(at.path())?;
        store.usage(shown.key().as_str())?;
        store.diff(shown.key().as_str(), std::io::sink(), &DiffOptions::default(), &Context::default())?;
        tree
    };
    let name = name.unwrap();
    store.diff(name.as_str(), std::io::sink(), &DiffOptions::default(), &Context::default())?;
    Ok(tree)
}

fn links(canary: &Canary) -> Vec<(&'static str, Vec<Layer>, Option<&'static str>)> {
    let l = Layer::new;
    let outside = canary.path("");
    let up = format!("{}{outside}", "../".repeat(40));
    let magic = format!("/proc/self/root{outside}");
    let into = |link: &str| {
        l().file(format!("{link}/new"), "x")
            .file(format!("{link}/secret"), "overwritten")
            .mode(0o4777)
            .dir(format!("{link}/sub"), 0o777)
            .owner(0, 0)
            .mtime(1, 1)
            .xattr("user.mark", "x")
            .symlink(format!("{link}/link"), "/")
            .hardlink(format!("{link}/hard"), format!("{link}/secret"))
            .fifo(format!("{link}/fifo"))
    };
    let mut attacks = Vec::new();
    for target in [outside.clone(), up, magic, "/proc/self/cwd".to_owned(), "/proc/1/root".to_owned()] {
        attacks.push(("a symlink, and entries through it", vec![l().symlink("evil", &target).then(into("evil"))], None));
        attacks.push(("the same in two layers", vec![l().symlink("evil", &target), into("evil")], None));
        attacks.push((
            "a chain of symlinks",
            vec![l().symlink("a", "b").symlink("b", "c/d").symlink("c", "/").symlink("d", &target), into("a")],
            None,
        ));
        attacks.push((
            "markers through a symlink",
            vec![l().symlink("evil", &target), l().whiteout("evil/secret").whiteout("evil/sub")],
            None,
        ));
        attacks.push(("an opaque marker through a symlink", vec![l().symlink("evil", &target), l().opaque("evil")], None));
        attacks.push((
            "a link to what a symlink leads to",
            vec![l().symlink("evil", &target).hardlink("mine", "evil/secret")],
            Some("missing"),
        ));
        attacks.push((
            "a marker, and the symlink in its own layer",
            vec![l().dir("evil", 0o755), l().symlink("evil", &target).opaque("evil").whiteout("evil/secret")],
            None,
        ));
    }
    attacks.extend([
        ("an absolute link", vec![l().hardlink("mine", canary.path("secret"))], Some("missing")),
        (
            "a directory over a symlink",
            vec![l().symlink("evil", &outside), l().dir("evil", 0o777).mtime(1, 1).xattr("user.mark", "x")],
            None,
        ),
        (
            "a file over a symlink",
            vec![l().symlink("evil", canary.path("secret")), l().file("evil", "overwritten").mode(0o666)],
            None,
        ),
        (
            "a link to a symlink, and a file over it",
            vec![l().symlink("evil", canary.path("secret")).hardlink("too", "evil").file("too", "overwritten")],
            None,
        ),
        ("a symlink's own attributes", vec![l().symlink("evil", canary.path("secret")).mode(0o777).mtime(1, 1)], None),
        (
            "a directory that becomes a symlink",
            vec![l().dir("d", 0o755).file("d/secret", ""), l().symlink("d", &outside).then(into("d"))],
            None,
        ),
        (
            "a symlink between",
            vec![l().dir("d/e", 0o755), l().symlink("d/e", &outside), into("d/e"), l().whiteout("d/e/secret"), l().opaque("d")],
            None,
        ),
    ]);
    attacks
}

attack!(links_lead_nobody_out, {
    let canary = Canary::new();
    for store in stores() {
        for (what, layers, fault) in links(&canary) {
            match (try_all(&store, &layers), fault) {
                (Ok(tree), None) => assert!(tree.len() > 1, "{what}"),
                (Err(error), Some(fault)) if error.kind() == ErrorKind::InvalidLayer => {
                    assert!(error.to_string().contains(fault), "{what}: {error}");
                }
                (done, _) => panic!("{what}: {:?}", done.map(|tree| tree.len())),
            }
            canary.assert_untouched(what);
        }
        store.gc(&Default::default(), &Context::default()).unwrap();
        canary.assert_untouched("gc");
    }
});

attack!(names_lead_nobody_out, {
    let canary = Canary::new();
    let up = |depth: usize| format!("{}{}", "../".repeat(depth), canary.path("secret").trim_start_matches('/'));
    for store in stores() {
        for name in ["..", "../x", "a/../../x", "/..", "a/..", "./../x", &up(1), &up(30), "a/b/../../../x"] {
            for layer in [
                Layer::new().file(name, "x"),
                Layer::new().dir(name, 0o777),
                Layer::new().member("short", b'0').record("path", name),
                Layer::new().file("a", "").hardlink("l", name),
                Layer::new().member(format!("{name}/.wh.secret"), b'0'),
            ] {
                let error = try_all(&store, &[layer]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{name}: {error}");
            }
        }
        // From the host's root on, and yet inside.
        let tree = try_all(&store, &[Layer::new().file(canary.path("secret"), "mine")]).unwrap();
        assert!(tree.get(canary.path("secret").trim_start_matches('/')).is_some());
        canary.assert_untouched("names");
    }
});

attack!(impossible_markers_delete_nothing, {
    let base = Layer::new().dir("d", 0o755).file("d/kept", "kept").file("kept", "kept");
    for store in stores() {
        let parent = import_onto(&store, None, &*base.tar()).unwrap();
        for marker in [
            ".wh.",
            ".wh..",
            ".wh...",
            "d/.wh.",
            "d/.wh..",
            "d/.wh...",
            "./.wh..",
            "/.wh...",
            ".wh./",
            ".wh.../",
            ".wh..wh..opq/x",
            ".wh.d/x",
            ".wh.d/.wh.kept",
            ".wh..wh..opq/.wh.kept",
            ".wh./.wh.d",
            "d/.wh.../x",
            ".wh../etc/passwd",
        ] {
            for flag in *b"05" {
                for after in [false, true] {
                    let attack = Layer::new().member(marker, flag).link("d");
                    let attack = if after { Layer::new().file("new", "").then(attack) } else { attack.file("new", "") };
                    let error = import_onto(&store, Some(&parent), &*attack.tar()).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{marker}: {error}");
                }
            }
        }
        let at = tempfile::tempdir().unwrap();
        let _shown = show(&store, Some(&parent), at.path(), Access::ReadOnly).unwrap();
        let tree = Tree::read(at.path()).unwrap();
        assert_eq!(tree.len(), 4, "{tree:?}");
        assert!(tree.get("d/kept").is_some() && tree.get("kept").is_some());
    }
});

attack!(no_reader_sees_another_archive, {
    let inner = Layer::new().file("smuggled", "").without_end().tar();
    let size = inner.len().to_string();
    for store in stores() {
        // TARmageddon: what the header says is no content, and the PAX header says is.
        let tree = try_all(&store, &[Layer::new().member("a", b'0').record("size", &size).raw(&inner).file("b", "")]).unwrap();
        assert!(tree.get("smuggled").is_none() && tree.get("b").is_some());
        assert_eq!(fs_size(&tree, "a"), inner.len() as u64);
        // A value that holds a record.
        let value = "x\n17 path=smuggled\n";
        let tree = try_all(&store, &[Layer::new().file("a", "").xattr("user.x", value)]).unwrap();
        assert!(tree.get("smuggled").is_none() && tree.get("a").is_some());
        // Types without content that have a size.
        for flag in *b"123456" {
            let layer = Layer::new().member("a", flag).link("b").record("size", &size).raw(&inner);
            assert_eq!(try_all(&store, &[layer]).unwrap_err().kind(), ErrorKind::InvalidLayer, "{}", char::from(flag));
        }
        // An archive after the archive.
        let tree = try_all(&store, &[Layer::new().file("a", "").raw([0; 1024]).raw(&inner)]).unwrap();
        assert!(tree.get("smuggled").is_none());
    }
});

fn fs_size(tree: &Tree, path: &str) -> u64 {
    match &tree.get(path).unwrap().kind {
        plywood::testing::tree::Kind::File(content) => content.size(),
        kind => panic!("{kind:?}"),
    }
}

attack!(a_layer_never_speaks_to_overlayfs, {
    let base = Layer::new().dir("secret", 0o700).file("secret/key", "key").dir("mine", 0o755).file("file", "lower");
    for store in stores() {
        for style in ["trusted.overlay.", "user.overlay."] {
            let name = |attribute: &str| format!("{style}{attribute}");
            let attack = Layer::new()
                .dir("mine", 0o755)
                .xattr(name("redirect"), "/secret")
                .dir("other", 0o755)
                .xattr(name("redirect"), "secret")
                .xattr(name("opaque"), "y")
                .xattr(name("origin"), "\0\u{fb}\x21")
                .file("file", "")
                .xattr(name("metacopy"), "")
                .xattr(name("redirect"), "/secret/key")
                .file("gone", "")
                .xattr(name("whiteout"), "y")
                .dir("secret", 0o700)
                .xattr(name("opaque"), "x")
                .xattr(name("impure"), "y");
            let tree = try_all(&store, &[base.clone(), attack]).unwrap();
            let names: Vec<String> = tree.paths().map(ToString::to_string).collect();
            assert_eq!(names, [".", "file", "gone", "mine", "other", "secret", "secret/key"], "{style} {}", store.backend().name());
            assert_eq!(fs_size(&tree, "file"), 0);
        }
    }
});

attack!(a_store_is_closed_to_others, {
    for store in stores() {
        try_all(&store, &[Layer::new().file("bin/su", "").mode(0o4755).dir("", 0o777).file("etc/shadow", "secret").mode(0o666)])
            .unwrap();
        let root = store.root();
        assert_eq!(fs::metadata(root).unwrap().mode() & 0o7777, 0o700);
        if is_root() {
            let other = Command::new("setpriv")
                .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", "find"])
                .arg(root)
                .output();
            let found = String::from_utf8(other.unwrap().stdout).unwrap();
            assert_eq!(found.trim_end(), root.to_str().unwrap(), "its name and no more");
        }
    }
});

// Names of users are never looked up, neither those of the layer nor in it.
attack!(names_of_users_mean_nothing, {
    let layer = Layer::new()
        .file("etc/passwd", "root:x:1234:1234::/:/bin/sh\nnobody:x:0:0::/:/bin/sh\n")
        .file("etc/nsswitch.conf", "passwd: files\n")
        .file("file", "")
        .record("uname", "nobody")
        .record("gname", "nogroup");
    for store in stores() {
        let tree = try_all(&store, std::slice::from_ref(&layer)).unwrap();
        let file = tree.get("file").unwrap();
        assert_eq!((file.attributes.uid, file.attributes.gid), (0, 0));
    }
});
