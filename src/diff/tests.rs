//! SEMANTICS §5, rule by rule, on real overlay mounts: an upperdir, the mount as a whole tree and a copy of it give the same stream,
//! and what it says, applied to the lower tree in memory, is the tree.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::MountAttrFlags;

use super::*;
use crate::entry::{Change, Node, Timestamp};
use crate::error::ErrorKind;
use crate::progress::Reason;
use crate::sys::mount::{Api, FsContext};
use crate::sys::test_support::{is_root, skip};
use crate::sys::{inode, xattr};
use crate::testing::layer::LayerEntry;
use crate::testing::tree::assert_same_tree;
use crate::testing::{Tree, model};

/// The mtime of all directories here, so that a test speaks of what it changes.
const STILL: Timestamp = Timestamp::from_seconds(1_000_000);

mod edges;
mod random;

/// What a sink was given.
#[derive(Debug, Default, PartialEq)]
struct Layer {
    entries: Vec<(LayerEntry, Status)>,
    without_data: bool,
}

impl EntrySink for Layer {
    fn entry(&mut self, entry: &Entry, status: Status) -> Result<()> {
        self.entries.push((LayerEntry { entry: entry.clone(), content: Vec::new() }, status));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(!self.without_data && !bytes.is_empty());
        self.entries.last_mut().unwrap().0.content.extend_from_slice(bytes);
        Ok(())
    }

    fn wants_data(&self) -> bool {
        !self.without_data
    }
}

impl Layer {
    /// One word an entry: `+a` added, `~d/` modified, `-x` deleted, `+b=a` a link.
    fn summary(&self) -> String {
        let words = self.entries.iter().map(|(LayerEntry { entry, content }, status)| {
            let sign = match status {
                Status::Added => '+',
                Status::Modified => '~',
                Status::Deleted => '-',
            };
            let tail = match &entry.change {
                Change::Upsert { node: Node::Directory, .. } => "/".to_owned(),
                Change::Upsert { node: Node::Hardlink { target }, .. } => format!("={target}"),
                Change::Upsert { node: Node::File { size }, .. } => {
                    assert!(self.without_data || content.len() as u64 == *size, "{}: {} bytes", entry.path, content.len());
                    String::new()
                }
                _ => String::new(),
            };
            format!("{sign}{}{tail}", entry.path)
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn entries(&self) -> Vec<LayerEntry> {
        self.entries.iter().map(|(entry, _)| entry.clone()).collect()
    }
}

/// A lower tree, an overlay over it, and its upperdir.
struct Scene {
    temp: tempfile::TempDir,
    mount: OwnedFd,
}

impl Scene {
    /// Builds the lower tree by a shell script, mounts, and changes it by another.
    fn new(build: &str, change: &str) -> Self {
        let scene = Self::over(|lower| sh(lower, build));
        sh(&scene.merged(), change);
        still(&scene.merged());
        scene
    }

    /// An overlay on a lower tree.
    fn over(build: impl FnOnce(&Path)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(temp.path().join(name)).unwrap();
        }
        let lower = temp.path().join("lower");
        build(&lower);
        still(&lower);
        let mount = overlay(temp.path(), &["lower"], true);
        Self { temp, mount }
    }

    fn dir(&self, name: &str) -> Dir {
        Dir::open(self.temp.path().join(name)).unwrap()
    }

    fn merged(&self) -> PathBuf {
        by_descriptor(&self.mount)
    }

    fn diff_of(&self, upper: Upper<'_>, cx: &Context<'_>) -> Result<Layer> {
        let lower = self.dir("lower");
        let root = inode::attributes(&lower).unwrap();
        let mut layer = Layer::default();
        diff(&Sides { upper, lower: Some(&lower), lower_root: Some(&root), upper_root: None }, &mut layer, cx)?;
        Ok(layer)
    }

    fn overlay_diff(&self, cx: &Context<'_>) -> Result<Layer> {
        self.diff_of(Upper::Overlay { dir: &self.dir("upper"), style: XattrStyle::Trusted, cut: false }, cx)
    }

    /// The stream, which must be the same from all forms of the tree, and say the tree.
    #[track_caller]
    fn diff(&self) -> Layer {
        let cx = Context::default();
        let layer = self.overlay_diff(&cx).unwrap();
        let report = cx.take_report();
        let merged = Dir::open(self.merged()).unwrap();
        let cx = Context::default();
        let whole = self.diff_of(Upper::Whole { dir: &merged }, &cx).unwrap();
        assert_eq!(layer.summary(), whole.summary(), "upperdir, whole tree");
        assert_eq!(layer, whole);
        assert_eq!(report, cx.take_report(), "both report the same");
        let copy = self.temp.path().join("copy");
        let copied = Command::new("cp").arg("-a").arg(self.merged().join(".")).arg(&copy).status().unwrap();
        assert!(copied.success());
        assert_eq!(layer, self.diff_of(Upper::Whole { dir: &Dir::open(&copy).unwrap() }, &Context::default()).unwrap());
        std::fs::remove_dir_all(&copy).unwrap();

        let lower = Tree::read(self.temp.path().join("lower")).unwrap();
        let found = model::apply(&lower, &layer.entries()).unwrap();
        if report.is_empty() {
            assert_same_tree(&Tree::read(self.merged()).unwrap(), &found);
        }
        layer
    }
}

fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
}

fn overlay(temp: &Path, lowers: &[&str], writable: bool) -> OwnedFd {
    let open = |name: &str| Dir::open(temp.join(name)).unwrap();
    let fs = FsContext::open("overlay", Api::probe(open(""))).unwrap();
    for lower in lowers {
        fs.set_directory("lowerdir+", std::os::fd::AsFd::as_fd(&open(lower))).unwrap();
    }
    for (key, value) in [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")] {
        fs.set_string(key, value).unwrap();
    }
    if writable {
        fs.set_directory("upperdir", std::os::fd::AsFd::as_fd(&open("upper"))).unwrap();
        fs.set_directory("workdir", std::os::fd::AsFd::as_fd(&open("work"))).unwrap();
    }
    fs.mount(MountAttrFlags::empty()).unwrap()
}

#[track_caller]
fn sh(dir: &Path, script: &str) {
    let done = Command::new("sh").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Gives all directories of a tree the same mtime, and touches no other.
fn still(path: &Path) {
    let mut directories = vec![path.to_owned()];
    while let Some(path) = directories.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
        }
        let dir = Dir::open(&path).unwrap();
        if inode::stat(&dir).unwrap().mtime != STILL {
            inode::set_times(&dir, STILL, STILL).unwrap();
        }
    }
}

