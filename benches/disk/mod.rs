//! A disk of its own for a program that measures.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Whether this process can have one.
pub(crate) fn can_be_made() -> bool {
    nix::unistd::geteuid().is_root() && Path::new("/dev/loop-control").exists()
}

/// A new ext4 of so many bytes on a loop device with direct I/O, whose file is in `directory`. It is mounted in a mount namespace of this
/// process alone, and goes with it.
pub(crate) fn new_disk(directory: &Path, size: u64) -> PathBuf {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let (image, target) = (directory.join("disk.img"), directory.join("disk"));
    File::create(&image).unwrap().set_len(size).unwrap();
    fs::create_dir(&target).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&image));
    let device = Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&image).output().unwrap();
    let device = String::from_utf8(device.stdout).unwrap();
    run(Command::new("mount").arg(device.trim()).arg(&target));
    // It goes with the mount, and the file with it.
    run(Command::new("losetup").arg("--detach").arg(device.trim()));
    fs::remove_file(image).unwrap();
    target
}

fn run(command: &mut Command) {
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
    assert!(command.env("PATH", path).status().unwrap().success(), "{command:?}");
}

pub(crate) fn sync(directory: &Path) {
    rustix::fs::syncfs(File::open(directory).unwrap()).unwrap();
}
