mod options;

use super::*;
use crate::sys::test_support::{Place, mounting, mounting_as_root};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

/// A directory of trees, and a place to mount on.
struct Trees {
    temp: tempfile::TempDir,
    base: Base,
}

impl Trees {
    fn new() -> Self {
        Self::named("trees")
    }

    fn named(name: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join(name)).unwrap();
        fs::create_dir(temp.path().join("target")).unwrap();
        let base = Base::open(temp.path().join(name)).unwrap();
        Self { temp, base }
    }

    fn target(&self) -> PathBuf {
        self.temp.path().join("target")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// Trees 1 to `count`, with a file `a` that has the tree's number in it, and a file named by it.
    fn lowers(&self, count: usize) -> Vec<EntryPath> {
        let make = |n: usize| {
            let fs = self.path(&format!("{n}/fs"));
            fs::create_dir_all(&fs).unwrap();
            fs::write(fs.join("a"), n.to_string()).unwrap();
            fs::write(fs.join(format!("only-{n}")), "").unwrap();
            EntryPath::parse(format!("{n}/fs")).unwrap()
        };
        (1..=count).map(make).collect()
    }

    fn upper(&self, name: &str) -> Option<Upper> {
        fs::create_dir_all(self.path(&format!("{name}/fs"))).unwrap();
        fs::create_dir_all(self.path(&format!("{name}/work"))).unwrap();
        let path = |part: &str| EntryPath::parse(format!("{name}/{part}")).unwrap();
        Some(Upper { upper: path("fs"), work: path("work") })
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.target().join(name)).unwrap()
    }
}

fn style(place: Place) -> XattrStyle {
    if place == Place::Root { XattrStyle::Trusted } else { XattrStyle::User }
}

fn kind<T: fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn the_topmost_layer_wins_and_the_guard_takes_the_mount_away() {
    mounting(|place| {
        for api in [None, Some(Api::Descriptors), Some(Api::Paths), Some(Api::Legacy)] {
            let trees = Trees::new();
            let view = Mount::overlay(trees.base.clone(), style(place), trees.lowers(2), None).unwrap();
            let view = Mount { api, ..view };
            let mounted = view.attach(trees.target()).unwrap();
            assert_eq!(trees.read("a"), "1", "{api:?}");
            assert!(trees.target().join("only-2").exists());
            let error = fs::write(trees.target().join("new"), "").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS));
            drop(mounted);
            assert!(!trees.target().join("a").exists(), "{api:?}");
        }
    });
}

#[test]
fn writes_go_to_the_upper_directory() {
    mounting(|place| {
        for api in [Api::probe(Root::new(Dir::open("/").unwrap())), Api::Paths, Api::Legacy] {
            let trees = Trees::new();
            let active = Mount::overlay(trees.base.clone(), style(place), trees.lowers(1), trees.upper("9")).unwrap().with_api(api);
            let mounted = active.attach(trees.target()).unwrap();
            fs::write(trees.target().join("a"), "changed").unwrap();
            fs::remove_file(trees.target().join("only-1")).unwrap();
            mounted.close().unwrap();
            assert_eq!(fs::read_to_string(trees.path("9/fs/a")).unwrap(), "changed");
            assert_eq!(fs::read_to_string(trees.path("1/fs/a")).unwrap(), "1");
            assert!(fs::symlink_metadata(trees.path("9/fs/only-1")).is_ok(), "a whiteout");
        }
    });
}

