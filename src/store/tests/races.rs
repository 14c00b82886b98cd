//! A process that swaps directories for symlinks and files for FIFOs in a tree, as fast as it can, while the tree is applied to,
//! copied, diffed, measured and deleted. Whatever comes of that: outside the tree nothing is created, changed, read or deleted.
//!
//! The short form swaps some ten thousand times an operation. The long form (`--ignored`) a million times.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::apply::{Form, Place, apply};
use crate::diff::{Sides, Upper, diff};
use crate::entry::{Entry, EntrySink, Status, Timestamp};
use crate::error::Result;
use crate::parallel::Parallelism;
use crate::progress::Context;
use crate::sys::test_support::{Child, is_root, skip};
use crate::sys::{Dir, Root, copy, inode, usage};
use crate::testing::Layer;
use crate::tree::Ids;
use crate::whiteout::overlay::Style;

const SECRET: &[u8] = b"a secret of the host";
const SHORT: u64 = 20_000;
const LONG: u64 = 1_000_000;

/// What lies outside, and how it was.
struct Canary {
    place: PathBuf,
    was: BTreeMap<PathBuf, [i64; 12]>,
}

impl Canary {
    fn new(place: PathBuf) -> Self {
        fs::create_dir_all(place.join("sub/sub")).unwrap();
        for (name, mode) in [("file", 0o600), ("sub/file", 0o4711), ("sub/sub/file", 0o640)] {
            fs::write(place.join(name), SECRET).unwrap();
            fs::set_permissions(place.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink("file", place.join("evil")).unwrap();
        nix::unistd::mkfifo(&place.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let names = ["", "file", "sub", "sub/file", "sub/sub", "sub/sub/file", "evil", "fifo"];
        for name in names {
            if is_root() {
                std::os::unix::fs::lchown(place.join(name), Some(12), Some(34)).unwrap();
            }
            // An access time before the modification time: whoever reads sets it, also with `relatime`.
            if !matches!(name, "evil" | "fifo") {
                inode::set_times(fs::File::open(place.join(name)).unwrap(), Timestamp::from_seconds(5), Timestamp::from_seconds(9))
                    .unwrap();
            }
        }
        let was = names.iter().map(|name| (place.join(name), Self::look(&place.join(name)))).collect();
        Self { place, was }
    }

    /// Content aside, everything that a change or a look would leave.
    fn look(path: &Path) -> [i64; 12] {
        let stat = fs::symlink_metadata(path).unwrap();
        let times = [stat.atime(), stat.atime_nsec(), stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()];
        let [mode, uid, gid] = [stat.mode(), stat.uid(), stat.gid()].map(i64::from);
        let [a, b, c, d, e, f] = times;
        [mode, uid, gid, a, b, c, d, e, f, stat.size() as i64, stat.nlink() as i64, stat.ino() as i64]
    }

    fn assert_untouched(&self, what: &str) {
        for (path, was) in &self.was {
            assert_eq!(Self::look(path), *was, "{what}: {}", path.display());
        }
        let mut names: Vec<_> = walkdir::WalkDir::new(&self.place).into_iter().map(|entry| entry.unwrap().into_path()).collect();
        names.sort();
        assert_eq!(names, self.was.keys().cloned().collect::<Vec<_>>(), "{what}");
        for name in ["file", "sub/file", "sub/sub/file"] {
            assert_eq!(fs::read(self.place.join(name)).unwrap(), SECRET, "{what}");
        }
    }
}

/// Makes what is to be swapped where it is not there.
fn set_up(dir: &Dir, outside: &[u8]) {
    let _ = dir.mkdir(b"sub", 0o755);
    let _ = dir.symlink(outside, b"evil");
    let _ = dir.create_file(b"file", 0o644);
    let _ = dir.create_file(b"low", 0o644);
    let _ = dir.mknod(b"fifo", crate::sys::FileType::Fifo, 0o644, (0, 0));
}

/// Swaps so many times; by descriptors, so that it does not itself go where its symlinks lead.
fn swap(root: &Dir, outside: &[u8], count: u64) {
    let below = [outside, b"/sub"].concat();
    let (mut done, mut inner) = (0, None);
    while done < count {
        if inner.is_none() {
            set_up(root, outside);
            inner = root.try_child(b"sub").ok().flatten();
            inner.iter().for_each(|dir| set_up(dir, &below));
        }
        let before = done;
        for (one, other) in [(b"sub", &b"evil"[..]), (b"sub", b"file"), (b"sub", b"evil")] {
            done += u64::from(root.rename_exchange(one, root, other).is_ok());
            done += u64::from(inner.as_ref().is_some_and(|dir| dir.rename_exchange(one, dir, other).is_ok()));
        }
        done += u64::from(root.rename_exchange(b"fifo", root, b"file").is_ok());
        if done < before + 7 || done % 50 < 7 {
            inner = None;
        }
    }
}

/// Does something again and again while another process swaps; says how often it was done, and how often that succeeded.
fn race(swaps: u64, root: &Dir, canary: &Canary, mut work: impl FnMut() -> Result<()>) -> (u64, u64) {
    let outside = canary.place.as_os_str().as_encoded_bytes();
    set_up(root, outside);
    let (mut rounds, mut fine) = (0, 0);
    std::thread::scope(|scope| {
        let racer = scope.spawn(|| {
            let child = Child { user: None, sub_ids: None };
            child.run(|| {
                swap(root, outside, swaps);
                Ok(String::new())
            })
        });
        while !racer.is_finished() {
            rounds += 1;
            fine += u64::from(work().is_ok());
        }
        racer.join().unwrap().unwrap();
    });
    (rounds, fine)
}

/// A sink that knows a secret.
struct Listening;

impl EntrySink for Listening {
    fn entry(&mut self, _: &Entry, _: Status) -> Result<()> {
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET), "the secret got out");
        Ok(())
    }
}

/// A tree, what lies outside, and room for copies.
struct Scene {
    temp: tempfile::TempDir,
    tree: Dir,
    canary: Canary,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("tree/sub")).unwrap();
        fs::create_dir_all(temp.path().join("lower/sub/sub")).unwrap();
        fs::write(temp.path().join("lower/sub/low"), "low").unwrap();
        fs::write(temp.path().join("lower/low"), "low").unwrap();
        fs::write(temp.path().join("lower/sub/sub/low"), "low").unwrap();
        let canary = Canary::new(temp.path().join("outside"));
        Self { tree: Dir::open(temp.path().join("tree")).unwrap(), temp, canary }
    }

    fn open(&self, name: &str) -> Dir {
        Dir::open(self.temp.path().join(name)).unwrap()
    }

    /// An empty directory.
    fn fresh(&self, name: &str) -> Dir {
        let top = self.open("");
        top.remove_tree(name.as_bytes()).unwrap();
        top.mkdir_open(name.as_bytes(), 0o700).unwrap()
    }

    fn race(self, what: &str, swaps: u64, work: impl Fn(&Self) -> Result<()>) {
        let (rounds, fine) = race(swaps, &self.tree, &self.canary, || work(&self));
        self.canary.assert_untouched(what);
        println!("{what}: {rounds} times beside {swaps} swaps, {fine} of them without an error");
        assert!(rounds > 0, "{what}");
    }
}

