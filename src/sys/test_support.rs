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
                    Err(_) => "-panic".to_owned(),
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
