//! The kernel's mount interface by descriptor: a file system is described, made, and only then put somewhere.
//!
//! Nothing here resolves a path of a layer or of a store: directories come in as descriptors. A mount that was made and not attached
//! lives as long as its descriptor, so an error on the way leaves nothing mounted. What the kernel says about a refusal is read from
//! the description's own log and becomes the error's reason. What kernels before 6.7 can do instead is in [`legacy`].

pub(crate) mod legacy;
pub(crate) mod mapped;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount as umount2,
};

use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::sys::{Dir, Root};

const NEEDS_PRIVILEGE: &str = "mounting needs root, or a user namespace: try `plywood unshare`; in a container, CAP_SYS_ADMIN and a seccomp profile with mount calls";

/// How many mounts on top of one are taken away with it.
const STACKED_MAX: u32 = 1000;

/// Which of the kernel's interfaces describes a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// `fsopen`, and layers handed over as descriptors (6.15).
    Descriptors,
    /// `fsopen`, and layers named one by one through `/proc/self/fd` (6.7).
    Paths,
    /// `mount(2)` with one page of options.
    Legacy,
}

impl Api {
    /// The best interface that this kernel has for overlayfs; `directory` is any directory of the file system in question.
    pub(crate) fn probe(directory: impl AsFd) -> Self {
        // As layers are held later: from 6.13 to 6.14 the kernel takes descriptors, but none with O_PATH.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(held) = rustix::fs::openat(directory, c".", flags, Mode::empty()) else { return Self::Legacy };
        let takes = |api| FsContext::open("overlay", api).is_ok_and(|fs| fs.set_directory("lowerdir+", held.as_fd()).is_ok());
        [Self::Descriptors, Self::Paths].into_iter().find(|&api| takes(api)).unwrap_or(Self::Legacy)
    }
}

/// A file system that is being described.
#[derive(Debug)]
pub(crate) struct FsContext {
    fs: OwnedFd,
    api: Api,
}

impl FsContext {
    /// Begins the description of a file system of this type.
    ///
    /// # Errors
    /// `PermissionDenied`; `Unsupported` where the kernel lacks `fsopen` or the file system.
    pub(crate) fn open(fstype: &'static str, api: Api) -> Result<Self> {
        match fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fs) => Ok(Self { fs, api }),
            Err(Errno::NODEV) => Err(Error::new(ErrorKind::Unsupported, "fsopen")
                .because(format!("this kernel has no {fstype} file system"))
                .with_hint(format!("as root: modprobe {fstype}"))
                .with_source(std::io::Error::from(Errno::NODEV))),
            Err(errno) => Err(privileged(Error::io("fsopen", errno))),
        }
    }

    /// Sets an option to a text, of at most 255 bytes.
    ///
    /// # Errors
    /// `Io` with the kernel's reason.
    pub(crate) fn set_string(&self, key: &str, value: &str) -> Result<()> {
        fsconfig_set_string(&self.fs, key, value).map_err(|errno| self.failed("fsconfig", errno))
    }

    /// Sets an option that has no value.
    ///
    /// # Errors
    /// `Io` with the kernel's reason.
    pub(crate) fn set_flag(&self, key: &str) -> Result<()> {
        fsconfig_set_flag(&self.fs, key).map_err(|errno| self.failed("fsconfig", errno))
    }

    /// Sets an option to a directory. The kernel takes its own reference, so the descriptor may be closed at once.
    ///
    /// # Errors
    /// `Io` with the kernel's reason.
    pub(crate) fn set_directory(&self, key: &'static str, directory: BorrowedFd<'_>) -> Result<()> {
        let set = match self.api {
            Api::Descriptors => fsconfig_set_fd(&self.fs, key, directory),
            Api::Paths | Api::Legacy => fsconfig_set_string(&self.fs, key, proc_path(directory)),
        };
        set.map_err(|errno| self.failed("fsconfig", errno))
    }

    /// Makes the file system and a mount of it that is attached nowhere.
    ///
    /// # Errors
    /// `InUse` for EBUSY, `PermissionDenied`, `NoSpace`, `Io`; with the kernel's reason.
    pub(crate) fn mount(self, attributes: MountAttrFlags) -> Result<OwnedFd> {
        fsconfig_create(&self.fs).map_err(|errno| self.failed("fsconfig", errno))?;
        fsmount(&self.fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|errno| self.failed("fsmount", errno))
    }

    /// Only tries to make the file system: what a refusal says is the answer.
    pub(crate) fn attempt(self) -> rustix::io::Result<()> {
        fsconfig_create(&self.fs)
    }

    fn failed(&self, op: &'static str, errno: Errno) -> Error {
        let error = privileged(Error::io(op, errno));
        match self.log() {
            log if log.is_empty() && errno == Errno::INVAL => error.because("the kernel refuses it; its log (dmesg) says why"),
            log if log.is_empty() => error,
            log => error.because(log),
        }
    }

    /// What the kernel logged for this description: one message a read, each behind its level (`e `, `w `, `i `).
    fn log(&self) -> String {
        let mut lines = Vec::new();
        let mut buffer = [0_u8; 8192];
        // The kernel keeps the last eight messages.
        for _ in 0..16 {
            match rustix::io::read(&self.fs, &mut buffer) {
                Ok(length) if length > 0 => {
                    let line = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
                    let line = line.trim_end();
                    let text = line.strip_prefix("e ").or_else(|| line.strip_prefix("w ")).unwrap_or(line);
                    lines.push(text.replace(|c: char| c.is_control(), "?"));
                }
                _ => break,
            }
        }
        lines.join("; ")
    }
}

