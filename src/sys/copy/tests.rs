//! A copy is the same tree, whatever is in it and around it.

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::error::ErrorKind;

fn copy(from: &Path, to: &Path) -> Result<()> {
    copy_by(1, from, to)
}

fn copy_by(threads: usize, from: &Path, to: &Path) -> Result<()> {
    copy_tree(&Dir::open(from).unwrap(), &Dir::open(to).unwrap(), Parallelism::new(threads), &|| Ok(()))
}

fn two_directories() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(&to).unwrap();
    (temp, from, to)
}

#[track_caller]
fn sh(dir: &Path, script: &str) {
    let done = Command::new("sh").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Type, mode, owner, size, times, target, xattrs and names of inodes, as text.
fn listing(root: &Path) -> Vec<String> {
    let mut lines: Vec<String> = walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path();
            let meta = std::fs::symlink_metadata(path).unwrap();
            let target = std::fs::read_link(path).ok();
            let content = meta.is_file().then(|| std::fs::read(path).unwrap());
            let mut xattrs: Vec<_> =
                ::xattr::list(path).unwrap().map(|name| (name.clone(), ::xattr::get(path, &name).unwrap())).collect();
            xattrs.sort();
            format!(
                "{} {:o} {}:{} {} {} {}.{} {:?} {xattrs:?} {:?}",
                path.strip_prefix(root).unwrap().display(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.rdev(),
                if meta.is_dir() { 0 } else { meta.nlink() },
                meta.mtime(),
                meta.mtime_nsec(),
                target,
                content.map(|content| crate::digest::Algorithm::Sha256.digest(&content).to_string()),
            )
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn everything_that_an_inode_has_is_copied() {
    let (_temp, from, to) = two_directories();
    sh(
        &from,
        "mkdir -p a/b c; echo 1 >a/f; echo 2 >a/b/g; ln a/f c/h; ln a/f a/h; ln -s /nowhere a/l; ln a/l c/l; mkfifo p; chmod 6751 a/b/g",
    );
    sh(
        &from,
        "touch -d '1999-09-09 09:09:09.123456789' a/b/g; touch -h -d @-5.5 a/l; touch -d '2001-02-03 04:05:06.7' a c; chmod 1777 c",
    );
    ::xattr::set(from.join("a"), "user.note", b"x").unwrap();
    ::xattr::set(from.join("a/f"), "user.empty", b"").unwrap();
    if rustix::process::geteuid().is_root() {
        sh(
            &from,
            "chown 5:6 a/f; chown -h 7:8 a/l; mknod n c 1 3; mknod m b 7 0; mknod w c 0 0; chown 9:9 a/b/g; chmod 4755 a/b/g; chown 1:1 .",
        );
        ::xattr::set(from.join("a/b/g"), "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .unwrap();
        ::xattr::set(from.join("a/b"), "trusted.overlay.opaque", b"y").unwrap();
        rustix::fs::setxattr(from.join("a/l"), "trusted.l", b"on a symlink", rustix::fs::XattrFlags::empty()).ok();
    }
    copy(&from, &to).unwrap();
    // Before anybody reads it.
    let atime = std::fs::metadata(to.join("a/b/g")).unwrap();
    assert_eq!((atime.atime(), atime.atime_nsec()), (atime.mtime(), atime.mtime_nsec()));
    assert_eq!(listing(&from), listing(&to));
    let inode = |path: &str| std::fs::symlink_metadata(to.join(path)).unwrap().ino();
    assert_eq!((inode("a/f"), inode("a/l")), (inode("c/h"), inode("c/l")));
    assert_eq!(inode("a/f"), inode("a/h"));
}

#[test]
fn neither_umask_nor_set_gid_nor_default_acls_leak_in() {
    let (temp, from, to) = two_directories();
    sh(&from, "mkdir d; echo 1 >d/f; chmod 666 d/f; chmod 777 d");
    std::fs::remove_dir(&to).unwrap();
    // A default ACL of u::rwx,u:77:rwx,g::rwx,m::rwx,o::---.
    let acl: Vec<u8> =
        [2_u32.to_le_bytes().to_vec()]
            .into_iter()
            .chain([(1_u16, 7_u16, u32::MAX), (2, 7, 77), (4, 7, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)].map(
                |(tag, perm, id)| [tag.to_le_bytes().to_vec(), perm.to_le_bytes().to_vec(), id.to_le_bytes().to_vec()].concat(),
            ))
            .flatten()
            .collect();
    if ::xattr::set(temp.path(), "system.posix_acl_default", &acl).is_err() {
        return crate::sys::test_support::skip("default_acls_leak_in", "this file system has no ACLs");
    }
    std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o2755)).unwrap();
    std::fs::create_dir(&to).unwrap();
    assert!(::xattr::get(&to, "system.posix_acl_default").unwrap().is_some(), "the directory inherits it");
    copy(&from, &to).unwrap();
    let below = |root: &Path| listing(root).into_iter().filter(|line| !line.starts_with(' ')).collect::<Vec<_>>();
    assert_eq!(below(&from), below(&to));
}

#[test]
fn holes_stay_holes() {
    let (_temp, from, to) = two_directories();
    let file = File::create(from.join("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"middle", (20 << 20) + 3).unwrap();
    File::create(from.join("hole")).unwrap().set_len(1 << 40).unwrap();
    copy(&from, &to).unwrap();
    let copied = std::fs::metadata(to.join("sparse")).unwrap();
    assert!(copied.blocks() * 512 < 1 << 20, "{} blocks", copied.blocks());
    assert_eq!(std::fs::read(from.join("sparse")).unwrap(), std::fs::read(to.join("sparse")).unwrap());
    let hole = std::fs::metadata(to.join("hole")).unwrap();
    assert_eq!((hole.len(), hole.blocks()), (1 << 40, 0));
}

#[test]
fn each_way_of_copying_bytes_gives_the_same_bytes() {
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let from = tempfile::tempfile().unwrap();
    from.write_all_at(&bytes, 0).unwrap();
    let stat = inode::stat(&from).unwrap();
    for (no_clone, no_range) in [(false, false), (true, false), (true, true)] {
        let to = tempfile::tempfile().unwrap();
        let mut copier = DataCopier { no_clone, no_range, ..DataCopier::default() };
        copier.copy(&from, &to, &stat, &mut || Ok(())).unwrap();
        let mut copied = vec![0; bytes.len() + 1];
        assert_eq!(to.read_at(&mut copied, 0).unwrap(), bytes.len());
        assert!(copied[..bytes.len()] == bytes[..], "{no_clone} {no_range}");
    }
}

#[test]
fn a_file_that_shrinks_meanwhile_is_copied_as_far_as_it_goes() {
    let from = tempfile::tempfile().unwrap();
    from.write_all_at(b"short", 0).unwrap();
    let stat = Stat { size: 1 << 30, blocks: 1 << 30, ..inode::stat(&from).unwrap() };
    for no_range in [false, true] {
        let to = tempfile::tempfile().unwrap();
        DataCopier { no_clone: true, no_range, ..DataCopier::default() }.copy(&from, &to, &stat, &mut || Ok(())).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 5);
    }
}

#[test]
fn hostile_names_and_depth() {
    let (temp, from, to) = two_directories();
    let mut dir = Dir::open(&from).unwrap();
    for name in [&b"\xff\n\x1b[2J"[..], b"...", b"-rf", &[b'n'; 255], b"\\", b" "] {
        dir.create_file(name, 0o600).unwrap();
    }
    for depth in 0..1500 {
        dir = dir.mkdir_open(b"deeper", 0o700).unwrap();
        if depth % 100 == 0 {
            dir.create_file(b"file", 0o600).unwrap();
        }
    }
    drop(dir);
    copy(&from, &to).unwrap();
    let mut copied = Dir::open(&to).unwrap();
    assert_eq!(copied.entries().unwrap().count(), 7);
    for depth in 0..1500 {
        copied = copied.child(b"deeper").unwrap();
        assert_eq!(copied.stat(b"file").unwrap().is_some(), depth % 100 == 0);
    }
    drop(copied);
    let top = Dir::open(temp.path()).unwrap();
    top.remove_tree(b"from").unwrap();
    top.remove_tree(b"to").unwrap();
}

#[test]
fn it_can_be_stopped() {
    let (_temp, from, to) = two_directories();
    sh(&from, "for i in 1 2 3 4 5 6 7 8 9; do echo $i >$i; done");
    for threads in [1, 4] {
        let left = AtomicUsize::new(5);
        let stopped = copy_tree(&Dir::open(&from).unwrap(), &Dir::open(&to).unwrap(), Parallelism::new(threads), &|| {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 { Err(Error::new(ErrorKind::NoSpace, "copy")) } else { Ok(()) }
        });
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::NoSpace, "what the caller said, whichever thread was told");
        assert!(std::fs::read_dir(&to).unwrap().count() < 9);
        std::fs::remove_dir_all(&to).unwrap();
        std::fs::create_dir(&to).unwrap();
    }
}

/// Hardlink groups over all directories, files of every size, and attributes: whichever thread came first.
#[test]
fn many_threads_make_the_same_copy() {
    let (temp, from, to) = two_directories();
    sh(
        &from,
        "for d in $(seq 30); do mkdir -p $d/sub/deep; for f in $(seq 12); do echo $d $f >$d/sub/$f; done
             ln -s ../1 $d/link; chmod 7$((d % 8))5 $d; mkfifo $d/fifo; done
         for d in $(seq 2 30); do ln 1/sub/1 $d/one; ln $d/sub/2 $d/sub/deep/two; ln $d/sub/3 $((d - 1))/three; ln -P 1/link $d/sub/first; done
         truncate -s 3M 7/holes; find . -depth -exec touch -hd @1000000 {} +",
    );
    let expected = listing(&from);
    let inodes = |root: &Path| {
        let mut groups = std::collections::BTreeMap::<u64, Vec<_>>::new();
        for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
            let entry = entry.unwrap();
            let inode = std::fs::symlink_metadata(entry.path()).unwrap().ino();
            groups.entry(inode).or_default().push(entry.path().strip_prefix(root).unwrap().to_owned());
        }
        groups.into_values().collect::<std::collections::BTreeSet<_>>()
    };
    for threads in [2, 3, 8] {
        for round in 0..5 {
            let to = to.join(format!("{threads}-{round}"));
            std::fs::create_dir(&to).unwrap();
            copy_by(threads, &from, &to).unwrap();
            assert_eq!(listing(&to), expected, "{threads} threads");
            assert_eq!(inodes(&to), inodes(&from), "{threads} threads");
        }
    }
    drop(temp);
}

/// A file that cannot be copied ends the work of all, also of those that wait for it as the first name of their group.
#[test]
fn a_failure_of_one_thread_ends_the_others() {
    let (_temp, from, to) = two_directories();
    sh(&from, "for d in 1 2 3 4 5 6; do mkdir $d; done; echo x >1/f; for d in 2 3 4 5 6; do ln 1/f $d/f; done");
    for round in 0..50 {
        let to = to.join(round.to_string());
        std::fs::create_dir(&to).unwrap();
        let left = AtomicUsize::new(round % 20 + 1);
        let failed = copy_tree(&Dir::open(&from).unwrap(), &Dir::open(&to).unwrap(), Parallelism::new(4), &|| {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 { Err(Error::new(ErrorKind::NoSpace, "copy")) } else { Ok(()) }
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::NoSpace);
    }
}

/// What the canary's file holds must be nowhere in a copy.
#[test]
fn a_racing_writer_does_not_lead_it_out() {
    let (temp, from, _) = two_directories();
    let outside = temp.path().join("outside");
    sh(temp.path(), "mkdir outside outside/sub; echo canary >outside/file; echo canary >outside/sub/file");
    sh(&from, "mkdir dir dir/sub; echo inside >dir/file; echo inside >dir/sub/file; echo inside >plain");
    symlink(&outside, from.join("link")).unwrap();
    symlink(outside.join("file"), from.join("file-link")).unwrap();
    let racer = Dir::open(&from).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stopped = Stopped(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = racer.rename_exchange(b"dir", &racer, b"link");
                let _ = racer.rename_exchange(b"plain", &racer, b"file-link");
            }
        });
        for round in 0..100 {
            let to = temp.path().join(format!("to{round}"));
            std::fs::create_dir(&to).unwrap();
            copy_by(round % 3 + 1, &from, &to).unwrap();
            for entry in walkdir::WalkDir::new(&to) {
                let entry = entry.unwrap();
                if entry.file_type().is_file() {
                    assert_eq!(std::fs::read(entry.path()).unwrap(), b"inside\n", "{}", entry.path().display());
                }
            }
            std::fs::remove_dir_all(&to).unwrap();
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
