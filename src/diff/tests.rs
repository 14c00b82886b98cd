//! SEMANTICS §5, rule by rule, on real overlay mounts: an upperdir, the mount as a whole tree and a copy of it give the same stream,
//! and what it says, applied to the lower tree in memory, is the tree.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::MountAttrFlags;

use super::*;
use crate::entry::{Change, Node, Timestamp};
use crate::sys::inode;
use crate::sys::mount::{Api, FsContext};
use crate::sys::test_support::{is_root, skip};
use crate::testing::layer::LayerEntry;
use crate::testing::tree::assert_same_tree;
use crate::testing::{Tree, model};

/// The mtime of all directories here, so that a test speaks of what it changes.
const STILL: Timestamp = Timestamp::from_seconds(1_000_000);

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
        let temp = tempfile::tempdir().unwrap();
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(temp.path().join(name)).unwrap();
        }
        let lower = temp.path().join("lower");
        sh(&lower, build);
        still(&lower);
        let mount = overlay(temp.path(), &["lower"], true);
        let scene = Self { temp, mount };
        sh(&scene.merged(), change);
        still(&scene.merged());
        scene
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
        self.diff_of(Upper::Overlay { dir: &self.dir("upper"), style: Style::Trusted }, cx)
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