/// Attaches a mount to a directory. Nothing is resolved: both are descriptors.
///
/// # Errors
/// `PermissionDenied`; `Io`, EINVAL where the directory is in another mount namespace.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags).map_err(|errno| privileged(Error::io("move_mount", errno)))
}

/// A second mount of the directory, without what is mounted below it, attached nowhere.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub(crate) fn clone_mount(directory: impl AsFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(directory, c"", flags).map_err(|errno| privileged(Error::io("open_tree", errno)))
}

/// The same directory as it is on the disk, whatever is mounted in it: a volume of a container, which came here because its root is a
/// bind mount of this directory and mounts are shared. Where the caller may not mount, and nothing of his can be mounted there, the
/// directory itself.
pub(crate) fn uncovered(directory: Dir) -> Dir {
    clone_mount(&directory).and_then(|mount| Root::from_fd(mount).dir()).unwrap_or(directory)
}

/// Has nothing that is mounted in a mount show in those that it is a clone of. Before Linux 5.12, and where a seccomp filter takes the
/// call away, it stays as it is.
///
/// # Errors
/// `Io`.
pub(crate) fn isolate(mount: impl AsFd) -> Result<()> {
    match change(mount.as_fd(), MountAttrFlags::empty(), 0, libc::MS_PRIVATE) {
        // Who could clone a mount may do this to it: a filter says so, whichever of the two it answers.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => Ok(()),
        done => done,
    }
}

/// Forbids writes, devices and the like through one mount; others of the same file system keep what they have.
///
/// # Errors
/// `PermissionDenied`, `Io`; `Unsupported` before Linux 5.12.
pub(crate) fn restrict(mount: impl AsFd, attributes: MountAttrFlags) -> Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    let atime = attributes.contains(MountAttrFlags::MOUNT_ATTR_NOATIME);
    set(mount.as_fd(), attributes, 0).map_err(|error| if atime { locked_atime(error) } else { error })
}

/// A user namespace may not change how a mount that it was given keeps access times.
fn locked_atime(error: Error) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied => error.because("in a user namespace, noatime is not to be had for a bind mount"),
        _ => error,
    }
}

/// Shows other owners through one mount: those of a user namespace's id map. The mount must not be attached yet.
///
/// # Errors
/// `PermissionDenied`; `Io`, EINVAL where the file system cannot; `Unsupported` before Linux 5.12.
pub(crate) fn map_owners(mount: impl AsFd, user_namespace: impl AsFd) -> Result<()> {
    let fd = u64::try_from(user_namespace.as_fd().as_raw_fd()).unwrap_or_default();
    set(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_IDMAP, fd)
}

fn set(mount: BorrowedFd<'_>, attributes: MountAttrFlags, userns_fd: u64) -> Result<()> {
    change(mount, attributes, userns_fd, 0)
}

