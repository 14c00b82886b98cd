//! For the tests of this tier: skipping out loud, and children of one thread that may enter namespaces.

use std::io::{Read as _, Write as _};

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::unistd::ForkResult;

/// Says that a test cannot run here; fails instead under `PLYWOOD_TEST_REQUIRE=all`.
#[track_caller]
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("PLYWOOD_TEST_REQUIRE").is_none_or(|value| value != "all"), "{test} must run here: {reason}");
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason}");
}

/// Whether this is root, in the initial user namespace.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root() && crate::sys::namespace::is_initial()
}

/// Who a child is.
pub(crate) struct Child<'a> {
    /// Its user and group, where root runs the tests; else whoever runs them.
    pub(crate) user: Option<u32>,
    /// What it finds in `/etc/subuid` and `/etc/subgid`, where root runs the tests.
    pub(crate) sub_ids: Option<(&'a str, &'a str)>,
}

impl Child<'_> {
    /// Runs `work` in a process with one thread and a mount namespace of its own, which dies with this one. What it returns comes
    /// back through a pipe.
    pub(crate) fn run(self, work: impl FnOnce() -> Result<String, String>) -> Result<String, String> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: of what the other threads may hold, the child takes no lock but the allocator's, which fork leaves free.
        let forked = unsafe { nix::unistd::fork() }.unwrap();
        match forked {
            ForkResult::Child => {
                drop(read);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.become_it().and_then(|()| work())));
                let text = match result {
                    Ok(Ok(text)) => format!("+{text}"),
                    Ok(Err(text)) => format!("-{text}"),
                    Err(payload) => {
                        let text = payload.downcast_ref::<String>().map(String::as_str);
                        format!("-panic: {}", text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("?"))
                    }
                };
                let _ = std::fs::File::from(write).write_all(text.as_bytes());
                #[allow(unsafe_code)]
                // SAFETY: `_exit` has no preconditions and does not return.
                unsafe {
                    libc::_exit(0)
                }
            }
            ForkResult::Parent { child } => {
                drop(write);
                let mut text = String::new();
                std::fs::File::from(read).read_to_string(&mut text).unwrap();
                nix::sys::wait::waitpid(child, None).unwrap();
                match text.split_at_checked(1) {
                    Some(("+", text)) => Ok(text.to_owned()),
                    Some((_, text)) => Err(text.to_owned()),
                    None => Err("the child died".to_owned()),
                }
            }
        }
    }

    fn become_it(&self) -> Result<(), String> {
        let step = |what: &str, result: nix::Result<()>| result.map_err(|errno| format!("{what}: {errno}"));
        step("prctl", nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL))?;
        if !is_root() {
            return Ok(());
        }
        step("unshare", nix::sched::unshare(CloneFlags::CLONE_NEWNS))?;
        let none: Option<&str> = None;
        step("private", mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))?;
        if let Some((uids, gids)) = self.sub_ids {
            step("tmpfs", mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), Some("mode=755")))?;
            for (name, text) in [("subuid", uids), ("subgid", gids)] {
                std::fs::write(format!("/mnt/{name}"), text).map_err(|error| error.to_string())?;
                let (file, place) = (format!("/mnt/{name}"), format!("/etc/{name}"));
                step("bind", mount(Some(file.as_str()), place.as_str(), none, MsFlags::MS_BIND, none))?;
            }
        }
        if let Some(user) = self.user {
            step("setgroups", nix::unistd::setgroups(&[]))?;
            step("setgid", nix::unistd::setresgid(user.into(), user.into(), user.into()))?;
            step("setuid", nix::unistd::setresuid(user.into(), user.into(), user.into()))?;
            // Becoming another user took this away; a login shell has it.
            step("prctl", nix::sys::prctl::set_dumpable(true))?;
            step("prctl", nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL))?;
        }
        Ok(())
    }
}

/// Where a mounting test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// As root in the initial user namespace.
    Root,
    /// As an ordinary user in a user namespace of his own, with one id.
    UserNamespace,
}

/// Tells the test's own process where it is.
const PLACE: &str = "PLYWOOD_UNIT_TEST_PLACE";

/// Runs a test that mounts, in both places where that is possible: in a process of its own, so that whatever it leaves mounted is
/// gone with it. `work` is a closure that stands directly in the test's function, and all that the function does.
#[track_caller]
pub(crate) fn mounting<F: Fn(Place)>(work: F) {
    dispatch(&[Place::Root, Place::UserNamespace], work);
}

/// Runs a test that mounts as root alone.
#[track_caller]
pub(crate) fn mounting_as_root<F: Fn(Place)>(work: F) {
    dispatch(&[Place::Root], work);
}

#[track_caller]
fn dispatch<F: Fn(Place)>(places: &[Place], work: F) {
    let name = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let name = name.split_once("::").map_or(name, |(_, rest)| rest);
    match std::env::var(PLACE).as_deref() {
        Ok("root") => work(Place::Root),
        Ok(_) => work(Place::UserNamespace),
        Err(_) => {
            for &place in places {
                if place == Place::Root && !is_root() {
                    skip(name, "needs root");
                } else {
                    start(name, place);
                }
            }
        }
    }
}

/// Starts this test binary again for one test.
#[track_caller]
fn start(name: &str, place: Place) {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::process::CommandExt as _;

    // By descriptor: the ordinary user need not reach the folder.
    let exe = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let fd = exe.as_raw_fd();
    let root = is_root();
    let user = if root { 65_534 } else { rustix::process::geteuid().as_raw() };
    let group = if root { 65_534 } else { rustix::process::getegid().as_raw() };
    let (uids, gids) = (format!("0 {user} 1"), format!("0 {group} 1"));
    let mut command = std::process::Command::new(format!("/proc/self/fd/{fd}"));
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(PLACE, if place == Place::Root { "root" } else { "user" }).stdin(std::process::Stdio::null());
    let become_it = move || {
        let none: Option<&str> = None;
        nix::fcntl::fcntl(unsafe_borrow(fd), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        if place == Place::UserNamespace {
            if root {
                nix::unistd::setgroups(&[])?;
                nix::unistd::setresgid(group.into(), group.into(), group.into())?;
                nix::unistd::setresuid(user.into(), user.into(), user.into())?;
                nix::sys::prctl::set_dumpable(true)?;
            }
            nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
            std::fs::write("/proc/self/uid_map", &uids)?;
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/gid_map", &gids)?;
        }
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        Ok(())
    };
    #[allow(unsafe_code)]
    // SAFETY: the closure makes system calls, and opens files with names that are there; it takes no lock of another thread.
    unsafe {
        command.pre_exec(become_it);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return skip(name, &format!("{place:?}: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    text.lines().filter(|line| line.starts_with("SKIP ")).for_each(|line| eprintln!("{line}"));
    assert!(output.status.success() && text.contains("1 passed"), "{name} in {place:?}: {}\n{text}", output.status);
}

#[allow(unsafe_code)]
fn unsafe_borrow(fd: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: only called in the child, which has a copy of the descriptor that the parent holds open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}
