//! Trees as containers and hostile layers leave them: every form of a marker, chains, depth, and writers that never stop.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Forms that upperdirs of containers, and those of layers, have beside what the kernel makes here.
#[test]
fn every_form_of_a_whiteout_is_one_and_ghosts_are_none() {
    if !can_run("every_form_of_a_whiteout_is_one_and_ghosts_are_none") {
        return;
    }
    let scene = Scene::new("mkdir d o x; touch d/a d/b o/1 o/2 x/a x/b; chmod 644 */*", "");
    let upper = scene.dir("upper");
    let whiteout = |dir: &Dir, name: &[u8]| dir.mknod(name, crate::sys::FileType::CharacterDevice, 0, (0, 0)).unwrap();
    let like = |name: &[u8]| {
        let dir = upper.mkdir_open(name, 0o755).unwrap();
        inode::set_mode(&dir, 0o755).unwrap();
        inode::set_times(&dir, STILL, STILL).unwrap();
        dir
    };
    let (d, o, x) = (like(b"d"), like(b"o"), like(b"x"));
    whiteout(&d, b"a");
    whiteout(&d, b"ghost");
    xattr::set(&o, b"trusted.overlay.opaque", b"y").unwrap();
    whiteout(&o, b"1");
    whiteout(&o, b"ghost");
    xattr::set(&x, b"trusted.overlay.opaque", b"x").unwrap();
    xattr::set(x.create_file(b"a", 0).unwrap(), b"trusted.overlay.whiteout", b"").unwrap();
    xattr::set(x.create_file(b"ghost", 0).unwrap(), b"trusted.overlay.whiteout", b"y").unwrap();
    for dir in [&d, &o, &x, &upper] {
        inode::set_times(dir, STILL, STILL).unwrap();
    }
    assert_eq!(scene.overlay_diff(&Context::default()).unwrap().summary(), "~d/ -d/a ~o/ -o/1 -o/2 ~x/ -x/a");
}

/// The tree below is a chain: what a middle layer hides is not there, and a group may have lost names.
#[test]
fn the_lower_tree_is_what_its_mount_shows() {
    if !can_run("the_lower_tree_is_what_its_mount_shows") {
        return;
    }
    let scene = Scene::new("mkdir d; echo 1 >d/a; ln d/a d/b; ln d/a d/c; touch d/e", "cp -p d/a t; mv t d/a; rm d/e; echo f >d/f");
    // Upper becomes a middle layer.
    drop(scene.mount);
    for (from, to) in [("upper", "middle"), ("work", "old")] {
        std::fs::rename(scene.temp.path().join(from), scene.temp.path().join(to)).unwrap();
        std::fs::create_dir(scene.temp.path().join(from)).unwrap();
    }
    let below = Dir::open(by_descriptor(&overlay(scene.temp.path(), &["middle", "lower"], false))).unwrap();
    let mount = overlay(scene.temp.path(), &["middle", "lower"], true);
    let merged = by_descriptor(&mount);
    sh(&merged, "rm d/a; cp -p d/b t; mv t d/b; rm -r d/f; mkdir d/e");
    still(&merged);
    let mut layers = Vec::new();
    let (upper, whole) = (Dir::open(scene.temp.path().join("upper")).unwrap(), Dir::open(&merged).unwrap());
    for upper in [Upper::Overlay { dir: &upper, style: XattrStyle::Trusted, cut: false }, Upper::Whole { dir: &whole }] {
        let root = inode::attributes(&below).unwrap();
        let mut layer = Layer::default();
        let sides = Sides { upper, lower: Some(&below), lower_root: Some(&root), upper_root: Some(&root) };
        diff(&sides, &mut layer, &Context::default()).unwrap();
        assert_eq!(layer.summary(), "~d/ -d/a -d/f ~d/c +d/e/", "b keeps the inode that it shared with c alone");
        layers.push(layer);
    }
    assert_eq!(layers[0], layers[1]);
}

