//! A containerd of Debian's with all its files in a temporary directory, and a `plywood containerd` beside it.
//!
//! containerd, its shims and what runs in containers live in a process namespace that the kernel ends with the test, in a mount namespace
//! with a `/run` of their own, and without a network.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plywood::testing::{Image, Tree};

use crate::support::{Output, Tool, plywood, require, skip};

/// Where what `fetch-containerd` fetched is.
const PACKAGES: &str = "PLYWOOD_TEST_PACKAGES";
/// containerd's own namespace, where a test needs no other.
const NAMESPACE: &str = "plywood-test";
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether containerd was fetched and what it needs is here; says SKIP otherwise.
#[track_caller]
pub(super) fn is_here(test: &str) -> bool {
    match programs() {
        Some(programs) if programs.join("containerd").exists() => {
            require(test, &["runc", "unshare", "nsenter", "setpriv", "mount", "umount", "ps"])
        }
        _ => {
            skip(test, &format!("{PACKAGES} does not name what tests/it/containerd/fetch-containerd fetched"));
            false
        }
    }
}

fn programs() -> Option<PathBuf> {
    std::env::var_os(PACKAGES).map(|folder| PathBuf::from(folder).join("containerd/usr/bin"))
}

/// The daemons, and the namespaces that they live in. In a sandbox, whose mount namespace is its own.
pub(super) struct Engine {
    directory: tempfile::TempDir,
    namespaces: Child,
    /// The first process in them.
    init: Pid,
    plywood: Option<Child>,
    containerd: Option<Child>,
    /// Who unpacks and diffs.
    differ: &'static str,
}

impl Engine {
    /// Both daemons, running; containerd's own differ does the work.
    pub(super) fn start() -> Self {
        Self::with_differ("walking")
    }