fn can_run(test: &str) -> bool {
    if !is_root() {
        skip(test, "an overlay mount needs root");
    }
    is_root()
}

#[test]
fn each_change_is_written_and_nothing_else() {
    if !can_run("each_change_is_written_and_nothing_else") {
        return;
    }
    let base = "mkdir d e d/s; echo a >d/a; echo b >d/b; echo x >d/s/x; echo y >e/y; ln -s a d/l; mkfifo d/p; mknod d/n c 1 3";
    let rows = [
        ("nothing", "", ""),
        ("read", "cat d/a; ls -R", ""),
        ("a new file, with its parents", "echo n >d/s/new", "~d/ ~d/s/ +d/s/new"),
        ("at the root no parent is written", "echo n >new", "+new"),
        ("an edit", "echo more >>d/a", "~d/ ~d/a"),
        ("mode", "chmod 600 d/a", "~d/ ~d/a"),
        ("mode of a directory, without its content", "chmod 700 d", "~d/"),
        ("owner", "chown 5 d/a; chown 0:6 d/s; chown -h 7 d/l", "~d/ ~d/a ~d/l ~d/s/"),
        (
            "time, in nanoseconds",
            "touch -r d/a r; touch -d '2001-01-01 00:00:00.000000001' d/a; touch -h -d @1 d/l; rm r",
            "~d/ ~d/a ~d/l",
        ),
        ("target", "ln -sf b d/l", "~d/ ~d/l"),
        ("device", "rm d/n; mknod d/n c 1 5", "~d/ ~d/n"),
        ("a file that is gone", "rm d/a", "~d/ -d/a"),
        ("a directory that is gone is one whiteout", "rm -r d", "-d"),
        (
            "whiteouts come first, by bytes, then entries",
            "rm d/b d/s/x; rmdir d/s; rm d/l; touch d/A d/zz d/a+",
            "~d/ -d/b -d/l -d/s +d/A +d/a+ +d/zz",
        ),
        ("content right after its directory", "mkdir d+ da; touch d+/f da/f d/f", "~d/ +d/f +d+/ +d+/f +da/ +da/f"),
        ("another type", "rm d/a; mkdir d/a; touch d/a/n; rm -r d/s; ln -s b d/s", "~d/ ~d/a/ +d/a/n ~d/s"),
        ("a directory made again", "rm -r d/s; mkdir d/s", "~d/ ~d/s/ -d/s/x"),
        ("made again with what is new", "rm -r d; mkdir d; echo n >d/n", "~d/ -d/a -d/b -d/l -d/p -d/s ~d/n"),
        ("and below it", "rm -r d; mkdir -p d/s; touch d/s/n", "~d/ -d/a -d/b -d/l -d/n -d/p ~d/s/ -d/s/x +d/s/n"),
        ("came and went", "echo n >d/n2; rm d/n2; mkdir q; touch q/1; rm -r q", ""),
        ("copied up and nothing else", "chmod 600 d/a; chmod 644 d/a; touch -r e/y d/y; chmod 700 e; chmod 755 e; rm d/y", ""),
        ("removed and made the same again", "cp -a d /tmp/plywood.$$; rm -r d; cp -a /tmp/plywood.$$ d; rm -r /tmp/plywood.$$", ""),
        ("a rename", "mv d/a e/a", "~d/ -d/a ~e/ +e/a"),
        ("a rename over", "echo z >d/t; touch -d @5 d/t; mv d/t d/b", "~d/ ~d/b"),
    ];
    for (rule, change, expected) in rows {
        assert_eq!(Scene::new(base, change).diff().summary(), expected, "{rule}");
    }
}

