//! SEMANTICS §7: nothing leaves the tree, however it is raced; and neither depth nor number takes descriptors or the stack.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stack::{OVERLAY, PLAIN, Stack, runs};
use crate::apply::{Form, Place, apply};
use crate::entry::{Attributes, Change, Chunk, Entry, EntryStream, Node};
use crate::error::ErrorKind;
use crate::path::EntryPath;
use crate::progress::{Context, Progress};
use crate::sys::{Dir, Root, inode};
use crate::testing::Layer;
use crate::tree::Ids;

#[test]
fn a_racing_writer_leads_nothing_out_of_the_tree() {
    if !runs("a_racing_writer_leads_nothing_out_of_the_tree") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    for dir in ["outside/sub", "tree", "lower/d/sub"] {
        std::fs::create_dir_all(temp.path().join(dir)).unwrap();
    }
    std::fs::write(outside.join("low"), "kept").unwrap();
    std::fs::write(outside.join("sub/low"), "kept").unwrap();
    let before = crate::testing::Tree::read(&outside).unwrap();
    let layer = (0..40).fold(Layer::new(), |layer, number| {
        let layer = layer.dir("d", 0o700).file(format!("d/f{number}"), "x").file("d/sub/low", "x").mode(0o4755).dir("d/sub", 0o711);
        layer.hardlink(format!("d/sub/l{number}"), "d/low").hardlink(format!("l{number}"), "d/sub/low").whiteout("d/old")
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let tree = Dir::open(temp.path().join("tree")).unwrap();
        tree.symlink(outside.as_os_str().as_encoded_bytes(), b"evil").unwrap();
        let (stop, racer) = (&stop, tree.try_clone().unwrap());
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = racer.rename_exchange(b"d", &racer, b"evil");
                let _ = racer.try_child(b"d").ok().flatten().map(|dir| dir.rename_exchange(b"sub", &racer, b"evil"));
            }
        });
        for round in 0..20 {
            let form = if round % 2 == 0 { OVERLAY } else { PLAIN };
            let lower = Root::new(Dir::open(temp.path().join("lower")).unwrap());
            let mut fresh = || {
                let scratch = temp.path().join(format!("scratch{round}"));
                let _ = std::fs::create_dir(&scratch);
                Ok(Place::new(tree.try_clone()?, Dir::open(scratch)?))
            };
            // Whether it succeeds is of no interest: the tree is not the applier's alone.
            let _ = apply(&mut fresh, Some(&lower), form, &mut layer.stream().unwrap(), Ids::Exact, &Context::default());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(before.difference(&crate::testing::Tree::read(&outside).unwrap()).is_empty());
}

#[test]
fn symlinks_of_a_layer_stay_inside() {
    if !runs("symlinks_of_a_layer_stay_inside") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let host = temp.path().to_str().unwrap().to_owned();
    let layer = Layer::new()
        .symlink("abs", &host)
        .symlink("up", "../../../../../../../../../..")
        .symlink("proc", "/proc/self/root")
        .file("abs/x", "")
        .file("up/y", "")
        .file("proc/z", "");
    for form in [OVERLAY, PLAIN] {
        let mut stack = Stack::new(form);
        stack.apply(&layer).unwrap();
        let found = stack.read();
        // `/proc/self/root` begins with the layer's own symlink: a loop, which makes room for a directory.
        for path in [format!("{}/x", host.trim_start_matches('/')), "y".to_owned(), "proc/z".to_owned()] {
            assert!(found.get(&path).is_some(), "{form:?} {path}");
        }
    }
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn depth_takes_no_descriptors() {
    if !runs("depth_takes_no_descriptors") {
        return;
    }
    let deep = vec!["d"; 1024].join("/");
    let half = vec!["d"; 512].join("/");
    let layer = Layer::new()
        .file(format!("{deep}/x"), "deep")
        .file(format!("{half}/y"), "")
        .dir(&half, 0o711)
        .hardlink("l", format!("{deep}/x"));
    for form in [OVERLAY, PLAIN] {
        let child = crate::sys::test_support::Child { user: None, sub_ids: None };
        let done = child.run(|| {
            let limit = rustix::process::Rlimit { current: Some(96), maximum: Some(96) };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).map_err(|error| error.to_string())?;
            // Not through a mount: overlayfs itself may stand deeper than the tree's own paths.
            let temp = tempfile::tempdir().map_err(|error| error.to_string())?;
            std::fs::create_dir(temp.path().join("tree")).map_err(|error| error.to_string())?;
            std::fs::create_dir(temp.path().join("scratch")).map_err(|error| error.to_string())?;
            let open = |name| Dir::open(temp.path().join(name));
            let mut fresh = || Ok(Place::new(open("tree")?, open("scratch")?));
            let mut stream = layer.stream().map_err(|error| error.to_string())?;
            apply(&mut fresh, None, form, &mut stream, Ids::Exact, &Context::default()).map_err(|error| error.to_string())?;
            let root = Root::new(open("tree").map_err(|error| error.to_string())?);
            let found = root.literal_stat(&EntryPath::parse(&half).unwrap()).map_err(|error| error.to_string())?;
            Ok(format!("{:o}", found.map_or(0, |stat| stat.mode)))
        });
        assert_eq!(done, Ok("711".to_owned()), "{form:?}");
    }
}

