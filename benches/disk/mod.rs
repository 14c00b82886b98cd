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

/// From here on what this process mounts is in a mount namespace of its own, and goes with it.
pub(crate) fn own_mounts() {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
}

/// A new file system (ext4, xfs) of so many bytes on a loop device with direct I/O, whose file is in `directory`, mounted beside it in
/// the mount namespace of this process. Nothing where its mkfs is not there.
pub(crate) fn new_disk(directory: &Path, file_system: &str, size: u64) -> Option<PathBuf> {
    let (image, target) = (directory.join("disk.img"), directory.join(file_system));
    let (program, options): (_, &[&str]) = match file_system {
        "ext4" => ("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
        _ => ("mkfs.xfs", &["-q", "-f"]),
    };
    command(program).arg("-V").output().ok()?;
    File::create(&image).unwrap().set_len(size).unwrap();
    fs::create_dir(&target).unwrap();
    run(command(program).args(options).arg(&image));
    let device = command("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&image).output().unwrap();
    let device = String::from_utf8(device.stdout).unwrap();
    run(command("mount").arg(device.trim()).arg(&target));
    // It goes with the mount, and the file with it.
    run(command("losetup").arg("--detach").arg(device.trim()));
    fs::remove_file(image).unwrap();
    Some(target)
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default()));
    command
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

pub(crate) fn sync(directory: &Path) {
    rustix::fs::syncfs(File::open(directory).unwrap()).unwrap();
}
