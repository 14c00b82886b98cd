//! What a caller asks for reaches the kernel, whichever way it goes, and what syncs were left out is remembered.

use super::*;
use rustix::fs::StatVfsMountFlags;

fn apis(trees: &Trees) -> [Api; 3] {
    [Api::probe(trees.base.root()), Api::Paths, Api::Legacy]
}

fn flags(directory: impl AsFd) -> StatVfsMountFlags {
    let asked = StatVfsMountFlags::RDONLY
        | StatVfsMountFlags::NOSUID
        | StatVfsMountFlags::NODEV
        | StatVfsMountFlags::NOEXEC
        | StatVfsMountFlags::NOATIME;
    rustix::fs::fstatvfs(directory).unwrap().f_flag & asked
}

/// An overlay and a bind mount, both writable.
fn both(trees: &Trees, place: Place) -> [Mount; 2] {
    let overlay = Mount::overlay(trees.base.clone(), style(place), trees.lowers(2), trees.upper("9")).unwrap();
    trees.upper("8");
    [overlay, Mount::bind(trees.base.clone(), EntryPath::parse("8/fs").unwrap(), Access::ReadWrite)]
}

#[test]
fn flags_of_a_mount_reach_it_by_every_way() {
    mounting(|place| {
        let trees = Trees::new();
        let all: [(&str, StatVfsMountFlags); 5] = [
            ("ro", StatVfsMountFlags::RDONLY),
            ("nosuid", StatVfsMountFlags::NOSUID),
            ("nodev", StatVfsMountFlags::NODEV),
            ("noexec", StatVfsMountFlags::NOEXEC),
            ("noatime", StatVfsMountFlags::NOATIME),
        ];
        let words = all.map(|(word, _)| word);
        for mount in both(&trees, place) {
            for api in apis(&trees) {
                let mount = mount.clone().with_api(api);
                // In a user namespace what the file system's own mount forbids stays forbidden.
                let plain = flags(mount.detached().unwrap());
                for (word, flag) in
                    all.into_iter().chain([(words.join(",").as_str(), all.map(|(_, flag)| flag).into_iter().collect())])
                {
                    let mount = mount.clone().with_options(&word.parse().unwrap()).unwrap();
                    if place == Place::UserNamespace && mount.fstype() == "bind" && flag.contains(StatVfsMountFlags::NOATIME) {
                        let error = mount.attach(trees.target()).unwrap_err();
                        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                        assert!(error.reason().is_some_and(|reason| reason.contains("noatime")), "{error}");
                        continue;
                    }
                    let wanted = plain | flag;
                    assert_eq!(flags(mount.detached().unwrap()), wanted, "{word} {mount:?}");
                    let mounted = mount.attach(trees.target()).unwrap();
                    assert_eq!(flags(fs::File::open(trees.target()).unwrap()), wanted, "{word} {mount:?}");
                    let writable = fs::write(trees.target().join("new"), "").is_ok();
                    assert_eq!(writable, !wanted.contains(StatVfsMountFlags::RDONLY), "{word}");
                    assert_eq!(kind(mount.attach(trees.target())), ErrorKind::InUse, "read-only or not");
                    mounted.close().unwrap();
                    let root = fs::File::open(trees.temp.path()).unwrap();
                    let mounted = mount.attach_at(&root, "target").unwrap();
                    assert_eq!(flags(fs::File::open(trees.target()).unwrap()), wanted, "{word} {mount:?}");
                    mounted.close().unwrap();
                    let two = mount.to_mount2().unwrap();
                    for (word, _) in all.iter().filter(|(_, flag)| wanted.contains(*flag) && !plain.contains(*flag)) {
                        assert!(mount.options().unwrap().iter().any(|option| option == word), "{word} {:?}", mount.options());
                        assert!(!two.data.split(',').any(|option| option == *word), "{word} {}", two.data);
                    }
                    assert!(plain.union(StatVfsMountFlags::from_bits_retain(two.flags)).contains(wanted), "{word} {two:?}");
                }
            }
        }
    });
}

