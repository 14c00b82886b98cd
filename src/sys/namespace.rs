//! How an ordinary user comes to mount: a user namespace with a mount namespace in it, entered by this process itself.
//!
//! Owners there are those of the id map. With sub-ids (`/etc/subuid`, `/etc/subgid`) and the set-uid programs `newuidmap` and
//! `newgidmap` it holds 65,536 ids or so; without them one, the user's own, as root. The programs write a map from *outside* the
//! namespace, so a child that stays outside is forked first; it runs them, reports through a pipe, and is gone before this returns.
//! They are looked for in fixed places (the search path belongs to the caller) and names come from `/etc/passwd`, never from NSS.

pub(crate) mod child;

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};

use super::ids::{IdMap, IdMaps, IdRange};
use crate::error::{Error, ErrorKind, Result};

/// The kernel's fixed inode number of the initial user namespace.
const INITIAL: u64 = 0xEFFF_FFFD;

/// Where distributions put set-uid programs.
const PLACES: [&str; 5] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/usr/sbin"];

/// What came of [`enter_user_namespace`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entered {
    /// Which owners can be expressed.
    pub ids: HeldIds,
}

/// Which owners a user namespace can express.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldIds {
    /// Root is the user; 1 and up are the user's sub-ids.
    SubIds {
        /// How many users there are, root included.
        uids: u64,
        /// How many groups there are, root's included; 1 where only `newgidmap` refused.
        gids: u64,
    },
    /// Root alone, which is the user. Layers with other owners need `Ids::Squash`.
    One {
        /// Why there are no more, for people.
        reason: String,
    },
}

impl fmt::Display for HeldIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SubIds { uids, gids } => write!(f, "{uids} uids and {gids} gids"),
            Self::One { reason } => write!(f, "one id ({reason})"),
        }
    }
}

/// Whether this process is in the initial user namespace, where root is root.
pub fn is_initial() -> bool {
    rustix::fs::stat("/proc/self/ns/user").is_ok_and(|stat| stat.st_ino == INITIAL)
}

/// Puts this process, for good, into a new user namespace, in which it is root, and a new mount namespace.
///
/// For programs of ordinary users, as the first thing they do: the process must have no second thread, and what was opened before
/// cannot be mounted afterwards. The `plywood` command calls it by itself; the library never does. `exec` keeps the namespace.
///
/// # Errors
/// `InvalidArgument` when the process has more than one thread; `PermissionDenied` or `Unsupported` where the system gives ordinary
/// users no namespaces, with a hint; `LimitExceeded` when all are taken. After an error the process may be in a namespace without
/// ids: it should end.
pub fn enter_user_namespace() -> Result<Entered> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if threads()? > 1 {
        return Err(Error::new(ErrorKind::InvalidArgument, "enter user namespace")
            .because("the process has several threads, and a namespace can only be entered before the second one starts"));
    }
    let plan = Plan::find(uid);
    let child = match &plan {
        Ok(plan) => Some(Outside::fork(plan, uid, gid)?),
        Err(_) => None,
    };
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(refused)?;
    let refusal = match (plan, child) {
        (Ok(_), Some(child)) => child.write_maps().err(),
        (Ok(_), None) => None,
        (Err(reason), _) => Some(reason),
    };
    // A map is written once. One of the two may stand already where the second program was refused.
    let held = IdMaps::current()?;
    write_single_maps(held.uids.count() == 0, held.gids.count() == 0, uid, gid)?;
    let (uids, gids) = (held.uids.count().max(1), held.gids.count().max(1));
    if let Some(reason) = &refusal {
        tracing::debug!(%reason, uids, gids, "not all sub-ids are mapped");
    }
    Ok(Entered {
        ids: match refusal {
            Some(reason) if uids == 1 && gids == 1 => HeldIds::One { reason },
            _ => HeldIds::SubIds { uids, gids },
        },
    })
}

