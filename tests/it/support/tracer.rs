//! Runs a child under ptrace and stops it at its state-changing system calls, over all its threads: to count them, to kill it at the
//! Nth, or to make the Nth fail.
//!
//! The child asks for it itself ([`be_traced`]), in the thread that is about to do what is looked at. x86-64 alone: registers are read.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What happens at one of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing: they are counted.
    Nothing,
    /// Nothing, and those that only read are counted too; not those about memory, which the allocator makes as it likes.
    Everything,
    /// At the entry of the Nth call, from 0, the process is killed: the call is not made.
    Kill(usize),
    /// The Nth call is not made, and says this.
    Fail(usize, Errno),
}

/// What the child did.
#[derive(Debug)]
pub(crate) struct Traced {
    /// The calls in their order, by name.
    pub(crate) calls: Vec<&'static str>,
    /// The two calls that the same thread made before each, the last one first.
    pub(crate) before: Vec<[&'static str; 2]>,
    /// How the process ended: an exit status, or nothing where it was killed.
    pub(crate) status: Option<i32>,
}

/// Has this thread, and all it starts, traced by the parent. Returns when that is ready.
pub(crate) fn be_traced() {
    ptrace::traceme().unwrap();
    raise(Signal::SIGSTOP).unwrap();
}

/// Whether what is asked for can be had here: `Err` with the reason where not.
pub(crate) fn available() -> Result<(), String> {
    if cfg!(target_arch = "x86_64") { Ok(()) } else { Err("system calls are told apart on x86-64 alone".to_owned()) }
}

/// Looks on while a child is followed. The thread that makes the call is stopped meanwhile; the others are not.
pub(crate) trait Watch {
    /// The child is about to make a state-changing call.
    fn entering(&mut self, process: Pid);
    /// A call of any kind gave this answer.
    fn left(&mut self, process: Pid, answer: i64);
}

impl Watch for () {
    fn entering(&mut self, _: Pid) {}
    fn left(&mut self, _: Pid, _: i64) {}
}

/// Follows a child of this very thread to its end.
pub(crate) fn follow(child: &Child, at: At, watch: &mut dyn Watch) -> Traced {
    let process = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut traced = Traced { calls: Vec::new(), before: Vec::new(), status: None };
    let mut known: BTreeSet<Pid> = BTreeSet::new();
    let mut last: BTreeMap<Pid, [&'static str; 2]> = BTreeMap::new();
    // Threads that are inside a call, with what it is to answer.
    let mut inside: BTreeMap<Pid, Option<Errno>> = BTreeMap::new();
    // A thread that was killed meanwhile answers ESRCH to everything.
    let go = |thread: Pid, signal: Option<Signal>| match ptrace::syscall(thread, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("ptrace: {error}"),
    };
    loop {
        // Of the children of this thread alone: others may be other tests'.
        let status = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(status) => status,
            Err(Errno::ECHILD) => return traced,
            Err(Errno::EINTR) => continue,
            Err(error) => panic!("waitpid: {error}"),
        };
        match status {
            WaitStatus::Exited(pid, code) if pid == process => traced.status = Some(code),
            WaitStatus::PtraceSyscall(thread) => {
                if let Some(answer) = inside.remove(&thread) {
                    match answer {
                        Some(error) => answer_with(thread, error),
                        None => watch.left(process, answered(thread)),
                    }
                } else {
                    let mut answer = None;
                    if let Some(name) = entered(thread, at == At::Everything) {
                        watch.entering(process);
                        let number = traced.calls.len();
                        traced.calls.push(name);
                        let before = last.entry(thread).or_default();
                        traced.before.push(*before);
                        *before = [name, before[0]];
                        match at {
                            At::Kill(stop) if stop == number => {
                                kill(process, Signal::SIGKILL).unwrap();
                                continue;
                            }
                            At::Fail(stop, error) if stop == number => answer = Some(error),
                            _ => {}
                        }
                    }
                    if answer.is_some() {
                        make_no_call(thread);
                    }
                    inside.insert(thread, answer);
                }
                go(thread, None);
            }
            WaitStatus::PtraceEvent(thread, ..) => go(thread, None),
            WaitStatus::Stopped(thread, signal) => {
                let is_new = known.insert(thread);
                if is_new && known.len() == 1 {
                    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
                        | ptrace::Options::PTRACE_O_TRACECLONE
                        | ptrace::Options::PTRACE_O_TRACEFORK
                        | ptrace::Options::PTRACE_O_TRACEVFORK
                        | ptrace::Options::PTRACE_O_EXITKILL;
                    ptrace::setoptions(thread, options).unwrap();
                }
                go(thread, if is_new && signal == Signal::SIGSTOP { None } else { Some(signal) });
            }
            _ => {}
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use super::{Errno, Pid, ptrace, reading, state_changing};

    /// The call that a thread is about to make, where it changes something, or reads and that is asked for.
    pub(super) fn entered(thread: Pid, also_reading: bool) -> Option<&'static str> {
        let registers = ptrace::getregs(thread).ok()?;
        let number = registers.orig_rax.cast_signed();
        let changing = state_changing(number, [registers.rdi, registers.rsi, registers.rdx]);
        changing.or_else(|| if also_reading { reading(number) } else { None })
    }

    /// What the call that a thread comes back from answers; nothing where it was killed meanwhile.
    pub(super) fn answered(thread: Pid) -> i64 {
        ptrace::getregs(thread).map_or(-1, |registers| registers.rax.cast_signed())
    }

    /// Has the kernel pass over it.
    pub(super) fn make_no_call(thread: Pid) {
        let mut registers = ptrace::getregs(thread).unwrap();
        registers.orig_rax = u64::MAX;
        ptrace::setregs(thread, registers).unwrap();
    }

    pub(super) fn answer_with(thread: Pid, error: Errno) {
        let Ok(mut registers) = ptrace::getregs(thread) else { return };
        registers.rax = i64::from(-(error as i32)).cast_unsigned();
        ptrace::setregs(thread, registers).unwrap();
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod registers {
    use super::{Errno, Pid};

    pub(super) fn entered(_: Pid, _: bool) -> Option<&'static str> {
        None
    }
    pub(super) fn answered(_: Pid) -> i64 {
        -1
    }
    pub(super) fn make_no_call(_: Pid) {}
    pub(super) fn answer_with(_: Pid, _: Errno) {}
}

use registers::{answer_with, answered, entered, make_no_call};

/// The name of a call that changes something outside the process, or makes it durable.
fn state_changing(number: i64, arguments: [u64; 3]) -> Option<&'static str> {
    const FICLONE: u64 = 0x4004_9409;
    const FICLONERANGE: u64 = 0x4020_940d;
    macro_rules! calls {
        ($($name:ident)*) => {
            match number {
                libc::SYS_openat if arguments[2] & libc::O_CREAT as u64 == 0 => None,
                libc::SYS_ioctl if !matches!(arguments[1], FICLONE | FICLONERANGE) => None,
                // Standard streams are the test's.
                libc::SYS_write | libc::SYS_writev if arguments[0] <= 2 => None,
                // SQLite's locks on its index come with every read; the writers' queue is ours.
                libc::SYS_fcntl if !matches!(arguments[1] as i32, libc::F_OFD_SETLK | libc::F_OFD_SETLKW) => None,
                $(libc::$name => Some(stringify!($name).strip_prefix("SYS_").unwrap()),)*
                _ => None,
            }
        };
    }
    calls!(SYS_openat SYS_ioctl SYS_write SYS_writev SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_ftruncate SYS_fallocate
        SYS_renameat SYS_renameat2 SYS_linkat SYS_unlinkat SYS_mkdirat SYS_symlinkat SYS_mknodat
        SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_utimensat
        SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr
        SYS_copy_file_range SYS_sendfile SYS_splice
        SYS_fsync SYS_fdatasync SYS_syncfs SYS_sync_file_range SYS_msync SYS_flock SYS_fcntl
        SYS_mount SYS_umount2 SYS_fsopen SYS_fsconfig SYS_fsmount SYS_move_mount SYS_open_tree SYS_mount_setattr
        SYS_chmod SYS_chown SYS_lchown SYS_rename SYS_link SYS_unlink SYS_mkdir SYS_rmdir SYS_symlink SYS_mknod)
}

/// The name of a call that asks a file system.
#[cfg(target_arch = "x86_64")]
fn reading(number: i64) -> Option<&'static str> {
    macro_rules! calls {
        ($($name:ident)*) => {
            match number {
                $(libc::$name => Some(stringify!($name).strip_prefix("SYS_").unwrap()),)*
                _ => None,
            }
        };
    }
    calls!(SYS_open SYS_openat SYS_openat2 SYS_stat SYS_lstat SYS_fstat SYS_newfstatat SYS_statx SYS_fstatfs SYS_statfs
        SYS_getdents SYS_getdents64 SYS_readlink SYS_readlinkat SYS_access SYS_faccessat SYS_faccessat2
        SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
        SYS_read SYS_readv SYS_pread64 SYS_preadv SYS_fcntl SYS_lseek SYS_close)
}
