//! The same cuts of another's work: containerd with its defaults (the overlayfs snapshotter), from a root file system that the caller
//! names. What it lists and mounts after a cut is compared with what it mounted before.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use plywood::testing::Tree;

use super::disk::{Cut, Rest};
use super::layouts;
use super::recorder::{FileSystem, Mounted, Recorder};
use super::story::IMAGES;
use crate::support::Tool;
use crate::support::work::Dice;

const ROOT: &str = "/mnt/peer";

/// Names the root file system that has containerd.
pub(super) const PEER: &str = "PLYWOOD_TEST_CONTAINERD";

/// What came of the cuts.
#[derive(Default)]
pub(super) struct Lost {
    /// The file system itself could not be mounted.
    unmountable: usize,
    /// The daemon does not start any more.
    broken: usize,
    /// An image whose import had returned is not listed.
    forgotten: usize,
    /// An image is called complete and unpacked, and cannot be mounted or is not what it was.
    damaged: usize,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unmountable, broken, forgotten, damaged } = self;
        write!(f, "{damaged} with a damaged image that is called complete, {forgotten} with one forgotten, ")?;
        write!(f, "{broken} where the daemon does not start, {unmountable} not mountable")
    }
}

/// The peers' root, writable and thrown away.
pub(super) fn lay_root(lower: &str) {
    for name in ["/mnt/peer.upper", "/mnt/peer.work", ROOT] {
        fs::create_dir_all(name).unwrap();
    }
    let options = format!("lowerdir={lower},upperdir=/mnt/peer.upper,workdir=/mnt/peer.work");
    mount(Some("overlay"), ROOT, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
    for (kind, place) in [("proc", "proc"), ("tmpfs", "run")] {
        mount(Some(kind), &inside(place), Some(kind), MsFlags::empty(), None::<&str>).unwrap();
    }
    mount(Some("/dev"), &inside("dev"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    for place in ["work", "shown"] {
        fs::create_dir_all(inside(place)).unwrap();
    }
    let configuration = "version = 3\nroot = \"/work/containerd\"\nstate = \"/run/containerd\"\ndisabled_plugins = \
                         [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \
                         \"io.containerd.nri.v1.nri\"]\n[grpc]\naddress = \"/run/socket\"\n[ttrpc]\naddress = \"/run/socket.ttrpc\"\n";
    fs::write(inside("etc/containerd.toml"), configuration).unwrap();
    for number in 0..IMAGES {
        let archive = inside(&format!("image-{number}.tar"));
        Tool::new("tar").arg("-C").arg(layouts().join(number.to_string())).arg("-cf").arg(archive).arg(".").run().ok();
    }
}

fn inside(place: &str) -> PathBuf {
    Path::new(ROOT).join(place)
}

fn peer() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "setpriv", "--pdeathsig", "KILL", "--", "chroot", ROOT, "env", "-i", "PATH=/usr/bin:/usr/sbin"]);
    command
}

/// A daemon whose files are on a mounted disk.
struct Daemon {
    process: Child,
}