fn threads() -> Result<usize> {
    let tasks = fs::read_dir("/proc/self/task").map_err(|error| Error::io("count threads", error).at("/proc/self/task"))?;
    Ok(tasks.count())
}

fn refused(errno: nix::errno::Errno) -> Error {
    use nix::errno::Errno;
    let error = Error::io("unshare", errno);
    match errno {
        Errno::ENOSPC | Errno::EUSERS => Error::new(ErrorKind::LimitExceeded, "unshare")
            .because("all user namespaces are taken, or they are switched off")
            .with_hint("as root: sysctl -w user.max_user_namespaces=15000")
            .with_source(std::io::Error::from(errno)),
        Errno::EPERM => error
            .because("the system gives ordinary users no user namespaces")
            .with_hint("as root: sysctl -w kernel.unprivileged_userns_clone=1; in a container, its seccomp profile may forbid it"),
        Errno::EINVAL => Error::new(ErrorKind::Unsupported, "unshare")
            .because("this kernel has no user namespaces")
            .with_source(std::io::Error::from(errno)),
        _ => error,
    }
}

fn write_single_maps(uids: bool, gids: bool, uid: u32, gid: u32) -> Result<()> {
    let write = |path: &'static str, text: String| {
        fs::write(path, text).map_err(|error| {
            Error::io("write id map", error).at(path).with_hint(
                "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for this program",
            )
        })
    };
    if uids {
        write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    }
    if gids {
        // A user who could drop a group might reach what that group is kept from: the kernel wants this said first.
        write("/proc/self/setgroups", "deny".to_owned())?;
        write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    Ok(())
}

/// Which sub-ids to map, and with which programs.
#[derive(Debug)]
struct Plan {
    newuidmap: PathBuf,
    newgidmap: PathBuf,
    uids: IdMap,
    gids: IdMap,
}

impl Plan {
    /// What this user has, or why it cannot be used.
    fn find(uid: u32) -> Result<Self, String> {
        let newuidmap = program("newuidmap").ok_or("newuidmap is not installed; it is in the package uidmap or shadow-utils")?;
        let newgidmap = program("newgidmap").ok_or("newgidmap is not installed; it is in the package uidmap or shadow-utils")?;
        let name = fs::read("/etc/passwd").ok().and_then(|passwd| user_name(&passwd, uid));
        let ranges = |path: &'static str| {
            let text = fs::read(path).unwrap_or_default();
            let map = sub_ids(&text, uid, name.as_deref());
            if map.count() == 0 { Err(format!("{path} gives the user {uid} no ids")) } else { Ok(map) }
        };
        Ok(Self { newuidmap, newgidmap, uids: ranges("/etc/subuid")?, gids: ranges("/etc/subgid")? })
    }
}

/// Whether a set-uid program is there, and where.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| fs::metadata(path).is_ok_and(|meta| meta.is_file()))
}

/// How many sub-ids the user has: uids and gids.
pub(crate) fn sub_id_counts(uid: u32) -> (u64, u64) {
    let name = fs::read("/etc/passwd").ok().and_then(|passwd| user_name(&passwd, uid));
    let count = |path: &str| sub_ids(&fs::read(path).unwrap_or_default(), uid, name.as_deref()).count();
    (count("/etc/subuid"), count("/etc/subgid"))
}

fn user_name(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    let uid = uid.to_string();
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.as_bytes()).then(|| name.to_vec())
    })
}