#[test]
fn five_hundred_layers_are_mounted_whole_and_one_more_is_refused() {
    mounting(|place| {
        let trees = Trees::new();
        let all = trees.lowers(501);
        for count in [2, 128, 499, 500] {
            let lowers = all[..count].to_vec();
            let view = Mount::overlay(trees.base.clone(), style(place), lowers.clone(), None).unwrap();
            let mounted = view.attach(trees.target()).unwrap();
            let names = fs::read_dir(trees.target()).unwrap().count();
            assert_eq!(names, count + 1);
            drop(mounted);
            let mounted = Mount::overlay(trees.base.clone(), style(place), lowers, trees.upper(&format!("u{count}"))).unwrap();
            drop(mounted.attach(trees.target()).unwrap());
        }
        let error = Mount::overlay(trees.base.clone(), style(place), all, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!(error.reason().unwrap().contains("501") && error.reason().unwrap().contains("500"), "{error}");
    });
}

#[test]
fn what_overlayfs_does_not_take_is_refused_before_it_is_asked() {
    let trees = Trees::new();
    let overlay = |lowers: Vec<EntryPath>, upper| Mount::overlay(trees.base.clone(), XattrStyle::Trusted, lowers, upper);
    let lowers = trees.lowers(1);
    assert_eq!(kind(overlay(vec![], trees.upper("9"))), ErrorKind::InvalidArgument);
    assert_eq!(kind(overlay(lowers.clone(), None)), ErrorKind::InvalidArgument);
    assert_eq!(kind(overlay([lowers.clone(), lowers].concat(), None)), ErrorKind::InvalidArgument);
    assert_eq!(kind(Base::open("relative")), ErrorKind::NotFound);
    assert_eq!(kind(Base::open(".")), ErrorKind::InvalidArgument);
}

#[test]
fn a_writable_directory_is_mounted_once_in_whichever_form() {
    mounting(|place| {
        for api in [Api::probe(Root::new(Dir::open("/").unwrap())), Api::Legacy] {
            let trees = Trees::new();
            let active = Mount::overlay(trees.base.clone(), style(place), trees.lowers(1), trees.upper("9")).unwrap().with_api(api);
            assert!(!active.in_use().unwrap(), "{api:?}");
            let detached = active.detached().unwrap();
            assert!(active.in_use().unwrap(), "{api:?}");
            assert_eq!(kind(active.attach(trees.target())), ErrorKind::InUse);
            assert_eq!(kind(active.detached()), ErrorKind::InUse);
            // Even where only a descriptor knows of it, and whatever the lower directories are.
            let fd = detached.into_fd();
            let other = Mount::overlay(trees.base.clone(), style(place), trees.lowers(2), trees.upper("9")).unwrap();
            assert_eq!(kind(other.detached()), ErrorKind::InUse);
            // Nor does another workdir, in which nothing is, say that it is free.
            let work = trees.upper("8").unwrap().work;
            let other = trees.upper("9").map(|upper| Upper { work, ..upper });
            let other = Mount::overlay(trees.base.clone(), style(place), trees.lowers(1), other).unwrap().with_api(api);
            assert_eq!(kind(other.detached()), ErrorKind::InUse, "{api:?}");
            drop(fd);
            drop(active.attach(trees.target()).unwrap());
            assert!(!active.in_use().unwrap());
        }
    });
}

#[test]
fn a_mount_in_another_namespace_is_seen() {
    mounting_as_root(|_| {
        let trees = Trees::new();
        let active = Mount::overlay(trees.base.clone(), XattrStyle::Trusted, trees.lowers(1), trees.upper("9")).unwrap();
        std::thread::scope(|scope| {
            let elsewhere = || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
                // The base must be of this namespace.
                let base = Base::open(trees.base.path()).unwrap();
                Mount::overlay(base, XattrStyle::Trusted, trees.lowers(1), trees.upper("9"))
                    .unwrap()
                    .attach(trees.target())
                    .unwrap()
            };
            let mounted = scope.spawn(elsewhere).join().unwrap();
            assert!(!trees.target().join("a").exists());
            assert!(active.in_use().unwrap());
            mounted.leave();
        });
        assert!(!active.in_use().unwrap(), "it died with its namespace");
    });
}