#[test]
fn the_same_size_and_time_but_other_content_is_a_change() {
    if !can_run("the_same_size_and_time_but_other_content_is_a_change") {
        return;
    }
    let change = "touch -r a .t; printf 12345 >a; touch -r .t a; rm .t; chmod 600 b; chmod 644 b";
    assert_eq!(Scene::new("printf 54321 >a; printf 1 >b", change).diff().summary(), "~a");
}

/// Group notation: what is linked and broken, and what the layer says.
#[test]
fn hardlink_groups() {
    if !can_run("hardlink_groups") {
        return;
    }
    let base = "mkdir a b; echo 1 >a/x; ln a/x a/y; ln a/x b/z; echo s >b/s; echo t >b/t; ln b/t b/u";
    // `split NAME`: the name gets an inode of its own that is otherwise the same.
    let split = "split() { cp -p $1 $1.t; mv $1.t $1; };";
    let rows = [
        ("untouched", "", ""),
        ("a member goes, the rest keeps the inode", "rm a/x", "~a/ -a/x"),
        ("all but one go", "rm a/x b/z", "~a/ -a/x ~b/ -b/z"),
        ("the first part keeps the inode: another name is written", "split b/z", "~b/ ~b/z"),
        (
            "the first name was split off: the others are written as a group, though none was touched",
            "split a/x",
            "~a/ ~a/y ~b/ ~b/z=a/y",
        ),
        ("the middle one", "split a/y", "~a/ ~a/y"),
        ("every name for itself", "split a/x; split a/y; split b/z", "~a/ ~a/y ~b/ ~b/z"),
        ("split off and joined again", "split a/x; ln -f a/x a/y; ln -f a/x b/z", ""),
        ("without the first", "rm a/x; split a/y; ln -f a/y b/z", "~a/ -a/x"),
        ("without the first, in two parts", "rm a/x; split b/z", "~a/ -a/x ~b/ ~b/z"),
        ("edited by a name that is not the first", "echo 2 >>b/z", "~b/ ~b/z"),
        ("edited by the first", "echo 2 >>a/x", "~a/ ~a/x ~a/y ~b/ ~b/z=a/y"),
        ("edited by all", "echo 2 >>a/x; ln -f a/x a/y; ln -f a/x b/z", "~a/ ~a/x ~a/y=a/x ~b/ ~b/z=a/x"),
        ("a new name: written whole", "ln b/s b/r", "~b/ +b/r ~b/s=b/r"),
        (
            "a new name of a group: written whole",
            "ln a/x b/w; ln -f a/x a/y; ln -f a/x b/z",
            "~a/ ~a/x ~a/y=a/x ~b/ +b/w=a/x ~b/z=a/x",
        ),
        ("two groups become one", "ln -f b/t a/x", "~a/ ~a/x ~a/y ~b/ ~b/t=a/x ~b/u ~b/z=a/y"),
        ("two groups become one, whole", "ln -f b/t b/s; ln -f b/t b/u", "~b/ ~b/s ~b/t=b/s ~b/u=b/s"),
        ("a name moves from one group to another", "ln -f b/t b/z; ln -f b/t b/u", "~b/ ~b/t ~b/u=b/t ~b/z=b/t"),
        (
            "a new group across directories, the first name deep",
            "mkdir a/d; echo n >b/n; ln b/n a/d/n; ln b/n c",
            "~a/ +a/d/ +a/d/n ~b/ +b/n=a/d/n +c=a/d/n",
        ),
        ("renamed", "mv b/u b/v", "~b/ -b/u +b/v"),
        ("a directory with names of a group goes", "rm -r a", "-a"),
        ("and is made again with one of them", "cp -p a/x q; rm -r a; mkdir a; mv q a/x", "~a/ -a/y ~b/ ~b/z"),
        ("another type on the first name", "rm a/x; ln -s y a/x", "~a/ ~a/x ~a/y ~b/ ~b/z=a/y"),
        ("a directory on the first name", "rm a/x; mkdir a/x", "~a/ ~a/x/"),
        (
            "symlinks and FIFOs have groups too",
            "ln -s t b/k; ln b/k a/k; mkfifo b/f; ln b/f b/g",
            "~a/ +a/k ~b/ +b/f +b/g=b/f +b/k=a/k",
        ),
    ];
    for (rule, change, expected) in rows {
        assert_eq!(Scene::new(base, &format!("{split} {change}")).diff().summary(), expected, "{rule}");
    }
}