impl Daemon {
    /// `None` where it does not start.
    fn start(mounted: &Mounted) -> Option<Self> {
        mount(Some(mounted.path()), &inside("work"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let log = fs::File::create("/mnt/containerd.log").unwrap();
        let mut command = peer();
        command.args(["containerd", "--config", "/etc/containerd.toml"]).stdin(Stdio::null());
        let daemon = Self { process: command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap() };
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if daemon.ctr(&["version"]).is_ok() {
                return Some(daemon);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// What the client says, on standard output where it succeeds, and else on standard error.
    fn ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let output = peer().args(["timeout", "60", "ctr", "--address", "/run/socket"]).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn import(&self, number: u8) {
        let archive = format!("/image-{number}.tar");
        let base = format!("localhost/case{number}");
        self.ctr(&["images", "import", "--local", "--snapshotter", "overlayfs", "--base-name", &base, &archive]).unwrap();
    }

    /// What an image shows when it is mounted.
    fn shows(&self, number: u8) -> Result<Tree, String> {
        let name = name_of(number);
        self.ctr(&["images", "mount", "--snapshotter", "overlayfs", &name, "/shown"])?;
        let tree = Tree::read(inside("shown"));
        umount2(&inside("shown"), MntFlags::MNT_DETACH).unwrap();
        let _ = self.ctr(&["snapshots", "--snapshotter", "overlayfs", "rm", "/shown"]);
        tree.map_err(|error| error.to_string())
    }

    /// Images that it says are complete and unpacked.
    fn complete(&self) -> Vec<u8> {
        let said = self.ctr(&["images", "check", "--snapshotter", "overlayfs"]).unwrap_or_default();
        let is_good = |line: &&str| line.contains("complete") && !line.contains("incomplete") && line.trim_end().ends_with("true");
        let good: Vec<_> = said.lines().filter(is_good).collect();
        (0..IMAGES).filter(|number| good.iter().any(|line| line.starts_with(&name_of(*number)))).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = umount2(&inside("work"), MntFlags::MNT_DETACH);
    }
}

fn name_of(number: u8) -> String {
    format!("localhost/case{number}:latest")
}

/// Has containerd import the images, and cuts the power of that so many times.
pub(super) fn lose(file_system: FileSystem, cuts: usize, dice: &mut Dice) -> Lost {
    let mut recorder = Recorder::new(file_system);
    let mounted = recorder.record();
    let daemon = Daemon::start(&mounted).unwrap();
    let mut ended = Vec::new();
    for number in 0..IMAGES {
        daemon.import(number);
        ended.push(recorder.mark());
        // Who has an image goes on with something else.
        std::thread::sleep(Duration::from_millis(300));
    }
    // And the kernel writes when it likes.
    std::thread::sleep(Duration::from_secs(8));
    let length = recorder.mark();
    rustix::fs::syncfs(fs::File::open(mounted.path()).unwrap()).unwrap();
    let synced = recorder.stop();
    let shown: Vec<_> =
        (0..IMAGES).map(|number| daemon.shows(number).expect("an image that was imported can be mounted")).collect();
    assert_eq!(daemon.complete().len(), usize::from(IMAGES), "{:?}", daemon.ctr(&["images", "check"]));
    drop(daemon);
    mounted.unmount();

    // What was synced is not lost: it is not the cut itself that shows another tree.
    let mounted = recorder.cut(Cut { at: synced, rest: Rest::Dropped, seed: 0 }).unwrap();
    let daemon = Daemon::start(&mounted).unwrap();
    assert_eq!(daemon.complete().len(), usize::from(IMAGES));
    assert!(shown.iter().zip(0..).all(|(shown, number)| daemon.shows(number).as_ref() == Ok(shown)));
    drop(daemon);
    mounted.unmount();

    let mut lost = Lost::default();
    for _ in 0..cuts {
        // From the first answer on.
        let at = ended[0] + dice.below((length - ended[0]) as u64 + 1) as usize;
        let cut = Cut { at, rest: Rest::ALL[dice.below(4) as usize], seed: dice.below(1 << 32) };
        let Ok(mounted) = recorder.cut(cut) else {
            lost.unmountable += 1;
            continue;
        };
        if let Some(daemon) = Daemon::start(&mounted) {
            let complete = daemon.complete();
            let acknowledged = (0..IMAGES).filter(|number| ended[usize::from(*number)] <= at);
            lost.forgotten += usize::from(acknowledged.into_iter().any(|number| !complete.contains(&number)));
            let is_damaged = |number: &u8| daemon.shows(*number).as_ref() != Ok(&shown[usize::from(*number)]);
            lost.damaged += usize::from(complete.iter().any(is_damaged));
        } else {
            lost.broken += 1;
        }
        mounted.unmount();
    }
    lost
}