#[test]
fn options_of_overlayfs_reach_the_kernel_and_it_says_no_to_what_it_lacks() {
    mounting(|place| {
        let trees = Trees::new();
        for api in apis(&trees) {
            let [overlay, bind] = both(&trees, place).map(|mount| mount.with_api(api));
            let asked = MountOptions::new().xino(Xino::Off).overlay("uuid", "null");
            let mounted = overlay.clone().with_options(&asked).unwrap().attach(trees.target()).unwrap();
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let line = table.lines().find(|line| line.contains(trees.target().to_str().unwrap())).unwrap();
            assert!(line.contains("uuid=null") && !line.contains("xino=on"), "{line}");
            mounted.close().unwrap();
            assert_eq!(kind(bind.clone().with_options(&asked)), ErrorKind::Unsupported);
            let labelled = MountOptions::new().context("system_u:object_r:container_file_t:s0:c1,c2");
            assert_eq!(kind(bind.with_options(&labelled)), ErrorKind::Unsupported);
            let labelled = overlay.with_options(&labelled).unwrap();
            let option = "context=\"system_u:object_r:container_file_t:s0:c1,c2\"";
            assert!(labelled.options().unwrap().iter().any(|it| it == option), "{:?}", labelled.options());
            if !Path::new("/sys/fs/selinux/enforce").exists() {
                let error = labelled.attach(trees.target()).unwrap_err();
                if api != Api::Legacy {
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    assert!(error.reason().unwrap().contains("context"), "{error}");
                }
                assert!(!labelled.in_use().unwrap(), "nothing stays");
            }
        }
    });
}

#[test]
fn a_volatile_mount_is_mounted_again_until_the_system_starts_anew() {
    mounting(|place| {
        for api in apis(&Trees::new()) {
            let trees = Trees::new();
            let mut writable = both(&trees, place).map(|mount| mount.with_api(api));
            let mark = trees.path("9/work/work/incompat/volatile");
            let volatile = MountOptions::new().volatile();
            for again in ["volatile", "volatile", "plain", "volatile"] {
                let asked = if again == "volatile" { volatile.clone() } else { MountOptions::new() };
                writable = writable.map(|mount| mount.with_options(&asked).unwrap());
                for mount in &writable {
                    let mounted = mount.attach(trees.target()).unwrap();
                    fs::write(trees.target().join(again), again).unwrap();
                    mounted.close().unwrap();
                }
                assert_eq!(mark.exists(), again == "volatile", "{api:?}");
                assert_eq!(was_volatile(&Dir::open(trees.path("9/work")).unwrap()).unwrap(), again == "volatile");
            }
            let [overlay, bind] = writable;
            // What a power cut leaves: the mark, and the note of another boot, a torn one, or none.
            let note = trees.path("9/work/volatile");
            let other = "01234567-89ab-cdef-0123-456789abcdef";
            for torn in [Some(&b""[..]), Some(b"\xff"), Some(other.as_bytes()), None] {
                match torn {
                    Some(bytes) => fs::write(&note, bytes).unwrap(),
                    None => fs::remove_file(&note).unwrap(),
                }
                for mount in [overlay.clone(), overlay.clone().with_options(&MountOptions::new()).unwrap()] {
                    assert_eq!(kind(mount.attach(trees.target())), ErrorKind::Corrupt);
                    assert_eq!(kind(mount.detached()), ErrorKind::Corrupt);
                    assert!(mark.exists(), "and so it stays");
                }
                assert_eq!(kind(overlay.options()), ErrorKind::Corrupt, "rendering does not make it well");
                assert_eq!(kind(overlay.to_mount2()), ErrorKind::Corrupt);
            }
            drop(bind.attach(trees.target()).unwrap());
            // A note alone says nothing: it was never mounted volatile.
            fs::remove_dir_all(trees.path("9/work/work")).unwrap();
            fs::write(&note, other).unwrap();
            drop(overlay.with_options(&MountOptions::new()).unwrap().attach(trees.target()).unwrap());
            assert!(!note.exists());
            let view = Mount::overlay(trees.base.clone(), style(place), trees.lowers(2), None).unwrap();
            let view = view.with_options(&volatile).unwrap();
            assert!(!view.options().unwrap().iter().any(|option| option == "volatile"));
            drop(view.attach(trees.target()).unwrap());
        }
    });
}

#[test]
fn what_another_client_mounts_volatile_can_be_mounted_again_too() {
    mounting(|place| {
        let trees = Trees::new();
        let [overlay, _] = both(&trees, place);
        let two = overlay.clone().with_options(&MountOptions::new().volatile()).unwrap().to_mount2().unwrap();
        assert!(two.data.split(',').any(|option| option == "volatile"), "{}", two.data);
        let flags = nix::mount::MsFlags::from_bits_truncate(two.flags);
        nix::mount::mount(Some("overlay"), &trees.target(), Some("overlay"), flags, Some(two.data.as_str())).unwrap();
        fs::write(trees.target().join("new"), "").unwrap();
        unmount(trees.target()).unwrap();
        assert!(trees.path("9/work/work/incompat/volatile").exists());
        let mounted = overlay.attach(trees.target()).unwrap();
        assert!(trees.target().join("new").exists());
        drop(mounted);
    });
}
