//! The sandboxes that the other tests rely on: who they run as, what they mount, and that nothing of them is left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs};

use crate::support::{Disk, Sandbox, Tool, require, skip};

fn type_of(path: &Path) -> FsType {
    statfs(path).unwrap().filesystem_type()
}

#[test]
fn root_gets_every_kind_of_disk() {
    for disk in [Disk::Ext4, Disk::Xfs, Disk::Btrfs] {
        if let Some(reason) = disk.missing() {
            return skip("sandbox::root_gets_every_kind_of_disk", &reason);
        }
    }
    Sandbox::root().run(|| {
        let at = PathBuf::from("/mnt/test");
        for (disk, magic) in [(Disk::Ext4, EXT4_SUPER_MAGIC), (Disk::Xfs, XFS_SUPER_MAGIC), (Disk::Btrfs, BTRFS_SUPER_MAGIC)] {
            let target = at.join(format!("{disk:?}"));
            disk.mount(&target);
            assert_eq!(type_of(&target), magic);
        }
        Disk::Ramfs.mount(&at.join("ramfs"));
        assert!(xattr::set(at.join("ramfs"), "user.a", b"b").is_err(), "a ramfs has no xattrs");
        Disk::Tmpfs(1 << 20).mount(&at.join("tmpfs"));
        assert_eq!(type_of(&at.join("tmpfs")), TMPFS_MAGIC);
        assert!(fs::write(at.join("tmpfs/big"), vec![0; 2 << 20]).is_err(), "a tmpfs of 1 MiB is full after 1 MiB");
    });
    assert!(!Path::new("/mnt/test").exists(), "what a sandbox mounts is not seen outside");
}

#[test]
fn an_ordinary_user_has_no_privileges_and_his_own_disk() {
    Sandbox::user().disk(Disk::Xfs).run(|| {
        assert!(!nix::unistd::geteuid().is_root());
        assert_eq!(type_of(&std::env::temp_dir()), XFS_SUPER_MAGIC);
        fs::write(std::env::temp_dir().join("file"), "x").unwrap();
        assert!(fs::File::open("/etc/shadow").is_err());
    });
}

#[test]
fn sub_ids_can_be_lent_to_the_ordinary_user() {
    let test = "sandbox::sub_ids_can_be_lent_to_the_ordinary_user";
    if require(test, &["newuidmap", "newgidmap"]) {
        Sandbox::user().sub_ids().run(|| {
            let map = Tool::new("unshare").args(["--user", "--map-root-user", "--map-auto", "cat", "/proc/self/uid_map"]).ok();
            assert!(map.stdout.contains("200000"), "{map:?}");
        });
    }
}

#[test]
fn a_user_namespace_makes_an_ordinary_user_its_root() {
    Sandbox::user_namespace().run(|| {
        assert!(nix::unistd::geteuid().is_root());
        assert!(!crate::support::is_root());
        let target = tempfile::tempdir().unwrap();
        Disk::Tmpfs(1 << 20).mount(target.path());
        assert_eq!(type_of(target.path()), TMPFS_MAGIC);
    });
}

/// Not a test of its own: what [`a_killed_test_leaves_no_loop_device`] starts and kills.
#[test]
fn waits_to_be_killed() {
    if std::env::var_os("PLYWOOD_TEST_WAIT").is_none() {
        return;
    }
    Sandbox::root().disk(Disk::Ext4).run(|| {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let device = mounts.lines().find(|line| line.contains(" /mnt/disk ")).unwrap().split(' ').next().unwrap();
        fs::write(std::env::var_os("PLYWOOD_TEST_WAIT").unwrap(), device).unwrap();
        loop {
            std::thread::park();
        }
    });
}

#[test]
fn a_killed_test_leaves_no_loop_device() {
    let name = "sandbox::a_killed_test_leaves_no_loop_device";
    if !crate::support::is_root() {
        return skip(name, "needs root");
    }
    if let Some(reason) = Disk::Ext4.missing() {
        return skip(name, &reason);
    }
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("device");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::waits_to_be_killed"])
        .env("PLYWOOD_TEST_WAIT", &fifo)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut device = String::new();
    BufReader::new(fs::File::open(&fifo).unwrap()).read_line(&mut device).unwrap();
    let backing = Path::new("/sys/block").join(device.trim_start_matches("/dev/")).join("loop/backing_file");
    let image = fs::read_to_string(&backing).expect("the sandbox has its loop device");
    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel unmounts after the process is gone. By then the device may serve somebody else.
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read_to_string(&backing).is_ok_and(|now| now == image) {
        assert!(Instant::now() < deadline, "{device} still has {image}");
        std::thread::yield_now();
    }
}