    /// The same with another differ, before that: `plywood-diff` is plywood's.
    pub(super) fn with_differ(differ: &'static str) -> Self {
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--net",
            "sleep",
            "infinity",
        ]);
        let namespaces = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let init = wait("the namespaces", || child_of(namespaces.id()));
        let directory = tempfile::tempdir().unwrap();
        let mut engine = Self { directory, namespaces, init, plywood: None, containerd: None, differ };
        // The one that unshare has forked becomes sleep only when its mounts are made.
        wait("the namespaces", || {
            let name = fs::read_to_string(format!("/proc/{init}/comm")).unwrap_or_default();
            (name.trim() == "sleep").then_some(())
        });
        fs::write(engine.path("config.toml"), engine.configuration()).unwrap();
        engine.start_plywood();
        engine.start_containerd();
        engine
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configuration(&self) -> String {
        let place = self.directory.path().display();
        let architecture = Tool::new("dpkg").arg("--print-architecture").ok().stdout;
        format!(
            r#"
version = 3
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
address = "{place}/containerd.sock"
[ttrpc]
address = "{place}/containerd.sock.ttrpc"
[proxy_plugins.plywood]
type = "snapshot"
address = "{place}/plywood.sock"
[proxy_plugins.plywood-diff]
type = "diff"
address = "{place}/plywood.sock"
[plugins."io.containerd.service.v1.diff-service"]
default = ["{differ}", "walking"]
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/{}"
snapshotter = "plywood"
differ = "{differ}"
"#,
            architecture.trim(),
            differ = self.differ,
        )
    }

    pub(super) fn start_plywood(&mut self) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(plywood().program()).arg("--root").arg(self.path("store"));
        command.args(["-v", "containerd", "--address"]).arg(self.path("plywood.sock"));
        command.arg("--containerd-address").arg(self.path("containerd.sock"));
        self.plywood = Some(self.spawn(&mut command, "plywood.log"));
        wait("plywood", || UnixStream::connect(self.path("plywood.sock")).ok());
    }

    pub(super) fn start_containerd(&mut self) {
        let mut command = self.inside("containerd");
        command.arg("--config").arg(self.path("config.toml"));
        self.containerd = Some(self.spawn(&mut command, "containerd.log"));
        wait("containerd", || Some(self.ctr(&["version"])).filter(|output| output.status == 0));
    }

    /// Until containerd has noticed that plywood is back: its client tries again after a while.
    pub(super) fn wait_for_plywood(&self) {
        // A listing would not ask plywood where containerd knows of no snapshot.
        wait("containerd's connection", || {
            Some(self.snapshots("plywood", &["prepare", "probe"])).filter(|output| output.status == 0)
        });
        self.snapshots("plywood", &["rm", "probe"]).ok();
    }

    /// Asks plywood to end, and waits for that.
    pub(super) fn stop_plywood(&mut self) -> i32 {
        let child = self.plywood.take().unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        ended(child)
    }

    /// Kills plywood while others use the engine; it is still to be [reaped](Self::kill_plywood).
    pub(super) fn crash_plywood(&self) {
        kill(Pid::from_raw(self.plywood.as_ref().unwrap().id().cast_signed()), Signal::SIGKILL).unwrap();
    }

    /// Kills plywood.
    pub(super) fn kill_plywood(&mut self) {
        let mut child = self.plywood.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks containerd to end, and waits for that. Containers live on.
    pub(super) fn stop_containerd(&mut self) {
        let child = self.containerd.take().unwrap();
        kill(child_of(child.id()).unwrap(), Signal::SIGTERM).unwrap();
        ended(child);
    }

    fn spawn(&self, command: &mut Command, log: &str) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.path(log)).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// A program of containerd's in the namespaces.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let programs = programs().unwrap();
        let path = format!("PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        command.args([
            "--target",
            &self.init.to_string(),
            "--pid",
            "--mount",
            "--net",
            "--",
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
        ]);
        command.args(["env", "-i", &path]).arg(format!("TMPDIR={}", self.directory.path().display())).arg(programs.join(program));
        command
    }

    /// What `ctr` says.
    pub(super) fn ctr(&self, arguments: &[&str]) -> Output {
        self.ctr_in(NAMESPACE, arguments)
    }

    /// The same in another of containerd's namespaces.
    pub(super) fn ctr_in(&self, namespace: &str, arguments: &[&str]) -> Output {
        let mut command = self.inside("ctr");
        command.arg("--address").arg(self.path("containerd.sock")).args(["--namespace", namespace]).args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        Output {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What `ctr` says of snapshots.
    pub(super) fn snapshots(&self, snapshotter: &str, arguments: &[&str]) -> Output {
        self.ctr(&[&["snapshots", "--snapshotter", snapshotter], arguments].concat())
    }

    /// Imports an image and unpacks it.
    pub(super) fn import(&self, name: &str, image: &Image, snapshotter: &str) -> Output {
        self.write_archive(name, image);
        self.import_archive(snapshotter)
    }

    /// Writes what is to be imported.
    pub(super) fn write_archive(&self, name: &str, image: &Image) {
        let (layout, archive) = (self.path("layout"), self.path("image.tar"));
        image.write_layout(&layout, &reference(name)).unwrap();
        Tool::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&archive).arg(".").ok();
        fs::remove_dir_all(layout).unwrap();
    }

    /// Imports what was written last.
    pub(super) fn import_archive(&self, snapshotter: &str) -> Output {
        let archive = self.path("image.tar");
        self.ctr(&["images", "import", "--local", "--snapshotter", snapshotter, archive.to_str().unwrap()])
    }

    /// Runs a script in a new container of an image, to its end; the container and its snapshot, both called `id`, stay.
    pub(super) fn run(&self, name: &str, id: &str, script: &str) -> Output {
        self.run_with("plywood", name, id, script)
    }

    /// The same on a snapshotter of one's choice.
    pub(super) fn run_with(&self, snapshotter: &str, name: &str, id: &str, script: &str) -> Output {
        self.ctr(&["run", "--cgroup", "", "--snapshotter", snapshotter, &reference(name), id, "sh", "-c", script])
    }

    /// Starts a container that goes on.
    pub(super) fn run_on(&self, name: &str, id: &str) -> Output {
        self.ctr(&["run", "--detach", "--cgroup", "", "--snapshotter", "plywood", &reference(name), id, "sleep", "1000"])
    }

    /// Has containerd collect garbage, and waits for that. By itself it does so when it likes.
    pub(super) fn collect(&self, image: &str) {
        self.ctr(&["images", "tag", &reference(image), "localhost/short:lived"]).ok();
        self.ctr(&["images", "rm", "--sync", "localhost/short:lived"]).ok();
    }

    /// What is seen of an image through a snapshotter. containerd's own differ leaves the root directory the time at which it worked.
    pub(super) fn shows(&self, name: &str, snapshotter: &str) -> Tree {
        let target = self.path("shown");
        fs::create_dir_all(&target).unwrap();
        let target = target.to_str().unwrap();
        self.ctr(&["images", "mount", "--snapshotter", snapshotter, &reference(name), target]).ok();
        let tree = self.seen_at(target).at("").mtime(0, 0);
        self.ctr(&["images", "unmount", "--rm", "--snapshotter", snapshotter, target]).ok();
        tree
    }

    /// What is seen of an active snapshot or a view that is mounted as containerd's client says.
    pub(super) fn shows_key(&self, snapshotter: &str, key: &str) -> Tree {
        let target = self.path("shown");
        fs::create_dir_all(&target).unwrap();
        let target = target.to_str().unwrap();
        let script = self.snapshots(snapshotter, &["mounts", target, key]).ok().stdout;
        let inside = |script: &str| {
            let mut command = self.inside("/bin/sh");
            assert!(command.args(["-ec", script]).stdin(Stdio::null()).status().unwrap().success(), "{script}");
        };
        inside(&script);
        let tree = self.seen_at(target);
        inside(&format!("umount {target}"));
        tree
    }

    /// What is at a path, in the eyes of containerd.
    pub(super) fn seen_at(&self, path: &str) -> Tree {
        Tree::read(format!("/proc/{}/root{path}", self.init)).unwrap()
    }

    /// The mount points below the temporary directory, in the eyes of containerd.
    pub(super) fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.init)).unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| Path::new(point).starts_with(self.directory.path())).map(str::to_owned).collect()
    }

    /// plywood's command on the same store, beside the server.
    pub(super) fn command(&self, arguments: &[&str]) -> Output {
        plywood().arg("--root").arg(self.path("store")).args(arguments).run()
    }

    /// How many trees are on the disk.
    pub(super) fn trees(&self) -> usize {
        let names = fs::read_dir(self.path("store/trees")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().is_some_and(|name| name.parse::<u64>().is_ok_and(|number| number > 0))).count()
    }

    /// What the daemons wrote, for a failure.
    pub(super) fn logs(&self) -> String {
        ["plywood.log", "containerd.log"].map(|name| fs::read_to_string(self.path(name)).unwrap_or_default()).join("\n")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // All in the process namespace ends with its first process, and all mounts with the last process in theirs.
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = self.namespaces.wait();
        for child in [&mut self.containerd, &mut self.plywood] {
            if let Some(mut child) = child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

pub(super) fn reference(name: &str) -> String {
    format!("localhost/{name}:latest")
}

fn child_of(pid: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
}

/// Waits for something that happens soon.
#[track_caller]
pub(super) fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
pub(super) fn ended(mut child: Child) -> i32 {
    let status = wait("the end of a daemon", || child.try_wait().unwrap_or_else(|error: io::Error| panic!("{error}")));
    status.code().unwrap_or(-1)
}