#[test]
fn asking_whether_it_is_in_use_leaves_no_trace() {
    mounting(|place| {
        let trees = Trees::new();
        let active = Mount::overlay(trees.base.clone(), style(place), trees.lowers(1), trees.upper("9")).unwrap();
        assert!(!active.in_use().unwrap());
        assert_eq!(fs::read_dir(trees.path("9/work")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(trees.path("9/fs")).unwrap().count(), 0);
        let xattrs = crate::sys::xattr::all(fs::File::open(trees.path("9/fs")).unwrap()).unwrap();
        assert!(xattrs.is_empty(), "{xattrs:?}");
    });
}

#[test]
fn a_writable_mount_that_the_kernel_made_read_only_is_an_error() {
    mounting_as_root(|_| {
        for api in [Api::probe(Root::new(Dir::open("/").unwrap())), Api::Legacy] {
            let trees = Trees::new();
            let active =
                Mount::overlay(trees.base.clone(), XattrStyle::Trusted, trees.lowers(1), trees.upper("9")).unwrap().with_api(api);
            // overlayfs then cannot make its own directory in the workdir.
            let work = fs::File::open(trees.path("9/work")).unwrap();
            let flags = rustix::fs::ioctl_getflags(&work).unwrap();
            rustix::fs::ioctl_setflags(&work, flags | rustix::fs::IFlags::IMMUTABLE).unwrap();
            let result = active.attach(trees.target());
            rustix::fs::ioctl_setflags(&work, flags).unwrap();
            assert_eq!(kind(result), ErrorKind::Unsupported, "{api:?}");
            assert!(!trees.target().join("a").exists(), "nothing stays mounted");
        }
    });
}

#[test]
fn what_a_crash_left_in_the_workdir_is_cleared() {
    mounting(|place| {
        let trees = Trees::new();
        let active = Mount::overlay(trees.base.clone(), style(place), trees.lowers(1), trees.upper("9")).unwrap();
        fs::create_dir_all(trees.path("9/work/work/a/b/c/d")).unwrap();
        fs::create_dir_all(trees.path("9/work/index")).unwrap();
        drop(active.attach(trees.target()).unwrap());
        assert!(!trees.path("9/work/index").exists());
    });
}

#[test]
fn a_detached_mount_lives_as_long_as_its_descriptor() {
    mounting(|place| {
        let trees = Trees::new();
        let active = Mount::overlay(trees.base.clone(), style(place), trees.lowers(1), trees.upper("9")).unwrap();
        let fd = active.detached().unwrap().into_fd();
        let inside = Root::from_fd(fd);
        assert!(inside.literal(&EntryPath::parse("only-1").unwrap()).unwrap().is_some());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains("overlay overlay rw"), "{table}");
        assert!(active.in_use().unwrap());
        drop(inside);
        assert!(!active.in_use().unwrap());
        // Attached later, in a root that holds a symlink out of it.
        fs::create_dir_all(trees.path("root/x/place")).unwrap();
        std::os::unix::fs::symlink("/x/place", trees.path("root/link")).unwrap();
        let mounted = active.detached().unwrap().attach_at(fs::File::open(trees.path("root")).unwrap(), "link").unwrap();
        assert!(trees.path("root/x/place/only-1").exists());
        mounted.close().unwrap();
        assert!(!trees.path("root/x/place/only-1").exists());
    });
}

#[test]
fn a_mount_that_is_left_stays_until_it_is_unmounted() {
    mounting(|place| {
        let trees = Trees::new();
        let view = Mount::overlay(trees.base.clone(), style(place), trees.lowers(2), None).unwrap();
        view.attach(trees.target()).unwrap().leave();
        assert_eq!(trees.read("a"), "1");
        unmount(trees.target()).unwrap();
        assert!(!trees.target().join("a").exists());
        assert_eq!(kind(unmount(trees.target())), ErrorKind::InvalidArgument);
        let mounted = view.attach(trees.target()).unwrap();
        unmount(trees.target()).unwrap();
        assert_eq!(kind(mounted.close()), ErrorKind::InvalidArgument, "somebody else took it away");
    });
}

#[test]
fn a_guard_takes_its_own_mount_away_wherever_the_directory_went() {
    mounting(|place| {
        let trees = Trees::new();
        fs::create_dir_all(trees.path("d/place")).unwrap();
        let view = Mount::overlay(trees.base.clone(), style(place), trees.lowers(2), None).unwrap();
        let mounted = view.attach(trees.path("d/place")).unwrap();
        fs::rename(trees.path("d"), trees.path("e")).unwrap();
        assert!(trees.path("e/place/a").exists());
        mounted.close().unwrap();
        assert!(!trees.path("e/place/a").exists());
    });
}

#[test]
fn special_characters_in_paths_reach_the_kernel_whole() {
    mounting(|place| {
        for name in ["a,b", "a:b", "a\\b", "a\\:b,\\", "a b\tc", "a\nb", "ä\"'", "lowerdir=x,upperdir=y"] {
            let trees = Trees::named(name);
            let overlay = Mount::overlay(trees.base.clone(), style(place), trees.lowers(2), trees.upper("9")).unwrap();
            for api in [Api::probe(trees.base.root()), Api::Paths, Api::Legacy] {
                drop(overlay.clone().with_api(api).attach(trees.target()).unwrap());
            }
            // What another client gets.
            let two = overlay.to_mount2().unwrap();
            assert_eq!(two.directory, None);
            let flags = nix::mount::MsFlags::from_bits_truncate(two.flags);
            nix::mount::mount(Some(two.source.as_str()), &trees.target(), Some(two.fstype), flags, Some(two.data.as_str()))
                .unwrap_or_else(|error| panic!("{name}: {error}: {}", two.data));
            assert_eq!(trees.read("a"), "1");
            fs::write(trees.target().join("new"), "").unwrap();
            assert!(trees.path("9/fs/new").exists());
            unmount(trees.target()).unwrap();
            // What mount(8) gets. util-linux ends an option at a comma, escaped or not, in some versions: those are not its business.
        }
    });
}