#[test]
fn extended_attributes_are_what_the_container_sees() {
    if !can_run("extended_attributes_are_what_the_container_sees") {
        return;
    }
    let scene = Scene::new("mkdir d; touch a b c f g; chmod 644 *; chmod 755 d", "");
    let at = |path: &str| scene.merged().join(path);
    let set = |path: &str, name: &str, value: &[u8]| ::xattr::set(at(path), name, value).unwrap();
    set("a", "user.note", b"1");
    set("d", "user.overlay.opaque", b"ordinary");
    // Kernels since 6.7 escape it in the upperdir; older ones refuse.
    let escaped = ::xattr::set(at("b"), "trusted.overlay.opaque", b"y").is_ok();
    set("c", "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    set("f", "user.gone", b"x");
    ::xattr::remove(at("f"), "user.gone").unwrap();
    // u::rw-,u:5:rw-,g::r--,m::rw-,o::r--.
    let acl = [(1_u16, 6_u16, u32::MAX), (2, 6, 5), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)].map(
        |(tag, permissions, id)| {
            [tag.to_le_bytes().to_vec(), permissions.to_le_bytes().to_vec(), id.to_le_bytes().to_vec()].concat()
        },
    );
    set("g", "system.posix_acl_access", &[2_u32.to_le_bytes().to_vec(), acl.concat()].concat());
    let layer = scene.diff();
    assert_eq!(layer.summary(), if escaped { "~a ~b ~c ~d/ ~g" } else { "~a ~c ~d/ ~g" });
    let names: Vec<String> = layer
        .entries
        .iter()
        .filter_map(|(entry, _)| match &entry.entry.change {
            Change::Upsert { attributes, .. } => Some(&attributes.xattrs),
            _ => None,
        })
        .flat_map(|xattrs| xattrs.keys().map(|name| name.escape_ascii().to_string()))
        .collect();
    let mut expected =
        vec!["user.note", "trusted.overlay.opaque", "security.capability", "user.overlay.opaque", "system.posix_acl_access"];
    expected.retain(|name| escaped || *name != "trusted.overlay.opaque");
    assert_eq!(names, expected);
}