/// Stops after so many entries.
struct Stops(std::sync::atomic::AtomicU64);

impl Progress for Stops {
    fn entries(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn it_stops_when_it_is_told_to() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["tree", "scratch"] {
        std::fs::create_dir(temp.path().join(name)).unwrap();
    }
    let mut fresh = || Ok(Place::new(Dir::open(temp.path().join("tree"))?, Dir::open(temp.path().join("scratch"))?));
    let stops = Stops(2.into());
    let (uid, gid) = inode::creator();
    let layer = ["a", "b", "c"].iter().fold(Layer::new(), |layer, name| layer.file(*name, "").owner(uid, gid));
    let error = apply(&mut fresh, None, PLAIN, &mut layer.stream().unwrap(), Ids::Exact, &Context::new(&stops)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(temp.path().join("tree/b").exists() && !temp.path().join("tree/c").exists());
}

/// As many empty files as one likes, in as many directories.
struct Many(u32, u32);

impl EntryStream for Many {
    fn next(&mut self) -> crate::Result<Option<Entry>> {
        if self.0 == self.1 {
            return Ok(None);
        }
        self.0 += 1;
        let path = EntryPath::parse(format!("{}/{}", self.0 % 7, self.0)).unwrap();
        let (uid, gid) = inode::creator();
        let attributes = Attributes { uid, gid, ..Attributes::implied() };
        Ok(Some(Entry { path, change: Change::Upsert { node: Node::File { size: 0 }, attributes } }))
    }

    fn chunk(&mut self) -> crate::Result<Option<Chunk<'_>>> {
        Ok(None)
    }

    fn restart(&mut self) -> crate::Result<()> {
        self.0 = 0;
        Ok(())
    }
}

#[test]
fn an_ordinary_user_can_squash_in_plain_form() {
    // Also as root: what is asked for is what anybody may do.
    let temp = tempfile::tempdir().unwrap();
    for name in ["tree", "scratch", "outside"] {
        std::fs::create_dir(temp.path().join(name)).unwrap();
    }
    symlink(temp.path().join("outside"), temp.path().join("tree/link")).unwrap();
    let mut fresh = || Ok(Place::new(Dir::open(temp.path().join("tree"))?, Dir::open(temp.path().join("scratch"))?));
    let cx = Context::default();
    let form = Form::Plain { style: crate::whiteout::overlay::Style::User, root: (0, 0) };
    apply(&mut fresh, None, form, &mut Many(0, 50), Ids::Squash, &cx).unwrap();
    let layer =
        Layer::new().file("ro/x", "").dir("ro", 0o500).file("ro/y", "").dir("none", 0o0).file("none/z", "").file("ro/w", "");
    apply(&mut fresh, None, form, &mut layer.stream().unwrap(), Ids::Squash, &cx).unwrap();
    let tree = Dir::open(temp.path().join("tree")).unwrap();
    assert_eq!(tree.stat(b"ro").unwrap().unwrap().mode, 0o500);
    assert_eq!(tree.stat(b"none").unwrap().unwrap().mode, 0);
    assert!(tree.child(b"ro").unwrap().stat(b"w").unwrap().is_some());
    tree.clear().unwrap();
}
