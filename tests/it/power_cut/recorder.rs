//! A file system on a disk that logs what it is told: made, mounted on a loop device, recorded; and mounted again as a power cut left it.
//!
//! All of it lives in a sandbox: the mounts and the loop devices end with its mount namespace, the process that serves the disk ends with
//! the one that has started it, and what still waits for it then is told of an error by the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};

use super::disk::Cut;
use super::server;
use crate::support::{Disk, Tool};

/// Tells the process that is to serve a disk where its content is.
const SERVES: &str = "PLYWOOD_TEST_SERVES_DISK";

/// A file system to cut the power of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    pub(super) const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// Makes one in a new file.
    pub(super) fn make(self, file: &Path) {
        File::create(file).unwrap().set_len(self.size()).unwrap();
        self.maker().arg(file).run().ok();
    }

    /// Mounts the one in a file at a new place of this name. What the system says where that cannot be done.
    pub(super) fn mount(self, file: &Path, name: &str) -> Result<Mounted, String> {
        let target = Path::new("/mnt").join(format!("mounted.{name}"));
        fs::create_dir_all(&target).unwrap();
        let output = Tool::new("mount").args(["-o", self.options()]).arg(file).arg(&target).run();
        if output.status == 0 { Ok(Mounted(target)) } else { Err(output.stderr) }
    }

    /// The smallest that its tool makes, and is still of use.
    fn size(self) -> u64 {
        match self {
            Self::Ext4 => 96 << 20,
            Self::Xfs => 300 << 20,
            Self::Btrfs => 192 << 20,
        }
    }

    /// Why it cannot be made here.
    pub(super) fn missing(self) -> Option<String> {
        match self {
            Self::Ext4 => Disk::Ext4,
            Self::Xfs => Disk::Xfs,
            Self::Btrfs => Disk::Btrfs,
        }
        .missing()
    }

    fn maker(self) -> Tool {
        match self {
            Self::Ext4 => Tool::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
            Self::Xfs => Tool::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]),
            Self::Btrfs => Tool::new("mkfs.btrfs").args(["-q", "-m", "single"]),
        }
    }

    /// Damage that the file system finds is not to be passed over.
    fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,errors=remount-ro",
            Self::Xfs | Self::Btrfs => "loop",
        }
    }
}

/// Not a test of its own: what serves the disks of the others.
pub(super) fn serve_if_told() {
    let Ok(base) = std::env::var(SERVES) else { return };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    server::serve(Path::new(&base)).unwrap();
}

/// Puts something else in the place of the id by which the kernel tells one boot from another.
pub(super) fn boot_is(number: u64) {
    let file = Path::new("/mnt/boot_id");
    let is_new = !file.exists();
    fs::write(file, format!("00000000-0000-4000-8000-{number:012x}\n")).unwrap();
    if is_new {
        let none: Option<&str> = None;
        mount(Some(file), "/proc/sys/kernel/random/boot_id", none, MsFlags::MS_BIND, none).unwrap();
    }
}

/// The disk, and the process that serves it.
pub(super) struct Recorder {
    file_system: FileSystem,
    files: PathBuf,
    server: Child,
    orders: BufReader<UnixStream>,
}

impl Recorder {
    /// Makes the file system on a new disk.
    pub(super) fn new(file_system: FileSystem) -> Self {
        let base = Path::new("/mnt/base");
        file_system.make(base);
        let files = PathBuf::from("/mnt/files");
        fs::create_dir_all(&files).unwrap();
        let kernel = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", kernel.as_raw_fd());
        mount(Some("plywood"), &files, Some("fuse"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str())).unwrap();
        let (orders, theirs) = UnixStream::pair().unwrap();
        let server = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(crate::support::arguments("power_cut::serves_a_disk"))
            .env(SERVES, base)
            .stdin(Stdio::from(kernel))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut recorder = Self { file_system, files, server, orders: BufReader::new(orders) };
        assert_eq!(recorder.answer(), "serving");
        fs::remove_file(base).unwrap();
        recorder
    }

    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.orders.read_line(&mut line).unwrap() > 0, "the process that serves the disk has ended");
            if let Some(answer) = line.strip_prefix(server::ANSWER) {
                return answer.trim_end().to_owned();
            }
        }
    }

    fn order(&mut self, order: &str) -> String {
        writeln!(self.orders.get_mut(), "{order}").unwrap();
        self.answer()
    }

    /// Mounts the file system, and logs from now on.
    pub(super) fn record(&mut self) -> Mounted {
        let mounted = self.file_system.mount(&self.files.join(server::RECORDED), server::RECORDED).unwrap();
        rustix::fs::syncfs(File::open(mounted.path()).unwrap()).unwrap();
        self.order("record");
        mounted
    }

    /// Logs no more. Gives the length of the log.
    pub(super) fn stop(&mut self) -> usize {
        self.order("stop");
        self.mark()
    }

    /// How long the log is now.
    pub(super) fn mark(&mut self) -> usize {
        self.order("mark").parse().unwrap()
    }

    /// How much of the log each flush makes durable.
    pub(super) fn flushes(&mut self) -> Vec<usize> {
        self.order("flushes").split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    /// Mounts what a power cut leaves. What the file system says where it cannot be mounted.
    pub(super) fn cut(&mut self, cut: Cut) -> Result<Mounted, String> {
        self.order(&format!("cut {} {:?} {}", cut.at, cut.rest, cut.seed));
        self.file_system.mount(&self.files.join(server::CRASHED), server::CRASHED)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.orders.get_mut().shutdown(Shutdown::Both);
        let _ = self.server.wait();
        let _ = umount2(&self.files, MntFlags::MNT_DETACH);
    }
}

/// A mounted file system.
pub(super) struct Mounted(PathBuf);

impl Mounted {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Unmounts it, which nobody may be using any more.
    pub(super) fn unmount(self) {
        umount(&self.0).unwrap_or_else(|error| panic!("unmount {}: {error}", self.0.display()));
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