#[test]
fn what_no_layer_can_carry_is_reported_once_with_what_is_written() {
    if !can_run("what_no_layer_can_carry_is_reported_once_with_what_is_written") {
        return;
    }
    let scene = Scene::new("mkdir d; echo 1 >d/a; echo 2 >d/b; echo 3 >d/c", "");
    ::xattr::set(scene.merged().join("d/a"), "trusted.mine", b"1").unwrap();
    ::xattr::set(scene.merged().join("d/b"), "trusted.mine", b"1").unwrap();
    sh(&scene.merged(), "echo more >>d/b; rm d/c");
    for name in ["d/c", "d/new"] {
        std::os::unix::net::UnixListener::bind(scene.merged().join(name)).unwrap();
    }
    still(&scene.merged());
    let layer = scene.diff();
    assert_eq!(layer.summary(), "~d/ -d/c ~d/b", "a socket hides what stood there");
    let cx = Context::default();
    scene.overlay_diff(&cx).unwrap();
    let report: Vec<(String, Reason)> =
        cx.take_report().skipped.into_iter().map(|skipped| (skipped.path, skipped.reason)).collect();
    let forbidden = Reason::XattrForbidden { name: "trusted.mine".into() };
    let expected = [("d/c", Reason::Socket), ("d/new", Reason::Socket), ("d/b", forbidden)];
    assert_eq!(report, expected.map(|(path, reason)| (path.to_owned(), reason)));
    assert_eq!(scene.overlay_diff(&Context::default().strict()).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn names_that_no_layer_can_say_are_refused_before_anything_is_written() {
    if !can_run("names_that_no_layer_can_say_are_refused_before_anything_is_written") {
        return;
    }
    let base = "mkdir d d/.wh.old; touch d/.wh.old/f d/a d/.wh.b; echo h >d/.wh.h; ln d/.wh.h d/h";
    let rows = [
        ("touch d/.wh.new", Some("d/.wh.new")),
        ("mkdir -p z/.wh..wh..opq", Some("z/.wh..wh..opq")),
        ("echo 1 >>d/.wh.b", Some("d/.wh.b")),
        ("rm d/.wh.b", Some("d/.wh.b")),
        ("rm -r d; mkdir d", Some("d/.wh.b")),
        ("touch d/.wh.old/new", Some("d/.wh.old")),
        ("cp -p d/h t; mv t d/h; echo 1 >>d/a", None),
        ("echo 1 >>d/a", None),
        ("rm -r d", None),
        ("chmod 600 d/.wh.b; chmod 644 d/.wh.b; echo 1 >>d/a", None),
    ];
    for (change, refused) in rows {
        let scene = Scene::new(base, change);
        let Some(path) = refused else {
            scene.diff();
            continue;
        };
        let lower = scene.dir("lower");
        let merged = Dir::open(scene.merged()).unwrap();
        for upper in
            [Upper::Overlay { dir: &scene.dir("upper"), style: XattrStyle::Trusted, cut: false }, Upper::Whole { dir: &merged }]
        {
            let mut layer = Layer::default();
            let sides = Sides { upper, lower: Some(&lower), lower_root: None, upper_root: None };
            let error = diff(&sides, &mut layer, &Context::default()).unwrap_err();
            assert_eq!((error.kind(), error.path()), (ErrorKind::Unsupported, Some(Path::new(path))), "{change}");
            assert!(layer.entries.is_empty(), "{change}");
        }
    }
}

#[test]
fn the_root_is_written_first_and_only_where_it_differs() {
    if !can_run("the_root_is_written_first_and_only_where_it_differs") {
        return;
    }
    let scene = Scene::new("touch a b", "rm a; touch c; chmod 700 .; touch -d @7 .");
    inode::set_times(Dir::open(scene.merged()).unwrap(), Timestamp::from_seconds(7), Timestamp::from_seconds(7)).unwrap();
    let layer = scene.diff();
    assert_eq!(layer.summary(), "~./ -a +c");
    let with_roots = |lower_root: Option<&Attributes>, upper_root: Option<&Attributes>| {
        let (upper, lower) = (scene.dir("upper"), scene.dir("lower"));
        let upper = Upper::Overlay { dir: &upper, style: XattrStyle::Trusted, cut: false };
        let mut layer = Layer::default();
        diff(&Sides { upper, lower: Some(&lower), lower_root, upper_root }, &mut layer, &Context::default()).unwrap();
        layer.summary()
    };
    let implied = Attributes::implied();
    let other = Attributes { uid: 5, ..Attributes::implied() };
    assert_eq!(with_roots(Some(&other), Some(&other)), "-a +c", "the snapshots say, not the directories");
    assert_eq!(with_roots(Some(&implied), Some(&other)), "~./ -a +c");
    assert_eq!(with_roots(None, Some(&implied)), "-a +c");
    assert_eq!(with_roots(None, Some(&other)), "~./ -a +c");
}

#[test]
fn without_a_lower_tree_everything_is_new_and_no_whiteout_is_written() {
    if !can_run("without_a_lower_tree_everything_is_new_and_no_whiteout_is_written") {
        return;
    }
    let scene = Scene::new("", "mkdir d; touch d/a; ln d/a b; mkdir d/e; rm -r d/e");
    let upper = scene.dir("upper");
    // What a container removed again may leave whiteouts and opaque directories behind.
    upper.mknod(b"ghost", crate::sys::FileType::CharacterDevice, 0, (0, 0)).unwrap();
    xattr::set(upper.child(b"d").unwrap(), b"trusted.overlay.opaque", b"y").unwrap();
    let merged = Dir::open(scene.merged()).unwrap();
    for upper in [Upper::Overlay { dir: &upper, style: XattrStyle::Trusted, cut: false }, Upper::Whole { dir: &merged }] {
        let mut layer = Layer::default();
        let root = Attributes::implied();
        let sides = Sides { upper, lower: None, lower_root: None, upper_root: Some(&root) };
        diff(&sides, &mut layer, &Context::default()).unwrap();
        assert_eq!(layer.summary(), "+b +d/ +d/a=b");
        let tree = model::apply(&Tree::new(), &layer.entries()).unwrap();
        assert_same_tree(&Tree::new().file("b", "").hardlink("d/a", "b").at("d").mtime(1, 0), &masked(tree));
    }
}

#[test]
fn a_tree_that_hides_the_whole_lower_tree_is_compared_with_it_all_the_same() {
    if !can_run("a_tree_that_hides_the_whole_lower_tree_is_compared_with_it_all_the_same") {
        return;
    }
    let scene = Scene::new("mkdir d e; touch a d/b d/c; ln a d/a", "");
    // What applying `.wh..wh..opq` and a few entries at the root makes: no mark tells.
    let upper = scene.dir("upper");
    sh(&scene.temp.path().join("upper"), "mkdir d; cp -p ../lower/d/b d; cp -p ../lower/a d; chmod 755 d; touch n");
    still(&scene.temp.path().join("upper"));
    let lower = scene.dir("lower");
    let root = Attributes::implied();
    let mut layers = Vec::new();
    for upper in [Upper::Overlay { dir: &upper, style: XattrStyle::Trusted, cut: true }, Upper::Whole { dir: &upper }] {
        let mut layer = Layer::default();
        let sides = Sides { upper, lower: Some(&lower), lower_root: Some(&root), upper_root: Some(&root) };
        diff(&sides, &mut layer, &Context::default()).unwrap();
        assert_eq!(layer.summary(), "-a -e ~d/ -d/c +n");
        layers.push(layer);
    }
    assert_eq!(layers[0], layers[1]);
}

/// Times are the clock's where a test makes something new.
fn masked(tree: Tree) -> Tree {
    tree.at("d").mtime(1, 0).at("b").mtime(1_000_000_000, 0)
}