/// The ranges of `subuid(5)` for a user, by name or number, put behind each other from 1 on.
fn sub_ids(text: &[u8], uid: u32, name: Option<&[u8]>) -> IdMap {
    let uid = uid.to_string();
    let mut ranges: Vec<IdRange> = Vec::new();
    let mut inside = 1_u32;
    for line in text.split(|&byte| byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let mut fields = line.trim().split(':');
        let (Some(owner), Some(start), Some(count), None) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (Ok(outside), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>()) else { continue };
        let known = owner == uid || name.is_some_and(|name| name == owner.as_bytes());
        let end = (outside.checked_add(count), inside.checked_add(count));
        // The kernel takes 340 lines; nobody has so many, and a range that is written twice is refused as a whole.
        let overlaps = ranges
            .iter()
            .any(|range| outside < range.outside.saturating_add(range.count) && range.outside < outside.saturating_add(count));
        if let (true, false, true, (Some(_), Some(next))) = (known, overlaps, count > 0 && ranges.len() < 339, end) {
            ranges.push(IdRange { inside, outside, count });
            inside = next;
        }
    }
    IdMap::new(ranges)
}

/// The child that stays outside, and the pipes to and from it.
#[derive(Debug)]
struct Outside {
    pid: Pid,
    go: fs::File,
    answer: fs::File,
}

impl Outside {
    /// Forks. The process has one thread, so the child may do what it likes; it does nothing before it is told to.
    fn fork(plan: &Plan, uid: u32, gid: u32) -> Result<Self> {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| Error::io("pipe2", errno));
        let (go_read, go_write) = pipe()?;
        let (answer_read, answer_write) = pipe()?;
        let parent = nix::unistd::getpid();
        // SAFETY: `threads()` was 1, so no lock can be held by a thread that the child lacks.
        #[allow(unsafe_code)]
        let forked = unsafe { nix::unistd::fork() };
        match forked.map_err(|errno| Error::io("fork", errno))? {
            ForkResult::Parent { child } => Ok(Self { pid: child, go: go_write.into(), answer: answer_read.into() }),
            ForkResult::Child => {
                drop((go_write, answer_read));
                run_child(plan, parent, (uid, gid), go_read, answer_write)
            }
        }
    }

    /// Tells the child that the namespace is there, and waits until it has written both maps.
    fn write_maps(mut self) -> Result<(), String> {
        let told = self.go.write_all(b"g");
        drop(self.go);
        let mut answer = Vec::new();
        let read = self.answer.read_to_end(&mut answer);
        // Only to leave no zombie: a caller that ignores SIGCHLD has none, and the answer came through the pipe.
        while waitpid(self.pid, None) == Err(nix::errno::Errno::EINTR) {}
        match (told, read, answer.as_slice()) {
            (Ok(()), Ok(_), b"ok") => Ok(()),
            (Ok(()), Ok(_), reason) => Err(String::from_utf8_lossy(reason).trim().escape_debug().to_string()),
            (Err(error), ..) | (_, Err(error), _) => Err(error.to_string()),
        }
    }
}

/// The child's whole life. It never returns, and runs none of the caller's exit handlers.
fn run_child(plan: &Plan, parent: Pid, (uid, gid): (u32, u32), go: OwnedFd, answer: OwnedFd) -> ! {
    let mut byte = [0_u8; 1];
    // No byte: the parent could not enter, and there is nothing to write.
    if fs::File::from(go).read_exact(&mut byte).is_ok() {
        let done = map(&plan.newuidmap, parent, uid, &plan.uids).and_then(|()| map(&plan.newgidmap, parent, gid, &plan.gids));
        let _ = fs::File::from(answer).write_all(done.err().unwrap_or_else(|| "ok".to_owned()).as_bytes());
    }
    #[allow(unsafe_code)]
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe {
        libc::_exit(0)
    }
}

fn map(program: &Path, pid: Pid, own: u32, ids: &IdMap) -> Result<(), String> {
    let mut command = Command::new(program);
    command.arg(pid.to_string()).args(["0".to_owned(), own.to_string(), "1".to_owned()]);
    for range in ids.ranges() {
        command.args([range.inside.to_string(), range.outside.to_string(), range.count.to_string()]);
    }
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{} refused: {}", program.display(), String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{} cannot be run: {error}", program.display())),
    }
}

#[cfg(test)]
mod tests;