/// A layer that goes wherever the other process swaps.
fn layer() -> Layer {
    (0..20).fold(Layer::new(), |layer, number| {
        layer
            .dir("sub", 0o700)
            .file(format!("sub/new{number}"), "x")
            .file("sub/sub/file", "x")
            .mode(0o4755)
            .owner(1, 2)
            .dir("sub/sub", 0o711)
            .hardlink(format!("sub/sub/link{number}"), "sub/low")
            .hardlink(format!("link{number}"), "low")
            .file("sub/file", "replaced")
            .xattr("user.mine", "x")
            .whiteout("sub/gone")
            .whiteout("sub/sub/low")
            .fifo("file")
    })
}

fn all(swaps: u64) {
    for (what, form) in [
        ("apply in overlay form", Form::Overlay { style: Style::Trusted, escapes: true }),
        ("apply in plain form", Form::Plain { style: Style::Trusted, root: (0, 0) }),
    ] {
        Scene::new().race(what, swaps, |scene| {
            let lower = Root::new(scene.open("lower"));
            let mut fresh = || Ok(Place::new(scene.tree.try_clone()?, scene.fresh("scratch")));
            apply(&mut fresh, Some(&lower), form, &mut layer().stream()?, Ids::Exact, &Context::default()).map(drop)
        });
    }
    Scene::new().race("apply onto a parent that is swapped", swaps, |scene| {
        let lower = Root::new(scene.tree.try_clone()?);
        let mut fresh = || Ok(Place::new(scene.fresh("new"), scene.fresh("scratch")));
        let form = Form::Overlay { style: Style::Trusted, escapes: true };
        apply(&mut fresh, Some(&lower), form, &mut layer().stream()?, Ids::Exact, &Context::default()).map(drop)
    });
    Scene::new().race("copy", swaps, |scene| {
        let to = scene.fresh("copy");
        let done = copy::copy_tree(&scene.tree, &to, Parallelism::new(2), &|| Ok(()));
        for entry in walkdir::WalkDir::new(scene.temp.path().join("copy")).into_iter().filter_map(|entry| entry.ok()) {
            let content = entry.file_type().is_file().then(|| fs::read(entry.path()).unwrap());
            assert_ne!(content.as_deref(), Some(SECRET), "{}", entry.path().display());
        }
        done
    });
    Scene::new().race("diff", swaps, |scene| {
        let upper = Upper::Whole { dir: &scene.tree };
        diff(&Sides { upper, lower: None, lower_root: None, upper_root: None }, &mut Listening, &Context::default())
    });
    Scene::new().race("diff of an upperdir", swaps, |scene| {
        let upper = Upper::Overlay { dir: &scene.tree, style: Style::Trusted, cut: false };
        let lower = scene.open("lower");
        diff(&Sides { upper, lower: Some(&lower), lower_root: None, upper_root: None }, &mut Listening, &Context::default())
    });
    Scene::new().race("usage", swaps, |scene| usage::taken(&scene.tree).map(drop));
    Scene::new().race("remove", swaps, |scene| scene.tree.remove_tree(b"sub").and_then(|()| scene.tree.clear()));
}

#[test]
fn a_process_that_swaps_leads_no_operation_out() {
    if !is_root() {
        return skip("a_process_that_swaps_leads_no_operation_out", "owners need root");
    }
    all(SHORT);
}

#[test]
#[ignore = "long: a million swaps beside each operation"]
fn a_million_swaps_lead_no_operation_out() {
    all(LONG);
}