#[allow(unsafe_code)]
fn change(mount: BorrowedFd<'_>, set: MountAttrFlags, userns_fd: u64, propagation: u64) -> Result<()> {
    // How access times are kept is one setting of several: what was set before is cleared as a whole.
    let times =
        if set.contains(MountAttrFlags::MOUNT_ATTR_NOATIME) { MountAttrFlags::MOUNT_ATTR__ATIME } else { MountAttrFlags::empty() };
    let attributes = libc::mount_attr { attr_set: set.bits().into(), attr_clr: times.bits().into(), propagation, userns_fd };
    // SAFETY: `mount` is an open descriptor, the path is a NUL-terminated literal, and the kernel reads exactly `size_of` bytes of
    // `attributes`, which is the kernel's own layout and lives across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(privileged(Error::io("mount_setattr", std::io::Error::last_os_error()))) }
}

/// Whether nothing can be written through a mount. An overlay whose workdir cannot be used is mounted read-only without a word.
///
/// # Errors
/// `Io`.
pub(crate) fn is_read_only(mount: impl AsFd) -> Result<bool> {
    let status = rustix::fs::fstatvfs(mount).map_err(|errno| Error::io("fstatvfs", errno))?;
    Ok(status.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Takes this mount from where it is attached, however its place is called by now, with all that is mounted in it and on it. Who still
/// uses it keeps it until then.
///
/// # Errors
/// `InvalidArgument` where it is not attached in this mount namespace (any more); `NotFound` without `/proc`; `Io`.
pub(crate) fn detach(mount: impl AsFd) -> Result<()> {
    // `umount2` takes no descriptor. The link in /proc leads to the mount itself, and from there to what was mounted on top of it: so
    // it is taken away from the top until the mount itself is gone, which then is no mount point of this namespace.
    let path = proc_path(mount.as_fd());
    for stacked in 0..STACKED_MAX {
        match umount2(path.as_str(), UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(Errno::INVAL) if stacked > 0 => return Ok(()),
            Err(Errno::INVAL) => {
                return Err(Error::new(ErrorKind::InvalidArgument, "umount2")
                    .because("it is not mounted in this mount namespace (any more)")
                    .with_source(std::io::Error::from(Errno::INVAL)));
            }
            Err(errno) => return Err(privileged(Error::io("umount2", errno))),
        }
    }
    Err(Error::new(ErrorKind::InUse, "umount2").because(format!("more than {STACKED_MAX} mounts are on top of it")))
}

/// Takes what is mounted on a path away, lazily. The path's last component is not followed.
///
/// # Errors
/// `InvalidArgument` where nothing is mounted there; `NotFound`, `PermissionDenied`, `Io`.
pub(crate) fn unmount_path(target: &Path) -> Result<()> {
    match umount2(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL) => Err(Error::new(ErrorKind::InvalidArgument, "umount2")
            .at(target)
            .because("nothing is mounted there")
            .with_source(std::io::Error::from(Errno::INVAL))),
        Err(errno) => Err(privileged(Error::io("umount2", errno).at(target))),
    }
}

/// Whether a directory, whose path ends in `name`, is mounted somewhere else in this thread's mount namespace.
///
/// # Errors
/// `NotFound` without `/proc`; `Io`.
pub(crate) fn is_mounted(directory: impl AsFd, name: &EntryPath) -> Result<bool> {
    let path = "/proc/thread-self/mountinfo";
    let table = std::fs::read(path).map_err(|error| Error::io("read mounts", error).at(path))?;
    let wanted = rustix::fs::fstat(directory).map_err(|errno| Error::io("fstat", errno))?;
    let suffix = [b"/", name.as_bytes()].concat();
    Ok(table.split(|&byte| byte == b'\n').any(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(root), Some(place)) = (fields.nth(3), fields.next()) else { return false };
        // The root of the mount within its file system tells most apart without touching the place, which may hang.
        unescape(root).ends_with(&suffix)
            && rustix::fs::stat(unescape(place)).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino))
    }))
}

/// mountinfo's `\040` for a space, and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let octal = after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) => {
                plain.push(value);
                rest = after.get(3..).unwrap_or_default();
            }
            None => plain.push(byte),
        }
    }
    plain
}

/// A name for an open descriptor that holds no byte of any path.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn privileged(error: Error) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied => error.with_hint(NEEDS_PRIVILEGE),
        ErrorKind::Unsupported if error.raw_os_error() == Some(libc::ENOSYS) => {
            error.because("the kernel does not have this call, or a seccomp filter takes it away").with_hint(
                "`plywood doctor` tells which mounts work here; in a container, a seccomp profile that lets mount calls through",
            )
        }
        _ => error,
    }
}