#[test]
fn a_path_that_is_not_utf_8_can_be_attached_but_not_rendered() {
    mounting(|place| {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
        for name in ["1/fs", "2/fs", "target"] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        let lowers = ["1/fs", "2/fs"].map(|name| EntryPath::parse(name).unwrap()).to_vec();
        let view = Mount::overlay(Base::open(&path).unwrap(), style(place), lowers, None).unwrap();
        assert_eq!(kind(view.options()), ErrorKind::InvalidArgument);
        assert_eq!(view.to_mount2().unwrap().directory.as_deref(), Some(path.as_path()));
        drop(view.attach(path.join("target")).unwrap());
    });
}

#[test]
fn a_symlink_in_the_place_of_a_tree_is_not_followed() {
    mounting(|place| {
        let trees = Trees::new();
        let lowers = trees.lowers(2);
        fs::rename(trees.path("2/fs"), trees.path("2/elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", trees.path("2/fs")).unwrap();
        let view = Mount::overlay(trees.base.clone(), style(place), lowers, None).unwrap();
        assert_eq!(kind(view.attach(trees.target())), ErrorKind::NotFound);
    });
}

#[test]
fn the_kernels_reason_is_in_the_error() {
    mounting(|place| {
        let trees = Trees::new();
        let context = FsContext::open("overlay", Api::Descriptors).unwrap();
        let error = context.set_string("nonsense", "x").unwrap_err();
        assert_eq!(error.to_string(), "fsconfig: overlay: Unknown parameter 'nonsense'");
        // Some reasons go to the kernel's log alone.
        let upper = Some(Upper { upper: EntryPath::parse("9/fs").unwrap(), work: EntryPath::parse("9/fs/work").unwrap() });
        fs::create_dir_all(trees.path("9/fs/work")).unwrap();
        let inside = Mount::overlay(trees.base.clone(), style(place), trees.lowers(1), upper).unwrap();
        let error = inside.attach(trees.target()).unwrap_err();
        assert!(error.path().unwrap().ends_with("9/fs") && error.reason().unwrap().contains("dmesg"), "{error}");
    });
}

#[test]
fn a_bind_mount_shows_one_directory_and_is_mounted_once() {
    mounting(|_| {
        for api in [Api::probe(Root::new(Dir::open("/").unwrap())), Api::Legacy] {
            let trees = Trees::new();
            let source = trees.lowers(1).remove(0);
            let writable = Mount::bind(trees.base.clone(), source.clone(), Access::ReadWrite).with_api(api);
            let mounted = writable.attach(trees.target()).unwrap();
            fs::write(trees.target().join("new"), "").unwrap();
            assert_eq!(kind(writable.attach(trees.target())), ErrorKind::InUse);
            assert_eq!(kind(writable.detached()), ErrorKind::InUse);
            mounted.leave();
            assert!(writable.in_use().unwrap(), "found in the mount table: {api:?}");
            unmount(trees.target()).unwrap();
            assert!(!writable.in_use().unwrap());
            let detached = writable.detached().unwrap();
            assert!(writable.in_use().unwrap(), "its guard lives");
            drop(detached);

            let readable = Mount::bind(trees.base.clone(), source, Access::ReadOnly).with_api(api);
            let mounted = readable.attach(trees.target()).unwrap();
            assert_eq!(trees.read("a"), "1");
            assert_eq!(fs::write(trees.target().join("new"), "").unwrap_err().raw_os_error(), Some(libc::EROFS), "{api:?}");
            let second = readable.attach(trees.target()).unwrap();
            // What is mounted on it goes with it.
            mounted.close().unwrap();
            assert_eq!(kind(second.close()), ErrorKind::InvalidArgument);
            assert!(!trees.target().join("a").exists());
        }
    });
}

#[test]
fn no_descriptor_is_left_and_none_survives_exec() {
    mounting(|place| {
        let open = || {
            let mut fds: Vec<i32> = fs::read_dir("/proc/self/fd")
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
                .collect();
            fds.sort_unstable();
            fds
        };
        let trees = Trees::new();
        let mounts = [
            Mount::overlay(trees.base.clone(), style(place), trees.lowers(3), trees.upper("9")).unwrap(),
            Mount::bind(trees.base.clone(), EntryPath::parse("8/fs").unwrap(), Access::ReadWrite),
        ];
        trees.upper("8");
        for mount in mounts {
            for api in [Api::probe(Root::new(Dir::open("/").unwrap())), Api::Paths, Api::Legacy] {
                let mount = mount.clone().with_api(api);
                let before = open();
                let mounted = mount.attach(trees.target()).unwrap();
                for fd in open().into_iter().filter(|fd| !before.contains(fd)) {
                    let path = format!("/proc/self/fdinfo/{fd}");
                    // The descriptor of the listing itself is gone again.
                    let Ok(info) = fs::read_to_string(&path) else { continue };
                    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
                    assert_ne!(u32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC as u32, 0, "{info}");
                }
                drop(mounted);
                drop(mount.detached().unwrap());
                mount.attach("/nowhere").unwrap_err();
                assert_eq!(open(), before);
            }
        }
    });
}

#[test]
fn options_are_those_of_overlayfs_and_never_leave_one_out() {
    let trees = Trees::named("t:1");
    let at = |name: &str| trees.path(name).to_str().unwrap().replace(':', "\\:");
    let active = Mount::overlay(trees.base.clone(), XattrStyle::User, trees.lowers(2), trees.upper("9")).unwrap();
    assert_eq!((active.fstype(), active.source()), ("overlay", PathBuf::from("overlay")));
    assert_eq!(
        active.options().unwrap(),
        [
            "redirect_dir=nofollow".to_owned(),
            "metacopy=off".into(),
            "index=off".into(),
            "userxattr".into(),
            format!("workdir={}", at("9/work")),
            format!("upperdir={}", at("9/fs")),
            format!("lowerdir={}:{}", at("1/fs"), at("2/fs")),
        ]
    );
    let view = Mount::overlay(trees.base.clone(), XattrStyle::Trusted, trees.lowers(2), None).unwrap();
    assert_eq!(
        view.relative_options().unwrap(),
        ["redirect_dir=nofollow", "metacopy=off", "index=off", "lowerdir=1/fs:2/fs", "ro"]
    );
    let bind = Mount::bind(trees.base.clone(), EntryPath::parse("1/fs").unwrap(), Access::ReadOnly);
    assert_eq!(
        (bind.fstype(), bind.source(), bind.options().unwrap()),
        ("bind", trees.path("1/fs"), vec!["rbind".into(), "ro".into()])
    );
    assert_eq!(
        bind.to_oci("/mnt").unwrap(),
        serde_json::json!({ "destination": "/mnt", "type": "bind", "source": trees.path("1/fs"), "options": ["rbind", "ro"] })
    );
}

#[test]
fn options_that_do_not_fit_a_page_are_made_relative_or_refused_with_the_figure() {
    let trees = Trees::named(&"long".repeat(60));
    let names = |count| (1..=count).map(|n| EntryPath::parse(format!("{n}/fs")).unwrap()).collect::<Vec<_>>();
    let overlay = |count| Mount::overlay(trees.base.clone(), XattrStyle::Trusted, names(count), trees.upper("9")).unwrap();
    assert_eq!(overlay(2).to_mount2().unwrap().directory, None);
    let long = overlay(128);
    assert_eq!(long.to_mount2().unwrap().directory.as_deref(), Some(trees.base.path()));
    assert_eq!(kind(long.to_oci("/")), ErrorKind::LimitExceeded);
    let wide: Vec<_> = (1..=499).map(|n| EntryPath::parse(format!("{}/fs", 10_000_000 + n)).unwrap()).collect();
    let error = Mount::overlay(trees.base.clone(), XattrStyle::Trusted, wide, None).unwrap().check_page().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.reason().unwrap().contains("4095"), "{error}");
}