#[test]
fn a_list_of_changes_reads_no_content() {
    if !can_run("a_list_of_changes_reads_no_content") {
        return;
    }
    let scene = Scene::new("echo a >a", "echo b >>a; echo c >c");
    let mut list = Layer { without_data: true, ..Layer::default() };
    let lower = scene.dir("lower");
    let sides = Sides {
        upper: Upper::Overlay { dir: &scene.dir("upper"), style: XattrStyle::Trusted, cut: false },
        lower: Some(&lower),
        lower_root: None,
        upper_root: Some(&Attributes::implied()),
    };
    diff(&sides, &mut list, &Context::default()).unwrap();
    assert_eq!(list.summary(), scene.diff().summary());
}

#[test]
fn it_can_be_stopped() {
    struct Stop;
    impl Progress for Stop {
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let sides = Sides { upper: Upper::Whole { dir: &dir }, lower: None, lower_root: None, upper_root: None };
    let error = diff(&sides, &mut Layer::default(), &Context::new(&Stop)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn depth_takes_neither_stack_nor_descriptors() {
    let temp = tempfile::tempdir().unwrap();
    let top = Dir::open(temp.path()).unwrap();
    let (upper, lower) = (top.mkdir_open(b"upper", 0o755).unwrap(), top.mkdir_open(b"lower", 0o755).unwrap());
    for tree in [&upper, &lower] {
        let mut dir = tree.try_clone().unwrap();
        for depth in 0..1200 {
            dir = dir.mkdir_open(b"d", 0o700).unwrap();
            dir.mkdir(b"e", 0o700).unwrap();
            if depth == 1100 {
                dir.create_file(if std::ptr::eq(tree, &upper) { b"up" } else { b"lo" }, 0o600).unwrap();
            }
        }
    }
    let sides = Sides { upper: Upper::Whole { dir: &upper }, lower: Some(&lower), lower_root: None, upper_root: None };
    let mut layer = Layer::default();
    diff(&sides, &mut layer, &Context::default()).unwrap();
    let count = |wanted: Status| {
        layer.entries.iter().filter(|(entry, status)| *status == wanted && entry.entry.path.depth() > 1100).count()
    };
    assert_eq!((count(Status::Added), count(Status::Deleted)), (1, 1));
    top.remove_tree(b"upper").unwrap();
    top.remove_tree(b"lower").unwrap();
}

/// A container that writes while it is read: nothing from outside gets in, and every file has its declared size.
#[test]
fn a_racing_writer_does_not_lead_it_out() {
    let temp = tempfile::tempdir().unwrap();
    sh(
        temp.path(),
        "mkdir outside outside/sub tree lower; echo canary >outside/file; echo canary >outside/sub/file; touch outside/only",
    );
    sh(temp.path(), "cd tree; mkdir dir dir/sub; echo inside >dir/file; echo inside >dir/sub/file; ln -s ../outside link");
    sh(temp.path(), "cd tree; echo inside >plain; ln -s ../outside/file file-link; head -c 100000 /dev/zero | tr '\\0' i >grows");
    let (tree, lower) = (Dir::open(temp.path().join("tree")).unwrap(), Dir::open(temp.path().join("lower")).unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stopped = Stopped(&stop);
        scope.spawn(|| {
            let grows = std::fs::OpenOptions::new().write(true).open(temp.path().join("tree/grows")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let _ = tree.rename_exchange(b"dir", &tree, b"link");
                let _ = tree.rename_exchange(b"plain", &tree, b"file-link");
                grows.set_len(10).unwrap();
                grows.set_len(150_000).unwrap();
            }
        });
        for round in 0..100 {
            let mut layer = Layer::default();
            let upper = if round % 2 == 0 {
                Upper::Whole { dir: &tree }
            } else {
                Upper::Overlay { dir: &tree, style: XattrStyle::User, cut: false }
            };
            let sides = Sides { upper, lower: Some(&lower), lower_root: None, upper_root: None };
            diff(&sides, &mut layer, &Context::default()).unwrap();
            // Checks the declared sizes too.
            let summary = layer.summary();
            assert!(!summary.contains("only"), "{summary}");
            for (entry, _) in &layer.entries {
                let content = String::from_utf8_lossy(&entry.content);
                assert!(!content.contains("canary"), "{summary}");
            }
        }
    });
}

/// Stops the racing thread, also where the test fails.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
