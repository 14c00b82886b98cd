//! Runs a test's body in a process of its own: with a private mount namespace, as root or as an ordinary user, on a disk of its own.
//!
//! The test binary starts itself again for the one test, by way of util-linux (`unshare`, `setpriv`), so that namespaces and users are
//! changed before any thread exists. Each link is an `exec`: there is one process, which the kernel kills when its parent dies
//! (`PR_SET_PDEATHSIG`), and its mounts, loop devices and memory go with it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};

use super::{Disk, is_root, skip};

/// A tmpfs of the sandbox's own: the binaries, the images, the disk.
pub(super) const STAGE: &str = "/mnt";
/// What the sandbox's process is to do: `stage`, then `body`.
const PHASE: &str = "PLYWOOD_TEST_SANDBOX";
/// Where an ordinary user finds the command, whose folder may be closed to him.
pub(super) const COMMAND: &str = "PLYWOOD_TEST_COMMAND";

/// The ordinary user, where root runs the tests: nobody, without sub-ids unless they are asked for.
const USER: &str = "65534";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Root,
    User,
    UserNamespace,
}

/// How a test's body is to run.
#[must_use]
pub(crate) struct Sandbox {
    who: Who,
    disk: Option<Disk>,
    sub_ids: bool,
}

impl Sandbox {
    /// As root, in a private mount namespace. Skipped where the tests run as an ordinary user.
    pub(crate) fn root() -> Self {
        Self { who: Who::Root, disk: None, sub_ids: false }
    }

    /// As an ordinary user in the initial user namespace.
    pub(crate) fn user() -> Self {
        Self { who: Who::User, disk: None, sub_ids: false }
    }

    /// As an ordinary user who has entered a user namespace (his id is its root) and a mount namespace.
    pub(crate) fn user_namespace() -> Self {
        Self { who: Who::UserNamespace, disk: None, sub_ids: false }
    }

    /// With a new file system, where temporary files go. Skipped where the tests do not run as root.
    pub(crate) fn disk(self, disk: Disk) -> Self {
        Self { disk: Some(disk), ..self }
    }

    /// With 65,536 sub-ids for the ordinary user, in an /etc/subuid of the sandbox's own. Skipped where the tests do not run as root.
    pub(crate) fn sub_ids(self) -> Self {
        Self { sub_ids: true, ..self }
    }

    /// Runs `body`, a closure that stands directly in the test's function.
    #[track_caller]
    pub(crate) fn run<F: FnOnce()>(self, body: F) {
        let test = test_name::<F>();
        match std::env::var(PHASE).as_deref() {
            Ok("body") => {
                body();
                println!("{}", ran(&test));
                // What follows in the test is for its own process.
                std::process::exit(0);
            }
            Ok(_) => self.stage(&test),
            Err(_) => self.start(&test),
        }
    }

    /// In the test's own process: starts the sandbox and waits for it.
    #[track_caller]
    fn start(self, test: &str) {
        let needs_root = self.who == Who::Root || self.disk.is_some() || self.sub_ids;
        if needs_root && !is_root() {
            return skip(test, "needs root");
        }
        if let Some(missing) = self.disk.and_then(Disk::missing) {
            return skip(test, &missing);
        }
        if self.who == Who::UserNamespace && !user_namespaces() {
            return skip(test, "an ordinary user cannot make a user namespace here");
        }
        let exe = std::env::current_exe().unwrap();
        let mut command = if is_root() {
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "--propagation", "private", "--", "setpriv", "--pdeathsig", "KILL"])
                .arg(&exe)
                .env(PHASE, "stage");
            command
        } else {
            self.last_link(&exe)
        };
        let output = command.args(arguments(test)).stdin(Stdio::null()).output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        stderr.lines().filter(|line| line.starts_with("SKIP ")).for_each(|line| eprintln!("{line}"));
        assert!(output.status.success(), "in the sandbox ({}):\n{stdout}{stderr}", output.status);
        // Counts and seeds, for whoever runs it with --nocapture.
        print!("{stdout}");
        assert!(stdout.contains(&ran(test)), "the body did not run; does it stand directly in the test {test}?\n{stdout}{stderr}");
    }

    /// As root in the private mount namespace: lays the stage, then becomes whom the test asks for.
    fn stage(self, test: &str) {
        let stage = Path::new(STAGE);
        let none: Option<&str> = None;
        mount(Some("tmpfs"), stage, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        let exe = stage.join("it");
        bind(&std::env::current_exe().unwrap(), &exe);
        if let Some(command) = option_env!("CARGO_BIN_EXE_plywood") {
            bind(Path::new(command), &stage.join("plywood"));
            // `cargo test` builds the examples as well, but not where it is asked for one test binary.
            let run = Path::new(command).with_file_name("examples").join("run");
            if run.exists() {
                fs::create_dir(stage.join("examples")).unwrap();
                bind(&run, &stage.join("examples/run"));
            }
        }
        if self.sub_ids {
            for name in ["/etc/subuid", "/etc/subgid"] {
                let file = stage.join(name.trim_start_matches("/etc/"));
                fs::write(&file, "nobody:200000:65536\n").unwrap();
                mount(Some(&file), name, none, MsFlags::MS_BIND, none).unwrap();
            }
        }
        let mut command = self.last_link(&exe);
        if let Some(disk) = self.disk {
            let target = stage.join("disk");
            disk.mount(&target);
            command.env("TMPDIR", target);
        }
        command.env(COMMAND, stage.join("plywood"));
        let error = command.args(arguments(test)).current_dir("/").exec();
        panic!("exec: {error}");
    }

    /// The command that runs the test's body as whom it asks for.
    fn last_link(&self, exe: &Path) -> Command {
        let mut links: Vec<&str> = Vec::new();
        if self.who != Who::Root && is_root() {
            links.extend(["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--"]);
        }
        if self.who == Who::UserNamespace {
            links.extend(["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "--"]);
        }
        links.extend(["setpriv", "--pdeathsig", "KILL", "--"]);
        let mut command = Command::new(links[0]);
        command.args(&links[1..]).arg(exe).env(PHASE, "body");
        command
    }
}

/// Arguments that make the test binary run one test, without capturing what it prints.
pub(crate) fn arguments(test: &str) -> [String; 4] {
    ["--exact".to_owned(), test.to_owned(), "--nocapture".to_owned(), "--test-threads=1".to_owned()]
}

fn ran(test: &str) -> String {
    format!("sandbox: {test} ran")
}

/// The name by which libtest knows the function that `F` stands in.
fn test_name<F>() -> String {
    let name = std::any::type_name::<F>();
    let name = name.trim_end_matches("::{{closure}}");
    name.split_once("::").map_or(name, |(_crate, rest)| rest).to_owned()
}

fn bind(source: &Path, target: &Path) {
    let none: Option<&str> = None;
    File::create(target).unwrap();
    mount(Some(source), target, none, MsFlags::MS_BIND, none).unwrap_or_else(|error| panic!("bind {}: {error}", source.display()));
}

/// Whether an ordinary user can make a user namespace here.
fn user_namespaces() -> bool {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--", "unshare"]);
        command
    } else {
        Command::new("unshare")
    };
    command.args(["--user", "--map-root-user", "--mount", "true"]).output().is_ok_and(|output| output.status.success())
}