#[test]
fn as_long_a_page_as_the_kernel_takes_is_mounted_whole() {
    mounting(|place| {
        let trees = Trees::new();
        // As many as make a page almost full, and as many as make it too full.
        let all = trees.lowers(499);
        let most = (2..499)
            .take_while(|&count| {
                Mount::overlay(trees.base.clone(), style(place), all[..count].to_vec(), None).unwrap().check_page().is_ok()
            })
            .last()
            .unwrap();
        let view = Mount::overlay(trees.base.clone(), style(place), all[..most].to_vec(), None).unwrap().with_api(Api::Legacy);
        let mounted = view.attach(trees.target()).unwrap();
        assert_eq!(fs::read_dir(trees.target()).unwrap().count(), most + 1);
        drop(mounted);
        let wide: Vec<_> = (0..400)
            .map(|n| {
                fs::create_dir_all(trees.path(&format!("{}/fs", 1_000_000_000 + n))).unwrap();
                EntryPath::parse(format!("{}/fs", 1_000_000_000 + n)).unwrap()
            })
            .collect();
        let view = Mount::overlay(trees.base.clone(), style(place), wide, None).unwrap().with_api(Api::Legacy);
        assert_eq!(kind(view.attach(trees.target())), ErrorKind::LimitExceeded);
    });
}
